"""Synthetic data sets of every modality: seeds, sizes, splits, labels and recorded samples.

`synthetic_hashes.json` holds samples of all sets. Write it anew after an intended change of a generator:
`SSLX_UPDATE_SAMPLES=1 pytest tests/plugins/test_synthetic_common.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_core import Dataset, Split
from ssl_plugins.datasets.synthetic._base import SyntheticDataset
from ssl_plugins.datasets.synthetic.synthetic_genomics import SyntheticGenomics
from ssl_plugins.datasets.synthetic.synthetic_image import SyntheticImage
from ssl_plugins.datasets.synthetic.synthetic_image_text import SyntheticImageText
from ssl_plugins.datasets.synthetic.synthetic_medical_image import SyntheticMedicalImage
from ssl_plugins.datasets.synthetic.synthetic_multilingual_text import SyntheticMultilingualText
from ssl_plugins.datasets.synthetic.synthetic_multispectral import SyntheticMultispectral
from ssl_plugins.datasets.synthetic.synthetic_protein import SyntheticProtein
from ssl_plugins.datasets.synthetic.synthetic_speech import SyntheticSpeech
from ssl_plugins.datasets.synthetic.synthetic_tabular import SyntheticTabular
from ssl_plugins.datasets.synthetic.synthetic_text import SyntheticText
from ssl_plugins.datasets.synthetic.synthetic_time_series import SyntheticTimeSeries
from ssl_plugins.datasets.synthetic.synthetic_wafer import SyntheticWafer

CLASSES: tuple[type[SyntheticDataset], ...] = (
    SyntheticGenomics, SyntheticImage, SyntheticImageText, SyntheticMedicalImage, SyntheticMultilingualText,
    SyntheticMultispectral, SyntheticProtein, SyntheticSpeech, SyntheticTabular, SyntheticText, SyntheticTimeSeries,
    SyntheticWafer,
)  # fmt: skip
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
VARIANTS: list[tuple[type[SyntheticDataset], dict[str, Any]]] = [
    *((cls, {}) for cls in CLASSES),
    (SyntheticProtein, {"label": "structure"}),
    (SyntheticSpeech, {"label": "speaker"}),
]
RECORDED = Path(__file__).with_name("synthetic_hashes.json")
VALUES = 8  # recorded of each array
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.modality)


def build(cls: type[SyntheticDataset], split: Split = "train", **options: Any) -> SyntheticDataset:
    return cls(cls.Options(**options), split)


def inputs_as_bytes(dataset: Dataset, index: int) -> bytes:
    inputs = dataset[index]["inputs"]
    return b"".join(inputs[name].tobytes() for name in sorted(inputs))


def test_all_shipped_synthetic_sets_are_tested() -> None:
    folder = Path(__file__).resolve().parents[2] / "plugins" / "ssl_plugins" / "datasets" / "synthetic"
    modules = {cls.__module__.rpartition(".")[2] for cls in CLASSES}
    assert modules == {path.stem for path in folder.glob("synthetic_*.py")}


@every_class
def test_sample_depends_only_on_seed_split_and_index(cls: type[SyntheticDataset]) -> None:
    dataset = build(cls, n_train=50)
    forward = [inputs_as_bytes(dataset, index) for index in range(6)]
    unpickled = pickle.loads(pickle.dumps(dataset))
    assert forward == [inputs_as_bytes(unpickled, index) for index in reversed(range(6))][::-1]
    larger = build(cls, n_train=5000, n_validation=7, n_test=9)
    assert forward == [inputs_as_bytes(larger, index) for index in range(6)]
    others = [build(cls, "validation"), build(cls, "test"), build(cls, seed=1)]
    samples = [*forward, *(inputs_as_bytes(other, index) for other in others for index in range(6))]
    assert len(set(samples)) == len(samples)


@every_class
def test_sizes_bounds_and_default(cls: type[SyntheticDataset]) -> None:
    assert cls.is_default
    assert cls.name == "synthetic"
    assert build(cls).splits == SPLITS
    assert [len(build(cls, split)) for split in SPLITS] == [2000, 500, 500]
    sizes = {"n_train": 7, "n_validation": 4, "n_test": 3}
    for split in SPLITS:
        dataset = build(cls, split, **sizes)
        assert len(dataset) == sizes[f"n_{split}"]
        for index in (-1, len(dataset)):
            with pytest.raises(IndexError):
                dataset[index]


@every_class
def test_fingerprint_changes_with_the_options_of_its_split(cls: type[SyntheticDataset]) -> None:
    prints = {split: build(cls, split).fingerprint() for split in SPLITS}
    assert len(set(prints.values())) == 3
    for split in SPLITS:
        assert build(cls, split, seed=1).fingerprint() != prints[split]
        for resized in SPLITS:
            changed = build(cls, split, **{f"n_{resized}": 17}).fingerprint() != prints[split]
            assert changed == (resized == split)


@every_class
def test_classes_are_balanced_and_described(cls: type[SyntheticDataset]) -> None:
    for split in SPLITS:
        dataset = build(cls, split)
        task = dataset.task
        combinations = 2**task.size if task.kind == "labels" else task.size
        labels = np.stack([dataset[index]["label"] for index in range(5 * combinations)])
        counts = np.unique(labels, axis=0, return_counts=True)[1]
        assert counts.tolist() == [5] * combinations
        for index in range(task.size):
            present = np.flatnonzero(labels[index]) if task.kind == "labels" else [labels[index]]
            assert all(task.names[label] in dataset.describe(index) for label in present)
            assert f" {index} of the {split} split (" in dataset.describe(index)


@every_class
def test_generation_takes_less_than_10_ms_a_sample(cls: type[SyntheticDataset]) -> None:
    """Processor time, so that a busy machine does not matter."""
    dataset = build(cls)
    dataset[0]
    start = time.process_time()
    for index in range(100):
        dataset[index]
    assert time.process_time() - start < 1.0


def test_structure_labels_are_named_by_family() -> None:
    dataset = build(SyntheticProtein, label="structure")
    assert "elements of 6" in dataset.describe(1)


# --- recorded samples ------------------------------------------------------------------------------------------------


def summary(array: np.ndarray) -> dict[str, Any]:
    """Type, shape and some values of an array; of a text its hash."""
    if array.dtype.kind == "U":
        return {"sha256": hashlib.sha256(str(array).encode()).hexdigest()}
    flat = array.ravel()
    places = np.linspace(0, flat.size - 1, min(VALUES, flat.size)).astype(int)
    values = [float(f"{value:.5g}") for value in flat[places].astype(np.float64)]
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "mean": float(f"{flat.mean():.5g}"),
        "values": values,
    }


def recorded_samples(cls: type[SyntheticDataset], options: dict[str, Any], split: Split) -> list[dict[str, Any]]:
    dataset = build(cls, split, **options)
    samples = [dataset[index] for index in (0, 1, len(dataset) - 1)]
    return [
        {"label": np.asarray(sample["label"]).tolist()}
        | {name: summary(array) for name, array in sorted(sample["inputs"].items())}
        for sample in samples
    ]


def key_of(cls: type[SyntheticDataset], options: dict[str, Any], split: Split) -> str:
    return " ".join([cls.modality, *(f"{name}={value}" for name, value in options.items()), split])


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    if os.environ.get("SSLX_UPDATE_SAMPLES") == "1":
        content = {
            key_of(cls, options, split): recorded_samples(cls, options, split)
            for cls, options in VARIANTS
            for split in SPLITS
        }
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        RECORDED.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    return json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("cls", "options"), VARIANTS)
def test_samples_are_those_recorded(
    cls: type[SyntheticDataset], options: dict[str, Any], split: Split, recorded: dict[str, Any]
) -> None:
    """Continuous values may differ in the last digits, and pixels by one level, between processors."""
    for sample, expected in zip(
        recorded_samples(cls, options, split), recorded[key_of(cls, options, split)], strict=True
    ):
        assert sample.keys() == expected.keys()
        assert sample.pop("label") == expected["label"]
        for name, values in sample.items():
            if "sha256" in values:
                assert values == expected[name]
                continue
            tolerance = {"uint8": 1.0 if name == "image" else 0.0, "int64": 0.0}.get(values["dtype"])
            assert (values["dtype"], values["shape"]) == (expected[name]["dtype"], expected[name]["shape"])
            for part in ("mean", "values"):
                limits = {"abs": tolerance, "rel": 0} if tolerance is not None else {"abs": 1e-5, "rel": 1e-4}
                assert values[part] == pytest.approx(expected[name][part], **limits)
