"""Steps recorded and replayed whole, and batches brought by other threads: what they give is what plain steps give.

Where there is no GPU, a graph is played by one that does again what it was recorded doing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch

from ssl_core import Learner, Tokenizer
from ssl_core.pipeline import prefetch as feeding
from ssl_core.pipeline.cache import preprocess_dataset
from ssl_core.pipeline.prefetch import DEPTH, BatchStream, Prefetcher
from ssl_core.training import checkpoint
from ssl_core.training.accel import cuda_graph as module
from ssl_core.training.accel.cuda_graph import AHEAD, FIRST_STEPS, PATIENCE, GraphedStep
from ssl_core.training.loop import TrainingPlan, is_graphed, train
from ssl_core.training.metrics_log import read_metrics
from ssl_core.training.optim import make_optimizer, set_rate
from ssl_core.training.options import TrainOptions
from ssl_core.utils.console import Console
from ssl_plugins.objectives.metamae import MetaMAE

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


class Player:
    """A graph that calls the step again, with what it was recorded with, and puts the results where they were."""

    def __init__(self) -> None:
        self.record, self.values = None, {}

    def replay(self) -> None:
        for name, value in self.record().items():
            self.values[name].copy_(value)


@pytest.fixture
def played(pretended, monkeypatch):
    """A step that is recorded by `Player`."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Player)

    class Recording(GraphedStep):
        def _record(self, inputs, draws):
            step, calls = self.step, []
            self.step = lambda *given: calls.append(given) or {"sum": torch.zeros(())}
            try:
                recorded = super()._record(inputs, draws)
            finally:
                self.step = step
            if recorded:
                (given,) = calls
                self.graph.record, self.graph.values = lambda: step(*given), self.values
            return recorded

    return Recording


def add_up(inputs, draws):
    return {"sum": inputs["x"].sum() + 10 * draws["m"].sum()}


def batch(number, size=2):
    return {"x": torch.full((size,), float(number))}, {"m": torch.tensor([number])}


def test_each_step_gets_its_own_batch_and_draws(played):
    step = played(add_up, CPU, pytest.fail)
    for number in range(FIRST_STEPS + 4):
        assert step(*batch(number))["sum"] == 12 * number
    assert step.graph is not None


@pytest.mark.parametrize("others", [{1, 6, 8}, {0}, {4, 9}])
def test_a_batch_of_another_shape_is_done_as_it_comes(played, others):
    """Also where it is the first one, so that what is recorded is what comes again and again."""
    step = played(add_up, CPU, pytest.fail)
    for number in range(12):
        size = 5 if number in others else 2
        assert step(*batch(number, size))["sum"] == (size + 10) * number
    assert step.given[0]["x"].shape == (2,)


def test_shapes_that_never_stay_the_same_are_given_up(played):
    said = []
    step = played(add_up, CPU, said.append)
    for number in range(PATIENCE + 10):
        assert step(*batch(number, 2 + number % 2))["sum"] == (12 + number % 2) * number
    assert len(said) == 1
    assert "differ in shape" in said[0]


def test_what_is_taken_out_of_the_values_is_there_again(played):
    step = played(add_up, CPU, pytest.fail)
    for number in range(FIRST_STEPS + 3):
        assert step(*batch(number)).pop("sum") == 12 * number


def test_the_caller_is_not_let_run_away(played, pretended):
    step = played(add_up, CPU, pytest.fail)
    for number in range(AHEAD + 5):
        step(*batch(number))
    assert pretended.count("synchronize") == 5


def test_a_step_that_cannot_be_recorded_is_done_as_if_it_had_not_been_tried(monkeypatch, pretended):
    """Its gradients and random numbers included."""
    weight, said, mended = torch.ones(2, requires_grad=True), [], []
    monkeypatch.setattr(module, "_mend", lambda *given: mended.append(given))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **how: recording())
    attempt = []

    @contextlib.contextmanager
    def recording():
        attempt.append(True)
        yield

    def update(inputs, draws):
        noise = torch.rand(())
        (weight * inputs["x"]).sum().backward()
        if attempt and not mended:
            raise RuntimeError("no memory\nand so on")
        gradient, weight.grad = weight.grad, None
        return {"gradient": gradient, "noise": noise}

    def undo():
        weight.grad = None

    step = GraphedStep(update, CPU, said.append, undo)
    for number in range(FIRST_STEPS + 3):
        torch.manual_seed(number)
        values = step(*batch(number))
        torch.manual_seed(number)
        assert values["noise"] == torch.rand(())
        assert values["gradient"].tolist() == [number, number]
    assert len(mended) == 1
    assert said == [
        "warning: steps cannot be replayed as a CUDA graph (no memory), so each is launched kernel by kernel"
    ]


