"""Training that begins while data are prepared: the same batches whenever they are ready, and nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

import sslx
from ssl_core import BadSample, ConfigError, DataError
from ssl_core.pipeline import growing, preprocess
from ssl_core.pipeline.cache import PreprocessedSplit, cache_folder, open_prepared, preprocess_dataset
from ssl_core.pipeline.growing import Blocks, Complete, GrowingSplit, grow, in_blocks
from ssl_core.runs import scores
from ssl_core.training import checkpoint, loop
from ssl_core.training.loop import Interrupted, train
from ssl_core.training.options import TrainOptions
from ssl_core.training.plan import TrainingPlan
from ssl_core.utils.cache_entries import guard_file
from ssl_core.utils.console import Console
from ssl_plugins.objectives.metamae import MetaMAE

CHUNK = 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of eight samples, each saved at once."""
    for module in (preprocess, growing):
        monkeypatch.setattr(module, "CHUNK_SIZE", CHUNK)
    monkeypatch.setattr(preprocess, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(growing, "POLL", 0.01)


@pytest.fixture
def gated(toy: Any) -> Any:
    """A data set whose samples wait for an event, but for the first ones that are read."""

    class Gated(toy.Data):  # type: ignore[misc, name-defined]
        free, read, gate = 10**9, 0, threading.Event()

        def __getitem__(self, index: int) -> Any:
            cls = type(self)
            cls.read += 1
            if cls.read > cls.free:
                assert cls.gate.wait(60)
            return super().__getitem__(index)

    return Gated


def begin(toy: Any, dataset: Any, folder: Path, size: int, strict: bool = False) -> GrowingSplit:
    """Prepare a data set in blocks."""
    tokenizer = toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16)
    return grow(dataset, tokenizer, folder, Console(), size, strict=strict, check=False)


