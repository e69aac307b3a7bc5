"""The entries of the cache: what they belong to, who holds them, and which are removed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ssl_core import DataError
from ssl_core.errors import ConfigError
from ssl_core.pipeline import preprocess
from ssl_core.pipeline.cache import preprocess_dataset
from ssl_core.utils import cache_entries as cache
from ssl_core.utils.cache_entries import CacheEntry, Hold, PruneRequest, choose_entries
from ssl_core.utils.console import Console

pytestmark = pytest.mark.fast

HOLDER = """
import sys, time
from pathlib import Path
from ssl_core.utils.cache_entries import hold_entry
hold_entry(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


class Lines(Console):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def make(toy, tmp_path):
    def make_prepared(console=None, **options):
        dataset = toy.Data(toy.Data.Options(**options), "train")
        tokenizer = toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16)
        return preprocess_dataset(dataset, tokenizer, tmp_path, console or Console())

    return make_prepared


def entry(name: str, size: int, used: float, kind: str = "prepared", in_use: bool = False) -> CacheEntry:
    return CacheEntry(kind, Path("cache/prepared") / name, size, used, "", in_use)


def names(chosen: list[CacheEntry]) -> list[str]:
    return [one.path.name for one in chosen]


ENTRIES = (entry("c", 10, 300), entry("a", 10, 100), entry("b", 10, 200), entry("t", 10, 0, "table"))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (PruneRequest(), ["a", "b", "c"]),
        (PruneRequest(age=150), ["a", "b"]),
        (PruneRequest(age=1000), []),
        (PruneRequest(max_bytes=40), []),
        (PruneRequest(max_bytes=39), ["a"]),
        (PruneRequest(max_bytes=20), ["a", "b"]),
        (PruneRequest(max_bytes=0), ["a", "b", "c"]),
        (PruneRequest(age=250, max_bytes=20), ["a", "b"]),
        (PruneRequest(kinds=("table",)), ["t"]),
        (PruneRequest(names=("prepared/b",)), ["b"]),
        (PruneRequest(names=("prepared/t",)), ["t"]),
    ],
)
def test_the_oldest_use_is_removed_first(request_, expected):
    assert names(choose_entries(ENTRIES, request_, now=400)) == expected


def test_what_is_in_use_stays_and_counts():
    held = [entry("a", 10, 100, in_use=True), *ENTRIES[:1]]
    assert names(choose_entries(held, PruneRequest(), now=400)) == ["c"]
    assert names(choose_entries(held, PruneRequest(max_bytes=10), now=400)) == ["c"]


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="no entry 'prepared/x'"):
        choose_entries(ENTRIES, PruneRequest(names=("prepared/x",)))


def test_prepared_data_say_what_they_belong_to(make, tmp_path):
    split = make(count=10)
    (one,) = cache.cache_entries(tmp_path)
    assert (one.kind, one.in_use) == ("prepared", True)
    assert one.about.endswith("toy-data train")
    assert one.bytes > 10 * split.arrays["x"][0].nbytes
    assert time.time() - one.used < 60


def test_a_split_that_lives_is_held_and_one_that_is_gone_is_not(make, tmp_path):
    split = make(count=10)
    (one,) = cache.cache_entries(tmp_path)
    assert not cache.remove_entry(one)
    assert len(make(count=10)) == 10
    del split
    gc.collect()
    (one,) = cache.cache_entries(tmp_path)
    assert not one.in_use
    assert cache.remove_entry(one)
    assert not any((tmp_path / "prepared").iterdir())


def test_opening_counts_as_use(make, tmp_path):
    make(count=10), make(count=12)
    gc.collect()
    first, second = cache.cache_entries(tmp_path)
    os.utime(first.path, (1000, 1000))
    os.utime(second.path, (2000, 2000))
    make(count=10 if "10" in str(np.load(first.path / "digests.npy").shape) else 12)
    assert [one.path for one in cache.cache_entries(tmp_path)] == [second.path, first.path]


def test_another_process_holds_until_it_is_killed(tmp_path):
    folder = tmp_path / "prepared" / "key"
    folder.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        (one,) = cache.cache_entries(tmp_path)
        assert one.in_use
        assert not cache.remove_entry(one)
    finally:
        holder.kill()
        holder.wait()
    (one,) = cache.cache_entries(tmp_path)
    assert not one.in_use
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == ["key"]  # the lock of the killed is gone
    assert cache.remove_entry(one)


def test_a_killed_preparation_is_listed_and_can_be_removed(tmp_path):
    work = tmp_path / "prepared" / ".making-key"
    work.mkdir(parents=True)
    cache.write_about(work, {"data": "tabular/files", "split": "train", "source": "data.csv"})
    with cache.file_lock(cache.guard_file(tmp_path / "prepared" / "key"), lambda: None):
        (one,) = cache.cache_entries(tmp_path)
        assert (one.kind, one.in_use) == ("unfinished", True)
        assert not cache.remove_entry(one)
    (one,) = cache.cache_entries(tmp_path)
    assert (one.kind, one.in_use) == ("unfinished", False)
    assert one.about == "tabular/files train of data.csv"
    assert cache.remove_entry(one)


def test_a_folder_that_is_written_without_a_lock_is_left_in_peace(tmp_path):
    work = tmp_path / "encoders" / ".digest-x1y2"
    work.mkdir(parents=True)
    assert [one.in_use for one in cache.cache_entries(tmp_path)] == [True]
    os.utime(work, (1000, 1000))
    assert [one.in_use for one in cache.cache_entries(tmp_path)] == [False]


def test_public_data_and_links_are_no_entries(tmp_path):
    for name in ("data/speech", "prepared/key", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "prepared" / "link").symlink_to(tmp_path / "elsewhere")
    assert [one.name for one in cache.cache_entries(tmp_path)] == ["prepared/key"]


def test_the_limit_removes_what_was_used_longest_ago(make, tmp_path, monkeypatch):
    make(count=10)
    gc.collect()
    (old,) = cache.cache_entries(tmp_path)
    os.utime(old.path, (1000, 1000))
    monkeypatch.setenv("SSLX_CACHE_MAX", str(old.bytes - 1))
    console = Lines()
    kept = make(console, count=12)
    assert len(kept) == 12
    (new,) = cache.cache_entries(tmp_path)
    assert new.path != old.path
    assert console.lines[0].startswith("cache      1 entry of the oldest use removed")
    assert console.lines[1].startswith("warning: the cache has")  # the new one is as large, and in use
    monkeypatch.setenv("SSLX_CACHE_MAX", "1GB")
    assert cache.keep_limit(tmp_path) == []


def test_a_limit_that_is_no_size_is_refused(make, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_MAX", "plenty")
    with pytest.raises(ConfigError, match="SSLX_CACHE_MAX plenty: write it as 500MB"):
        make(count=10)


def test_a_full_disk_is_said_before_anything_is_written(make, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "free_bytes", lambda folder: 1000)
    with pytest.raises(DataError, match=r"need .* in .*, which has 1\.0 kB free; `sslx cache prune"):
        make(count=5000)
    assert cache.cache_entries(tmp_path) == []


def test_hold_of_a_dead_owner_leaves_no_file(tmp_path):
    (tmp_path / "prepared" / "key").mkdir(parents=True)
    owner = Hold()
    cache.hold_entry(tmp_path / "prepared" / "key", owner)
    assert cache.is_held(tmp_path / "prepared" / "key")
    del owner
    gc.collect()
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == ["key"]
