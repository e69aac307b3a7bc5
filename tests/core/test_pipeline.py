"""The prepared cache and the order of samples."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_core import BadSample, DataError
from ssl_core.pipeline import preprocess
from ssl_core.pipeline.cache import preprocess_dataset
from ssl_core.pipeline.sampler import batch_index
from ssl_core.runs.data import data_warnings
from ssl_core.utils.console import Console
from ssl_core.utils.seeds import derive

FILES = ["about.json", "digests.npy", "field-0.npy", "index.npy", "labels.npy", "meta.json"]


@pytest.fixture
def make(toy, tmp_path):
    def make_prepared(strict=False, split="train", tokenizer=None, **options):
        dataset = toy.Data(toy.Data.Options(**options), split)
        tokenizer = tokenizer or toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16)
        return preprocess_dataset(dataset, tokenizer, tmp_path, Console(), strict)

    return make_prepared


def test_holds_every_sample_in_order(make, toy):
    prepared = make(count=10)
    raw = toy.Data(toy.Data.Options(count=10), "train")
    assert len(prepared) == 10
    for index in range(10):
        np.testing.assert_array_equal(prepared.arrays["x"][index], raw[index]["inputs"]["x"])
    assert prepared.labels.tolist() == [index % 2 for index in range(10)]


def test_prepares_once(make, toy, monkeypatch):
    make(count=10)
    monkeypatch.setattr(toy.Data, "__getitem__", lambda self, index: pytest.fail("read again"))
    assert len(make(count=10)) == 10


def test_other_options_are_prepared_anew(make):
    assert len(make(count=10)) == 10
    assert len(make(count=12)) == 12


def test_arrays_are_memory_mapped(make):
    assert isinstance(make(count=4).arrays["x"], np.memmap)


def test_bad_samples_are_skipped_and_named(make, toy):
    prepared = make(count=10, bad=(3,), nan=(5,))
    assert len(prepared) == 8
    assert len(prepared.labels) == 8
    assert prepared.skipped == (
        "sample 3 of the train split: it is corrupt",
        "sample 5 of the train split: 'x' holds NaN or infinity",
    )
    raw = toy.Data(toy.Data.Options(count=10), "train")
    np.testing.assert_array_equal(prepared.arrays["x"][3], raw[4]["inputs"]["x"])


def test_strict_refuses_bad_samples_also_from_the_cache(make):
    with pytest.raises(BadSample, match="sample 3 of the train split: it is corrupt"):
        make(count=10, bad=(3,), strict=True)
    make(count=10, bad=(3,))
    with pytest.raises(BadSample, match="sample 3"):
        make(count=10, bad=(3,), strict=True)


def test_nothing_usable_is_an_error_that_leaves_nothing(make, tmp_path):
    with pytest.raises(DataError, match="no usable sample in the train split of 'toy-data': 2 skipped, the first"):
        make(count=2, bad=(0, 1))
    assert list((tmp_path / "prepared").iterdir()) == []


@pytest.mark.parametrize("at", [2, 5, 9])
def test_an_interrupted_preparation_goes_on_and_gives_the_same(make, toy, tmp_path, monkeypatch, at):
    monkeypatch.setattr(preprocess, "CHUNK_SIZE", 2)
    monkeypatch.setattr(preprocess, "SAVE_EVERY", 0.0)
    read, asked = toy.Data.__getitem__, []

    def stop(self, index):
        asked.append(index)
        if index == at and asked.count(at) == 1:
            raise KeyboardInterrupt
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(toy.Data, "__getitem__", stop)
        with pytest.raises(KeyboardInterrupt):
            make(count=10, bad=(1, 8))
        (left,) = (tmp_path / "prepared").iterdir()
        assert left.name.startswith(".making-")
        asked.clear()
        asked.append(at)
        made = make(count=10, bad=(1, 8))
        assert min(asked[1:]) == at // 2 * 2, "what was done is not done again"
    (folder,) = (tmp_path / "prepared").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == FILES
    monkeypatch.setattr(preprocess, "CHUNK_SIZE", 256)
    shutil.rmtree(folder)
    whole = make(count=10, bad=(1, 8))
    np.testing.assert_array_equal(made.arrays["x"], whole.arrays["x"])
    np.testing.assert_array_equal(made.labels, whole.labels)
    assert made.skipped == whole.skipped
    assert len(whole) == 8


@pytest.mark.parametrize("moment", range(19))
def test_a_kill_at_any_moment_shifts_no_label(make, toy, tmp_path, monkeypatch, moment):
    """Killed before the `moment`-th change on disk, and taken up by one that saves at other pieces."""
    monkeypatch.setattr(preprocess, "CHUNK_SIZE", 3)
    changes = itertools.count()

    def killed(change):
        def kill(*arguments, **options):
            if next(changes) == moment:
                raise KeyboardInterrupt
            return change(*arguments, **options)

        return kill

    gc.collect()  # a finalizer of an earlier test would take the interruption
    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "SAVE_EVERY", -1.0)  # after every piece
        for owner, name in (
            (np, "save"),
            (np, "savez"),
            (preprocess, "write_json"),
            (preprocess.os, "rename"),
            (Path, "unlink"),
        ):
            patch.setattr(owner, name, killed(getattr(owner, name)))
        gc.disable()
        try:
            with pytest.raises(KeyboardInterrupt):
                make(count=10)
        finally:
            gc.enable()
    monkeypatch.setattr(preprocess, "SAVE_EVERY", 1e9)
    made = make(count=10)
    raw = toy.Data(toy.Data.Options(count=10), "train")
    assert made.labels.tolist() == [raw[index]["label"] for index in range(10)]
    np.testing.assert_array_equal(made.arrays["x"], [raw[index]["inputs"]["x"] for index in range(10)])
    (folder,) = [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_labels_that_went_away_are_an_error_and_what_was_prepared_is_removed(make, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "CHUNK_SIZE", 2)
    monkeypatch.setattr(preprocess, "SAVE_EVERY", -1.0)
    read = toy.Data.__getitem__

    def stop(self, index):
        if index == 6:
            raise KeyboardInterrupt
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(toy.Data, "__getitem__", stop)
        with pytest.raises(KeyboardInterrupt):
            make(count=10)
    (left,) = (tmp_path / "prepared").iterdir()
    next(left.glob("part-*.npz")).unlink()
    with pytest.raises(DataError, match="8 digests are kept of 10 samples of the train split of 'toy-data'.*repeat"):
        make(count=10)
    assert list((tmp_path / "prepared").iterdir()) == []
    assert len(make(count=10).labels) == 10


def test_a_field_may_be_called_anything(make, toy, monkeypatch):
    names = ["labels", "part-old", "meta.json", "a/b", "../x", "x" * 300, "naïve"]

    def prepare_all(self, inputs):
        return {name: inputs["x"] + number for number, name in enumerate(names)}

    monkeypatch.setattr(toy.Tokenizer, "preprocess", prepare_all)
    made = make(count=4)
    raw = toy.Data(toy.Data.Options(count=4), "train")
    assert list(made.arrays) == names
    assert made.labels.tolist() == [0, 1, 0, 1]
    for number, name in enumerate(names):
        np.testing.assert_array_equal(made.arrays[name][3], raw[3]["inputs"]["x"] + number)


def test_of_many_bad_samples_the_first_are_named_and_all_are_counted(make, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "CHUNK_SIZE", 2)
    monkeypatch.setattr(preprocess, "MAX_SKIPPED_LINES", 3)
    bad = (0, 1, 4, 5, 8)
    made = make(count=10, bad=bad)
    assert made.bad == 5
    assert [line.split(":")[0] for line in made.skipped] == [f"sample {i} of the train split" for i in bad[:3]]
    (folder,) = (tmp_path / "prepared").iterdir()
    assert len(json.loads((folder / "meta.json").read_text())["skipped"]) == 3
    (said, _) = data_warnings({"train": toy.Data(toy.Data.Options(count=10), "train")}, {"train": made})
    assert said.startswith("5 bad samples of the train split skipped: sample 0 of ")
    assert said.endswith(" and 2 more")
    with pytest.raises(DataError, match="4 skipped, the first: sample 0 of"):
        make(count=4, bad=(0, 1, 2, 3))


def test_several_processes_prepare_the_same(make, tmp_path, monkeypatch):
    alone = make(count=40, bad=(3, 17))
    x, labels = np.array(alone.arrays["x"]), alone.labels
    shutil.rmtree(tmp_path / "prepared")
    monkeypatch.setattr(preprocess, "CHUNK_SIZE", 4)
    monkeypatch.setattr(preprocess, "MIN_FOR_WORKERS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together = make(count=40, bad=(3, 17))
    np.testing.assert_array_equal(together.arrays["x"], x)
    np.testing.assert_array_equal(together.labels, labels)
    assert together.skipped == alone.skipped


def test_bad_data_is_refused_from_another_process_too(make, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "CHUNK_SIZE", 4)
    monkeypatch.setattr(preprocess, "MIN_FOR_WORKERS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(BadSample, match="sample 7 of the train split: it is corrupt"):
        make(count=20, bad=(7,), strict=True)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_sweep_visits_all_in_order(make):
    prepared = make(count=10)
    sizes = [len(batch) for batch in prepared.sweep(4)]
    assert sizes == [4, 4, 2]
    seen = np.concatenate([batch.inputs["x"].numpy() for batch in prepared.sweep(4)])
    np.testing.assert_array_equal(seen, prepared.arrays["x"])


def test_sweep_visits_what_is_chosen(make):
    prepared = make(count=10)
    every = np.concatenate([batch.inputs["x"].numpy() for batch in prepared.sweep(4)])
    chosen = np.array([1, 2, 5, 6, 8])
    parts = [batch.inputs["x"].numpy() for batch in prepared.sweep(4, chosen)]
    assert [len(part) for part in parts] == [4, 1]
    np.testing.assert_array_equal(np.concatenate(parts), every[chosen])


@given(st.integers(0, 10), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_every_epoch_visits_each_sample_at_most_once(seed, count, data):
    size = data.draw(st.integers(1, count))
    per_epoch = count // size
    for epoch in (0, 1, 5):
        seen = np.concatenate([batch_index(seed, epoch * per_epoch + i, count, size) for i in range(per_epoch)])
        assert len(seen) == per_epoch * size
        assert len(set(seen.tolist())) == len(seen)
        assert set(seen.tolist()) <= set(range(count))


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    first = batch_index(0, 0, 100, 100)
    np.testing.assert_array_equal(first, batch_index(0, 0, 100, 100))
    assert not np.array_equal(first, batch_index(0, 1, 100, 100))
    assert not np.array_equal(first, batch_index(1, 0, 100, 100))


@given(st.integers(0, 2**31), st.text(max_size=8), st.integers(0, 10**9))
def test_derived_seeds_are_in_range_and_differ_by_purpose(seed, purpose, step):
    assert 0 <= derive(seed, purpose, step) < 2**63
    assert derive(seed, purpose, step) != derive(seed, purpose + "x", step)
    assert derive(seed, purpose, step) != derive(seed, purpose, step + 1)


@pytest.mark.parametrize(("processes", "expected"), [("", 2), ("3", 6)])
def test_the_threads_of_waiting_processes_prepare_data_too(make, monkeypatch, processes, expected):
    seen = []

    class Loader:
        def __init__(self, chunks, num_workers, **options):
            self.chunks = chunks
            seen.append(num_workers)

        def __iter__(self):
            return iter(self.chunks)

    monkeypatch.setattr(preprocess, "CHUNK_SIZE", 4)
    monkeypatch.setattr(preprocess, "MIN_FOR_WORKERS", 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.utils.data, "DataLoader", Loader)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert len(make(count=40)) == 40
    assert seen == [expected]
