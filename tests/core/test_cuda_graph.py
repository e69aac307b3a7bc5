"""Steps replayed as CUDA graphs, and batches prefetched by threads: results equal those of eager steps.

Without a GPU a fake graph repeats the calls that were captured.
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
from ssl_core.pipeline import prefetch
from ssl_core.pipeline.cache import preprocess_dataset
from ssl_core.pipeline.prefetch import DEPTH, BatchStream, Prefetcher
from ssl_core.training import checkpoint
from ssl_core.training.accel import cuda_graph as module
from ssl_core.training.accel.cuda_graph import AHEAD, FIRST_STEPS, PATIENCE, GraphedStep
from ssl_core.training.loop import train
from ssl_core.training.metrics_log import read_metrics
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.training.plan import TrainingPlan, is_graphed
from ssl_core.training.schedule import set_rate
from ssl_core.utils.console import Console
from ssl_plugins.objectives.metamae import MetaMAE

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


class FakeGraph:
    """A graph that calls the step function again with its static inputs and writes to its static outputs."""

    def __init__(self) -> None:
        self.run, self.outputs = None, {}

    def replay(self) -> None:
        for name, value in self.run().items():
            self.outputs[name].copy_(value)


@pytest.fixture
def fake_step(fake_cuda, monkeypatch):
    """The class GraphedStep with `FakeGraph` as its graph."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)

    class FakeStep(GraphedStep):
        def _capture(self, inputs, draws):
            step_fn, calls = self.step_fn, []
            self.step_fn = lambda *args: calls.append(args) or {"sum": torch.zeros(())}
            try:
                success = super()._capture(inputs, draws)
            finally:
                self.step_fn = step_fn
            if success:
                (args,) = calls
                self.graph.run, self.graph.outputs = lambda: step_fn(*args), self.static_outputs
            return success

    return FakeStep


def weighted_sum(inputs, draws):
    return {"sum": inputs["x"].sum() + 10 * draws["m"].sum()}


def batch(number, size=2):
    return {"x": torch.full((size,), float(number))}, {"m": torch.tensor([number])}


def test_each_replay_uses_its_own_batch_and_draws(fake_step):
    step = fake_step(weighted_sum, CPU, pytest.fail)
    for number in range(FIRST_STEPS + 4):
        assert step(*batch(number))["sum"] == 12 * number
    assert step.graph is not None


@pytest.mark.parametrize("others", [{1, 6, 8}, {0}, {4, 9}])
def test_steps_of_other_shapes_run_eagerly(fake_step, others):
    """Also if the first step has another shape: the capture is of the shape that repeats."""
    step = fake_step(weighted_sum, CPU, pytest.fail)
    for number in range(12):
        size = 5 if number in others else 2
        assert step(*batch(number, size))["sum"] == (size + 10) * number
    assert step.static_inputs[0]["x"].shape == (2,)


def test_capture_is_given_up_if_shapes_keep_changing(fake_step):
    messages = []
    step = fake_step(weighted_sum, CPU, messages.append)
    for number in range(PATIENCE + 10):
        assert step(*batch(number, 2 + number % 2))["sum"] == (12 + number % 2) * number
    assert len(messages) == 1
    assert "differ in shape" in messages[0]


def test_replay_returns_a_new_dict(fake_step):
    step = fake_step(weighted_sum, CPU, pytest.fail)
    for number in range(FIRST_STEPS + 3):
        assert step(*batch(number)).pop("sum") == 12 * number


def test_number_of_queued_steps_is_bounded(fake_step, fake_cuda):
    step = fake_step(weighted_sum, CPU, pytest.fail)
    for number in range(AHEAD + 5):
        step(*batch(number))
    assert fake_cuda.count("synchronize") == 5


