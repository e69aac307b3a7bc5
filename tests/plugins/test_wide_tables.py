"""Wide and large tables: columns are converted together, files read once, and numbers kept outside of the memory."""

from __future__ import annotations

import gc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ssl_core import ConfigError, DataError, report_reading, scratch_array
from ssl_core.utils import reading, scratch
from ssl_core.utils.cache_entries import cache_entries
from ssl_plugins.datasets._io.copies import copies_of_rows
from ssl_plugins.datasets._io.files import kind
from ssl_plugins.datasets._io.tables import dialect, formats, reader, shared
from ssl_plugins.datasets._io.tables.columns import as_numbers, as_numbers_together
from ssl_plugins.datasets._io.tables.schema import Rows, column_stats
from ssl_plugins.datasets.user.files_tables import TableFiles

pytestmark = pytest.mark.fast


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x{i}": rng.normal(size=300).round(3) for i in range(20)})
    frame.loc[7, "x3"] = np.nan
    frame["colour"] = rng.choice(["red", "blue"], 300)
    frame["label"] = np.where(frame["x0"] > 0, "yes", "no")
    return frame


def opened(path, split="train", **options):
    return TableFiles(TableFiles.Options(root=str(path), **options), split)


def matrix(dataset):
    return np.stack([dataset[index]["inputs"]["numeric"] for index in range(len(dataset))])


def test_columns_together_are_those_of_each_alone():
    columns = [pa.array(values) for values in (["1", " 2.5 ", "NA"], ["1e400", "-0", ""], ["inf", "nan", "3"])]
    together = as_numbers_together(columns)
    for column, values in zip(columns, together, strict=True):
        np.testing.assert_array_equal(values, as_numbers(column)[0])


@pytest.mark.parametrize(
    "columns",
    [[pa.array(["1"]), pa.array(["one"])], [pa.array(["1"]), pa.array([1.0])], [pa.array([1.0]), pa.array([2.0])]],
)
def test_what_needs_a_look_is_left_to_the_column(columns):
    assert as_numbers_together(columns) is None


@pytest.mark.parametrize("lines", ["", "# made by x\n", "\n"])
def test_a_header_longer_than_what_is_looked_at_first_is_read_whole(tmp_path, monkeypatch, frame, lines):
    monkeypatch.setattr(dialect, "SAMPLE_CHARACTERS", 40)
    monkeypatch.setattr(kind, "HEAD_BYTES", 50)
    monkeypatch.setattr(kind.read_head, "__defaults__", (50,))
    (tmp_path / "t.csv").write_text(lines + frame.to_csv(index=False))
    dataset = opened(tmp_path / "t.csv")
    np.testing.assert_allclose(matrix(dataset), frame.filter(like="x").fillna(0).to_numpy()[dataset.rows], rtol=1e-6)


def test_a_row_longer_than_a_block_is_read(tmp_path, monkeypatch, frame):
    monkeypatch.setattr(formats, "CSV_BLOCK_BYTES", 100)
    frame.to_csv(tmp_path / "t.csv", index=False)
    dataset = opened(tmp_path / "t.csv")
    np.testing.assert_allclose(matrix(dataset), frame.filter(like="x").fillna(0).to_numpy()[dataset.rows], rtol=1e-6)


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_row_far_longer_than_the_first_ones_is_named(tmp_path, monkeypatch, quote):
    monkeypatch.setattr(formats, "CSV_BLOCK_BYTES", 100)
    monkeypatch.setattr(dialect, "SAMPLE_CHARACTERS", 200)
    rows = [f"{i},word,1" for i in range(100)]
    (tmp_path / "t.csv").write_text("a,b,c\n" + "\n".join([*rows, f"1,{quote}{'x' * 1000}{quote},2", *rows]))
    with pytest.raises(DataError, match="a double quote opens a text" if quote else "a row is longer than .* Parquet"):
        opened(tmp_path / "t.csv")


def test_a_text_among_numbers_is_named_with_row_and_column(tmp_path, frame):
    frame["x5"] = frame["x5"].astype(object)
    frame.loc[200, "x5"] = "broken"
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"t.csv row 201: column 'x5' holds 'broken', which is not a number"):
        opened(tmp_path / "t.csv")


def test_a_file_is_read_once_for_all_splits(tmp_path, frame, monkeypatch):
    frame.to_csv(tmp_path / "t.csv", index=False)
    count = []
    original = reader.TableReader._read_file
    monkeypatch.setattr(reader.TableReader, "_read_file", lambda *args: (count.append(1), original(*args))[1])
    options = {"validation_fraction": 0.2, "test_fraction": 0.2}
    parts = {split: opened(tmp_path / "t.csv", split, **options) for split in ("train", "test", "validation")}
    assert len(count) == 1
    assert not shared._last  # nothing is kept when all splits are taken
    alone = {}
    for split in parts:
        shared._last.clear()
        alone[split] = opened(tmp_path / "t.csv", split, **options)
    assert len(count) == 4
    for split, part in parts.items():
        np.testing.assert_array_equal(matrix(part), matrix(alone[split]))
        assert part.fingerprint() == alone[split].fingerprint()
        assert part.data.has_missing
        assert part.warnings == alone[split].warnings


