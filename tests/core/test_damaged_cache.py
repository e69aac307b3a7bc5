"""Prepared data that are not as they were written are found and made anew; a full disk is one clear line."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from ssl_core.errors import DataError
from ssl_core.pipeline import preprocess
from ssl_core.pipeline.cache import preprocess_dataset
from ssl_core.utils.console import Console

FILES = ["digests.npy", "field-0.npy", "index.npy", "labelled.npy", "labels.npy", "meta.json"]


class Lines(Console):
    def __init__(self):
        self.lines = []

    def info(self, text):
        self.lines.append(text)


@pytest.fixture
def make(toy, tmp_path, monkeypatch):
    read = toy.Data.__getitem__

    def partly(self, index):
        sample = read(self, index)
        return sample | {"label": None} if index == 6 else sample

    monkeypatch.setattr(toy.Data, "__getitem__", partly)

    def call(console=None, **options):
        dataset = toy.Data(toy.Data.Options(count=12, bad=(3,)), "train")
        tokenizer = toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16)
        return preprocess_dataset(dataset, tokenizer, tmp_path, console or Lines(), **options)

    return call


def folder_in(tmp_path):
    (folder,) = (tmp_path / "prepared").iterdir()
    return folder


def write(path, content):
    """A new file, since the old one may be mapped."""
    path.unlink()
    path.write_bytes(content)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    write(path, content)


def cut(path):
    write(path, path.read_bytes()[:-40])


def empty(path):
    write(path, b"")


def delete(path):
    path.unlink()


def same(one, other):
    np.testing.assert_array_equal(one.arrays["x"], other.arrays["x"])
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.labelled, other.labelled)
    np.testing.assert_array_equal(one.index, other.index)
    assert one.content_digest() == other.content_digest()


@pytest.mark.parametrize("damage", [flip, cut, empty, delete])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_and_made_anew(make, tmp_path, damage, file):
    whole = make()
    assert sorted(path.name for path in folder_in(tmp_path).iterdir()) == ["about.json", *FILES]
    damage(folder_in(tmp_path) / file)
    console = Lines()
    same(make(console), whole)
    if not (file == "meta.json" and damage is delete):  # without it, the folder is none of prepared data
        (line,) = console.lines
        assert line.startswith(f"warning: the prepared data in {folder_in(tmp_path)} are damaged ({file}")
        assert line.endswith("so they are prepared anew")
    console = Lines()
    same(make(console), whole)
    assert console.lines == []
    assert sorted(path.name for path in folder_in(tmp_path).iterdir()) == ["about.json", *FILES]


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"count": 5', "[" * 10**5, "\udcff"])
def test_a_damaged_description_is_made_anew(make, tmp_path, text):
    whole = make()
    (folder_in(tmp_path) / "meta.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    same(make(), whole)


def test_a_description_that_says_something_else_is_made_anew(make, tmp_path):
    whole = make()
    path = folder_in(tmp_path) / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"count": 5}))
    assert len(make()) == len(whole) == 11


def test_large_arrays_are_read_only_if_asked_for_and_their_size_is_always_compared(make, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "ALWAYS_CHECKED", 500)
    whole = make()
    flip(folder_in(tmp_path) / "field-0.npy")
    assert not np.array_equal(make().arrays["x"], whole.arrays["x"])
    console = Lines()
    same(make(console, check=True), whole)
    assert len(console.lines) == 1
    cut(folder_in(tmp_path) / "field-0.npy")
    same(make(), whole)


def test_numbers_of_samples_in_the_data_set_are_kept(make):
    assert make().index.tolist() == [index for index in range(12) if index != 3]


@pytest.mark.parametrize("damage", [cut, empty, delete])
@pytest.mark.parametrize("file", ["state.json", "field-0.npy"])
def test_a_damaged_beginning_is_made_anew(make, toy, tmp_path, monkeypatch, damage, file):
    monkeypatch.setattr(preprocess, "CHUNK_SIZE", 2)
    monkeypatch.setattr(preprocess, "SAVE_EVERY", -1.0)
    read = toy.Data.__getitem__

    def stop(self, index):
        if index == 8:
            raise KeyboardInterrupt
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(toy.Data, "__getitem__", stop)
        with pytest.raises(KeyboardInterrupt):
            make()
    damage(folder_in(tmp_path) / file)
    made = make()
    assert len(made) == 11
    assert sorted(path.name for path in folder_in(tmp_path).iterdir()) == ["about.json", *FILES]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_before_anything_is_mapped(make, tmp_path, monkeypatch, number):
    """Writing to a mapped file on a full disk ends the process by SIGBUS."""
    reserved = []

    def full(descriptor, start, size):
        reserved.append(size)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(DataError, match=rf"cannot prepare the train data in .*: {os.strerror(number)}; free space"):
            make()
    assert list((tmp_path / "prepared").iterdir()) == []
    make()
    assert reserved == [(folder_in(tmp_path) / "field-0.npy").stat().st_size]


def test_locks_of_killed_processes_are_removed(make, tmp_path):
    folder = tmp_path / "prepared"
    (folder / ".making-interrupted").mkdir(parents=True)
    for name in ("gone", "interrupted"):
        (folder / f".making-{name}.lock").touch()
    make()
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [
        ".making-interrupted",
        ".making-interrupted.lock",
    ]
