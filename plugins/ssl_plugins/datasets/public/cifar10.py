"""CIFAR-10 (Krizhevsky, 2009): 32 x 32 photographs of ten classes, in the official Python files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ssl_core import Archive, Continuous, DataError, Dataset, PublicDataset, Sample, Source, Split, hookimpl
from ssl_plugins.datasets.public._images import classification
from ssl_plugins.datasets.public._pickles import load, to_array, translate_errors

TOP = "cifar-10-batches-py"
PARTS = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)


class Cifar10(PublicDataset):
    """CIFAR-10: ten classes of photographs, in the official split."""

    name = "cifar10"
    modality = "image"
    source = Source(
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        terms="not stated",
        folder="natural_images/cifar10",
        archives=(
            Archive(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", file="cifar-10-python.tar.gz",
                kind="tar", produces=TOP, size=170_498_071, checksum="md5:c58f30108f718f92721af3b95e74349a",
            ),
        ),
        required_paths=tuple(f"{TOP}/{name}" for names in PARTS.values() for name in names),
        sample_counts={"train": 50_000, "test": 10_000},
    )  # fmt: skip

    def __init__(self, options: PublicDataset.Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {
            "image": Continuous((3, None, None))
        }  # sizes open, as in the photographs that this is a transfer set of
        self.task = classification(NAMES, "object")
        parts = [_read(self.folder / TOP / name) for name in PARTS[split]]
        self.images = np.concatenate([images for images, _ in parts])
        self.labels = np.concatenate([labels for _, labels in parts])
        self.starts = np.cumsum([0, *(len(labels) for _, labels in parts)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3, 32, 32) uint8} and the class."""
        return {"inputs": {"image": self.images[index]}, "label": int(self.labels[index])}

    def describe(self, index: int) -> str:
        """The file and its row, counted from 0."""
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.folder / TOP / PARTS[self.split][part]} row {index - self.starts[part]}"

    def fingerprint(self) -> str:
        """Changes with the options, the pixels and the classes."""
        digest = hashlib.blake2b(self.images.data)
        digest.update(self.labels.astype("<i8").tobytes())
        return f"{super().fingerprint()}:{digest.hexdigest()[:64]}"


class Cifar10Small(Cifar10):
    """CIFAR-10 under DABS's name for 32 x 32 pixels: the pretraining set of the small natural images."""

    name = "cifar10_small"


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3, 32, 32) uint8 images and (n,) classes of one file.

    Raises:
        DataError: if the file is damaged.
    """
    batch = load(path)
    with translate_errors(path):
        images = to_array(batch["data"])
        labels = np.array(batch["labels"], dtype=np.int64)
        if images.dtype != np.uint8 or len(images) != len(labels):
            raise DataError(f"it holds {len(labels)} labels for {images.dtype} of shape {images.shape}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(NAMES):
            raise DataError(f"it holds the class {labels.max()}, and there are {len(NAMES)}")
        return images.reshape(-1, *SHAPE), labels


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Cifar10, Cifar10Small]
