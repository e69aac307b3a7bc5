"""The encoder sharded by FSDP2 (`train.shard=encoder`) in real processes on gloo: the steps of one process."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core import plugins
from ssl_core.pipeline.sampler import draws_of, rows_of
from ssl_core.testing.harness import Setting
from ssl_core.testing.layouts import sample
from ssl_core.training.learner import Learner
from ssl_core.training.loop import TrainingPlan, step_functions
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.training.parallel import join
from ssl_core.nn.distributed import Group, use_group
from ssl_core.training.shard import Shards

ROWS = 12
SHIPPED = {e.name: e.value for e in plugins.load().entries("objective") if e.origin.plugin.startswith("sslx:")}
Batches = list[tuple[dict[str, Tensor], dict[str, Tensor]]]


def in_processes(count: int, work: Callable[[Group], Any]) -> list[Any]:
    """Call `work(group)` in forked processes that have joined on gloo; what it returns, by rank."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

    def start(rank: int, results: Any) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.set_num_threads(1)
        try:
            with join() as group:
                assert group is not None
                results.send((True, work(group)))
        except BaseException:
            results.send((False, traceback.format_exc()))

    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [context.Process(target=start, args=(rank, pipes[rank][1])) for rank in range(count)]
    for process in processes:
        process.start()
    try:
        found = []
        for reader, _ in pipes:
            assert reader.poll(120), "a process does not answer"
            found.append(reader.recv())
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    failures = [text for done, text in found if not done]
    assert not failures, failures[0]
    return [value for _, value in found]


def example(name: str, values: Mapping[str, Any], case: str = "continuous_and_discrete") -> tuple[Learner, Batches]:
    """A learner in float64 and three batches with their draws."""
    learner = Setting(SHIPPED[name], values, case).build().double()
    batches = []
    for seed in range(3):
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in sample(learner.tokenizer, ROWS).items()}
        draws = learner.draw(ROWS, torch.Generator().manual_seed(seed)) | {"progress": torch.tensor(0.5)}
        batches.append((inputs, {n: v.double() if v.is_floating_point() else v for n, v in draws.items()}))
    return learner, batches


def trained(learner: Learner, batches: Batches, group: Group | None, **options: Any) -> dict[str, Tensor]:
    """What a copy of a learner holds after an optimiser step on each batch."""
    own, views = copy.deepcopy(learner), learner.objective.views
    chosen = TrainOptions(**({"lr": 1e-2, "shard": "none" if group is None else "encoder"} | options))
    plan = TrainingPlan(chosen, 0, torch.device("cpu"), "fp32", Path(), group=group)
    shards = Shards(own, chosen, group)
    _, step = step_functions(own, make_optimizer(own, chosen), plan)
    with use_group(group):
        for inputs, draws in batches:
            step({name: value[rows_of(group, ROWS)] for name, value in inputs.items()}, draws_of(group, draws, views * ROWS, views))
    shards.end()
    return {name: value.numpy() for name, value in own.state_dict().items()}


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", SHIPPED)
def test_equals_one_process(name: str, processes: int) -> None:
    learner, batches = example(name, {})
    expected = trained(learner, batches, None)
    before = learner.state_dict()
    for found in in_processes(processes, lambda group: trained(learner, batches, group)):
        assert found.keys() == expected.keys()
        gap = max(abs(found[k] - expected[k]).max() / max(1, abs(expected[k]).max()) for k in expected if expected[k].size)
        print(name, processes, gap)
        assert gap < 1e-12