def test_failed_capture_leaves_gradients_and_random_state_unchanged(monkeypatch, fake_cuda):
    weight, messages, resets = torch.ones(2, requires_grad=True), [], []
    monkeypatch.setattr(module, "_reset_failed_capture", lambda *args: resets.append(args))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: capture())
    captures = []

    @contextlib.contextmanager
    def capture():
        captures.append(True)
        yield

    def update(inputs, draws):
        noise = torch.rand(())
        (weight * inputs["x"]).sum().backward()
        if captures and not resets:
            raise RuntimeError("no memory\nand so on")
        gradient, weight.grad = weight.grad, None
        return {"gradient": gradient, "noise": noise}

    def reset():
        weight.grad = None

    step = GraphedStep(update, CPU, messages.append, reset)
    for number in range(FIRST_STEPS + 3):
        torch.manual_seed(number)
        values = step(*batch(number))
        torch.manual_seed(number)
        assert values["noise"] == torch.rand(())
        assert values["gradient"].tolist() == [number, number]
    assert len(resets) == 1
    assert messages == [
        "warning: steps cannot be replayed as a CUDA graph (no memory), so each is launched kernel by kernel"
    ]


def test_step_that_synchronizes_is_not_captured(monkeypatch, fake_cuda):
    monkeypatch.setattr(torch.cuda, "graph", lambda *args, **options: pytest.fail("captured"))
    messages = []

    def update(inputs, draws):
        if "sync debug warn" in fake_cuda[-1:]:
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        return weighted_sum(inputs, draws)

    step = GraphedStep(update, CPU, messages.append)
    for number in range(FIRST_STEPS + 4):
        assert step(*batch(number))["sum"] == 12 * number
    assert len(messages) == 1
    assert "a step waits for the device" in messages[0]
    assert "test_cuda_graph.py, line" in messages[0]
    assert fake_cuda.count("sync debug 0") == 1


class FakeTensor:
    """Stands for a tensor of a prefetched batch, and has a number."""

    def __init__(self, number):
        self.number = number

    def record_stream(self, stream):
        pass


def fake_batch(number):
    return {"x": FakeTensor(number)}


@pytest.fixture
def prefetcher(fake_cuda, monkeypatch):
    monkeypatch.setattr(prefetch, "send", lambda value, device: value)
    prefetcher = Prefetcher((fake_batch, lambda number: {"m": FakeTensor(-number)}), torch.device("cuda"))
    yield prefetcher
    prefetcher.close()


def test_prefetcher_keeps_the_order_of_requests(prefetcher, fake_cuda):
    for number in (4, 7, 2):
        prefetcher.submit(number)
    assert len(prefetcher) == 3
    pairs = [prefetcher.take() for _ in range(3)]
    assert [(x["x"].number, m["m"].number) for x, m in pairs] == [(4, -4), (7, -7), (2, -2)]
    assert fake_cuda.count("wait event") == 6  # two copies for each number
    assert len(prefetcher) == 0


def test_prefetcher_raises_where_the_failed_batch_is_taken(fake_cuda, monkeypatch):
    monkeypatch.setattr(prefetch, "send", lambda value, device: value)

    def make(number):
        if number == 2:
            raise ValueError("no batch")
        return fake_batch(number)

    prefetcher = Prefetcher((make,), torch.device("cuda"))
    for number in (1, 2, 3):
        prefetcher.submit(number)
    assert prefetcher.take()[0]["x"].number == 1
    with pytest.raises(ValueError, match="no batch"):
        prefetcher.take()
    assert prefetcher.take()[0]["x"].number == 3
    prefetcher.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sslx-feed")]


def test_batch_stream_is_bounded_and_ends_after_its_steps(fake_cuda, monkeypatch):
    monkeypatch.setattr(prefetch, "send", lambda value, device: value)
    indices = []

    class Data:
        def batch_index(self, seed, number, size, is_stopped):
            return number

        def take(self, index, pinned):
            assert pinned
            indices.append(index)
            return SimpleNamespace(inputs=fake_batch(index))

    def draw(size, generator, geometry):
        return {"m": FakeTensor(generator.initial_seed())}

    monkeypatch.setattr(prefetch.torch, "tensor", lambda value, dtype: FakeTensor(0))  # the progress of the run
    learner = SimpleNamespace(tokenizer=Tokenizer.__new__(Tokenizer), draw=draw)
    numbers, draws = [], set()
    with BatchStream(learner, Data(), 8, 3, torch.device("cuda"), range(5, 12)) as feed:
        for number in range(5, 12):
            inputs, step_draws = feed.take()
            numbers.append(inputs["x"].number)
            draws.add(step_draws["m"].number)
            assert max(indices) < number + DEPTH
    assert numbers == indices == list(range(5, 12))
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
def test_is_graphed(options, device, expected):
    assert is_graphed(TrainOptions(**options), torch.device(device)) == expected


