"""`train.keep_best`: the weights with the best validation score are kept, found again by name, and survive a stop."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sslx
from ssl_core import ConfigError
from ssl_core.cli.app import app
from ssl_core.errors import CheckpointError
from ssl_core.training import checkpoint
from ssl_core.training.best import BEST, BestCheckpoint
from ssl_core.utils.console import Console

NAME = "probe/linear_accuracy"
OPTIONS = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train": {"compile": "off", "precision": "fp32", "checkpoint_every": 15, "keep_best": True, "lr": 0.01},
    "dataset.validation_fraction": 0.3, "evaluate.probes": ["linear"], "evaluate.figures": False,
}  # fmt: skip
CHOICE = {"modality": "time-series", "objective": "mae", "steps": 40, "batch_size": 8, "preset": "none"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One cache of preprocessed data for all tests here."""
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "best-cache"))


@pytest.fixture(scope="module")
def series():
    """Series and their frequency: the scores of a number have no ties."""
    rng = np.random.default_rng(0)
    y = rng.uniform(1, 3, 60)
    x = np.sin(np.arange(32) * y[:, None, None] / 3 + rng.uniform(0, 6, (60, 1, 1))) + 0.3 * rng.standard_normal(
        (60, 2, 32)
    )
    return x.astype(np.float32), y


class Killed(Exception):
    """The process ends without saving."""


class Killer(Console):
    """Ends the process at the probe of a step."""

    def __init__(self, step: int) -> None:
        self.start = f"step {step}: "

    def info(self, text: str) -> None:
        if text.startswith(self.start):
            raise Killed


def trained(series, folder, every=10, **keywords):
    x, y = series
    return sslx.pretrain(x, y=y, out=folder, probe_every=every, set=OPTIONS, **CHOICE, **keywords)


