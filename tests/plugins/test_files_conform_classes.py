"""Classes of other data are matched by name with those of the training, whatever their number there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from ssl_core import plugins

MODALITIES = (
    "speech",
    "image",
    "medical-image",
    "multispectral",
    "wafer",
    "image-text",
    "time-series",
    "text",
    "tabular",
)


def write(folder, modality, classes):
    """Four samples of each class, whose values do not depend on the other classes. Returns the path to read."""
    folder.mkdir()
    rows = [(name, i) for name in classes for i in range(4)]
    seeds = [np.random.default_rng(1000 * ord(name) + i) for name, i in rows]
    if modality in ("text", "tabular"):
        random = [rng.standard_normal(2).tolist() for rng in seeds]
        records = [
            {"text": f"the words {x[0]:.3f}", "label": name}
            if modality == "text"
            else {"a": x[0], "b": x[1], "label": name}
            for x, (name, _) in zip(random, rows, strict=True)
        ]
        path = folder / "x.jsonl"
        path.write_text("\n".join(map(json.dumps, records)))
        return path
    if modality == "time-series":
        x = np.stack([rng.standard_normal((1, 12)) for rng in seeds])
        np.savez(folder / "x.npz", series=x, labels=np.array([name for name, _ in rows]))
        return folder / "x.npz"
    for (name, i), rng in zip(rows, seeds, strict=True):
        (folder / name).mkdir(exist_ok=True)
        if modality == "speech":
            soundfile.write(folder / name / f"{i}.wav", 0.1 * rng.standard_normal(800), 8000)
        elif modality == "wafer":
            np.save(folder / name / f"{i}.npy", rng.integers(0, 3, (8, 8), dtype=np.uint8))
        else:
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    if modality == "image-text":
        lines = [{"image": f"{name}/{i}.png", "caption": f"picture {name}{i}", "label": name} for name, i in rows]
        (folder / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return folder / "x.jsonl"
    return folder


def labels_of(dataset):
    """The class of each sample by the content of its inputs."""
    return {
        repr({name: np.asarray(value).tolist() for name, value in dataset[i]["inputs"].items()}): dataset[i]["label"]
        for i in range(len(dataset))
    }


def opened(modality, path, split="train"):
    kind = plugins.load().dataset("files", modality)
    return kind(kind.Options(root=str(path)), split)


@pytest.mark.parametrize("modality", MODALITIES)
def test_classes_keep_the_numbers_of_training(tmp_path, modality):
    trained = opened(modality, write(tmp_path / "old", modality, "abc"))
    assert trained.task.names == ("a", "b", "c")
    schema = json.loads(json.dumps(trained.schema()))
    some = opened(modality, write(tmp_path / "new", modality, "cb"))
    assert some.task.names == ("b", "c")
    some.conform(schema)
    assert some.task.names == ("a", "b", "c")
    assert some.task.size == 3
    before, after = labels_of(trained), labels_of(some)
    common = before.keys() & after.keys()
    assert {after[key] for key in common} == {1, 2}
    assert all(before[key] == after[key] for key in common)


@pytest.mark.parametrize("modality", MODALITIES)
def test_classes_that_training_did_not_have_are_named(tmp_path, modality):
    schema = json.loads(json.dumps(opened(modality, write(tmp_path / "old", modality, "abc")).schema()))
    other = opened(modality, write(tmp_path / "new", modality, "bd"))
    other.conform(schema)
    assert other.task.names == ("b", "d")
    assert any("classes that the data of the encoder did not have: d" in line for line in other.warnings)