def test_a_step_that_waits_is_not_recorded(monkeypatch, pretended):
    monkeypatch.setattr(torch.cuda, "graph", lambda *given, **how: pytest.fail("it was"))
    said = []

    def update(inputs, draws):
        if "sync debug warn" in pretended[-1:]:
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        return add_up(inputs, draws)

    step = GraphedStep(update, CPU, said.append)
    for number in range(FIRST_STEPS + 4):
        assert step(*batch(number))["sum"] == 12 * number
    assert len(said) == 1
    assert "a step waits for the device" in said[0]
    assert "test_cuda_graph.py, line" in said[0]
    assert pretended.count("sync debug 0") == 1


class Thing:
    """What a maker makes: knows its number."""

    def __init__(self, number):
        self.number = number

    def record_stream(self, stream):
        pass


def things(number):
    return {"x": Thing(number)}


@pytest.fixture
def ahead(pretended, monkeypatch):
    monkeypatch.setattr(feeding, "send", lambda value, device: value)
    made = Prefetcher((things, lambda number: {"m": Thing(-number)}), torch.device("cuda"))
    yield made
    made.close()


def test_what_is_made_ahead_comes_in_the_order_in_which_it_was_asked_for(ahead, pretended):
    for number in (4, 7, 2):
        ahead.submit(number)
    assert len(ahead) == 3
    assert [(x["x"].number, m["m"].number) for x, m in (ahead.take() for _ in range(3))] == [(4, -4), (7, -7), (2, -2)]
    assert pretended.count("wait event") == 6  # both copies of each
    assert len(ahead) == 0


def test_what_a_maker_raises_comes_out_where_its_number_is_taken(pretended, monkeypatch):
    monkeypatch.setattr(feeding, "send", lambda value, device: value)

    def make(number):
        if number == 2:
            raise ValueError("no batch")
        return things(number)

    made = Prefetcher((make,), torch.device("cuda"))
    for number in (1, 2, 3):
        made.submit(number)
    assert made.take()[0]["x"].number == 1
    with pytest.raises(ValueError, match="no batch"):
        made.take()
    assert made.take()[0]["x"].number == 3
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sslx-feed")]


def test_a_feed_is_never_further_ahead_than_it_should_be_and_ends_with_its_numbers(pretended, monkeypatch):
    monkeypatch.setattr(feeding, "send", lambda value, device: value)
    monkeypatch.setattr(feeding, "batch_index", lambda seed, number, count, size: number)
    asked = []

    class Data:
        def __len__(self):
            return 100

        def take(self, index, pinned):
            assert pinned
            asked.append(index)
            return SimpleNamespace(inputs=things(index))

    monkeypatch.setattr(feeding.torch, "tensor", lambda value, dtype: Thing(0))  # the progress of the run
    draw = lambda size, generator, geometry: {"m": Thing(generator.initial_seed())}  # noqa: E731
    learner = SimpleNamespace(tokenizer=Tokenizer.__new__(Tokenizer), draw=draw)
    taken, draws = [], set()
    with BatchStream(learner, Data(), 8, 3, torch.device("cuda"), range(5, 12)) as feed:
        for number in range(5, 12):
            inputs, drawn = feed.take()
            taken.append(inputs["x"].number)
            draws.add(drawn["m"].number)
            assert max(asked) < number + DEPTH
    assert taken == asked == list(range(5, 12))
    assert len(draws) == 7


@pytest.mark.parametrize(
    ("options", "device", "expected"),
    [
        ({}, "cuda", True),
        ({}, "cpu", False),
        ({"accumulate_steps": 2}, "cuda", False),
        ({"cuda_graph": False}, "cuda", False),
    ],
)
def test_when_steps_are_replayed(options, device, expected):
    assert is_graphed(TrainOptions(**options), torch.device(device)) == expected


def test_a_rate_that_a_graph_reads_stays_in_its_place():
    group = {"lr": torch.tensor(1.0)}
    rate = group["lr"]
    set_rate(SimpleNamespace(param_groups=[group]), 0.25)
    assert group["lr"] is rate
    assert rate == 0.25


@needs_cuda
def test_ten_steps_replayed_are_ten_plain_ones(toy):
    """With dropout, whose numbers each step draws anew, and a rate that changes."""
    ends = []
    for graphed in (False, True):
        learner: Learner = toy.make_learner(MetaMAE, dropout=0.2).cuda().train()
        options = TrainOptions(lr=1e-2)
        optimizer, losses = make_optimizer(learner, options, graphed), []

        def update(inputs, draws, learner=learner, optimizer=optimizer):
            outcome = learner(inputs, draws)
            outcome.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return {"loss": outcome.loss.detach()}

        step = GraphedStep(update, torch.device("cuda"), pytest.fail, optimizer.zero_grad) if graphed else update
        for number in range(10):
            noise = torch.Generator().manual_seed(number)
            inputs = {"x": torch.randn(8, 2, 16, generator=noise).cuda()}
            draws = {k: v.cuda() for k, v in learner.draw(8, noise).items()}
            set_rate(optimizer, 1e-2 / (1 + number))
            torch.manual_seed(number)
            losses.append(step(inputs, draws)["loss"].item())
        assert not graphed or step.graph is not None
        ends.append((losses, [parameter.detach().clone() for parameter in learner.parameters()]))
    (plain, weights), (replayed, others) = ends
    assert replayed == pytest.approx(plain, rel=1e-4)
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


