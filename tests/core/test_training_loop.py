"""The loop: it learns, a stopped run goes on to the same weights, and nothing is lost on the way."""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_core import ConfigError, Learner, SslxError
from ssl_core.errors import CheckpointError
from ssl_core.pipeline.cache import preprocess_dataset
from ssl_core.pipeline.prefetch import BatchStream
from ssl_core.pipeline.sampler import batch_index
from ssl_core.training import checkpoint, loop
from ssl_core.training.loop import Interrupted, train
from ssl_core.training.metrics_log import KeptLines, MetricsLog, read_metrics, trim_metrics
from ssl_core.training.options import TrainOptions
from ssl_core.training.plan import TrainingPlan
from ssl_core.training.schedule import rate_at
from ssl_core.utils.console import Console
from ssl_core.utils.seeds import generator
from ssl_plugins.objectives.ijepa import IJEPA
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.metamae import MetaMAE


@pytest.fixture
def data(toy, tmp_path):
    dataset = toy.Data(toy.Data.Options(count=40), "train")
    return preprocess_dataset(
        dataset, toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16), tmp_path / "cache", Console()
    )


@pytest.fixture
def go(data, tmp_path):
    def run(learner, name="run", start=None, log=None, probe=None, probe_every=0, **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        if start is not None:
            checkpoint.load_model(start, learner)
        plan = TrainingPlan(
            TrainOptions(**({"batch_size": 8, "log_every": 2, "checkpoint_every": 5} | options)),
            seed=3, device=torch.device("cpu"), precision="fp32", folder=folder, listener=log,
            probe=probe, probe_every=probe_every,
        )  # fmt: skip
        result = train(learner, data, plan, start)
        assert result.log.lines == read_metrics(folder / "metrics.jsonl")
        return folder

    return run


def weights(learner):
    return {name: value.clone() for name, value in learner.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("objective", [MAE, MetaMAE])
def test_the_loss_falls(go, toy, objective):
    folder = go(toy.make_learner(objective), steps=80, lr=3e-3, log_every=10)
    losses = [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl")]
    assert losses[-1] < 0.8 * losses[0]


def test_a_batch_and_its_draws_depend_on_their_number_alone_and_hold_no_label(toy, data):
    """No objective sees one."""
    learner = toy.make_learner(MAE)
    feed = BatchStream(learner, data, 8, 5, torch.device("cpu"), range(3, 5))
    for number in (3, 4):
        inputs, draws = feed.take()
        assert data.labels is not None
        assert inputs.keys() == {"x"}
        assert torch.equal(inputs["x"], data.take(batch_index(5, number, len(data), 8)).inputs["x"])
        expected = learner.draw(8, generator(5, "draw", number)) | {"progress": torch.tensor(0.0)}
        assert draws.keys() == expected.keys()
        assert all(torch.equal(draws[name], expected[name]) for name in draws)


def test_the_same_seed_gives_the_same_weights(go, toy):
    first, second = toy.make_learner(MetaMAE), toy.make_learner(MetaMAE)
    go(first, "one", steps=6)
    go(second, "two", steps=6)
    assert same(weights(first), weights(second))


@pytest.mark.parametrize("objective", [MetaMAE, IJEPA])
@pytest.mark.parametrize(
    "options", [{}, {"schedule": "cosine", "warmup_steps": 3}, {"accumulate_steps": 2, "grad_clip": 0.5}]
)
def test_resumed_run_equals_uninterrupted_run(go, toy, tmp_path, objective, options):
    """Weights, the teacher's among them, and metrics."""
    whole = toy.make_learner(objective, dropout=0.1)
    go(whole, "whole", steps=17, **options)

    class Killed(Exception):
        pass

    def kill(step, metrics):
        if step == 14:
            raise Killed

    halved = toy.make_learner(objective, dropout=0.1)
    with pytest.raises(Killed):
        go(halved, "halved", steps=17, log=kill, **options)
    start = checkpoint.latest(tmp_path / "halved")
    assert start.step == 10
    fresh = toy.make_learner(objective, seed=99, dropout=0.1)
    go(fresh, "halved", steps=17, start=start, **options)
    assert same(weights(whole), weights(fresh))
    assert any(name.startswith("teacher.") for name in weights(fresh)) == (objective is IJEPA)

    def lines(name):
        drop = {"train/samples_per_second"}
        return [
            {k: v for k, v in line.items() if k not in drop} for line in read_metrics(tmp_path / name / "metrics.jsonl")
        ]

    assert lines("whole") == lines("halved")


def test_teacher_is_updated_once_per_optimiser_step(go, toy, monkeypatch):
    """With accumulated batches an average kept by a plugin was updated once per batch: 40 times in 10 steps."""
    seen = []
    update = Learner.update_teacher
    monkeypatch.setattr(
        Learner, "update_teacher", lambda self, progress: (seen.append(progress.item()), update(self, progress))
    )
    learner = toy.make_learner(IJEPA)
    go(learner, steps=10, accumulate_steps=4)
    assert seen == pytest.approx([step / 10 for step in range(10)])


def test_steps_of_a_run_with_a_scheduled_teacher_cannot_change(go, toy, tmp_path):
    go(toy.make_learner(IJEPA), "first", steps=5)
    start = checkpoint.latest(tmp_path / "first")
    start.state["config"] = {"train": {"steps": 5}}
    with pytest.raises(ConfigError, match="resume with train.steps=5"):
        go(toy.make_learner(IJEPA), "first", steps=9, start=start)
    constant = toy.make_learner(IJEPA, momentum=0.9, momentum_end=0.9)
    go(constant, "first", steps=9, start=start)


def test_teacher_with_momentum_zero_equals_the_student(go, toy):
    learner = toy.make_learner(IJEPA, momentum=0.0, momentum_end=0.0)
    go(learner, steps=3, lr=1e-2)
    student, teacher = learner.encoder.state_dict(), learner.teacher.parts["encoder"].state_dict()
    assert same(student, teacher)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_stops(go, toy, tmp_path, number, code):
    def send(step, metrics):
        if step == 4:
            os.kill(os.getpid(), number)

    learner = toy.make_learner(MAE)
    with pytest.raises(Interrupted, match="at step [45]; saved, go on with --resume") as caught:
        go(learner, steps=50, log=send)
    assert caught.value.exit_code == code
    saved = checkpoint.latest(tmp_path / "run")
    fresh = toy.make_learner(MAE, seed=9)
    checkpoint.load_model(saved, fresh)
    assert same(weights(fresh), weights(learner))
    whole, resumed = toy.make_learner(MAE), toy.make_learner(MAE, seed=5)
    go(whole, "whole", steps=9)
    go(resumed, steps=9, start=saved)
    assert same(weights(whole), weights(resumed))


def test_a_loss_that_is_not_finite_is_refused_with_a_cure(go, toy):
    learner = toy.make_learner(MAE)
    with torch.no_grad():
        learner.objective.head.maps[0].weight.fill_(torch.nan)
    with pytest.raises(SslxError, match="step 1 is not finite: the output of objective.head.maps.0 .*lower train.lr"):
        go(learner, steps=4)


def test_old_checkpoints_are_deleted_and_nothing_else_is_left(go, toy, tmp_path):
    go(toy.make_learner(MAE), steps=20, keep_checkpoints=2)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000015", "step-00000020"]


def test_what_a_killed_save_left_is_removed_by_the_next(go, toy, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for left in (".saving-abc", ".old-step-00000003"):
        (checkpoints / left).mkdir(parents=True)
        (checkpoints / left / "model.safetensors").write_bytes(b"half")
    go(toy.make_learner(MAE), steps=5)
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000005"]


def test_a_checkpoint_may_be_read_by_whom_the_umask_lets(go, toy, tmp_path):
    before = os.umask(0o022)
    try:
        folder = go(toy.make_learner(MAE), steps=5)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "checkpoints" / "step-00000005").stat().st_mode) == 0o755


def test_a_checkpoint_holds_no_pickle(go, toy, tmp_path):
    go(toy.make_learner(MAE), steps=5)
    folder = tmp_path / "run" / "checkpoints" / "step-00000005"
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert json.loads((folder / "state.json").read_text())["step"] == 5


def test_a_half_written_checkpoint_is_never_seen(go, toy, tmp_path, monkeypatch):
    go(toy.make_learner(MAE), steps=5)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "rename", lambda *unused: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(CheckpointError, match="No space left.*free space"):
            go(toy.make_learner(MAE), steps=7)
    assert checkpoint.latest(tmp_path / "run").step == 5
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named(go, toy, tmp_path, file):
    go(toy.make_learner(MAE), steps=5)
    path = tmp_path / "run" / "checkpoints" / "step-00000005" / file
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="step-00000005.*is damaged.*delete"):
        go(toy.make_learner(MAE), steps=8, start=checkpoint.latest(tmp_path / "run"))


def test_a_checkpoint_of_another_shape_is_refused(go, toy, tmp_path):
    go(toy.make_learner(MAE), steps=5)
    saved = checkpoint.latest(tmp_path / "run")
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        checkpoint.load_model(saved, toy.make_learner(MAE, depth=2))


def test_rates():
    constant = TrainOptions(steps=10, lr=1.0)
    assert [rate_at(constant, step) for step in (0, 9)] == [1.0, 1.0]
    cosine = TrainOptions(steps=10, lr=1.0, schedule="cosine", warmup_steps=2)
    assert rate_at(cosine, 0) == 0.5
    assert rate_at(cosine, 1) == 1.0
    assert rate_at(cosine, 6) == pytest.approx(0.5)
    assert rate_at(cosine, 10) == pytest.approx(0.0)


@pytest.mark.parametrize(("objective", "told"), [(MAE, True), (MetaMAE, True), (MetaMAE, False), (IJEPA, True)])
def test_accumulated_micro_batches_are_one_batch(go, toy, objective, told):
    """The same samples and draws: two steps make an epoch. If a loss does not tell that it couples samples, the first
    step finds out, and makes its micro-batches again."""
    whole, divided = toy.make_learner(objective), toy.make_learner(objective)
    if not told:
        divided.objective.cross_sample_loss = False
    options = {"steps": 3, "optimizer": "sgd", "lr": 0.1, "log_every": 1}
    folder = go(whole, "whole", batch_size=20, **options)
    other = go(divided, "divided", batch_size=4, accumulate_steps=5, **options)
    mine, theirs = weights(divided), weights(whole)
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-5) for name in mine)
    assert not same(theirs, weights(toy.make_learner(objective)))
    for one, two in zip(*(read_metrics(path / "metrics.jsonl") for path in (folder, other)), strict=True):
        assert one["train/loss"] == pytest.approx(two["train/loss"], rel=1e-4)
        assert one["train/grad_norm"] == pytest.approx(two["train/grad_norm"], rel=1e-3)


