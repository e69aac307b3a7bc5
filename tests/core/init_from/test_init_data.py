"""Runs that start from another run, on other data: vocabularies, categories, columns and positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from timm.layers.pos_embed import resample_abs_pos_embed

import sslx
from ssl_core import ConfigError


def table(path: Path, names: list[str], colours: list[str], rows: int = 40) -> Path:
    rng = np.random.default_rng(1)
    frame = pandas.DataFrame({name: rng.standard_normal(rows) + 3 * i for i, name in enumerate(names)})
    frame["colour"] = [colours[i % len(colours)] for i in range(rows)]
    frame["label"] = [("a", "b")[i % 2] for i in range(rows)]
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory, kit):
    """A run on a table, and a table with other columns and categories."""
    folder = tmp_path_factory.mktemp("tables")
    options = {**kit.SMALL, "tokenizer.weights": "column"}
    first = table(folder / "first.csv", ["acc_x", "acc_y"], ["blue", "green", "red"])
    run = sslx.pretrain(first, modality="tabular", out=folder / "first", steps=2, set=options, **kit.CHOICE)
    return run, table(folder / "second.csv", ["acc_y", "gyro", "acc_x"], ["cyan", "red", "blue", "white"])


def test_rows_of_vocabularies_and_columns_are_matched_by_name(tables, tmp_path, kit):
    run, second = tables
    console = kit.Lines()
    new = sslx.pretrain(
        second, modality="tabular", init_from=run, out=tmp_path / "new", steps=0, preset="none", console=console,
        set={**kit.FAST, "init.constants": "measure"},
    )  # fmt: skip
    old_numbers, old_colours = run.learner.tokenizer.parts
    numbers, colours = new.learner.tokenizer.parts
    known, names = old_colours.entry_names()["table"], colours.entry_names()["table"]
    assert names == ("", "blue", "cyan", "red", "white")
    for index, name in enumerate(names):
        fresh = new.initial["tokenizer.parts.1.table"][index]
        expected = old_colours.table[known.index(name)] if name in known else fresh
        assert torch.equal(colours.table[index], expected), name
    columns = numbers.entry_names()["weight"]
    assert set(columns) == {"acc_x", "acc_y", "gyro"}
    for name in ("acc_x", "acc_y"):
        before = old_numbers.weight[old_numbers.entry_names()["weight"].index(name)]
        assert torch.equal(numbers.weight[columns.index(name)], before), name
    said = "\n".join(console.lines)
    assert "'colour': 3 of 5 entries matched by name, 2 new; 1 of the source left out" in said
    assert "has another number than in the source" in said


def test_kept_constants_put_columns_in_the_order_of_the_source(tables, tmp_path, kit):
    run, second = tables
    console = kit.Lines()
    options = {"modality": "tabular", "init_from": run, "out": tmp_path / "new", "steps": 1, "preset": "none"}
    new = sslx.pretrain(second, console=console, set=kit.FAST, **options)
    assert new.learner.tokenizer.parts[0].mean.tolist() == run.learner.tokenizer.parts[0].mean.tolist()
    said = "\n".join(console.lines)
    assert "columns on which the encoder was not trained are left out: gyro" in said
    assert "are categories unknown in training, and count as missing: cyan, white" in said
    assert "constants  mean of channel acc_x " in said, "a mean is named by its column"
    again = sslx.pretrain(second, resume=True, set=kit.FAST, **options)
    assert again.report.scores == new.report.scores


def texts(path: Path, words: list[str]) -> Path:
    rng = np.random.default_rng(2)
    lines = [" ".join(rng.choice(words, 6)) for _ in range(40)]
    path.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)))
    return path


@pytest.fixture(scope="module")
def text_run(tmp_path_factory, kit):
    """A run on texts of five words."""
    folder = tmp_path_factory.mktemp("texts")
    options = {**kit.SMALL, "tokenizer.vocab_size": 60, "tokenizer.length": 12}
    data = texts(folder / "a.txt", ["river", "stone", "cloud", "tree", "bird"])
    return sslx.pretrain(data, modality="text", out=folder / "a", steps=1, set=options, **kit.CHOICE)


@pytest.mark.parametrize("constants", ["keep", "measure"])
def test_a_trained_vocabulary_is_kept_or_matched_by_name(tmp_path, text_run, constants, kit):
    second = texts(tmp_path / "b.txt", ["river", "stone", "zebra", "quartz"])
    new = sslx.pretrain(
        second, modality="text", init_from=text_run, out=tmp_path / "b", steps=0, preset="none",
        set={**kit.FAST, "init.constants": constants},
    )  # fmt: skip
    before, now = text_run.learner.tokenizer, new.learner.tokenizer
    if constants == "keep":
        assert now.fit_fingerprint() == before.fit_fingerprint()
        assert torch.equal(now.table, before.table)
        return
    old, names = list(before.entry_names()["table"]), list(now.entry_names()["table"])
    assert old != names
    assert now.fit_fingerprint() != before.fit_fingerprint()
    for word in ("river", "stone", "[CLS]"):
        assert torch.equal(now.table[names.index(word)], before.table[old.index(word)]), word
    new_word = names.index("zebra")
    assert torch.equal(now.table[new_word], new.initial["tokenizer.table"][new_word])


def test_a_kept_vocabulary_that_does_not_fit_the_table_is_refused(tmp_path, text_run, kit):
    second = texts(tmp_path / "b.txt", ["river", "stone"])
    options = {**kit.FAST, "tokenizer.vocab_size": 40}
    with pytest.raises(ConfigError, match="the vocabulary of the source is larger; set tokenizer.vocab_size=60"):
        sslx.pretrain(
            second, modality="text", init_from=text_run, out=tmp_path / "b", steps=0, preset="none", set=options
        )


def test_learned_positions_of_images_are_interpolated_as_timm_does(tmp_path, kit):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 255, (24, 3, 16, 16), dtype=np.uint8)
    options = {**kit.SMALL, "encoder.positions": "learned", "tokenizer.patch": 4}
    first = sslx.pretrain(x, modality="image", out=tmp_path / "a", steps=1, set=options, **kit.CHOICE)
    console = kit.Lines()
    new = sslx.pretrain(
        x, modality="image", init_from=first, out=tmp_path / "b", steps=0, preset="none", console=console,
        set={**kit.FAST, "tokenizer.size": 32},
    )  # fmt: skip
    old, positions = first.learner.encoder.positions.table, new.learner.encoder.positions.table
    expected = resample_abs_pos_embed(old[None].detach(), [8, 8], [4, 4], num_prefix_tokens=1)[0]
    assert torch.equal(positions, expected)
    assert "positions of 'image' 4 x 4 -> 8 x 8 interpolated" in "\n".join(console.lines)


@pytest.fixture(scope="module")
def learned(tmp_path_factory, kit):
    """A run on series with learned positions."""
    x, y = kit.make_series()
    options = {**kit.SMALL, "encoder.positions": "learned"}
    out = tmp_path_factory.mktemp("learned") / "a"
    return sslx.pretrain(x, y=y, modality="time-series", out=out, steps=1, set=options, **kit.CHOICE), x, y


@pytest.mark.parametrize("how", ["auto", "interpolate"])
def test_learned_positions_of_series_are_extended_unless_interpolation_is_wanted(learned, tmp_path, how, kit):
    options = {"tokenizer.length": 48, "init.positions": how}
    new, said = kit.go_on(learned, tmp_path / "b", kit.make_series(steps=48), set=options)
    old, positions = learned[0].learner.encoder.positions.table, new.learner.encoder.positions.table
    assert torch.equal(positions[0], old[0])
    if how == "auto":
        assert torch.equal(positions[:33], old)
        assert torch.equal(positions[33:], new.initial["encoder.positions.table"][33:])
        assert "32 kept, 16 new" in said
    else:
        line = torch.nn.functional.interpolate(old[1:].T[None], 48, mode="linear")[0].T
        assert torch.equal(positions[1:], line)
