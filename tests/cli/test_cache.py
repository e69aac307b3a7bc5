"""The commands `sslx cache ls` and `sslx cache prune`."""

from __future__ import annotations

import json
import os
import time

import pytest

from ssl_core.utils.cache_entries import hold_entry, write_about


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    for name, age in (("prepared/old", 40), ("prepared/new", 0), ("tables/frame", 90), ("prepared/.making-killed", 50)):
        path = folder / name
        path.mkdir(parents=True)
        (path / "array").write_bytes(bytes(100_000))
        write_about(path, {"data": "tabular/files", "split": "train", "source": f"/data/{path.name}.csv"})
        for one in (*path.iterdir(), path):
            os.utime(one, (time.time() - age * 86400,) * 2)
    return folder


def test_ls_shows_size_age_and_owner(quick):
    code, out, _ = quick("cache", "ls")
    assert code == 0
    rows = [line for line in out.splitlines() if "prepared/" in line or "tables/" in line]
    assert [row.split("│")[1].strip() for row in rows] == [
        "tables/frame", "prepared/.making-killed", "prepared/old", "prepared/new",
    ]  # fmt: skip
    assert "│ unfinished │" in rows[1]
    assert "│ 50 d" in rows[1]
    assert "tabular/files train of /data/old.csv" in rows[2]
    assert "4 entries, 4" in out


def test_ls_as_json(quick, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_MAX", "1MB")
    content = json.loads(quick("cache", "ls", "--json")[1])
    assert content["max_bytes"] == 1_000_000
    assert [entry["entry"] for entry in content["entries"]][-1] == "prepared/new"


def test_prune_by_age_leaves_what_came_from_python(quick, cache):
    code, out, _ = quick("cache", "prune", "--older-than", "30d", "--dry-run")
    assert code == 0
    assert "would remove prepared/old (prepared, " in out
    assert (cache / "prepared" / "old").exists()
    code, out, _ = quick("cache", "prune", "--older-than", "30d")
    assert "removed 2 entries" in out
    assert sorted(path.name for path in (cache / "prepared").iterdir()) == ["new"]
    assert (cache / "tables" / "frame").exists()


def test_prune_by_size_and_kind(quick, cache):
    quick("cache", "prune", "--kind", "table")
    assert not (cache / "tables" / "frame").exists()
    quick("cache", "prune", "--max-size", "150kB")
    assert sorted(path.name for path in (cache / "prepared").iterdir()) == ["new"]


def test_prune_keeps_what_is_in_use(quick, cache):
    hold_entry(cache / "prepared" / "old")
    code, out, _ = quick("cache", "prune", "--all")
    assert code == 0
    assert "prepared/old" not in out
    assert (cache / "prepared" / "old").exists()
    code, _, err = quick("cache", "prune", "prepared/old")
    assert (code, err.strip()) == (1, "error: prepared/old is in use by a running process; wait for it")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to remove: --older-than 30d, --max-size 10GB"),
        (("--older-than", "30"), "--older-than 30: write it as 90s, 10m, 1.5h or 30d"),
        (("--max-size", "lots"), "--max-size lots: write it as 500MB, 10GB or 1.5TiB"),
        (("--kind", "preparation"), "--kind preparation: "),
        (("prepared/none",), "the cache has no entry 'prepared/none'; `sslx cache ls` names those that it has"),
    ],
)
def test_bad_requests(quick, arguments, message):
    code, _, err = quick("cache", "prune", *arguments)
    assert code == 1
    assert message in err