@pytest.fixture(scope="module")
def whole(series, tmp_path_factory):
    """A run without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "best-cache"))
        return trained(series, tmp_path_factory.mktemp("whole") / "run")


def tensors(folder):
    return checkpoint.read_model(checkpoint.latest(folder))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- what is kept ---------------------------------------------------------------------------------------------------


def offers(folder, values, higher=True):
    """The steps whose weights are saved; the weights of step k are all k."""
    best = BestCheckpoint(folder, NAME, higher, {"seed": 0})
    saved = []
    for step, value in values:
        learner = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(learner.weight, step)
        figures = {} if value is None else {NAME: value, "train/seconds": 1.5}
        if best.offer(step, learner, figures):
            saved.append(step)
    return saved


def kept_weight(folder):
    return float(tensors(folder / BEST)["weight"])


def test_a_better_score_replaces_the_weights_and_an_equal_one_does_not(tmp_path):
    assert offers(tmp_path, [(10, 0.5), (20, 0.7), (30, 0.7), (40, None), (50, 0.6)]) == [10, 20]
    assert kept_weight(tmp_path) == 20
    assert len(list((tmp_path / BEST / "checkpoints").iterdir())) == 1
    state = checkpoint.latest(tmp_path / BEST).state
    assert state["best"] == {"name": NAME, "value": 0.7}
    assert (state["seconds"], state["seed"]) == (1.5, 0)


def test_a_score_that_is_not_finite_is_not_the_best(tmp_path):
    assert offers(tmp_path, [(10, float("nan")), (20, 0.5), (30, float("inf")), (40, 0.6)]) == [20, 40]


def test_of_a_metric_of_errors_the_smallest_is_kept(tmp_path):
    assert offers(tmp_path, [(10, 0.5), (20, 0.7), (30, 0.4)], higher=False) == [10, 30]


def test_a_resumed_run_knows_the_score_to_beat(tmp_path):
    offers(tmp_path, [(10, 0.5), (20, 0.7)])
    assert offers(tmp_path, [(20, 0.7), (30, 0.65), (40, 0.71)]) == [40]


def test_a_better_score_before_the_step_of_the_kept_one_is_kept_too(tmp_path):
    """On other hardware a resumed run may be better at a step before that of the weights that it left."""
    offers(tmp_path, [(30, 0.7)])
    assert offers(tmp_path, [(20, 0.8)]) == [20]
    assert kept_weight(tmp_path) == 20


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_the_run_keeps_the_step_with_the_best_score_of_its_curve(whole):
    (name,) = {name for point in whole.report.curve for name in point.scores}
    by_step = {point.step: point.scores[name] for point in whole.report.curve if point.step}
    best = max(by_step, key=by_step.get)
    assert sorted(by_step) == [10, 20, 30, 40]
    saved = checkpoint.latest(whole.folder / BEST)
    assert saved.step == best
    assert saved.state["best"]["value"] == by_step[best]
    assert any(f"those of step {best}" in note for note in whole.report.notes)


def test_the_best_encoder_is_found_by_name(whole, series):
    best, last = sslx.load(whole.folder, checkpoint="best"), sslx.load(whole.folder)
    saved = checkpoint.latest(whole.folder / BEST)
    assert (best.provenance.steps, last.provenance.steps) == (saved.step, 40)
    own = checkpoint.read_model(saved)
    assert equal(
        {f"encoder.{name}": value for name, value in best.encoder.state_dict().items()},
        {name: value for name, value in own.items() if name.startswith("encoder.")},
    )
    x = series[0][:5]
    assert np.array_equal(sslx.embed(whole, x, checkpoint="best"), best.embed(x))
    assert np.array_equal(sslx.embed(whole, x), last.embed(x))
    assert saved.step == 40 or not np.array_equal(best.embed(x), last.embed(x))


def test_the_report_of_the_best_leaves_the_runs_own(whole, series):
    before = (whole.folder / "report.json").read_bytes()
    report = sslx.evaluate(whole, *series, checkpoint="best")
    assert report.steps == checkpoint.latest(whole.folder / BEST).step
    assert (whole.folder / "eval" / "memory-best" / "report.json").is_file()
    assert (whole.folder / "report.json").read_bytes() == before
    assert any("best checkpoint" in note for note in report.notes)


@pytest.fixture
def quick(monkeypatch):
    """quick(*arguments): exit code, and standard error in one line."""
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments):
        done = CliRunner().invoke(app, [str(one) for one in arguments])
        return done.exit_code, " ".join(done.stderr.split())

    return call


def test_commands_take_the_checkpoint_by_name(whole, series, tmp_path, quick):
    code, said = quick("export", whole.folder, "--to", "safetensors", "--out", tmp_path / "out", "--checkpoint", "best")
    assert code == 0, said
    x = series[0][:5]
    assert np.array_equal(sslx.load(tmp_path / "out").embed(x), sslx.load(whole.folder, checkpoint="best").embed(x))
    np.save(tmp_path / "x.npy", x[0])
    for command in (["eval", whole.folder], ["embed", whole.folder, tmp_path / "x.npy"]):
        code, said = quick(*command, "--checkpoint", "bets")
        assert (code, said) == (1, "error: unknown checkpoint 'bets'; did you mean 'best'?")


def test_commands_load_the_encoder_without_blocked_plugins(whole, tmp_path, quick):
    np.save(tmp_path / "x.npy", np.zeros((2, 32), np.float32))
    for command in (
        ["export", whole.folder, "--to", "safetensors", "--out", tmp_path / "out"],
        ["embed", whole.folder, tmp_path / "x.npy"],
        ["finetune", whole.folder, "--data", tmp_path / "x.npy"],
    ):
        code, said = quick(*command, "--block", "sslx:encoders.transformer")
        assert code == 1, command
        assert "plugin 'sslx:encoders.transformer' is blocked" in said


@pytest.mark.parametrize("step", [20, 30])
def test_a_killed_run_ends_with_the_same_last_and_best_weights(whole, series, tmp_path, step):
    """Killed at a probe: the newest checkpoint (step 15) lies before the best weights so far."""
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        trained(series, folder, console=Killer(step))
    assert checkpoint.latest(folder).step == 15
    trained(series, folder, resume=True)
    assert equal(tensors(folder), tensors(whole.folder))
    one, other = (checkpoint.latest(run / BEST) for run in (folder, whole.folder))
    assert (one.step, one.state["best"]) == (other.step, other.state["best"])
    assert equal(tensors(folder / BEST), tensors(whole.folder / BEST))


def test_keeping_the_best_changes_nothing_else(whole, series, tmp_path):
    x, y = series
    options = {**OPTIONS, "train": {**OPTIONS["train"], "keep_best": False}}
    plain = sslx.pretrain(x, y=y, out=tmp_path / "run", probe_every=10, set=options, **CHOICE)
    assert not (plain.folder / BEST).exists()
    assert equal(tensors(plain.folder), tensors(whole.folder))
    with pytest.raises(CheckpointError, match=r"no best checkpoint; train with --set train.keep_best=true"):
        sslx.load(plain.folder, checkpoint="best")


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "every", "cure"),
    [
        ({}, 0, r"set evaluate.every=100 \(--probe-every 100\), or leave"),
        ({"dataset.validation_fraction": 0}, 10, "set dataset.validation_fraction=0.1, or leave"),
        ({"dataset.validation_fraction": 0}, 0, r"\(--probe-every 100\) and dataset.validation_fraction=0.1, or leave"),
        ({"evaluate.probes": []}, 10, "set evaluate.probes=linear, or leave"),
    ],
)
def test_what_is_missing_is_named_with_its_cure(series, tmp_path, change, every, cure):
    x, y = series
    with pytest.raises(ConfigError, match=cure):
        sslx.pretrain(x, y=y, out=tmp_path / "run", probe_every=every, set={**OPTIONS, **change}, **CHOICE)


def test_data_without_labels_are_refused(series, tmp_path):
    with pytest.raises(ConfigError, match="labels by dataset.label or label_pattern"):
        sslx.pretrain(series[0], out=tmp_path / "run", probe_every=10, set=OPTIONS, **CHOICE)


def test_another_name_and_an_encoder_are_refused(whole, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'best'"):
        sslx.load(whole.folder, checkpoint="bets")
    encoder = sslx.load(whole.folder)
    with pytest.raises(ConfigError, match="is for a run"):
        sslx.embed(encoder, np.zeros((2, 2, 32), np.float32), checkpoint="best")
    encoder.save(tmp_path / "encoder")
    with pytest.raises(ConfigError, match="is a saved encoder"):
        sslx.load(tmp_path / "encoder", checkpoint="best")


def test_damaged_best_weights_are_named(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    (checkpoint.latest(tmp_path / "run" / BEST).folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=f"{BEST}.*is damaged"):
        sslx.load(tmp_path / "run", checkpoint="best")
