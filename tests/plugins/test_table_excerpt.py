"""Excerpts of large tables: counts of all rows, rows drawn evenly, file names of the whole in messages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ssl_core import plugins
from ssl_core.runs.inspection.inspect import inspect_path
from ssl_plugins.datasets._io.tables import excerpt
from ssl_plugins.datasets.user.files_tables import TableFiles

ROWS = 4000


@pytest.fixture
def small_bounds(monkeypatch):
    monkeypatch.setattr(excerpt, "LARGE", 1000)
    monkeypatch.setattr(excerpt, "ROWS", 200)


@pytest.fixture
def table(tmp_path):
    frame = pd.DataFrame({"row": np.arange(ROWS) * 1.5, "x": np.random.default_rng(0).normal(size=ROWS), "k": "one"})
    frame.loc[::10, "x"] = np.nan
    frame["Label"] = np.where(np.arange(ROWS) % 2, "yes", "no")
    path = tmp_path / "data.csv"
    frame.to_csv(path, index=False)
    return path, frame


def taken(path, folder, **options):
    folder.mkdir(exist_ok=True)
    return TableFiles.excerpt(TableFiles.Options(root=str(path), **options), folder)


def test_counts_are_of_all_rows(table, tmp_path, small_bounds):
    path, frame = table
    part = taken(path, tmp_path / "part")
    assert part.share == 200 / ROWS
    assert "200 of 4,000 rows" in part.note
    assert part.missing["x"] == pytest.approx(0.1)
    assert part.constant == ("k",)
    assert part.ranges["row"] == (0, 1.5 * (ROWS - 1))
    assert part.ranges["x"] == pytest.approx((frame.x.min(), frame.x.max()))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_numbers_that_stand_for_missing_values_are_none(table, tmp_path, small_bounds, ending):
    frame = table[1].assign(n=np.where(np.arange(ROWS) % 8, np.arange(ROWS), -999))
    path = tmp_path / f"other.{ending}"
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    part = taken(path, tmp_path / "part", missing=("-999",))
    assert part.missing["n"] == pytest.approx(1 / 8)
    assert part.ranges["n"] == (1, ROWS - 1)


def test_rows_are_drawn_evenly_and_the_same_each_time(table, tmp_path, small_bounds):
    path, frame = table
    first, second = (taken(path, tmp_path / name) for name in ("a", "b"))
    rows = [pd.read_parquet(part.options["root"]).row.astype(float).to_numpy() for part in (first, second)]
    np.testing.assert_array_equal(*rows)
    assert len(np.unique(rows[0])) == 200
    assert (np.diff(rows[0]) > 0).all(), "in their order"
    thirds = np.histogram(rows[0], bins=3, range=(0, 1.5 * ROWS))[0]
    assert thirds.min() > 40
    assert set(rows[0]) <= set(frame.row)


def test_small_tables_are_opened_whole(table, tmp_path):
    assert taken(table[0], tmp_path / "part") is None


def test_test_files_stay_test_files(tmp_path, small_bounds, table):
    path, frame = table
    for name in ("train", "test"):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    path.unlink()
    part = taken(tmp_path, tmp_path / "part")
    assert {"root", "test_root"} == set(part.options)
    assert part.share == pytest.approx(200 / (2 * ROWS))


def test_inspection_names_the_file_itself(table, small_bounds):
    found = inspect_path(str(table[0]), plugins.load())
    assert sum(found.samples.values()) == ROWS
    assert found.files == {".csv": 1}
    assert any(f"{table[0]} has no column 'label', but 'Label'" in line for line in found.doubts)
    assert str(table[0]) in found.arguments
