"""Wafer maps in miniature, and pickles that are read without being run."""

from __future__ import annotations

import math
import os
import pickle
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_core import DataError
from ssl_plugins.datasets.public import _pickles, wm811k

MINIATURES = runpy.run_path(str(Path(__file__).parents[1] / "miniatures" / "vision.py"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Wafers as `sslx data prepare` leaves them. Nobody changes them."""
    place = tmp_path_factory.mktemp("data")
    MINIATURES["wafer"](place)
    return place


def both(cls: type, root: Path, **options: Any) -> tuple[Any, Any]:
    made = cls.Options(root=str(root), **options)
    return cls(made, "train"), cls(made, "test")


def tenths(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    cut = math.ceil(len(rows) * 9 / 10)
    return rows[:cut], rows[cut:]


# --- wafers ----------------------------------------------------------------------------------------------------------


def test_wafers_are_divided_by_whether_anyone_labelled_them(root):
    columns = _pickles.table(root / "semiconductors" / "LSWMD.pkl", ("waferMap", "failureType"))
    maps = [one.numpy() for one in columns["waferMap"]]
    texts = [one.numpy().ravel()[0].lower() if one.numpy().size else "" for one in columns["failureType"]]
    for cls, wanted in ((wm811k.Wafer, False), (wm811k.WaferTransfer, True)):
        rows = [row for row, text in enumerate(texts) if bool(text) == wanted]
        order = [rows[place] for place in np.random.RandomState(42).permutation(len(rows))]
        for dataset, expected in zip(both(cls, root), tenths(order), strict=True):
            assert len(dataset) == len(expected)
            for index, row in enumerate(expected):
                sample = dataset[index]
                np.testing.assert_array_equal(sample["inputs"]["map"][0], maps[row])
                assert sample["label"] == (dataset.task.names.index(texts[row]) if wanted else None)
    assert dataset.task.metric == "weighted_f1"
    assert dataset.task.names[:3] == ("none", "random", "donut")
    assert both(wm811k.Wafer, root)[0].task is None


def test_wafers_of_the_upstreams_own_table(tmp_path):
    """The same form as MIR's WM811K.pkl: written by pandas itself; labels are texts, or 0."""
    folder = tmp_path / "semiconductors"
    MINIATURES["wm811k_pickle"](folder / "MIR-WM811K" / "Python" / "WM811K.pkl")
    with pytest.raises(DataError, match=r"no .*maps; run `sslx data prepare wafer/wafer --root"):
        both(wm811k.Wafer, tmp_path)
    assert wm811k.Wafer.source.archives[0].done(folder)  # nothing is downloaded again
    wm811k.Wafer.convert(folder)
    pretraining, transfer = both(wm811k.Wafer, tmp_path), both(wm811k.WaferTransfer, tmp_path)
    assert [len(one) for one in (*pretraining, *transfer)] == [36, 4, 18, 2]
    table = pickle.loads((folder / "MIR-WM811K" / "Python" / "WM811K.pkl").read_bytes())
    for dataset in (*pretraining, *transfer):
        for index, row in enumerate(dataset.rows):
            np.testing.assert_array_equal(dataset[index]["inputs"]["map"][0], table["waferMap"][row])
            said = table["failureType"][row]
            assert dataset[index]["label"] == (dataset.task.names.index(said.lower()) if said else None)


def test_a_worker_gets_no_copy_of_the_pixels(root):
    train, _ = both(wm811k.Wafer, root)
    first = train[0]
    again = pickle.loads(pickle.dumps(train))
    assert again._pixels is None
    np.testing.assert_array_equal(again[0]["inputs"]["map"], first["inputs"]["map"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"failureType": "Doughnut"}, r"LSWMD\.pkl is refused: row 0: failureType 'doughnut' is none of none, random"),
        ({"waferMap": np.full((2, 2), 3, np.uint8)}, r"row 0: waferMap holds 3"),
        ({"waferMap": "no map"}, r"row 0: waferMap is no map of whole numbers"),
    ],
)
def test_a_bad_wafer_names_its_row_and_leaves_nothing(tmp_path, monkeypatch, changed, said):
    good = {"waferMap": np.ones((2, 2), np.uint8), "failureType": "none"}
    columns = {name: np.array([None], dtype=object) for name in good}
    for name, value in (good | changed).items():
        columns[name][0] = value
    monkeypatch.setattr(wm811k, "table", lambda path, wanted: columns)
    (tmp_path / "LSWMD.pkl").touch()
    with pytest.raises(DataError, match=said):
        wm811k.Wafer.convert(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["LSWMD.pkl"]


# --- pickles ---------------------------------------------------------------------------------------------------------


class Caller:
    """What an attacker pickles: a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function", [os.mkdir, eval, getattr, np.fromfile, np.load, pickle.loads])
def test_a_pickle_calls_nothing(tmp_path, function, protocol):
    target = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(target)!r})" if function is eval else str(target)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"data": Caller(function, argument)}, protocol))
    with pytest.raises(DataError, match=r"evil\.pkl is refused: it names \S+, which is no part of an array or a table"):
        _pickles.load(path)
    assert not target.exists()


def test_even_a_part_of_pandas_is_only_recorded(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"cpandas\nread_pickle\n(S'/nowhere'\ntR.")
    made = _pickles.load(path)
    assert (made.name, made.args) == ("read_pickle", ("/nowhere",))
    path.write_bytes(b"cpandas\nio.common.os.system\n(S'true'\ntR.")
    with pytest.raises(DataError, match="is refused"):
        _pickles.load(path)
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}U\x09_functionK\x01sb.")  # tries to change what encode does
    with pytest.raises(DataError, match="it changes a function"):
        _pickles.load(path)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(4, dtype=">i4"),
        np.array([["none", "Edge-Ring"]]),
        np.zeros((0, 0)),
        np.array([[1, "x"], [None, 2.5]], dtype=object),
        np.asfortranarray(np.array([[1, "x", 2], [None, 2.5, 3]], dtype=object)),
        np.array([True, False]),
    ],
)
def test_arrays_of_any_protocol_are_read(tmp_path, array, protocol):
    path = tmp_path / "array.pkl"
    path.write_bytes(pickle.dumps(array, protocol))
    found = _pickles.plain(_pickles.load(path))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02}", b"\x80\x63"])
def test_a_damaged_pickle_is_one_line(tmp_path, content):
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.pkl is damaged or no pickle") as caught:
        _pickles.load(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match="it holds no table"):
        _pickles.table(path, ("waferMap",))
