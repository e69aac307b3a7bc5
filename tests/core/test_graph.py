"""Steps recorded and replayed whole, and batches brought by other threads: what they give is what plain steps give.

Where there is no GPU, a graph is played by one that does again what it was recorded doing.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from ssl_core import Learner
from ssl_core.engine import graph as module
from ssl_core.engine.feed import Feed
from ssl_core.engine.graph import FIRST_STEPS, GraphedStep
from ssl_core.engine.journal import read_metrics
from ssl_core.engine.loader import prepare
from ssl_core.engine.tell import Tell
from ssl_core.engine.train import TrainOptions, is_graphed, make_optimizer, set_rate, train
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
def played(monkeypatch):
    """No CUDA: streams that do nothing, and `Player` in place of a graph."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Player)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **how: contextlib.nullcontext(graph))

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


def test_each_step_gets_its_own_batch_and_draws(played):
    step = played(add_up, pytest.fail)
    for number in range(FIRST_STEPS + 4):
        values = step({"x": torch.full((2,), float(number))}, {"m": torch.tensor([number])})
        assert values["sum"] == 12 * number
    assert step.graph is not None


def test_a_batch_of_another_shape_is_done_as_it_comes(played):
    step = played(add_up, pytest.fail)
    for number in range(FIRST_STEPS + 4):
        size = 5 if number in (1, FIRST_STEPS, FIRST_STEPS + 2) else 2
        values = step({"x": torch.full((size,), float(number))}, {"m": torch.tensor([number])})
        assert values["sum"] == (size + 10) * number
    assert {name: value.shape for name, value in step.given[0].items()} == {"x": (2,)}


def test_what_is_taken_out_of_the_values_is_there_again(played):
    step = played(add_up, pytest.fail)
    for number in range(FIRST_STEPS + 3):
        assert step({"x": torch.ones(2)}, {"m": torch.tensor([number])}).pop("sum") == 2 + 10 * number


def test_a_step_that_cannot_be_recorded_goes_on_kernel_by_kernel(monkeypatch, played):
    def refuse(graph, **how):
        raise RuntimeError("operation not permitted when stream is capturing\nand so on")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    monkeypatch.setattr(module, "_mend_chance", lambda: None)
    said = []
    step = GraphedStep(add_up, said.append)
    for number in range(FIRST_STEPS + 4):
        assert step({"x": torch.ones(2)}, {"m": torch.tensor([number])})["sum"] == 2 + 10 * number
    assert said == [
        "warning: steps cannot be replayed as a CUDA graph (operation not permitted when stream is capturing), so each "
        "is launched kernel by kernel"
    ]


@pytest.mark.parametrize(
    ("options", "device", "expected"),
    [({}, "cuda", True), ({}, "cpu", False), ({"accumulate": 2}, "cuda", False), ({"graph": False}, "cuda", False)],
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

        step = GraphedStep(update, pytest.fail) if graphed else update
        for number in range(10):
            noise = torch.Generator().manual_seed(number)
            inputs = {"x": torch.randn(8, 2, 16, generator=noise).cuda()}
            draws = {k: v.cuda() for k, v in learner.objective.draw(8, noise).items()}
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
def test_a_step_that_waits_for_the_device_cannot_be_recorded_and_is_done_all_the_same():
    said = []
    weight = torch.ones(3, device="cuda")

    def update(inputs, draws):
        total = (weight * inputs["x"]).sum()
        return {"sum": total if total.item() > 0 else -total, "chance": torch.rand((), device="cuda")}

    step = GraphedStep(update, said.append)
    for number in range(FIRST_STEPS + 4):
        torch.manual_seed(number)
        values = step({"x": torch.full((3,), float(number), device="cuda")}, {})
        assert values["sum"].item() == 3 * number
        torch.manual_seed(number)
        assert torch.equal(values["chance"], torch.rand((), device="cuda"))
    assert len(said) == 1


@pytest.fixture
def data(toy, tmp_path):
    dataset = toy.Data(toy.Data.Options(count=40), "train")
    return prepare(dataset, toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16), tmp_path / "cache", Tell())


@needs_cuda
def test_what_other_threads_bring_is_what_a_step_would_make_itself(toy, data):
    objective = toy.make_learner(MetaMAE).objective
    here = Feed(objective, data, 8, 3, CPU, range(20))
    with Feed(objective, data, 8, 3, torch.device("cuda"), range(20)) as feed:
        for _ in range(20):
            for brought, made in zip(feed.take(), here.take(), strict=True):
                assert brought.keys() == made.keys()
                for name, value in brought.items():
                    assert value.is_cuda
                    assert torch.equal(value.cpu(), made[name])


@needs_cuda
def test_what_fails_in_a_thread_fails_where_it_is_taken(toy, data):
    objective = toy.make_learner(MetaMAE).objective

    def broken(batch, generator):
        raise ValueError("no draw")

    objective.draw = broken
    with (
        Feed(objective, data, 8, 3, torch.device("cuda"), range(20)) as feed,
        pytest.raises(ValueError, match="no draw"),
    ):
        feed.take()


@needs_cuda
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"schedule": "cosine", "warmup": 4}, {"graph": False}])
def test_training_on_cuda_is_training_on_the_cpu_and_can_be_resumed(toy, data, tmp_path, options):
    ends = {}
    for name, device, graph in (("cpu", "cpu", True), ("cuda", "cuda", options.get("graph", True))):
        learner = toy.make_learner(MetaMAE).to(device)
        folder = tmp_path / name
        folder.mkdir()
        train(
            learner, data, TrainOptions(steps=16, batch_size=8, log_every=4, **{**options, "graph": graph}), seed=1,
            device=torch.device(device), precision="fp32", folder=folder, log=lambda step, metrics: None, tell=Tell(),
            state={},
        )  # fmt: skip
        ends[name] = [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl")]
    assert ends["cuda"] == pytest.approx(ends["cpu"], rel=1e-3)