def test_trimming_metrics_drops_what_will_be_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 2, "train/loss": 1.0}, {"step": 4, "train/loss": 0.5}, {"step": 4, "eval/x": 1.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 6, "tra')
    trim_metrics(path, 2)
    assert read_metrics(path) == lines[:1]


def test_what_was_just_saved_stays_and_what_follows_it_goes(toy, tmp_path):
    """Checkpoints of later steps are damaged, or of a run that went on with other rounding."""
    learner = toy.make_learner(MAE)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)

    def steps_after(*saves, keep):
        for step in saves:
            assert checkpoint.save(tmp_path / str(keep), step, learner, optimizer, {}, keep).is_dir()
        return [
            int(path.name.removeprefix("step-")) for path in sorted((tmp_path / str(keep) / "checkpoints").iterdir())
        ]

    assert steps_after(900, 800, keep=1) == [800]
    assert steps_after(100, 200, 300, keep=2) == [200, 300]
    assert steps_after(500, 350, keep=2) == [300, 350]


@given(kinds=st.lists(st.sampled_from(["training", "training", "training", "probe", "spike"]), max_size=60))
def test_lines_of_metrics_take_bounded_memory(kinds):
    """Of training the first, every n-th and the last stay, all others stay; a resumed run keeps the same."""
    more = {"training": {}, "probe": {"train/seconds": 1.0, "probe/x": 0.5}, "spike": {"train/loss_spike": 9.0}}
    lines = [{"step": step, "train/loss": 1.0 * step} | more[kind] for step, kind in enumerate(kinds)]
    kept = KeptLines(most=4)
    for line in lines:
        kept.append(line)
    training = [line for line, kind in zip(lines, kinds, strict=True) if kind == "training"]
    chosen = [line for line in kept.lines if line.keys() == {"step", "train/loss"}]
    assert len(chosen) <= 4
    assert kept.every == 1 or len(training) > 1.5 * kept.every + 1  # no more are left out than need be
    assert [line for line in kept.lines if line not in chosen] == [line for line in lines if line not in training]
    assert chosen == [line for n, line in enumerate(training) if n % kept.every == 0 or n == len(training) - 1]
    assert [line["step"] for line in kept.lines] == sorted(line["step"] for line in kept.lines)
    assert list(kept.losses) == [line["train/loss"] for line in lines][-20:]


