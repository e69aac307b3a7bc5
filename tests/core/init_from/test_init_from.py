"""Runs that start from the weights of an earlier run: what is loaded, what is said, and what a resume needs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import sslx
from ssl_core import ConfigError, DataError
from ssl_core.errors import CheckpointError, SslxError
from ssl_core.report import read
from ssl_core.report.page import page
from ssl_core.runs import pretrain as pretraining
from ssl_core.runs.init import INITIAL, weights_digest
from ssl_core.runs.run_dir import load_config
from ssl_core.training import checkpoint


def test_no_step_from_the_same_data_gives_the_same_features(base, tmp_path, kit):
    run, x, _ = base
    new, header = kit.go_on(base, tmp_path / "new")
    assert torch.equal(torch.from_numpy(new.encoder.embed(x)), torch.from_numpy(run.encoder.embed(x)))
    assert new.config.objective.name == "mae", "the objective is that of the source"
    assert new.config.encoder == run.config.encoder, "the size is that of the source"
    for name, value in run.learner.state_dict().items():
        assert torch.equal(value, new.learner.state_dict()[name]), name
    assert "init       from" in header
    assert "constants  kept; on this data they are the same to one percent" in header


def test_a_text_run_goes_on_with_another_length(tmp_path, kit):
    x = [f"{color} house {number} of the set" for number, color in enumerate(["red", "green"] * 10)]
    small = {**kit.FAST, "encoder": {"dim": 8, "depth": 1, "heads": 2}, "tokenizer.vocab_size": 100}
    common = {"modality": "text", "objective": "mae", "batch_size": 8, "preset": "none", "steps": 1}
    run = sslx.pretrain(x, out=tmp_path / "run", set={**small, "tokenizer.length": 12}, **common)
    new = sslx.pretrain(x, init_from=run, out=tmp_path / "new", set={**small, "tokenizer.length": 6}, **common)
    assert new.encoder.preprocess(x[:2])["text"].shape == (2, 6)
    np.testing.assert_array_equal(new.encoder.embed(x[:2]), sslx.load(tmp_path / "new").embed(x[:2]))


@pytest.mark.parametrize("how", ["run", "encoder", "folder"])
def test_a_run_an_encoder_in_memory_and_a_saved_one_give_the_same_start(base, tmp_path, how, kit):
    run, x, y = base
    source = {
        "run": lambda: run,
        "encoder": lambda: run.encoder,
        "folder": lambda: run.encoder.save(tmp_path / "saved"),
    }
    new = sslx.pretrain(x, y=y, init_from=source[how](), out=tmp_path / "new", steps=0, preset="none", set=kit.FAST)
    assert np.array_equal(new.encoder.embed(x), run.encoder.embed(x))
    assert new.init.kind == ("run" if how == "run" else "encoder")


def test_what_an_encoder_in_memory_was_changed_to_counts(base, tmp_path, kit):
    """Not what lies in the folder of its run."""
    run, x, y = base
    encoder = sslx.load(run.folder)
    with torch.no_grad():
        encoder.encoder.cls_token += 1
    new = sslx.pretrain(x, y=y, init_from=encoder, out=tmp_path / "new", steps=0, preset="none", set=kit.FAST)
    assert np.array_equal(new.encoder.embed(x), encoder.embed(x))
    assert not np.array_equal(new.encoder.embed(x), run.encoder.embed(x))


def test_random_init_stays_random(base, tmp_path, kit):
    """Its scores are those of a run that starts from random numbers; the initial weights have scores of their own."""
    run, x, y = base
    new, _ = kit.go_on(base, tmp_path / "new", steps=2)
    fresh = sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "fresh", steps=0, set=kit.SMALL, **kit.CHOICE)

    def of(scores, kind):
        return [(s.probe, s.metric, s.value) for s in scores if s.features == kind]

    assert of(new.report.scores, "random_init") == of(fresh.report.scores, "random_init")
    assert of(fresh.report.scores, "random_init") == of(fresh.report.scores, "trained")
    assert of(new.report.init.scores, "initial") == of(run.report.scores, "trained")
    for name, value in fresh.learner.state_dict().items():
        if name in new.initial:
            assert torch.equal(new.initial[name], value), name
    assert any(not torch.equal(new.initial[n], v) for n, v in run.learner.state_dict().items() if n in new.initial)


def test_constants_are_kept_or_measured_and_the_difference_is_said(base, tmp_path, kit):
    run = base[0]
    data = kit.make_series(shift=0.4)
    kept, header = kit.go_on(base, tmp_path / "kept", data)
    old = run.learner.tokenizer.mean.tolist()
    assert kept.learner.tokenizer.mean.tolist() == old
    new, said = kit.go_on(base, tmp_path / "measured", data, set={"init.constants": "measure"})
    mean = new.learner.tokenizer.mean.tolist()
    assert mean == pytest.approx([value + 0.4 for value in old], abs=1e-4)
    for channel in (0, 1):
        line = f"constants  mean of channel {channel} {old[channel]:.4g} -> {mean[channel]:.4g}"
        assert f"{line} (kept: {old[channel]:.4g})" in header
        assert f"{line} (measured: {mean[channel]:.4g})" in said
    assert torch.equal(new.learner.tokenizer.embed.weight, run.learner.tokenizer.embed.weight)


def test_data_in_another_unit_are_a_doubt_where_constants_are_kept(base, tmp_path, kit):
    _, header = kit.go_on(base, tmp_path / "kept", kit.make_series(scale=1000.0))
    assert "doubt      channel 0 of 'series' ranges from" in header
    with pytest.raises(DataError, match="convert it to the same unit"):
        kit.go_on(base, tmp_path / "strict", kit.make_series(scale=1000.0), strict=True)
    _, header = kit.go_on(base, tmp_path / "measured", kit.make_series(scale=1000.0), set={"init.constants": "measure"})
    assert "doubt " not in header


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"encoder.dim": 32}, "encoder.dim is 32 here and 16 in .*; set encoder.dim=16"),
        ({"encoder.heads": 4}, "set encoder.heads=2"),
        ({"encoder.qkv_bias": True}, "set encoder.qkv_bias=false"),
        ({"encoder.layer_scale": 0.1}, "set encoder.layer_scale=none"),
        ({"tokenizer.patch": 4}, "set tokenizer.patch=1; init.tokenizer=fresh"),
    ],
)
def test_what_does_not_fit_names_the_option_to_change(base, tmp_path, options, cure, kit):
    with pytest.raises(ConfigError, match=cure):
        kit.go_on(base, tmp_path / "new", set=options)


def test_the_cures_work(base, tmp_path, kit):
    new, _ = kit.go_on(base, tmp_path / "new", set={"tokenizer.patch": 4, "init.tokenizer": "fresh"})
    assert new.init.loaded["tokenizer"] == (0, 2)
    assert new.init.constants == "measured"
    more = kit.make_series(channels=3)
    with pytest.raises(DataError, match=r"3 channels.*; or set init.constants=measure to take the data as they are"):
        kit.go_on(base, tmp_path / "refused", more)
    with pytest.raises(ConfigError, match="init.tokenizer=fresh starts them anew"):
        kit.go_on(base, tmp_path / "refused", more, set={"init.constants": "measure"})
    new, _ = kit.go_on(base, tmp_path / "more", more, set={"init.constants": "measure", "init.tokenizer": "fresh"})
    assert torch.equal(new.learner.encoder.cls_token, base[0].learner.encoder.cls_token)


def test_another_objective_and_other_lengths(base, tmp_path, kit):
    run = base[0]
    longer = kit.make_series(steps=48)
    new, header = kit.go_on(base, tmp_path / "new", longer, objective="capri", set={"tokenizer.length": 48})
    assert new.init.loaded["objective"][0] == 0
    assert "positions of 'series' 32 -> 48 computed anew" in header
    assert torch.equal(new.learner.tokenizer.embed.weight, run.learner.tokenizer.embed.weight)
    same, _ = kit.go_on(base, tmp_path / "same", set={"objective.width": 32})
    count, total = same.init.loaded["objective"]
    assert 0 < count < total


class Killed(BaseException):
    pass


def killed_at(monkeypatch, step: int) -> None:
    """Let a run die as by SIGKILL: within a step, after some checkpoints."""
    calls, original = [], pretraining.train.__globals__["rate_at"]

    def rate_at(options, number):
        calls.append(number)
        if number == step and calls.count(step) == 1:
            raise Killed
        return original(options, number)

    monkeypatch.setitem(pretraining.train.__globals__, "rate_at", rate_at)


@pytest.mark.parametrize("step", [1, 5])
def test_a_killed_run_resumes_bit_for_bit_without_its_source(base, tmp_path, monkeypatch, step, kit):
    """Also if it was killed before its first checkpoint."""
    run, x, y = base
    source = tmp_path / "source"
    shutil.copytree(run.folder, source)
    options = {"modality": "time-series", "y": y, "steps": 8, "batch_size": 8, "preset": "none", "init_from": source}
    options["set"] = {**kit.FAST, "train.checkpoint_every": 3}
    whole = sslx.pretrain(x, out=tmp_path / "whole", **options)
    killed_at(monkeypatch, step)
    with pytest.raises(Killed):
        sslx.pretrain(x, out=tmp_path / "killed", **options)
    shutil.rmtree(source)
    again = sslx.pretrain(x, out=tmp_path / "killed", resume=True, **options)
    for name, value in whole.learner.state_dict().items():
        assert torch.equal(value, again.learner.state_dict()[name]), name
    assert again.report.scores == whole.report.scores
    assert again.report.init == whole.report.init
    assert [line["train/loss"] for line in again.log.lines if "train/loss" in line] == [
        line["train/loss"] for line in whole.log.lines if "train/loss" in line
    ]


def test_an_objective_with_a_teacher_resumes_from_step_zero(base, tmp_path, monkeypatch, kit):
    """Its teacher starts as a copy of the weights that the run starts from."""
    _, x, y = base
    options = {"y": y, "steps": 3, "batch_size": 8, "preset": "none", "init_from": base[0], "objective": "ijepa"}
    options["set"] = kit.FAST
    whole = sslx.pretrain(x, out=tmp_path / "whole", **options)
    killed_at(monkeypatch, 1)
    with pytest.raises(Killed):
        sslx.pretrain(x, out=tmp_path / "killed", **options)
    again = sslx.pretrain(x, out=tmp_path / "killed", resume=True, **options)
    assert any(name.startswith("teacher.") for name in whole.learner.state_dict())
    for name, value in whole.learner.state_dict().items():
        assert torch.equal(value, again.learner.state_dict()[name]), name


def test_where_the_weights_come_from_is_recorded(base, tmp_path, kit):
    run, x, y = base
    first, _ = kit.go_on(base, tmp_path / "first", steps=2)
    second = sslx.pretrain(x, y=y, init_from=first, out=tmp_path / "second", steps=1, preset="none", set=kit.FAST)
    config = load_config(second.folder)
    assert config.init.source == str(first.folder)
    encoder = sslx.load(first.folder)
    digest = weights_digest({"tokenizer": encoder.tokenizer, "encoder": encoder.encoder})
    assert config.init.digest == digest
    report = read(second.folder)
    assert (report.init.digest, report.init.steps, report.init.objective) == (digest, 2, "mae")
    assert [row.source for row in report.init.history] == [str(run.folder), str(first.folder)]
    assert [row.steps for row in sslx.load(second.folder).provenance.history] == [4, 2]
    saved = sslx.load(second.encoder.save(tmp_path / "saved"))
    assert [row.source for row in saved.provenance.history] == [run.folder.name, first.folder.name]
    html = page(report, [], [])
    assert "Started from" in html
    assert str(run.folder) in html
    again = sslx.evaluate(second.folder) if second.splits["train"].name != "memory" else sslx.evaluate(second)
    assert again.init.scores == report.init.scores


def test_other_weights_than_the_digest_says_are_refused(base, tmp_path, kit):
    digest = load_config(kit.go_on(base, tmp_path / "new")[0].folder).init.digest
    kit.go_on(base, tmp_path / "same", set={"init.digest": digest})
    with pytest.raises(ConfigError, match="leave init.digest out"):
        kit.go_on(base, tmp_path / "other", set={"init.digest": "0" * 32})
    assert not (tmp_path / "other" / "config.json").exists()


@pytest.mark.parametrize("what", ["missing", "empty", "text"])
def test_nothing_to_start_from_is_one_line(tmp_path, what):
    path = tmp_path / {"missing": "none", "empty": "folder", "text": "notes.txt"}[what]
    if what == "empty":
        path.mkdir()
    if what == "text":
        path.write_text("")
    with pytest.raises(CheckpointError, match=str(path)) as caught:
        sslx.pretrain(modality="time-series", init_from=path, out=tmp_path / "out", steps=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_old_configuration_without_the_section_loads(base, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(base[0].folder, folder)
    entries = json.loads((folder / "config.json").read_text())
    del entries["init"]
    (folder / "config.json").write_text(json.dumps(entries))
    state = checkpoint.latest(folder).folder / "state.json"
    saved = json.loads(state.read_text())
    del saved["init"], saved["config"]["init"], saved["digest"]
    state.write_text(json.dumps(saved))
    assert load_config(folder).init.source is None
    assert sslx.load(folder).provenance.history == ()


def test_the_data_are_those_of_the_source_if_none_are_named(tmp_path, kit):
    made = {"modality": "time-series", "out": tmp_path / "a", "steps": 1, "preset": "none", "objective": "mae"}
    run = sslx.pretrain(
        set={
            **{key: value for key, value in kit.SMALL.items() if "." not in key or not key.startswith("dataset")},
            "dataset.n_train": 24,
            "dataset.n_test": 8,
        },
        **made,
    )
    options = {key: value for key, value in kit.FAST.items() if not key.startswith("dataset")}
    new = sslx.pretrain(init_from=run, out=tmp_path / "b", steps=1, preset="none", objective="capri", set=options)
    assert new.config.dataset == run.config.dataset
    assert new.config.objective.name == "capri"


def test_no_data_for_a_source_trained_on_data_in_memory_is_said(base, tmp_path):
    with pytest.raises(ConfigError, match="give the data, as --data or data="):
        sslx.pretrain(init_from=base[0], out=tmp_path / "b", steps=1)


def test_a_failed_start_leaves_no_half_written_run(base, tmp_path, kit):
    with pytest.raises(SslxError):
        kit.go_on(base, tmp_path / "new", set={"encoder.dim": 32})
    assert not (tmp_path / "new" / "config.json").exists()
    assert not (tmp_path / "new" / INITIAL).exists()
