"""Features that several processes compute together: the same bits as those of one, and each computes its part."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sslx
from ssl_core.evaluation.protocols import FeatureSpec
from ssl_core.nn.distributed import Group
from ssl_core.runs import scores
from ssl_core.runs.run import Run
from ssl_core.runs.scores import extractor, score_initial, score_run, serve, shared
from ssl_core.runs.shared_features import Request, receive, send
from ssl_core.testing.parallel import ThreadGroup

pytestmark = pytest.mark.fast
SMALL = {
    "encoder": {"dim": 16, "depth": 2, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32", "dataset.n_train": 100, "dataset.n_validation": 30,
    "dataset.n_test": 30, "evaluate.figures": False, "evaluate.probes": ["linear", "attentive"],
    "evaluate.select": True,
}  # fmt: skip
BATCH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("shared-features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(place / "cache"))
        values = {"objective": "mae", "modality": "tabular", "steps": 2, "batch_size": 16, "device": "cpu"}
        sslx.pretrain(**values, set=SMALL, out=place / "first")
        sslx.pretrain(**values, set=SMALL, out=place / "second", init_from=place / "first")
        yield place / "second"


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("scores", "shared_features"):
        monkeypatch.setattr(f"ssl_core.runs.{module}.EMBED_BATCH", BATCH)


def counted(run: Run, counts: Counter[str]) -> Run:
    """The run, which counts the batches that its encoder computes."""
    run.learner.encoder.register_forward_hook(lambda *_: counts.update(["batches"]))
    return run


@pytest.mark.parametrize("size", [2, 3])
def test_scores_are_those_of_one_process_to_the_bit(folder: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batches(monkeypatch)
    alone = Counter[str]()
    run = counted(Run.load(folder), alone)
    expected = [score_run(run), score_initial(run)]
    runs, counts = [Run.load(folder) for _ in range(size)], [Counter[str]() for _ in range(size)]
    group = ThreadGroup(size)

    def work(rank: int) -> Any:
        own = counted(runs[rank], counts[rank])
        if rank:
            return serve(own, group)
        with shared(own, group):
            return [score_run(own), score_initial(own)]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = group.run(work)[0]
    finally:
        torch.set_num_threads(threads)
    assert found == expected
    assert {row["features"] for rows in found for row in rows} >= {"trained", "random_init", "raw_input", "initial"}
    most = max(count["batches"] for count in counts)
    assert 0 < most < alone["batches"]
    assert most - min(count["batches"] for count in counts) == 0  # a process without a batch repeats the last


def test_a_probe_during_training_is_shared_and_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batches(monkeypatch)
    group = ThreadGroup(2)
    runs = [Run.load(folder) for _ in range(2)]
    for run in runs:
        evaluate = run.config.evaluate.model_copy(update={"every": 1})
        run.config = run.config.model_copy(update={"evaluate": evaluate})
    expected = scores.OnlineProbe(runs[0])(1)
    monkeypatch.setattr(scores, "joined", lambda: group)

    def work(rank: int) -> Any:
        return serve(runs[1], group) if rank else scores.OnlineProbe(runs[0])(1)

    assert group.run(work)[0] == expected
    assert any(name.startswith("probe/") for name in expected)


def test_weights_are_as_before_after_each_kind(folder: Path) -> None:
    run = Run.load(folder)
    before = {name: value.clone() for name, value in run.learner.state_dict().items()}
    index = np.arange(4)
    found = {}
    for kind in ("random_init", "initial", "trained", "raw_input"):
        with extractor(run, kind) as extract:
            found[kind] = extract((run.data["train"], index), FeatureSpec(False, None))[0]
        assert all(torch.equal(value, before[name]) for name, value in run.learner.state_dict().items())
    assert not np.array_equal(found["random_init"], found["trained"])
    assert not np.array_equal(found["initial"], found["trained"])


@pytest.mark.parametrize("layers", [None, (1, 2)])
def test_requests_arrive(layers: tuple[int, ...] | None) -> None:
    group = ThreadGroup(3)
    request = Request("random_init", "test", FeatureSpec(True, layers, "layers"), np.array([5, 2, 70_000_000_000]))

    def work(rank: int) -> list[Request | None]:
        if rank == 0:
            send(group, request)
            send(group, None)
            return []
        return [receive(group), receive(group)]

    for first, last in group.run(work)[1:]:
        assert (first.kind, first.split, first.spec) == (request.kind, request.split, request.spec)
        assert first.index.tolist() == request.index.tolist()
        assert last is None


def test_an_error_of_the_first_process_is_not_taken_for_the_end(folder: Path) -> None:
    sent: list[Any] = []

    class Alone:
        rank, size = 0, 2

        def all_reduce(self, value: torch.Tensor) -> torch.Tensor:
            sent.append(value)
            return value

    group: Group = Alone()  # type: ignore[assignment]
    run = Run.load(folder)
    with pytest.raises(RuntimeError, match="lost"), shared(run, group):
        raise RuntimeError("lost")
    assert not sent
    assert run.group is None
