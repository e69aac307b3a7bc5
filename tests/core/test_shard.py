"""The encoder sharded by FSDP2 (`train.shard=encoder`) in real processes on gloo: the steps of one process.

The processes are forked, since each would import torch for seconds.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import shutil
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.fsdp
import torch.distributed.tensor  # imported before the forks
from safetensors.numpy import load_file
from torch import Tensor, nn

from ssl_core import ConfigError, Learner, Outcome, plugins
from ssl_core.nn import TransformerEncoder
from ssl_core.nn.distributed import Group, own_part, use_group
from ssl_core.pipeline.cache import PreprocessedSplit, preprocess_dataset
from ssl_core.pipeline.sampler import draws_of, rows_of
from ssl_core.testing.harness import Setting
from ssl_core.testing.layouts import sample
from ssl_core.training import checkpoint, shard
from ssl_core.training.best import BestCheckpoint
from ssl_core.training.finite import NotFinite
from ssl_core.training.loop import train
from ssl_core.training.metrics_log import METRICS, read_metrics
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.training.parallel import LostProcess, join, watch_connection
from ssl_core.training.plan import TrainingPlan
from ssl_core.training.shard import Shards, check_shard
from ssl_core.training.step import step_function
from ssl_core.utils.console import Console
from ssl_plugins.objectives.ijepa import IJEPA
from ssl_plugins.objectives.mae import MAE

ROWS = 12
SHIPPED = {e.name: e.value for e in plugins.load().entries("objective") if e.origin.plugin.startswith("sslx:")}
Batches = list[tuple[dict[str, Tensor], dict[str, Tensor]]]
Arrays = dict[str, np.ndarray]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def in_processes(count: int, work: Callable[[Group], Any]) -> list[Any]:
    """Call `work(group)` in forked processes that have joined on gloo; what it returns, by rank."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

    def start(rank: int, results: Any) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        try:
            with join() as group:
                assert group is not None
                results.send((True, work(group)))
        except BaseException:
            results.send((False, traceback.format_exc()))

    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [context.Process(target=start, args=(rank, pipes[rank][1])) for rank in range(count)]
    try:
        for process, (_, writer) in zip(processes, pipes, strict=True):
            process.start()
            writer.close()  # so that the end of the process ends the pipe
        waiting, results = {reader: rank for rank, (reader, _) in enumerate(pipes)}, [None] * count
        while waiting:
            ready = multiprocessing.connection.wait(list(waiting), timeout=300)
            assert ready, "the processes do not answer"
            for reader in ready:
                rank = waiting.pop(reader)
                done, results[rank] = reader.recv()
                assert done, results[rank]
    finally:
        for process in processes:
            process.kill()
            process.join()
    return results


def example(name: str, values: Mapping[str, Any], case: str = "continuous_and_discrete") -> tuple[Learner, Batches]:
    """A learner in float64 and three batches with their draws."""
    learner = Setting(SHIPPED[name], values, case).build().double()
    batches = []
    for seed in range(3):
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in sample(learner.tokenizer, ROWS).items()}
        draws = learner.draw(ROWS, torch.Generator().manual_seed(seed)) | {"progress": torch.tensor(0.5)}
        batches.append((inputs, {n: v.double() if v.is_floating_point() else v for n, v in draws.items()}))
    return learner, batches