def run(toy: Any, data: PreprocessedSplit, folder: Path, steps: int, **more: Any) -> Any:
    """Train a small learner; its weights."""
    learner, start = toy.make_learner(MetaMAE), more.pop("start", None)
    if start is not None:
        checkpoint.load_model(start, learner)
    folder.mkdir(exist_ok=True)
    options = TrainOptions(batch_size=5, steps=steps, log_every=1, checkpoint_every=100)
    plan = TrainingPlan(options, 3, torch.device("cpu"), "fp32", folder, **more)
    with data.preparing():
        train(learner, data, plan, start)
    return learner.state_dict()


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 7), st.integers(0, 3), st.sets(st.integers(0, 89)))
@settings(max_examples=60, deadline=None)
def test_each_epoch_has_each_sample_once(count: int, block: int, size: int, seed: int, bad: set[int]) -> None:
    """The first one block by block, as far as whole batches go."""
    chunks = -(-count // 8)
    kept = np.array([i for chunk in preprocess.chunk_order(chunks) for i in range(8 * chunk, min(8 * chunk + 8, count))
                     if i not in bad])  # fmt: skip
    if len(kept) < size:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing, "CHUNK_SIZE", 8)
        split = PreprocessedSplit({"x": kept}, None, index=kept)
        blocks = Blocks(Complete(split), chunks, block)
        whole = GrowingSplit({"x": kept}, None, blocks=blocks)
        number, end = 0, 0
        for part in range(len(blocks)):
            first, last = blocks.rows(part)
            assert first == end
            end = last
            rows = [whole.batch_index(seed, number + i, size) for i in range((last - first) // size)]
            number += len(rows)
            seen = np.concatenate([np.zeros(0, int), *rows])
            assert len(set(seen.tolist())) == len(seen) == (last - first) // size * size
            assert ((first <= seen) & (seen < last)).all()
            places = {int(np.flatnonzero(preprocess.chunk_order(chunks) == kept[row] // 8)[0]) for row in seen}
            assert all(place // -(-block // 8) == part for place in places)
        assert end == len(kept)
        for _ in range(2):
            rows = [whole.batch_index(seed, number + i, size) for i in range(len(kept) // size)]
            number += len(rows)
            assert len(set(np.concatenate(rows).tolist())) == len(kept) // size * size


def test_training_begins_before_all_is_prepared(toy: Any, gated: Any, tmp_path: Path) -> None:
    gated.free = 24
    data = begin(toy, gated(gated.Options(count=80), "train"), tmp_path / "cache", 16)
    assert len(data) == 16
    steps: list[int] = []

    def listen(step: int, values: Any) -> None:
        steps.append(step)
        if step == 2:
            assert gated.read <= 25, "the others wait for the training"
            gated.gate.set()

    slow = run(toy, data, tmp_path / "slow", 40, listener=listen)
    assert steps[-1] == 40
    assert gated.read == 80
    whole = data.whole()
    assert len(whole) == 80
    again = begin(toy, gated(gated.Options(count=80), "train"), tmp_path / "cache", 16)
    assert gated.read == 80, "what is prepared is not read again"
    assert same(slow, run(toy, again, tmp_path / "fast", 40)), "the batches do not depend on what is ready"
    other = begin(toy, gated(gated.Options(count=80), "train"), tmp_path / "other", 16)
    assert same(slow, run(toy, other, tmp_path / "cold", 40))


def test_labels_and_bad_samples_of_the_first_block(toy: Any, tmp_path: Path) -> None:
    dataset = toy.Data(toy.Data.Options(count=60, bad=tuple(range(0, 60, 7))), "train")
    data = begin(toy, dataset, tmp_path, 20)
    whole = data.whole()
    end = len(data)
    assert 0 < end < len(whole) == 60 - 9
    for name in ("labels", "digests", "index"):
        np.testing.assert_array_equal(getattr(data, name), getattr(whole, name)[:end])
    assert data.blocks.rows(len(data.blocks) - 1)[1] == len(whole)  # as a batch of the last block asks
    assert [data.number_of(row) for row in range(len(whole))] == whole.index.tolist()
    assert [label % 2 for label in whole.index] == whole.labels.tolist()
    np.testing.assert_array_equal(whole.arrays["x"][5], dataset[int(whole.index[5])]["inputs"]["x"])
    rows = np.array([0, len(whole) - 1])
    assert torch.equal(data.take(rows).inputs["x"], whole.take(rows).inputs["x"])


def test_a_signal_ends_a_run_that_waits_and_it_goes_on_to_the_same_weights(
    toy: Any, gated: Any, tmp_path: Path
) -> None:
    expected = run(toy, begin(toy, gated(gated.Options(count=80), "train"), tmp_path / "a", 16), tmp_path / "one", 30)
    gated.free, gated.read = 40, 0
    data = begin(toy, gated(gated.Options(count=80), "train"), tmp_path / "b", 16)
    timers = [threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)), threading.Timer(2.0, gated.gate.set)]
    for timer in timers:
        timer.start()
    with pytest.raises(Interrupted, match=r"stopped by SIGINT at step 6; saved"):  # 2 blocks of 16: 3 batches of 5 each
        run(toy, data, tmp_path / "two", 30)
    start = checkpoint.latest(tmp_path / "two")
    assert start is not None
    assert start.step == 6
    again = begin(toy, gated(gated.Options(count=80), "train"), tmp_path / "b", 16)
    assert same(expected, run(toy, again, tmp_path / "two", 30, start=start))
    assert gated.read < 80 + 16, "what was prepared before the signal is kept"


def test_a_bad_sample_behind_the_first_block_ends_a_strict_run(toy: Any, gated: Any, tmp_path: Path) -> None:
    last = int(preprocess.chunk_order(10)[-1]) * CHUNK
    gated.free = 40
    data = begin(toy, gated(gated.Options(count=80, bad=(last,)), "train"), tmp_path / "cache", 16, strict=True)
    with pytest.raises(BadSample, match="it is corrupt.*strict: no sample may be skipped"):
        run(toy, data, tmp_path / "run", 40, listener=lambda step, values: gated.gate.set())


def test_what_another_machine_prepares_is_used_once_it_is_complete(toy: Any, gated: Any, tmp_path: Path) -> None:
    gated.free = 24
    data = begin(toy, gated(gated.Options(count=80), "train"), tmp_path, 16)
    (folder,) = (path for path in (tmp_path / "prepared").glob(".making-*") if path.is_dir())
    complete = folder.with_name(folder.name.removeprefix(".making-"))
    assert open_prepared(complete, 2) is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "another")
        assert open_prepared(complete, 2) is None
        gated.gate.set()
        assert len(data.whole()) == 80
        found = open_prepared(complete, 10)
    assert found is not None
    assert found[0] is None
    assert len(found[1]) == 80


def test_what_is_being_completed_is_read_whole_or_not_at_all(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = toy.Data(toy.Data.Options(count=80), "train")
    tokenizer = toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16)
    folder, seen, real = cache_folder(tmp_path, dataset, tokenizer, shuffled=True), [], Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        real(path, missing_ok)
        if path.parent == preprocess.work_folder(folder):
            seen.append(open_prepared(folder, 1))

    monkeypatch.setattr(Path, "unlink", unlink)
    preprocess_dataset(dataset, tokenizer, tmp_path, Console(), shuffled=True)
    assert len(seen) > 10
    assert all(found is None or len(found[1].index) == len(found[1]) == 80 for found in seen)


def test_more_parts_than_a_process_may_open_files(toy: Any, tmp_path: Path) -> None:
    """A part is saved every few seconds, so a long preparation has thousands."""
    resource = pytest.importorskip("resource")
    dataset = toy.Data(toy.Data.Options(count=80 * CHUNK), "train")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 40, before[1]))
    try:
        data = begin(toy, dataset, tmp_path, 16)
        assert len(data.whole()) == 80 * CHUNK
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_preparation_stops_while_it_waits_for_that_of_another_process(toy: Any, tmp_path: Path) -> None:
    dataset = toy.Data(toy.Data.Options(count=80), "train")
    tokenizer = toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16)
    folder = cache_folder(tmp_path, dataset, tokenizer, shuffled=True)
    folder.parent.mkdir(parents=True)

    def prepare(stop: Any) -> PreprocessedSplit:
        return preprocess_dataset(dataset, tokenizer, tmp_path, Console(), shuffled=True, stop=stop)

    with FileLock(guard_file(folder)):
        preparation = growing.Preparation(prepare)
        preparation.join(1)
        assert preparation.is_alive()
        preparation.stopping.set()
        preparation.join(30)
        assert not preparation.is_alive()
    with pytest.raises(preprocess.PreparationStopped):
        preparation.check()


class Pair:
    """Two processes, of which the other one's values are given."""

    rank, size = 0, 2

    def __init__(self, *other: tuple[int, bool]) -> None:
        self.other, self.own = list(other), []

    def all_gather(self, value: torch.Tensor) -> torch.Tensor:
        self.own.append(tuple(value[0].tolist()))
        return torch.cat([value, torch.tensor([self.other.pop(0)], dtype=value.dtype)])


def test_processes_that_wait_for_samples_go_on_and_stop_together(
    toy: Any, gated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that one process received while it waited stops the other, which has its samples, at the same step."""
    monkeypatch.setattr(loop, "WAIT_ROUND", 0.05)
    gated.free = 24
    data = begin(toy, gated(gated.Options(count=80), "train"), tmp_path, 16)
    options = TrainOptions(batch_size=5, steps=40)

    def wait(step: int, number: int, *other: tuple[int, bool]) -> tuple[int, Any]:
        group = Pair(*other)
        plan = TrainingPlan(options, 3, torch.device("cpu"), "fp32", tmp_path, group=group)  # type: ignore[arg-type]
        return loop.wait_for_samples(data, plan, step, SimpleNamespace(number=number)), group.own  # type: ignore[arg-type]

    term = int(signal.SIGTERM)
    assert wait(0, 0, (0, False)) == (0, [(0, 0)])
    assert wait(0, 0, (0, True), (term, True)) == (term, [(0, 0), (0, 0)])
    assert wait(0, term, (0, False)) == (0, [(0, 0)]), "both have their samples; they stop after the step"
    assert wait(10, 0, (0, True), (term, True)) == (term, [(0, 1), (0, 1)])
    assert wait(10, term, (0, False)) == (term, [(term, 1)])
    gated.gate.set()
    data.whole()
    assert wait(10, 0, (0, False)) == (0, [(0, 0)])


def test_a_first_block_without_a_usable_sample_is_refused(toy: Any, tmp_path: Path) -> None:
    first = int(preprocess.chunk_order(10)[0]) * CHUNK
    options = toy.Data.Options(count=80, bad=tuple(range(first, first + CHUNK)))
    with pytest.raises(DataError, match="none of the first training samples.*leave train.start_after out"):
        begin(toy, toy.Data(options, "train"), tmp_path, CHUNK)


def test_blocks_of_prepared_data_are_those_of_the_training(toy: Any, tmp_path: Path) -> None:
    dataset = toy.Data(toy.Data.Options(count=80), "train")
    data = begin(toy, dataset, tmp_path, 16)
    tokenizer = toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16)
    data.whole()
    whole = preprocess_dataset(dataset, tokenizer, tmp_path, Console(), shuffled=True)
    again = in_blocks(whole, dataset, 16)
    assert again.content_digest() == data.content_digest()
    for number in range(40):
        np.testing.assert_array_equal(again.batch_index(1, number, 5), data.batch_index(1, number, 5))


SMALL: dict[str, Any] = {
    "modality": "tabular", "objective": "mae", "steps": 12,
    "set": {
        "preset": "none", "encoder.dim": 32, "encoder.depth": 1, "encoder.heads": 2, "train.batch_size": 8,
        "dataset.n_train": 64, "dataset.n_test": 24, "dataset.n_validation": 24, "train.precision": "fp32",
        "evaluate.figures": False, "train.start_after": 16,
    },
}  # fmt: skip


def test_a_run_scores_all_samples_and_is_evaluated_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    first = sslx.pretrain(out=tmp_path / "first", **SMALL)
    report = first.finished_report
    assert report.data.samples["train"] == 64
    assert {row.n_train for row in report.scores} == {64}
    evaluated = sslx.evaluate(tmp_path / "first").scores
    assert [row.value for row in evaluated] == [row.value for row in report.scores]
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "other"))
    second = sslx.pretrain(out=tmp_path / "second", **{**SMALL, "steps": 7})
    assert second.steps == 7
    more = sslx.pretrain(out=tmp_path / "second", resume=True, steps=12)
    assert [row.value for row in more.finished_report.scores] == [row.value for row in report.scores]


def test_the_probe_during_training_keeps_to_the_first_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    fitted: list[int] = []
    found = scores.score_features
    monkeypatch.setattr(
        scores, "score_features",
        lambda extract, data, *more: (fitted.append(len(data.fit[1])), found(extract, data, *more))[1],
    )  # fmt: skip
    more = {"evaluate.every": 4, "train.keep_best": True, "evaluate.probes": ["linear"]}
    run = sslx.pretrain(out=tmp_path / "run", **{**SMALL, "set": SMALL["set"] | more})
    lines = [line for line in run.log.lines if "probe/linear_accuracy" in line]
    assert [line["step"] for line in lines] == [0, 4, 8, 12]
    assert [count for count in fitted if count != 64] == [16] * 4
    assert run.finished_report.health["random_init"]["rankme"] == pytest.approx(lines[0]["health/rankme"], rel=0.3)


def test_a_block_smaller_than_a_batch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="less than a batch of 8 samples; set train.start_after=80"):
        sslx.pretrain(out=tmp_path / "run", **{**SMALL, "set": {**SMALL["set"], "train.start_after": 7}})
