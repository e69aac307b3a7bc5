"""WM-811K on miniatures, and reading pickles without running them."""

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
    """The arrays that `sslx data prepare` writes. Tests do not change them."""
    folder = tmp_path_factory.mktemp("data")
    MINIATURES["wafer"](folder)
    return folder


def both(cls: type, root: Path, **options: Any) -> tuple[Any, Any]:
    """The training and the test split."""
    values = cls.Options(root=str(root), **options)
    return cls(values, "train"), cls(values, "test")


def tenths(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    cut = math.ceil(len(rows) * 9 / 10)
    return rows[:cut], rows[cut:]


# --- wafers ----------------------------------------------------------------------------------------------------------


def test_wafers_with_and_without_labels(root):
    columns = _pickles.read_table(root / "semiconductors" / "LSWMD.pkl", ("waferMap", "failureType"))
    maps = [record.numpy() for record in columns["waferMap"]]
    texts = [record.numpy().ravel()[0].lower() if record.numpy().size else "" for record in columns["failureType"]]
    for cls, labelled in ((wm811k.Wafer, False), (wm811k.WaferTransfer, True)):
        rows = [row for row, text in enumerate(texts) if bool(text) == labelled]
        order = [rows[index] for index in np.random.RandomState(42).permutation(len(rows))]
        for dataset, expected in zip(both(cls, root), tenths(order), strict=True):
            assert len(dataset) == len(expected)
            for index, row in enumerate(expected):
                sample = dataset[index]
                np.testing.assert_array_equal(sample["inputs"]["map"][0], maps[row])
                assert sample["label"] == (dataset.task.names.index(texts[row]) if labelled else None)
    assert dataset.task.metric == "weighted_f1"
    assert dataset.task.names[:3] == ("none", "random", "donut")
    assert both(wm811k.Wafer, root)[0].task is None


def test_wafers_of_the_upstream_pickle(tmp_path):
    """The format of MIR's WM811K.pkl: pickled by pandas, with texts or 0 as labels."""
    folder = tmp_path / "semiconductors"
    MINIATURES["wm811k_pickle"](folder / "MIR-WM811K" / "Python" / "WM811K.pkl")
    with pytest.raises(DataError, match=r"no .*maps; run `sslx data prepare wafer/wafer --root"):
        both(wm811k.Wafer, tmp_path)
    assert wm811k.Wafer.source.archives[0].is_unpacked(folder)  # it is not downloaded
    wm811k.Wafer.convert(folder)
    pretraining, transfer = both(wm811k.Wafer, tmp_path), both(wm811k.WaferTransfer, tmp_path)
    assert [len(dataset) for dataset in (*pretraining, *transfer)] == [36, 4, 18, 2]
    table = pickle.loads((folder / "MIR-WM811K" / "Python" / "WM811K.pkl").read_bytes())
    for dataset in (*pretraining, *transfer):
        for index, row in enumerate(dataset.rows):
            np.testing.assert_array_equal(dataset[index]["inputs"]["map"][0], table["waferMap"][row])
            failure = table["failureType"][row]
            assert dataset[index]["label"] == (dataset.task.names.index(failure.lower()) if failure else None)


def test_pickling_drops_the_memory_map(root):
    train, _ = both(wm811k.Wafer, root)
    first = train[0]
    unpickled = pickle.loads(pickle.dumps(train))
    assert unpickled._pixels is None
    np.testing.assert_array_equal(unpickled[0]["inputs"]["map"], first["inputs"]["map"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"failureType": "Doughnut"}, r"LSWMD\.pkl is refused: row 0: failureType 'doughnut' is none of none, random"),
        ({"waferMap": np.full((2, 2), 3, np.uint8)}, r"row 0: waferMap holds 3"),
        ({"waferMap": "no map"}, r"row 0: waferMap is no map of whole numbers"),
    ],
)
def test_message_for_a_bad_wafer_names_the_row(tmp_path, monkeypatch, changes, message):
    valid = {"waferMap": np.ones((2, 2), np.uint8), "failureType": "none"}
    columns = {name: np.array([None], dtype=object) for name in valid}
    for name, value in (valid | changes).items():
        columns[name][0] = value
    monkeypatch.setattr(wm811k, "read_table", lambda path, names: columns)
    (tmp_path / "LSWMD.pkl").touch()
    with pytest.raises(DataError, match=message):
        wm811k.Wafer.convert(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["LSWMD.pkl"]


# --- pickles ---------------------------------------------------------------------------------------------------------


class Caller:
    """Pickled as a call of any function, as an attacker would."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function", [os.mkdir, eval, getattr, np.fromfile, np.load, pickle.loads])
def test_reading_a_pickle_calls_no_function(tmp_path, function, protocol):
    target = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(target)!r})" if function is eval else str(target)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"data": Caller(function, argument)}, protocol))
    with pytest.raises(DataError, match=r"evil\.pkl is refused: it names \S+, which is no part of an array or a table"):
        _pickles.load(path)
    assert not target.exists()


def test_names_of_pandas_become_records(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"cpandas\nread_pickle\n(S'/nowhere'\ntR.")
    record = _pickles.load(path)
    assert (record.name, record.args) == ("read_pickle", ("/nowhere",))
    path.write_bytes(b"cpandas\nio.common.os.system\n(S'true'\ntR.")
    with pytest.raises(DataError, match="is refused"):
        _pickles.load(path)
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}U\x09_functionK\x01sb.")  # tries to change `encode`
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
def test_arrays_of_all_pickle_protocols(tmp_path, array, protocol):
    path = tmp_path / "array.pkl"
    path.write_bytes(pickle.dumps(array, protocol))
    loaded = _pickles.to_array(_pickles.load(path))
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02}", b"\x80\x63"])
def test_message_for_a_damaged_pickle_is_one_line(tmp_path, content):
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.pkl is damaged or no pickle") as caught:
        _pickles.load(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match="it holds no table"):
        _pickles.read_table(path, ("waferMap",))