def test_a_resumed_run_keeps_the_lines_of_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(KeptLines.__init__, "__defaults__", (8,))
    whole = MetricsLog(tmp_path / "whole")
    for step in range(1, 51):
        whole.append(step, {"train/loss": 1.0 / step})
    (tmp_path / "resumed").write_bytes((tmp_path / "whole").read_bytes())
    resumed = MetricsLog(tmp_path / "resumed", 30)
    for step in range(31, 51):
        resumed.append(step, {"train/loss": 1.0 / step})
    assert resumed.lines == whole.lines == read_metrics(tmp_path / "resumed")
    assert len(whole.lines) < 10
    assert len((tmp_path / "resumed").read_text().splitlines()) == 50


def test_trimming_metrics_leaves_the_old_lines_whole_until_the_new_are(tmp_path, monkeypatch):
    path, twin = tmp_path / "metrics.jsonl", tmp_path / "twin"
    path.write_text('{"step": 2}\n{"step": 4}\n')
    twin.hardlink_to(path)  # the same file: what is written over it is seen here
    trim_metrics(path, 2)
    assert twin.read_text() == '{"step": 2}\n{"step": 4}\n'
    assert path.read_text() == '{"step": 2}\n'

    def full(*unused):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trim_metrics(path, 0)
    assert path.read_text() == '{"step": 2}\n'
    assert sorted(tmp_path.iterdir()) == [path, twin]