def test_set_rate_updates_tensors_in_place():
    group = {"lr": torch.tensor(1.0)}
    rate = group["lr"]
    set_rate(SimpleNamespace(param_groups=[group]), 0.25)
    assert group["lr"] is rate
    assert rate == 0.25


@needs_cuda
def test_ten_replayed_steps_equal_ten_eager_steps(toy):
    """With dropout, which draws new random numbers in each step, and a learning rate that changes."""
    results = []
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
        results.append((losses, [parameter.detach().clone() for parameter in learner.parameters()]))
    (eager, weights), (replayed, replayed_weights) = results
    assert replayed == pytest.approx(eager, rel=1e-4)
    for one, other in zip(weights, replayed_weights, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


@needs_cuda
@pytest.mark.parametrize("failure", ["synchronization", "exception"])
def test_failed_capture_leaves_no_trace(toy, data, failure):
    """The random stream is intact, memory is released, and another step can be captured."""
    messages, weight, device = [], torch.ones(3, device="cuda"), torch.device("cuda")

    def update(inputs, draws):
        total = (weight * inputs["x"].sum()).sum()
        if failure == "synchronization":
            total = total if total.item() > 0 else -total
        elif torch.cuda.is_current_stream_capturing():
            raise RuntimeError("no memory")
        return {"sum": total, "noise": torch.rand((), device="cuda")}

    step, allocated = GraphedStep(update, device, messages.append), []
    with BatchStream(toy.make_learner(MetaMAE), data, 8, 0, device, range(60)) as feed:
        for number in range(60):
            inputs, draws = feed.take()
            torch.manual_seed(number)
            values = step(inputs, draws)
            torch.manual_seed(number)
            assert torch.equal(values["noise"], torch.rand((), device="cuda"))
            torch.cuda.synchronize()
            allocated.append(torch.cuda.memory_allocated())
    assert len(messages) == 1
    assert allocated[-1] <= allocated[10]
    other = GraphedStep(lambda inputs, draws: {"x": 2 * inputs["x"]}, device, pytest.fail)
    for number in range(FIRST_STEPS + 3):
        assert other({"x": torch.full((3,), float(number), device="cuda")}, {})["x"].tolist() == [2 * number] * 3
    assert other.graph is not None


@pytest.fixture
def data(toy, tmp_path):
    dataset = toy.Data(toy.Data.Options(count=40), "train")
    return preprocess_dataset(
        dataset, toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16), tmp_path / "cache", Console()
    )


@needs_cuda
def test_prefetched_batches_equal_batches_made_in_the_step(toy, data):
    learner = toy.make_learner(MetaMAE)
    here = BatchStream(learner, data, 8, 3, CPU, range(20))
    with BatchStream(learner, data, 8, 3, torch.device("cuda"), range(20)) as feed:
        for _ in range(20):
            for prefetched, expected in zip(feed.take(), here.take(), strict=True):
                assert prefetched.keys() == expected.keys()
                for name, value in prefetched.items():
                    assert value.is_cuda
                    assert torch.equal(value.cpu(), expected[name])


@needs_cuda
def test_error_in_a_prefetch_thread_is_raised_by_take(toy, data):
    learner = toy.make_learner(MetaMAE)

    def broken(batch, generator, geometry):
        raise ValueError("no draw")

    learner.objective.draw = broken
    with (
        BatchStream(learner, data, 8, 3, torch.device("cuda"), range(20)) as feed,
        pytest.raises(ValueError, match="no draw"),
    ):
        feed.take()


@needs_cuda
@pytest.mark.parametrize(
    "options", [{}, {"accumulate_steps": 2}, {"schedule": "cosine", "warmup_steps": 4}, {"cuda_graph": False}]
)
def test_training_on_cuda_equals_the_cpu_and_resumes(toy, data, tmp_path, options):
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
def test_steps_of_shipped_objectives_can_be_captured(tmp_path, monkeypatch, name, modality):
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
