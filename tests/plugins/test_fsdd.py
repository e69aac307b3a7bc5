"""Data set `files` and tokenizer `speech` on real recordings, the Free Spoken Digit Dataset; skipped without them.

The recordings are expected in `fsdd/recordings` below the variable SSLX_SHARED_DATA.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ssl_core import Split
from ssl_plugins.datasets.user.files_speech import SpeechFiles
from ssl_plugins.tokenizers.speech import SpeechTokenizer

SHARED = Path(os.environ.get("SSLX_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
RECORDINGS = SHARED / "fsdd" / "recordings"
pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no recordings in {RECORDINGS}; set SSLX_SHARED_DATA")

TASKS: dict[str, dict[str, Any]] = {
    "digit": {"label_pattern": r"(?P<label>\d)_(?P<group>[a-z]+)_\d+", "test_groups": "theo,nicolas"},
    "speaker": {"label_pattern": r"\d_(?P<label>[a-z]+)_(?P<group>\d+)", "test_groups": "0,1,2,3,4"},
}
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


def open_split(task: str, split: Split) -> SpeechFiles:
    return SpeechFiles(SpeechFiles.Options(root=str(RECORDINGS), **TASKS[task]), split)


def preprocess(dataset: SpeechFiles, tokenizer: SpeechTokenizer, step: int) -> tuple[np.ndarray, np.ndarray]:
    samples = [dataset[i] for i in range(0, len(dataset), step)]
    x = np.stack([tokenizer.preprocess(sample["inputs"])["spectrogram"] for sample in samples])
    return x, np.array([sample["label"] for sample in samples])


@pytest.mark.parametrize(
    ("task", "sizes", "classes", "test_groups"),
    [
        ("digit", (2000, 1000), tuple("0123456789"), {"theo", "nicolas"}),
        ("speaker", (2700, 300), SPEAKERS, set("01234")),
    ],
)
def test_splits(task: str, sizes: tuple[int, int], classes: tuple[str, ...], test_groups: set[str]) -> None:
    train, test = open_split(task, "train"), open_split(task, "test")
    assert (len(train), len(test)) == sizes
    assert train.rate == 8000
    assert train.warnings == ()
    assert train.task is not None
    assert train.task.names == classes
    assert {entry.group for entry in test.entries} == test_groups
    assert test_groups.isdisjoint({entry.group for entry in train.entries})
    for dataset in (train, test):
        for i in range(0, len(dataset), 97):
            name = Path(dataset.describe(i)).stem.split("_")[0 if task == "digit" else 1]
            assert classes[dataset[i]["label"]] == name


@pytest.mark.parametrize(("task", "min_accuracy"), [("digit", 0.45), ("speaker", 0.9)])
def test_linear_model_on_spectrograms(task: str, min_accuracy: float) -> None:
    train, test = open_split(task, "train"), open_split(task, "test")
    tokenizer = SpeechTokenizer(SpeechTokenizer.Options(padding="content"), train.fields, 16)
    (x, y), (test_x, test_y) = preprocess(train, tokenizer, 3), preprocess(test, tokenizer, 3)
    tokenizer.fit_normalization([{"spectrogram": x}])
    flat, test_flat = (
        (part.reshape(len(part), -1) - float(tokenizer.mean)) / float(tokenizer.std) for part in (x, test_x)
    )
    with threadpool_limits(1):
        score = RidgeClassifier(alpha=1000).fit(flat, y).score(test_flat, test_y)
    assert score >= min_accuracy  # chance: 0.10 and 0.17


def test_shortest_recording_is_accepted() -> None:
    dataset = open_split("digit", "test")
    tokenizer = SpeechTokenizer(SpeechTokenizer.Options(), dataset.fields, 16)
    shortest = min(range(len(dataset)), key=lambda i: Path(dataset.describe(i)).stat().st_size)
    assert np.isfinite(tokenizer.preprocess(dataset[shortest]["inputs"])["spectrogram"]).all()
