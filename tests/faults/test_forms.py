"""A data set in any form that sslx reads gives the same arrays, labels and splits."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

SOURCE = Path(__file__).with_name("corpus.py")
spec = importlib.util.spec_from_file_location("corpus", SOURCE)
assert spec is not None
assert spec.loader is not None
corpus = sys.modules.get("corpus") or importlib.util.module_from_spec(spec)
if "corpus" not in sys.modules:
    sys.modules["corpus"] = corpus
    spec.loader.exec_module(corpus)

COUNTER = itertools.count()
QUICK = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CLASSES = ("ab", "cd")


def write_json_lines(frame: pd.DataFrame, path: Path) -> None:
    frame.to_json(path, orient="records", lines=True)


def write_json(frame: pd.DataFrame, path: Path) -> None:
    frame.to_json(path, orient="records")


TABLES: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "x.csv": lambda frame, path: frame.to_csv(path, index=False),
    "x.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "semicolons.csv": lambda frame, path: frame.to_csv(path, index=False, sep=";"),
    "utf16.csv": lambda frame, path: frame.to_csv(path, index=False, encoding="utf-16"),
    "x.csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "x.parquet": lambda frame, path: frame.to_parquet(path, index=False),
    "x.feather": lambda frame, path: frame.to_feather(path),
    "x.jsonl": write_json_lines,
    "x.json": write_json,
}


def contents(modality: str, root: Path, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Fields, classes and all samples of each split."""
    found = corpus.read(modality, root, options or {})
    out: dict[str, Any] = {"fields": dict(found.train.fields), "task": found.train.task}
    for split, dataset in found.datasets.items():
        out[split] = [dataset[index] for index in range(len(dataset))]
    return out


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert one["fields"] == other["fields"]
    assert one["task"] == other["task"]
    for split in one.keys() - {"fields", "task"}:
        assert len(one[split]) == len(other[split])
        for a, b in zip(one[split], other[split], strict=True):
            assert a["label"] == b["label"]
            assert a["inputs"].keys() == b["inputs"].keys()
            for name, value in a["inputs"].items():
                assert value.dtype == b["inputs"][name].dtype
                np.testing.assert_array_equal(value, b["inputs"][name])


def in_tables(folder: Path, frame: pd.DataFrame, modality: str, options: dict[str, Any] | None = None) -> None:
    """All forms of a table give what the first gives."""
    folder = folder / str(next(COUNTER))
    folder.mkdir()
    first = None
    for name, write in TABLES.items():
        write(frame, folder / name)
        read = contents(modality, folder / name, options)
        if first is None:
            first = read
        assert_equal(first, read)


numbers = st.floats(-1e4, 1e4, allow_nan=False).map(lambda value: round(value, 3) + 0.0)
words = st.text(st.characters(codec="utf-8", categories=("Lu", "Ll", "Nd")), min_size=1, max_size=8)


@QUICK
@given(data=st.data())
def test_tables(tmp_path, data):
    count = data.draw(st.integers(10, 24))
    columns = {
        "a": data.draw(st.lists(numbers | st.none(), min_size=count, max_size=count)),
        "b": data.draw(st.lists(numbers, min_size=count, max_size=count)),
        "color": data.draw(st.lists(st.sampled_from(["red", "blue", "green"]), min_size=count, max_size=count)),
        "label": [CLASSES[i % 2] for i in range(count)],
    }
    columns["a"][0], columns["b"][0] = 0.5, 0.25  # at least one number, which is not whole
    in_tables(tmp_path, pd.DataFrame(columns), "tabular")


@QUICK
@given(values=st.lists(st.tuples(numbers, numbers), min_size=40, max_size=60), labelled=st.booleans())
def test_time_series(tmp_path, values, labelled):
    frame = pd.DataFrame(values, columns=["x", "y"])
    frame.loc[0, ["x", "y"]] = 0.5
    frame["id"] = [f"walk {i // 10}" for i in range(len(frame))]
    if labelled:
        frame["label"] = [CLASSES[i // 10 % 2] for i in range(len(frame))]
    in_tables(tmp_path, frame, "time-series", {"window": 5})


@QUICK
@given(texts=st.lists(words, min_size=10, max_size=16))
def test_texts(tmp_path, texts):
    frame = pd.DataFrame({"text": [f"the word {word} here" for word in texts]})
    frame["label"] = [CLASSES[i % 2] for i in range(len(frame))]
    in_tables(tmp_path, frame, "text")
    folder = tmp_path / f"folder{next(COUNTER)}"
    sorted_frame = frame.sort_values("label", kind="stable").reset_index(drop=True)
    for index, row in enumerate(sorted_frame.itertuples()):
        path = folder / str(row.label) / f"{index:03d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(row.text), encoding="utf-8")
    sorted_frame.to_csv(folder.with_suffix(".csv"), index=False)
    assert_equal(contents("text", folder), contents("text", folder.with_suffix(".csv")))


@QUICK
@given(seed=st.integers(0, 1000), count=st.integers(10, 16), modality=st.sampled_from(["image", "medical-image"]))
def test_pictures(tmp_path, seed, count, modality):
    """A folder, tables of paths, and an npz."""
    folder = tmp_path / str(next(COUNTER))
    x = np.random.default_rng(seed).integers(0, 256, (count, 6, 5), dtype=np.uint8)
    labels = sorted(CLASSES[i % 2] for i in range(count))
    names = [f"{label}/{index:03d}.png" for index, label in enumerate(labels)]
    for image, name in zip(x, names, strict=True):
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    first = contents(modality, folder / "pictures")
    assert first["task"].names == CLASSES
    np.savez(folder / "x.npz", images=x, labels=np.array(labels))
    frame = pd.DataFrame({"path": [f"pictures/{name}" for name in names], "label": labels})
    for name, write in TABLES.items():
        write(frame, folder / name)
    for name in ("x.npz", *TABLES):
        assert_equal(first, contents(modality, folder / name))


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_arrays_of_series(tmp_path, form):
    """An array of samples is the same in both forms, and as a long table."""
    x = np.random.default_rng(0).normal(size=(12, 2, 10)).astype(np.float32)
    if form == "npy":
        np.save(tmp_path / "x.npy", x)
    else:
        np.savez(tmp_path / "x.npz", series=x)
    read = contents("time-series", tmp_path / f"x.{form}")
    rows = [
        {"id": i, "x": float(x[i, 0, t]), "y": float(x[i, 1, t])} for i, t in itertools.product(range(12), range(10))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "x.csv", index=False)
    table = contents("time-series", tmp_path / "x.csv", {"window": 10})
    arrays = []
    for one in (read, table):
        samples = [sample["inputs"]["series"] for split in ("train", "test") for sample in one[split]]
        arrays.append(np.sort(np.stack(samples).reshape(12, -1), axis=0))
    np.testing.assert_allclose(*arrays, rtol=1e-6)