@needs_cuda
@pytest.mark.parametrize("fails", ["waits", "raises"])
def test_after_steps_that_cannot_be_recorded_all_is_as_before(toy, data, fails):
    """Random numbers come as they should, memory is given back, and another step can be recorded."""
    said, weight, device = [], torch.ones(3, device="cuda"), torch.device("cuda")

    def update(inputs, draws):
        total = (weight * inputs["x"].sum()).sum()
        if fails == "waits":
            total = total if total.item() > 0 else -total
        elif torch.cuda.is_current_stream_capturing():
            raise RuntimeError("no memory")
        return {"sum": total, "chance": torch.rand((), device="cuda")}

    step, held = GraphedStep(update, device, said.append), []
    with BatchStream(toy.make_learner(MetaMAE), data, 8, 0, device, range(60)) as feed:
        for number in range(60):
            inputs, draws = feed.take()
            torch.manual_seed(number)
            values = step(inputs, draws)
            torch.manual_seed(number)
            assert torch.equal(values["chance"], torch.rand((), device="cuda"))
            torch.cuda.synchronize()
            held.append(torch.cuda.memory_allocated())
    assert len(said) == 1
    assert held[-1] <= held[10]
    again = GraphedStep(lambda inputs, draws: {"x": 2 * inputs["x"]}, device, pytest.fail)
    for number in range(FIRST_STEPS + 3):
        assert again({"x": torch.full((3,), float(number), device="cuda")}, {})["x"].tolist() == [2 * number] * 3
    assert again.graph is not None


@pytest.fixture
def data(toy, tmp_path):
    dataset = toy.Data(toy.Data.Options(count=40), "train")
    return preprocess_dataset(
        dataset, toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16), tmp_path / "cache", Console()
    )


@needs_cuda
def test_what_other_threads_bring_is_what_a_step_would_make_itself(toy, data):
    learner = toy.make_learner(MetaMAE)
    here = BatchStream(learner, data, 8, 3, CPU, range(20))
    with BatchStream(learner, data, 8, 3, torch.device("cuda"), range(20)) as feed:
        for _ in range(20):
            for brought, made in zip(feed.take(), here.take(), strict=True):
                assert brought.keys() == made.keys()
                for name, value in brought.items():
                    assert value.is_cuda
                    assert torch.equal(value.cpu(), made[name])


@needs_cuda
def test_what_fails_in_a_thread_fails_where_it_is_taken(toy, data):
    learner = toy.make_learner(MetaMAE)

    def broken(batch, generator, geometry):
        raise ValueError("no draw")

    learner.draw = broken
    with (
        BatchStream(learner, data, 8, 3, torch.device("cuda"), range(20)) as feed,
        pytest.raises(ValueError, match="no draw"),
    ):
        feed.take()


@needs_cuda
@pytest.mark.parametrize(
    "options", [{}, {"accumulate_steps": 2}, {"schedule": "cosine", "warmup_steps": 4}, {"cuda_graph": False}]
)
def test_training_on_cuda_is_training_on_the_cpu_and_can_be_resumed(toy, data, tmp_path, options):
    def losses(name, device, start=None):
        learner = toy.make_learner(MetaMAE).to(device)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        if start is not None:
            checkpoint.load_model(start, learner)
        plan = TrainingPlan(
            TrainOptions(**({"steps": 16, "batch_size": 8, "log_every": 4, "checkpoint_every": 8} | options)),
            seed=1, device=torch.device(device), precision="fp32", folder=folder, warn=pytest.fail,
        )  # fmt: skip
        train(learner, data, plan, start)
        return [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl")]

    expected = losses("cpu", "cpu")
    assert losses("cuda", "cuda") == pytest.approx(expected, rel=1e-3)
    shutil.rmtree(tmp_path / "cuda" / checkpoint.FOLDER / "step-00000016")
    start = checkpoint.latest(tmp_path / "cuda")
    assert start.step == 8
    assert losses("cuda", "cuda", start) == pytest.approx(expected, rel=1e-3)


@needs_cuda
@pytest.mark.parametrize("name", ["emix", "shed", "capri", "dabs-mae", "m3ae", "mae"])
@pytest.mark.parametrize("modality", ["tabular", "image-text"])
def test_every_objective_can_be_recorded(tmp_path, monkeypatch, name, modality):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    command = [
        sys.executable,
        "-m",
        "ssl_core.cli",
        "run",
        "--objective",
        name,
        "--modality",
        modality,
        "--steps",
        "12",
    ]
    command += ["--set", "train.compile=off", "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert not [note for note in report["notes"] if "cannot be replayed" in note]