def test_the_same_split_again_and_a_changed_file_are_read_anew(tmp_path, frame):
    frame.to_csv(tmp_path / "t.csv", index=False)
    first = opened(tmp_path / "t.csv")
    np.testing.assert_array_equal(matrix(opened(tmp_path / "t.csv")), matrix(first))
    frame["x0"] += 1
    frame.to_csv(tmp_path / "t.csv", index=False)
    test = matrix(opened(tmp_path / "t.csv", "test"))
    shared._last.clear()
    np.testing.assert_array_equal(test, matrix(opened(tmp_path / "t.csv", "test")))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_outside_of_the_memory_is_the_same(tmp_path, frame, monkeypatch, kind):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / f"t.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    inside = opened(path)
    shared._last.clear()
    monkeypatch.setattr(reader, "IN_MEMORY", 0)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    monkeypatch.setattr(scratch.scratch_array, "__defaults__", (0,))
    monkeypatch.setattr(formats, "CSV_BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(formats, "BLOCK_CELLS", 22 * 64)
    outside = opened(path)
    assert isinstance(outside.matrix, np.memmap)
    np.testing.assert_array_equal(matrix(outside), matrix(inside))
    assert outside.summary == inside.summary
    assert outside.schema() == inside.schema()
    assert not list((tmp_path / "cache" / "scratch").iterdir())  # the files have no name


def test_blocks_of_wide_tables_have_fewer_rows():
    assert formats.block_rows(10) == formats.BLOCK_ROWS
    assert formats.block_rows(3000) == formats.BLOCK_CELLS // 3000
    assert formats.block_rows(10**6) == formats.FEWEST_BLOCK_ROWS


def test_scratch_arrays_are_mapped_only_if_large(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path))
    assert not isinstance(scratch_array((10,), np.float32, 40), np.memmap)
    large = scratch_array((11, 2), np.float32, 40)
    assert isinstance(large, np.memmap)
    assert large.shape == (11, 2)
    large[:] = 3
    assert large.sum() == 66
    assert cache_entries(tmp_path) == []
    del large
    gc.collect()


def test_a_full_disk_is_an_error_and_no_crash(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path))

    def full(handle, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.os, "posix_fallocate", full, raising=False)
    with pytest.raises(ConfigError, match=r"no room in .*scratch \(No space left on device\); `sslx cache prune"):
        scratch_array((100,), np.float32, 0)
    assert not list((tmp_path / "scratch").iterdir())


def test_copies_do_not_depend_on_the_blocks():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(50, 3)).astype(np.float32)
    table[40] = table[3]
    whole = copies_of_rows([list(table.T)], list(table.T), 50)
    parts = copies_of_rows([list(table[:7].T), list(table[7:].T)], list(table.T), 50)
    np.testing.assert_array_equal(whole, parts)
    assert whole[40] == whole[3] == 3
    assert len(np.unique(whole)) == 49
    coins = np.ones((50, 3), np.float32)
    assert copies_of_rows([list(coins.T)], list(coins.T), 50) is None  # equal rows that are no copies


def test_stats_of_columns_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr("ssl_plugins.datasets._io.tables.schema.STATS_CELLS", 10)
    x = np.random.default_rng(0).normal(size=(37, 3)).astype(np.float32)
    x[3, 0], x[5, 1] = np.nan, np.inf
    x[:, 2] = np.nan
    stats = column_stats(Rows(numbers={name: x[:, index] for index, name in enumerate("abc")}))
    for index, name in enumerate("ab"):
        finite = x[np.isfinite(x[:, index]), index]
        assert (stats[name].low, stats[name].high) == (finite.min(), finite.max())
        assert stats[name].mean == pytest.approx(finite.mean(dtype=np.float64), rel=1e-12)
    assert [stats[name].missing for name in "abc"] == [pytest.approx(1 / 37), 0, 1]
    assert np.isnan(stats["c"].low)
    assert np.isnan(stats["c"].mean)


@pytest.mark.parametrize("kind", ["csv", "parquet", "feather"])
def test_reading_says_how_far_it_is(tmp_path, frame, monkeypatch, kind):
    monkeypatch.setattr(formats, "CSV_BLOCK_BYTES", 1 << 13)
    monkeypatch.setattr(formats, "BLOCK_CELLS", 22 * 64)
    heard = []
    monkeypatch.setattr(reader, "report_reading", lambda name, share, size=0: heard.append((share, size)))
    path = tmp_path / f"t.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else getattr(frame, f"to_{kind}")(path)
    opened(path)
    shares, sizes = zip(*heard, strict=True)
    assert shares[0] == 0
    assert len(shares) > 4
    assert sizes[-1] == 300 * 20 * 4
    assert list(sizes) == sorted(sizes)
    if kind != "feather":
        assert list(shares) == sorted(shares)
        assert shares[-1] == pytest.approx(1)
        assert shares[2] == pytest.approx(sizes[2] / sizes[-1], abs=0.2)


def test_long_reading_is_announced_once_with_time_and_size(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(reading.time, "monotonic", lambda: now[0])
    with reading.announced_reading(lambda *what: said.append(what)):
        for name, step in (("short.csv", 0.5), ("long.csv", 5.0)):
            for block in range(11):
                report_reading(name, block / 10, 100 * block)
                now[0] += step
    assert said == [("long.csv", 50.0, 1000.0)]
    report_reading("later.csv", 0.1)  # nobody listens