class Trainer:
    """A copy of a learner that takes steps on batches, with its encoder sharded in several processes."""

    def __init__(self, learner: Learner, group: Group | None, **options: Any) -> None:
        self.learner, self.group = copy.deepcopy(learner), group
        self.options = TrainOptions(**({"lr": 1e-3, "shard": "none" if group is None else "encoder"} | options))
        self.shards = Shards(self.learner, self.options, group)
        self.optimizer = make_optimizer(self.learner, self.options)
        plan = TrainingPlan(self.options, 0, torch.device("cpu"), "fp32", Path(), group=group)
        self.take_step = step_function(self.learner, self.optimizer, plan)

    def train(self, batches: Batches) -> Trainer:
        """A step on each batch, or on as many as make one."""
        views, count = self.learner.objective.views, self.options.accumulate_steps
        with use_group(self.group):
            parts = [
                (
                    {name: value[rows_of(self.group, ROWS)] for name, value in inputs.items()},
                    draws_of(self.group, draws, views * ROWS, views),
                )
                for inputs, draws in batches
            ]
            for step in range(len(parts) // count):
                self.take_step(step, parts[step * count : (step + 1) * count])
        return self

    def end(self) -> Arrays:
        """Parameters and buffers, whole."""
        self.shards.end()
        return weights(self.learner)


def trained(learner: Learner, batches: Batches, group: Group | None, **options: Any) -> Arrays:
    """What a copy of a learner holds after the steps."""
    return Trainer(learner, group, **options).train(batches).end()


def gap(found: Arrays, expected: Mapping[str, Any]) -> float:
    """The largest difference of parameters and buffers, relative to the largest value of each."""
    assert found.keys() == expected.keys()
    pairs = [(found[name], np.asarray(expected[name])) for name in found]
    return max(float(np.abs(a - b).max() / max(1, np.abs(b).max())) for a, b in pairs if a.size)


# --- steps ------------------------------------------------------------------------------------------------------------

OBJECTIVES = [(name, {}) for name in SHIPPED] + [("ijepa", {"momentum": 0.5}), ("metamae", {"inner_steps": 2})]


@pytest.mark.parametrize("processes", [2, 3])
def test_every_objective_trains_what_one_process_trains(processes: int) -> None:
    examples = [example(name, values) for name, values in OBJECTIVES]
    expected = [trained(*one, None) for one in examples]
    for part in in_processes(processes, lambda group: [trained(*one, group) for one in examples]):
        for (name, values), (learner, _), found, single in zip(OBJECTIVES, examples, part, expected, strict=True):
            assert gap(single, learner.state_dict()) > 1e-4, "the steps must change something"
            assert gap(found, single) < 1e-12, (name, values)


class Odd(TransformerEncoder):
    """An encoder with a parameter that has no rows, and one with fewer rows than there are processes."""

    scale: nn.Parameter
    shift: nn.Parameter

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return self.scale * super().forward(*args, **keywords) + self.shift.sum()


def odd() -> tuple[Learner, Batches]:
    learner, batches = example("mae", {})
    learner.encoder.__class__ = Odd
    learner.encoder.scale = nn.Parameter(torch.tensor(1.5).double())
    learner.encoder.shift = nn.Parameter(torch.tensor([0.1, 0.2]).double())
    return learner, batches


def checkpointed() -> tuple[Learner, Batches]:
    learner, batches = example("emix", {})
    learner.encoder.transformer.activation_checkpointing = True
    return learner, batches


def first_derivative(*, twice: bool = False) -> tuple[Learner, Batches]:
    """A loss with a derivative of the encoder in it, as a constant or not."""
    learner, batches = example("mae", {})

    class Loss(type(learner.objective)):  # type: ignore[misc]
        def forward(self, tokens: Any, encoder: Any, draws: Any) -> Outcome:
            value = encoder(tokens.embeddings, geometry=tokens.geometry).pow(3).mean(dim=(1, 2))
            (slope,) = torch.autograd.grad(value.sum(), tokens.embeddings, retain_graph=True, create_graph=twice)
            return Outcome((value * (1 + 100 * slope.square().mean(dim=(1, 2)))).mean())

    learner.objective.__class__ = Loss
    return learner, batches


MIXED = [
    (lambda: example("mae", {}), {"grad_clip": 0.01}),
    (lambda: example("mae", {}), {"optimizer": "sgd", "grad_clip": 0.01, "lr": 1.0}),
    (lambda: example("mae", {}), {"optimizer": "adam", "weight_decay": 0.1}),
    (lambda: example("ijepa", {}), {"layer_decay": 0.7, "no_decay": True, "weight_decay": 0.1}),
    (lambda: example("emix", {}), {"accumulate_steps": 3}),
    (checkpointed, {}),
    (odd, {}),
    (first_derivative, {"optimizer": "sgd", "lr": 0.1}),
]


def test_options_and_encoders() -> None:
    examples = [(make(), options) for make, options in MIXED]
    expected = [trained(*one, None, **options) for one, options in examples]
    for part in in_processes(3, lambda group: [trained(*one, group, **options) for one, options in examples]):
        for (one, options), found, single in zip(examples, part, expected, strict=True):
            assert gap(single, one[0].state_dict()) > 1e-4, "the steps must change something"
            assert gap(found, single) < 1e-12, options


def test_a_sum_of_gradients_in_place_of_their_mean_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    learner, batches = example("mae", {})
    single = trained(learner, batches, None, optimizer="sgd", lr=0.1)
    make = shard._sharded

    def summing(whole: nn.Module) -> nn.Module:
        part = make(whole)
        for module in part.modules():
            if isinstance(module, torch.distributed.fsdp.FSDPModule):
                module.set_gradient_divide_factor(1.0)
        return part

    monkeypatch.setattr(shard, "_sharded", summing)
    (found, _) = in_processes(2, lambda group: trained(learner, batches, group, optimizer="sgd", lr=0.1))
    assert gap(found, single) > 1e-6


def test_each_process_keeps_its_part() -> None:
    learner, batches = example("ijepa", {})
    total = sum(parameter.numel() for parameter in learner.encoder.parameters())

    def work(group: Group) -> tuple[int, ...]:
        one = Trainer(learner, group).train(batches)
        student, teacher = one.learner.encoder, one.learner.teacher.parts["encoder"]
        state = [one.optimizer.state[parameter] for parameter in student.parameters()]
        parts = [
            list(student.parameters()), list(teacher.parameters()),
            *([entries[name] for entries in state] for name in ("exp_avg", "exp_avg_sq")),
            [parameter for _, whole, _ in one.shards.pairs for parameter in whole.parameters()],
        ]  # fmt: skip
        return tuple(sum(own_part(value).numel() for value in values) for values in parts)

    counts = np.array(in_processes(3, work))
    assert counts.sum(axis=0).tolist() == [total] * 4 + [0]
    assert counts[:, :4].max() < 1.05 * total / 3


def test_a_step_that_is_not_finite_in_one_process_changes_nothing() -> None:
    learner, batches = example("ijepa", {})
    name = next(name for name, value in batches[1][0].items() if value.is_floating_point())
    batches[1][0][name][-1] = torch.nan
    single = trained(learner, batches, None, on_nan="skip")
    for found in in_processes(2, lambda group: trained(learner, batches, group, on_nan="skip")):
        assert gap(found, single) < 1e-12


def test_a_process_that_ends_in_a_step_is_named() -> None:
    learner, batches = example("mae", {})

    def work(group: Group) -> str:
        one = Trainer(learner, group).train(batches[:1])
        if group.rank == 1:
            return "ended"
        with (
            pytest.raises(LostProcess, match="the connection to another process is lost") as failure,
            watch_connection(),
        ):
            one.train(batches[1:])
        return str(failure.value)

    assert "go on with --resume" in in_processes(2, work)[0]


# --- refused ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_sharded_is_refused_with_a_cure() -> None:
    class Two:
        rank, size = 0, 2

    for options, group, message in (
        ({}, None, "add --processes 2, or set train.shard=none"),
        ({"optimizer": "lion"}, Two(), "train.optimizer=lion may need the whole; set train.optimizer=adamw"),
        ({"compile": "on"}, Two(), "set train.compile=off, or train.shard=none"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_shard(TrainOptions(shard="encoder", **options), group)  # type: ignore[arg-type]
        check_shard(TrainOptions(**options), group)  # type: ignore[arg-type]


def test_a_second_derivative_is_refused() -> None:
    learner, batches = first_derivative(twice=True)
    trained(learner, batches, None)  # one process can

    def work(group: Group) -> str:
        with pytest.raises(ConfigError) as failure:
            trained(learner, batches, group)
        return str(failure.value)

    for message in in_processes(2, work):
        assert message.endswith(
            "differentiates the encoder twice, which train.shard=encoder cannot do; set train.shard=none"
        )


# --- runs and checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture
def data(toy: Any, tmp_path: Path) -> PreprocessedSplit:
    dataset = toy.Data(toy.Data.Options(count=40), "train")
    return preprocess_dataset(
        dataset, toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16), tmp_path / "cache", Console()
    )


@pytest.fixture
def go(toy: Any, data: PreprocessedSplit, tmp_path: Path) -> Callable[..., Any]:
    """go(group, folder): train for six steps, or go on with `start`; in the process of rank 0 with a probe."""

    def run(group: Group | None, name: str, start: Path | None = None, **options: Any) -> Learner:
        learner, folder = toy.make_learner(IJEPA), tmp_path / name
        folder.mkdir(exist_ok=True)
        begun = None if start is None else checkpoint.latest(start)
        if begun is not None:
            checkpoint.load_model(begun, learner)
        rows = {name: torch.as_tensor(value) for name, value in data.take(np.arange(8)).inputs.items()}

        def probe(step: int) -> dict[str, float]:
            return {"probe/mean": float(learner.embed(rows).abs().mean())}

        chosen = {
            "batch_size": 12, "log_every": 1, "checkpoint_every": 3, "steps": 6, "lr": 1e-3, "grad_clip": 0.5,
            "shard": "none" if group is None else "encoder",
        } | options  # fmt: skip
        first = group is None or group.rank == 0
        plan = TrainingPlan(
            TrainOptions(**chosen), 3, torch.device("cpu"), "fp32", folder, group=group,
            probe=probe if first else None, probe_every=1,
            best=BestCheckpoint(folder, "probe/mean", True, {}) if first else None,
        )  # fmt: skip
        train(learner, data, plan, begun)
        return learner

    return run


def files(folder: Path) -> dict[str, Arrays]:
    """The tensors of the newest checkpoint of a folder, by file."""
    newest = checkpoint.latest(folder)
    assert newest is not None
    return {name: load_file(newest.folder / name) for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)}


def same(one: dict[str, Arrays], other: dict[str, Arrays], tolerance: float = 0.0) -> bool:
    """Whether checkpoints hold the same tensors."""
    names = [(file, name) for file, tensors in one.items() for name in tensors]
    return all(one[file].keys() == other[file].keys() for file in one) and all(
        np.allclose(one[file][name], other[file][name], rtol=tolerance, atol=tolerance) for file, name in names
    )


def halfway(tmp_path: Path, name: str) -> Path:
    """A folder with the checkpoint of step 3 of a run."""
    folder = tmp_path / f"half of {name}"
    step = Path(checkpoint.FOLDER, "step-00000003")
    shutil.copytree(tmp_path / name / step, folder / step)
    return folder


def test_a_run_goes_on_with_any_number_of_processes(go: Callable[..., Any], tmp_path: Path) -> None:
    """From checkpoints of two processes with shards, and of one without."""
    go(None, "one")
    handed_over = in_processes(2, lambda group: weights(go(group, "two")))
    one, two = halfway(tmp_path, "one"), halfway(tmp_path, "two")

    def on_two(group: Group) -> None:
        go(group, "two to two", two)
        go(group, "one to two", one)
        go(group, "two to two unsharded", two, shard="none")

    in_processes(2, on_two)
    in_processes(3, lambda group: weights(go(group, "two to three", two)))
    go(None, "two to one", two)

    whole, single = files(tmp_path / "two"), files(tmp_path / "one")
    for learner in handed_over:  # each process has all weights in the end
        assert same({"": learner}, {"": whole[checkpoint.MODEL]})
    assert same(files(tmp_path / "two to two"), whole), "the same number of processes gives the same bits"
    for name in ("two", "two to three", "two to one", "one to two", "two to two unsharded"):
        assert same(files(tmp_path / name), single, 1e-5), name
    assert not same(files(one), single, 1e-5), "the steps must change something"
    best = [files(tmp_path / name / "best")[checkpoint.MODEL] for name in ("two", "one")]
    assert same({"": best[0]}, {"": best[1]}, 1e-5)
    lines = [read_metrics(tmp_path / name / METRICS) for name in ("two", "one")]
    figures = [[line["probe/mean"] for line in read if "probe/mean" in line] for read in lines]
    assert len(figures[0]) == 6
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)


