"""A loss or gradient that is not finite changes no weight: the run stops before the step, or leaves it out."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sslx
from ssl_core.cli import app
from ssl_core.errors import CheckpointError, SslxError
from ssl_core.pipeline.cache import preprocess_dataset
from ssl_core.pipeline.sampler import batch_index
from ssl_core.plugins import load
from ssl_core.runs.replay import replay_run
from ssl_core.runs.run import RunContext
from ssl_core.tokens import Outcome
from ssl_core.training import checkpoint
from ssl_core.training.finite import FiniteGuard, NotFinite
from ssl_core.training.loop import train
from ssl_core.training.metrics_log import KeptLines, loss_spike, read_metrics
from ssl_core.training.optim import make_optimizer, state_form
from ssl_core.training.options import TrainOptions
from ssl_core.training.plan import TrainingPlan
from ssl_core.training.step import step_function
from ssl_core.utils.console import Console
from ssl_plugins.objectives.ijepa import IJEPA
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.metamae import MetaMAE

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
ROWS, SIZE, SEED = 40, 8, 3
BAD_ROW = 11
NORM = "encoder.transformer.norm.weight"


@pytest.fixture
def data(toy, tmp_path):
    dataset = toy.Data(toy.Data.Options(count=ROWS), "train")
    return preprocess_dataset(
        dataset, toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16), tmp_path / "cache", Console()
    )


class Lines(Console):
    def __init__(self):
        self.lines = []

    def info(self, text):
        self.lines.append(text)


@pytest.fixture
def go(data, tmp_path):
    def run(learner, name="run", start=None, device="cpu", console=None, data=data, **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        plan = TrainingPlan(
            TrainOptions(**({"batch_size": SIZE, "log_every": 2, "checkpoint_every": 5, "lr": 1e-2} | options)),
            seed=SEED, device=torch.device(device), precision="fp32", folder=folder, console=console or Console(),
            describe=lambda row: f"row-{row}.csv",
        )  # fmt: skip
        return train(learner.to(device), data, plan, start)

    return run


def weights(learner):
    return {name: value.clone() for name, value in learner.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def poison(learner, step, what):
    """Make the loss or a gradient not finite at a step: the `step`-th forward pass in training mode."""
    forward, seen = learner.objective.forward, [-1]

    def poisoned(tokens, encoder, draws, teacher=None):
        outcome = forward(tokens, encoder, draws, *([] if teacher is None else [teacher]))
        seen[0] += 1
        if seen[0] != step:
            return outcome
        loss = outcome.loss
        weight = dict(learner.named_parameters())[NORM]
        if what == "loss":
            loss = loss * math.nan
        elif what == "infinite":
            loss = loss + math.inf
        else:  # finite itself, with a derivative that is not
            loss = loss + (weight[:3] * 0).abs().sqrt().sum()
        return Outcome(loss, outcome.metrics)

    learner.objective.forward = poisoned
    return seen


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("objective", [MAE, IJEPA])
@pytest.mark.parametrize("what", ["loss", "infinite", "gradient"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_run_stops_with_the_state_before_the_step(go, toy, tmp_path, device, objective, what, accumulate):
    constant = {"momentum": 0.9, "momentum_end": 0.9} if objective is IJEPA else {}
    whole = toy.make_learner(objective, dropout=0.1, **constant)
    go(whole, "whole", device=device, steps=5, accumulate_steps=accumulate)
    learner = toy.make_learner(objective, dropout=0.1, **constant)
    poison(learner, 5 * accumulate, what)
    with pytest.raises(NotFinite, match=r"step 6 is not finite: .*lower train.lr.*sslx replay .*run"):
        go(learner, device=device, steps=20, accumulate_steps=accumulate)
    assert same(weights(learner), weights(whole))
    saved = checkpoint.latest(tmp_path / "run" / "not_finite")
    assert saved.step == 5
    fresh = toy.make_learner(objective, dropout=0.1, **constant)
    checkpoint.load_model(saved, fresh)
    assert same({k: v.cpu() for k, v in weights(whole).items()}, weights(fresh))
    report = json.loads((tmp_path / "run" / "not_finite" / "step.json").read_text())
    rows = [batch_index(SEED, 5 * accumulate + part, ROWS, SIZE).tolist() for part in range(accumulate)]
    assert report["samples"] == rows
    assert report["names"] == [[f"row-{row}.csv" for row in part] for part in rows]
    assert checkpoint.latest(tmp_path / "run").step == 5, "the state of the step is no checkpoint of the run"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("objective", [MAE, IJEPA])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_skipped_step_changes_nothing_and_is_named(go, toy, tmp_path, device, objective, optimizer, what):
    learner, console = toy.make_learner(objective), Lines()
    poison(learner, 3, what)
    before = {}
    forward = learner.objective.forward

    def look(tokens, encoder, draws, teacher=None):
        before[len(before)] = weights(learner)
        return forward(tokens, encoder, draws, teacher)

    learner.objective.forward = look
    go(learner, device=device, console=console, steps=8, on_nan="skip", optimizer=optimizer, lr=1e-3)
    assert same(before[3], before[4])
    assert not same(before[4], before[5])
    assert [line for line in console.lines if "skipped" in line] == [
        "step 4 skipped: its loss or gradient is not finite"
    ]
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_batch_norms_and_buffers_of_the_objective_are_restored(go, toy):
    learner = toy.make_learner(MAE)
    learner.objective.norm = torch.nn.BatchNorm1d(16)
    learner.objective.register_buffer("mean_loss", torch.zeros(()))
    forward, seen = learner.objective.forward, []

    def poisoned(tokens, *rest):
        outcome = forward(tokens, *rest)
        seen.append({name: b.clone() for name, b in learner.objective.named_buffers()})
        factor = math.nan if len(seen) == 3 else 1.0
        learner.objective.norm(tokens.embeddings.mean(1).detach() * factor)
        learner.objective.mean_loss += factor * outcome.loss.detach()
        return Outcome(outcome.loss * factor, outcome.metrics)

    learner.objective.forward = poisoned
    go(learner, steps=5, on_nan="skip")
    assert same(seen[2], seen[3])
    assert not same(seen[3], seen[4])
    assert all(torch.isfinite(value).all() for value in seen[4].values())


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_flag_on_the_device_freezes_weights_optimiser_and_teacher(toy, tmp_path, on_nan):
    """As on CUDA, where no step looks at the numbers; fused steps on the CPU read the flag, too."""
    learner = toy.make_learner(IJEPA)
    learner.start_teacher()
    learner.train()
    options = TrainOptions(batch_size=SIZE, on_nan=on_nan, lr=1e-2)
    plan = TrainingPlan(options, SEED, torch.device("cpu"), "fp32", tmp_path)
    optimizer = make_optimizer(learner, options)
    guard = FiniteGuard(learner, optimizer, on_nan, plan.device)
    guard.flag = optimizer.found_inf = torch.zeros(())
    step = step_function(learner, optimizer, plan, guard)
    poison(learner, 2, "loss")
    states, counts, flags = [], [], []
    for number in range(4):
        states.append(weights(learner))
        draws = learner.draw(SIZE, torch.Generator().manual_seed(number)) | {"progress": torch.tensor(0.1)}
        flags.append(bool(step(number, [({"x": torch.randn(SIZE, 2, 16)}, draws)])[0]["not_finite"]))
        counts.append(next(iter(optimizer.state.values()))["step"].item())
    states.append(weights(learner))
    assert not same(states[1], states[2])
    assert same(states[2], states[3])
    assert same(states[3], states[4]) == (on_nan == "stop")
    assert flags == [False, False, True, on_nan == "stop"]
    assert counts == [1, 2, 2, 2 if on_nan == "stop" else 3]


def test_if_all_steps_are_skipped_the_run_stops(go, toy):
    learner = toy.make_learner(MAE)
    with torch.no_grad():
        learner.objective.head.maps[0].weight.fill_(torch.nan)
    with pytest.raises(SslxError, match="not finite in any step since step 0, so skipping does not help; lower"):
        go(learner, steps=4, on_nan="skip")


@pytest.mark.parametrize("objective", [MAE, MetaMAE])
def test_module_and_sample_are_named(go, toy, data, tmp_path, objective):
    """A sample whose numbers overflow in the encoder."""
    values = np.array(data.arrays["x"])
    values[BAD_ROW] = 3e38
    data = type(data)({"x": values}, data.labels)
    learner = toy.make_learner(objective)
    learner.tokenizer.mean.zero_()
    first = next(n for n in range(99) if BAD_ROW in batch_index(SEED, n, ROWS, SIZE))
    with pytest.raises(NotFinite, match=f"step {first + 1} is not finite: the output of .*row-{BAD_ROW}.csv.; lower"):
        go(learner, steps=20, data=data)
    report = json.loads((tmp_path / "run" / "not_finite" / "step.json").read_text())
    assert report["culprits"] == [BAD_ROW]
    assert report["module"].startswith(("tokenizer", "encoder", "objective"))


def test_the_parameters_whose_gradient_is_not_finite_are_named(go, toy, tmp_path):
    learner = toy.make_learner(MAE)
    root = dict(learner.named_parameters())[NORM]

    def hooked(gradient):
        return gradient * torch.tensor([math.nan, math.inf, *[1.0] * 14])

    root.register_hook(hooked)
    with pytest.raises(NotFinite, match=f"the gradient of {NORM}, of a finite loss"):
        go(learner, steps=4)
    report = json.loads((tmp_path / "run" / "not_finite" / "step.json").read_text())
    assert report["gradients"] == {NORM: 2}
    assert math.isfinite(report["losses"][0])


def test_a_trial_of_the_optimiser_does_not_see_the_flag(toy):
    learner = toy.make_learner(MAE)
    optimizer = torch.optim.AdamW(learner.parameters(), fused=True)
    assert state_form(optimizer, next(learner.parameters())).keys() == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize(
    ("before", "loss", "median"),
    [
        ([1.0] * 4, 50.0, None),
        ([1.0] * 5, 50.0, 1.0),
        ([1.0] * 5, 1.9, None),
        ([1.0, 2.0, 0.5, 3.0, 1.0, 0.2, 2.5], 4.0, None),
        ([-1.0] * 5, 0.5, -1.0),
        ([9.0] * 30 + [1.0] * 20, 3.0, 1.0),
    ],
)
def test_a_spike_is_far_above_the_median_of_the_last_lines(before, loss, median):
    kept = KeptLines()
    for line in [*({"step": 0, "train/loss": value} for value in before), {"step": 0, "eval/x": 9.0}]:
        kept.append(line)
    assert loss_spike(kept.losses, loss) == median


def test_a_loss_spike_is_logged(go, toy, tmp_path):
    learner, console = toy.make_learner(MAE), Lines()
    forward, seen = learner.objective.forward, [0]

    def spike(*arguments):
        outcome = forward(*arguments)
        seen[0] += 1
        return Outcome(outcome.loss * (100 if seen[0] in (13, 14) else 1), outcome.metrics)

    learner.objective.forward = spike
    go(learner, steps=18, console=console, lr=1e-5)
    (line,) = [line for line in console.lines if "spike" in line]
    assert line.startswith("loss spike at step 14: ")
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "train/loss_spike" in line] == [14]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run whose rate is so high that it stops after a few steps."""
    folder = tmp_path_factory.mktemp("stopped")
    small = {
        "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1,
        "objective.heads": 1, "train.compile": "off", "train.precision": "fp32", "evaluate.figures": False,
        "train.lr": 1e30, "train.optimizer": "sgd", "train.log_every": 1, "dataset.n_train": 24, "dataset.n_test": 8,
    }  # fmt: skip
    choice = {"objective": "mae", "modality": "time-series", "batch_size": 8, "preset": "none", "steps": 40}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        with pytest.raises(NotFinite) as why:
            sslx.pretrain(out=folder / "run", set=small, **choice)
        yield folder / "run", why.value


