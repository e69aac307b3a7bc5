"""What a run says of its data, what it compares, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import sslx
from ssl_core import ConfigError, DataError, Task
from ssl_core.data import Column, Continuous, DataSummary, Discrete, Text
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.measure import FieldStats, far_channel, measure_fields, shared_samples
from ssl_core.pipeline.memory import infer_task
from ssl_core.pipeline.preprocess import sample_digest
from ssl_core.runs import cost
from ssl_core.runs.cost import estimate_cost
from ssl_core.runs.data import data_doubts, fact_lines, summary_lines
from ssl_core.runs.fields import adapt_fields, describe_field
from ssl_core.runs.run import Cost, Run
from ssl_core.utils.console import Console

SMALL = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32",
}  # fmt: skip
CHOICE = {"objective": "mae", "modality": "time-series", "steps": 3, "batch_size": 8, "preset": "none"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))


class Lines(Console):
    def __init__(self):
        self.lines: list[str] = []

    def info(self, text):
        self.lines.append(text)

    def of(self, start):
        return [line for line in self.lines if line.startswith(start)]


def series(count=60, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = np.sin(np.arange(32) * (1 + y[:, None, None]) / 3) + 0.1 * rng.standard_normal((count, 2, 32))
    return (scale * x).astype(np.float32), y


def split_of(x, labels=None, labelled=None):
    digests = np.array([sample_digest({"x": row}) for row in x], np.uint64)
    return PreprocessedSplit({"x": x}, labels, digests=digests, labelled=labelled)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_of_each_channel():
    x = np.stack([np.full((10, 5), 2.0), np.arange(50.0).reshape(10, 5)], axis=1)
    stats = measure_fields(split_of(x), {})["x"]
    assert stats.low == (2.0, 0.0)
    assert stats.high == (2.0, 49.0)
    assert stats.mean == (2.0, 24.5)
    assert stats.std[0] == 0
    assert stats.std[1] == pytest.approx(np.arange(50.0).std(), rel=1e-5)
    assert stats.range == (0.0, 49.0)
    assert FieldStats.from_json(stats.to_json()) == stats


def test_many_channels_are_measured_as_a_whole_and_ids_are_not():
    wide = measure_fields(split_of(np.random.default_rng(0).normal(size=(4, 100, 3))), {})["x"]
    assert len(wide.mean) == 1
    assert measure_fields(split_of(np.zeros((4, 9), np.int64)), {}) == {}


def test_ids_of_texts_are_no_values():
    split = PreprocessedSplit(
        {"x": np.zeros((4, 9), np.uint8), "x_cropped": np.zeros((4, 1)), "y": np.ones((4, 2))}, None
    )
    assert list(measure_fields(split, {"x": Text(), "y": Continuous((2,))})) == ["y"]


def test_shares_of_unknown_and_cropped_input():
    options = {"unknown": "tokenizer.vocab_size", "cropped": "tokenizer.length"}
    assert fact_lines({"unknown": 0.04, "cropped": 0.1, "padded": 0.9}, options) == ([], [])
    (doubt,), (note,) = fact_lines({"unknown": 0.25, "cropped": 0.5}, options)
    assert doubt == "25.0% of the tokens are unknown to the vocabulary; tokenizer.vocab_size changes this"
    assert note.endswith("beyond the length of a sample and is not used; tokenizer.length changes this")
    assert summary_lines(DataSummary(), {}, {"unknown": 0.004, "cropped": 0.0}) == ["values     unknown 0.4%"]


def test_share_of_constant_samples():
    x = np.random.default_rng(0).normal(size=(10, 1, 16)).astype(np.float32)
    x[:3] = 4.0
    assert measure_fields(split_of(x), {})["x"].constant == pytest.approx(0.3)
    assert measure_fields(split_of(np.zeros((10, 1, 3))), {})["x"].constant == 0, "few values are equal by chance"


@pytest.mark.parametrize(
    ("mean", "std", "channel"),
    [
        ((0.0, 5.0), (1.0, 2.0), None),
        ((3.0, 9.0), (4.0, 0.5), None),
        ((0.0, 5.0), (1.0, 2e4), 1),
        ((11.0, 5.0), (1.0, 2.0), 0),
        ((0.0, 5.0), (1.0, 0.1), 1),
    ],
)
def test_data_of_another_unit_is_far(mean, std, channel):
    trained = FieldStats((0, 0), (1, 1), (0.0, 5.0), (1.0, 2.0))
    assert far_channel(trained, FieldStats((0, 0), (1, 1), mean, std)) == channel


def test_equal_samples_of_two_splits():
    x = np.random.default_rng(0).normal(size=(6, 2, 3))
    assert shared_samples(split_of(x[:4]), split_of(x[2:])).tolist() == [True, True, False, False]
    assert sample_digest({"x": x[0], "y": x[1]}) != sample_digest({"x": x[1], "y": x[0]})
    assert sample_digest({"x": x[0]}) != sample_digest({"x": x[0].astype(np.float32)})


def test_the_digest_of_the_content_covers_values_order_and_labels():
    x, y = np.random.default_rng(0).normal(size=(6, 2)), np.arange(6)
    whole = split_of(x, y).content_digest()
    assert whole == split_of(x.copy(), y.copy()).content_digest()
    others = [split_of(x[::-1], y), split_of(x, y[::-1]), split_of(x + 1e-9, y), split_of(x), split_of(x, y, y > 2)]
    assert len({whole, *(other.content_digest() for other in others)}) == 6


# --- fields ----------------------------------------------------------------------------------------------------------


def data_set(**fields):
    class Data:
        name, split = "photos", "train"

    Data.fields = fields
    return Data


def tokenizer(fits):
    class Tokenizer:
        fits_sizes = fits

    return Tokenizer


def test_another_size_is_fitted_where_the_tokenizer_can():
    trained = {"image": Continuous((3, 32, 32))}
    (note,) = adapt_fields(trained, data_set(image=Continuous((3, 48, 40))), tokenizer(True))
    assert "48 x 40" in note
    assert "32 x 32" in note
    assert adapt_fields(trained, data_set(image=Continuous((3, 32, 32))), tokenizer(False)) == []
    with pytest.raises(DataError, match="3 channels of 48 x 40, the encoder was trained on 3 channels of 32 x 32"):
        adapt_fields(trained, data_set(image=Continuous((3, 48, 40))), tokenizer(False))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (Continuous((1, 32, 32)), "1 channel of 32 x 32"),
        (Continuous((3, None, None)), "3 channels of any size x any size"),
        (Continuous((1, 8000), 8000.0), "1 channel of 8000 at 8000 per second"),
        (Continuous((5,)), "5 numbers"),
        (Discrete(1, 4), "one of 4 categories"),
        (Discrete(3, 4), "3 values, each one of 4 categories"),
    ],
)
def test_a_field_in_words(field, words):
    assert describe_field(field) == words


@pytest.mark.parametrize("given", [Continuous((1, 32, 32)), Continuous((3, 32)), Discrete(1, 3)])
def test_other_channels_or_kinds_are_refused_in_words(given):
    with pytest.raises(DataError) as error:
        adapt_fields({"image": Continuous((3, 32, 32))}, data_set(image=given), tokenizer(True))
    assert "Continuous" not in str(error.value)
    assert "Discrete" not in str(error.value)


# --- header and report ------------------------------------------------------------------------------------------------


def test_columns_by_role_with_reasons():
    summary = DataSummary(
        (
            Column("age"),
            Column("color", kind="category", categories=("blue", "red")),
            Column("y", "label"),
            Column("id", "left out", why="all values differ"),
            *(Column(f"n{i}") for i in range(9)),
        ),
        {".csv": 2},
        {".txt": 1},
        {"encoding": "cp1252"},
    )
    columns, files, values = summary_lines(summary, {})
    assert columns == (
        "columns    10 numbers age, n0, n1, n2, n3, n4, n5, n6 and 2 more; 1 category color (2); label y; "
        "left out id (all values differ)"
    )
    assert files == "files      2 .csv; ignored: 1 .txt"
    assert values == "values     encoding cp1252"
    assert summary_lines(DataSummary(files={".csv": 2}), {}) == [], "nothing to say"


def test_a_plain_run_says_ranges_and_cost_and_has_no_doubt(tmp_path):
    x, y = series()
    console = Lines()
    run = sslx.pretrain(x, y=y, out=tmp_path / "run", set=SMALL, console=console, **CHOICE)
    assert len(console.of("values     series -1.")) == 1
    assert len(console.of("cost       at most about ")) == 1
    assert console.of("doubt") == []
    data = run.report.data
    assert data.samples == data.labelled == {"train": 48, "test": 12}
    assert data.skipped == {"train": 0, "test": 0}
    assert data.shared == {"test": 0}
    assert data.ranges["series"] == pytest.approx((x.min(), x.max()), abs=0.2)
    assert data.seconds_per_step > 0
    assert data.bytes_per_step > 0
    assert '<h2 id="data">Data</h2>' in (tmp_path / "run" / "report.html").read_text()


def test_the_estimate_changes_nothing(tmp_path):
    x, y = series()
    choice = {**CHOICE, "objective": "metamae"}  # its projector has BatchNorm, whose buffers each step changes
    run = sslx.pretrain(x, y=y, out=tmp_path / "run", set=SMALL, **choice)
    assert any("running_mean" in name for name, _ in run.learner.named_buffers())
    before = {name: value.clone() for name, value in run.learner.state_dict().items()}
    state = torch.get_rng_state()
    estimate = estimate_cost(run)
    assert estimate.bytes > 8 * 2 * 32 * 4, "at least the inputs"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in run.learner.state_dict().items())
    assert all(parameter.grad is None for parameter in run.learner.parameters())


def test_a_step_that_fills_the_memory_is_warned_of(tmp_path, monkeypatch):
    x, y = series()
    monkeypatch.setattr(cost, "memory_size", lambda device: 100_000)
    console = Lines()
    run = sslx.pretrain(x, y=y, out=tmp_path / "run", set=SMALL, console=console, **CHOICE)
    assert any(note.startswith("warning: a step needs about 0.0 of 0.0 GiB") for note in run.report.notes)
    assert cost.cost_warnings(Cost(1.0, 49_000), run) == []


def test_memory_counts_what_is_alive_at_once():
    x = torch.ones(1000)  # 4,000 bytes
    with cost.PeakMemory() as memory:
        for _ in range(3):
            y = x + 1
            z = y * 2
            del y, z
    assert memory.peak == 8000
    assert memory.alive == 0


def test_equal_samples_in_two_splits_are_doubted_refused_when_strict_and_dropped_on_wish(tmp_path):
    x, y = series(30)
    x, y = np.concatenate([x, x]), np.concatenate([y, y])
    console = Lines()
    run = sslx.pretrain(x, y=y, out=tmp_path / "run", set=SMALL, console=console, **CHOICE)
    shared = run.report.data.shared["test"]
    assert 0 < shared < 12
    (doubt,) = console.of("doubt")
    assert f"{shared} of 12 samples of the test split equal a training sample" in doubt
    assert {score.n_test for score in run.report.scores} == {12}
    with pytest.raises(DataError, match="equal a training sample.*strict"):
        sslx.pretrain(x, y=y, out=tmp_path / "strict", set=SMALL, strict=True, **CHOICE)
    run = sslx.pretrain(x, y=y, out=tmp_path / "drop", set={**SMALL, "evaluate.shared": "drop"}, **CHOICE)
    assert {score.n_test for score in run.report.scores} == {12 - shared}


def test_constant_samples_are_doubted(tmp_path):
    x, y = series()
    x[::4] = 0
    console = Lines()
    sslx.pretrain(x, y=y, out=tmp_path / "run", set=SMALL, console=console, **CHOICE)
    assert any("hold a single value in 'series'" in line for line in console.of("doubt"))


# --- labels of some samples -------------------------------------------------------------------------------------------


def test_partly_labelled_data_are_pretrained_on_whole_and_probed_on_the_labelled_part(tmp_path):
    x, y = series()
    labels = [None if i % 3 == 0 else int(label) for i, label in enumerate(y)]  # 40 of 60 are labelled
    console = Lines()
    run = sslx.pretrain(x, y=labels, out=tmp_path / "run", set=SMALL, console=console, **CHOICE)
    assert run.report.data.samples == {"train": 52, "test": 8}
    assert run.report.data.labelled == {"train": 32, "test": 8}
    assert {(score.n_train, score.n_test) for score in run.report.scores} == {(32, 8)}
    assert any("32 of 52 samples of the train split have a label" in line for line in console.lines)
    nan = sslx.pretrain(x, y=np.where(np.arange(60) % 3 == 0, np.nan, y), out=tmp_path / "nan", set=SMALL, **CHOICE)
    assert [score.value for score in nan.report.scores] == [score.value for score in run.report.scores]


def test_the_probe_sees_only_labelled_samples(tmp_path):
    """Wrong stand-ins for missing labels would lower the scores of data that a probe separates perfectly."""
    x, _ = series(80)
    labels = [None if i % 2 else ["slow", "fast"][i // 2 % 2] for i in range(80)]
    x = np.stack([np.full((2, 32), i // 2 % 2, np.float32) + 0.01 * row for i, row in enumerate(x)])
    run = sslx.pretrain(x, y=labels, out=tmp_path / "run", set=SMALL, **CHOICE)
    raw = {score.value for score in run.report.scores if score.features == "raw_input"}
    assert raw == {1.0}


def test_pretraining_on_everything(tmp_path):
    x, y = series()
    console = Lines()
    run = sslx.pretrain(
        x, y=y, out=tmp_path / "run", set={**SMALL, "dataset.test_fraction": 0}, console=console, **CHOICE
    )
    assert run.report.data.samples == {"train": 60}
    assert run.report.scores == ()
    assert any("no test split, so nothing is probed" in line for line in console.lines)
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(ConfigError, match="no test split; set dataset.test_fraction, e.g. to 0.2"):
        sslx.evaluate(run, *series(seed=1))
    other = sslx.evaluate(run, *series(seed=1), set={"dataset.test_fraction": 0.2})
    assert other.scores
    with pytest.raises(ConfigError, match="no validation split"):
        sslx.pretrain(x, y=y, out=tmp_path / "v", set={**SMALL, "evaluate.split": "validation"}, **CHOICE)


def test_no_label_at_all_in_y_is_refused():
    x, _ = series(4)
    with pytest.raises(DataError, match="no sample has a label"):
        sslx.pretrain(x, y=[None] * 4, **CHOICE)


def test_the_task_of_labels():
    assert infer_task(np.array(["a", "b", "a"]))[0] == Task("classes", 2, "accuracy", names=("a", "b"))


# --- the data of a checkpoint ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["values", "labels", "order", "count"])
def test_resume_refuses_other_data(tmp_path, change):
    x, y = series()
    options = {**SMALL, "train.schedule": "constant"}
    path = tmp_path / "data.npz"

    def go(x, y, steps):
        np.savez(path, series=x, labels=y)
        choice = {**CHOICE, "steps": steps}
        return sslx.pretrain(path, out=tmp_path / "run", set=options, resume=steps > 3, **choice)

    go(x, y, 3)
    other = {
        "values": (x * 1000, y),
        "labels": (x, np.roll(y, 1)),
        "order": (np.concatenate([x[2:], x[:2]]), y),
        "count": (x[:-5], y[:-5]),
    }[change]
    with pytest.raises(DataError, match="when the run was begun.*put the data back"):
        go(*other, 4)
    assert go(x, y, 4).steps == 4, "with the data put back it goes on"


def test_data_of_another_unit_are_doubted_at_evaluation(tmp_path):
    x, y = series()
    run = sslx.pretrain(x, y=y, out=tmp_path / "run", set=SMALL, **CHOICE)
    console = Lines()
    report = sslx.evaluate(run, *series(seed=1, scale=10_000), console=console)
    (doubt,) = console.of("doubt")
    assert "channel 0 of 'series' ranges from" in doubt
    assert "in the data that the encoder was trained on" in doubt
    assert report.data.doubts == (doubt.removeprefix("doubt      "),)
    with pytest.raises(DataError, match="strict"):
        sslx.evaluate(run, *series(seed=1, scale=10_000), strict=True)
    console = Lines()
    sslx.evaluate(run, *series(seed=1, scale=1.5), console=console)
    assert console.of("doubt") == []


def pictures(folder, count=20, scale=1.0):
    """An array of images of floats, with two classes."""
    x = np.random.default_rng(0).random((count, 1, 8, 8)).astype(np.float32)
    np.savez(folder, images=scale * x, labels=np.arange(count) % 2)
    return folder


def test_pictures_in_another_unit_are_doubted(tmp_path):
    choice = {**CHOICE, "modality": "medical-image"}
    run = sslx.pretrain(pictures(tmp_path / "a.npz"), out=tmp_path / "run", set=SMALL, **choice)
    console = Lines()
    sslx.evaluate(run, pictures(tmp_path / "b.npz", scale=255.0), console=console)
    assert any("'image' ranges from 0" in line for line in console.of("doubt")), console.lines
    console = Lines()
    sslx.evaluate(run, pictures(tmp_path / "c.npz", scale=0.8), console=console)
    assert not any("ranges from" in line for line in console.of("doubt"))


def test_resume_refuses_pictures_that_were_overwritten(tmp_path):
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()

    def write(numbers):
        for i in numbers:
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i:02}.png")

    write(range(16))
    choice = {**CHOICE, "modality": "image", "set": {**SMALL, "train.schedule": "constant"}}
    sslx.pretrain(folder, out=tmp_path / "run", **choice)
    write(range(5))
    with pytest.raises(DataError, match="not the same: values, labels or their order have changed"):
        sslx.pretrain(folder, out=tmp_path / "run", resume=True, **{**choice, "steps": 4})


def write_copies(folder: Path, modality: str, named: bool) -> None:
    """Twelve files and a copy of each; in folders of the splits, with 7 of the copies in the other one, or in one."""
    for i in range(12):
        for copy in ("train", "test"):
            path = folder / copy / f"{i:02}" if named else folder / f"{copy}{i:02}"
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(i if copy == "train" or i < 7 or not named else 100 + i)
            if modality == "image":
                Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path.with_suffix(".png"))
            else:
                x = rng.standard_normal(8000).astype(np.float32)
                soundfile.write(path.with_suffix(".wav"), 0.1 * x, 8000, subtype="FLOAT")


@pytest.mark.parametrize("modality", ["image", "speech"])
@pytest.mark.parametrize("named", [True, False])
def test_copies_of_files_are_counted_or_kept_together(tmp_path, modality, named):
    write_copies(tmp_path / "files", modality, named)
    console = Lines()
    choice = {**CHOICE, "modality": modality}
    run = sslx.pretrain(tmp_path / "files", out=tmp_path / "run", set=SMALL, console=console, **choice)
    line = "7 of 12 samples of the test split equal a training sample"
    assert run.report.data.shared.get("test", 0) == (7 if named else 0)
    assert any(line in doubt for doubt in console.of("doubt")) == named
    assert any("copies are kept in one split" in warning for warning in console.lines) != named


def test_gaps_only_in_the_new_series_are_filled(tmp_path):
    x, y = series()
    run = sslx.pretrain(x, y=y, out=tmp_path / "run", set=SMALL, **CHOICE)
    gappy = x.copy()
    gappy[::3, 1, 5:9] = np.nan
    report = sslx.evaluate(run, gappy, y)
    assert report.data.skipped == {"train": 0, "test": 0}
    assert len(report.scores) == len(run.report.scores)


def test_unknown_tokens_of_a_given_vocabulary_are_doubted(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "word"]))
    texts = [f"the word zebra{'abcdefghijklmnopqrst'[i]} quagga" for i in range(20)]
    console = Lines()
    options = {**SMALL, "tokenizer.file": str(vocabulary), "tokenizer.length": 8}
    sslx.pretrain(texts, out=tmp_path / "run", set=options, console=console, **{**CHOICE, "modality": "text"})
    assert any("of the tokens are unknown to the vocabulary" in line for line in console.of("doubt")), console.lines


def test_doubts_of_data_sets_come_first_and_once(tmp_path):
    x, y = series()
    run: Run = sslx.pretrain(x, y=y, out=tmp_path / "run", set=SMALL, **CHOICE)
    for dataset in run.splits.values():
        dataset.doubts = ("is this a header?",)
    assert data_doubts(run.splits, run.data, {}) == ["is this a header?"]