def weights(learner: Learner) -> Arrays:
    return {name: value.numpy() for name, value in learner.state_dict().items()}


def test_a_checkpoint_is_the_same_to_the_bit_with_shards_and_without(tmp_path: Path) -> None:
    """Loaded and saved again, in each of the two ways."""
    learner, batches = example("ijepa", {})
    one = Trainer(learner, None).train(batches)
    checkpoint.save(tmp_path / "one", 3, one.learner, one.optimizer, {})

    def work(group: Group) -> None:
        start = checkpoint.latest(tmp_path / "one")
        assert start is not None
        fresh = copy.deepcopy(learner)
        checkpoint.load_model(start, fresh)
        again = Trainer(fresh, group)
        checkpoint.load_optimizer(start, again.learner, again.optimizer)
        with again.shards.whole(group.rank == 0, again.optimizer):
            if group.rank == 0:
                checkpoint.save(tmp_path / "three", 3, again.learner, again.optimizer, {})
        assert len(again.optimizer.state) == len(one.optimizer.state), "no whole tensor stays"

    in_processes(3, work)
    assert same(files(tmp_path / "one"), files(tmp_path / "three"))


def test_a_step_that_is_not_finite_is_saved_and_repeated(toy: Any, data: PreprocessedSplit, tmp_path: Path) -> None:
    learner = toy.make_learner(MAE)

    class Infinite(MAE):
        def forward(self, *args: Any) -> Outcome:
            outcome = super().forward(*args)
            return Outcome(outcome.loss * torch.inf)

    learner.objective.__class__ = Infinite

    def work(group: Group) -> str:
        options = TrainOptions(batch_size=12, steps=3, shard="encoder")
        plan = TrainingPlan(options, 3, torch.device("cpu"), "fp32", tmp_path, group=group)
        with pytest.raises(NotFinite) as failure:
            train(learner, data, plan)
        return str(failure.value)

    assert "step 1 is not finite: the output of objective (for sample" in in_processes(2, work)[0]
    saved = files(tmp_path / "not_finite")[checkpoint.MODEL]
    assert same({"": saved}, {"": weights(toy.make_learner(MAE))})