def test_a_saved_step_is_repeated(stopped):
    run, error = stopped
    report = json.loads((run / "not_finite" / "step.json").read_text())
    again = replay_run(RunContext(load(), run))
    assert json.loads(json.dumps(again.to_json())) == report or math.isnan(again.losses[0])
    assert (again.part, again.samples, again.gradients) == (report["part"], report["samples"], report["gradients"])
    assert not again.is_finite
    assert again.part in str(error)
    assert json.loads((run / "failure.json").read_text())["message"] == str(error)


def test_the_command_shows_the_step(stopped, monkeypatch):
    run, _ = stopped
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app.app, ["replay", str(run)])
    assert done.exit_code == 0, done.output
    assert "first not finite: the" in done.output
    assert f"step {checkpoint.latest(run / 'not_finite').step + 1}: loss" in done.output


def test_without_a_saved_step_nothing_is_repeated(stopped, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "not_finite")
    with pytest.raises(CheckpointError, match="has no step to repeat; one is saved if"):
        replay_run(RunContext(load(), tmp_path / "other"))


def test_a_stopped_run_may_go_on_without_the_step(stopped, tmp_path):
    """It fails again, since no step is finite at this rate."""
    run = shutil.copytree(stopped[0], tmp_path / "other")
    with pytest.raises(SslxError, match="skipping does not help"):
        sslx.pretrain(out=run, resume=True, set={"train.on_nan": "skip"})