@pytest.mark.parametrize("stop", [4, 6])
def test_a_stop_at_a_probe_leaves_the_probe_to_the_resumed_run(go, toy, tmp_path, stop):
    """The weights are saved first, since a signal may leave little time."""
    looked = []

    def probe(step):
        looked.append(step)
        return {"probe/x": float(step)}

    def send(step, metrics):
        if step == stop - 1 and "train/loss" in metrics:  # noticed after the next step
            os.kill(os.getpid(), signal.SIGTERM)

    options = {"steps": 11, "probe": probe, "probe_every": 4, "log_every": 1}
    go(toy.make_learner(MAE), "whole", **options)
    looked.clear()
    with pytest.raises(Interrupted):
        go(toy.make_learner(MAE), "run", log=send, **options)
    assert looked == ([0] if stop == 4 else [0, 4])
    start = checkpoint.latest(tmp_path / "run")
    assert start.step == stop
    go(toy.make_learner(MAE), "run", start=start, **options)
    assert looked == [0, 4, 8]
    both = [
        [{name: value for name, value in line.items() if "second" not in name} for line in read_metrics(path)]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "run" / "metrics.jsonl")
    ]
    assert both[0] == both[1]


def test_warnings_of_before_a_stop_stay_with_the_checkpoint(toy, data, tmp_path):
    learner, said = toy.make_learner(MAE), ["step 3 skipped"]
    plan = TrainingPlan(
        TrainOptions(batch_size=8, steps=2), seed=3, device=torch.device("cpu"), precision="fp32", folder=tmp_path,
        said=said,
    )  # fmt: skip
    train(learner, data, plan)
    assert checkpoint.latest(tmp_path).state["warnings"] == said


def test_a_probe_looks_at_the_wanted_steps_and_changes_nothing(go, toy, data, tmp_path):
    looked = []

    def probe(step):
        assert not learner.training
        torch.rand(7)  # a probe that draws numbers
        looked.append(step)
        return {"probe/x": 1.0}

    learner = toy.make_learner(MetaMAE, dropout=0.1)
    go(learner, "probed", steps=11, probe=probe, probe_every=4)
    assert looked == [0, 4, 8]
    assert learner.training
    plain = toy.make_learner(MetaMAE, dropout=0.1)
    go(plain, "plain", steps=11)
    assert same(weights(plain), weights(learner))
    lines = [line for line in read_metrics(tmp_path / "probed" / "metrics.jsonl") if "probe/x" in line]
    assert [line["step"] for line in lines] == [0, 4, 8]
    assert [line["train/seconds"] for line in lines] == sorted(line["train/seconds"] for line in lines)


def test_a_budget_stops_the_training_and_a_resumed_run_keeps_to_it(go, toy, tmp_path):
    learner = toy.make_learner(MAE)
    folder = go(learner, "short", steps=10**9, max_seconds=0.3)
    saved = checkpoint.latest(folder)
    assert 0 < saved.step < 10**6
    assert 0.3 <= saved.state["seconds"] < 30
    again = toy.make_learner(MAE)
    go(again, "short", steps=10**9, max_seconds=0.3, start=saved)
    assert checkpoint.latest(folder).step == saved.step
    assert same(weights(again), weights(learner))


def test_progress_follows_the_clock_under_a_budget(go, toy, monkeypatch):
    ticks, seen = itertools.count(), []
    monkeypatch.setattr(loop.Clock, "__call__", lambda self: next(ticks) / 10)
    update = Learner.update_teacher
    monkeypatch.setattr(
        Learner, "update_teacher", lambda self, progress: (seen.append(progress.item()), update(self, progress))
    )
    go(toy.make_learner(IJEPA), steps=10**9, max_seconds=2.0, accumulate_steps=2, log_every=100, checkpoint_every=100)
    assert seen == sorted(seen)
    assert 0 <= seen[0] < 0.1
    assert 0.9 < seen[-1] < 1
    assert len(set(seen)) == len(seen) > 3


def test_a_budget_needs_a_constant_rate(go, toy):
    with pytest.raises(SslxError, match="train.max_seconds"):
        go(toy.make_learner(MAE), max_seconds=1.0, schedule="cosine")
