"""ImageNet-1k (Deng et al., 2009; Russakovsky et al., 2015): photographs of a thousand classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssl_core import DataError, Dataset, hookimpl
from ssl_plugins.datasets.public._images import (
    ImageDataset,
    ImageList,
    SourceWithAlternatives,
    classification,
    list_files,
)

HELD_OUT = ("validation", "val")


class ImageNet(ImageDataset):
    """ImageNet-1k: 1,000 classes of photographs; the test split is the validation images.

    Folders are named by WordNet id. A class is the rank of its id among the training folders, so a subset of the
    folders works as well. MetaMAE's ImageNet32 is the same at 32 x 32 pixels, the default size of the tokenizer.
    """

    name = "imagenet"
    aliases = ("imagenet32",)
    source = SourceWithAlternatives(
        homepage="https://www.image-net.org/challenges/LSVRC/2012/",
        terms="registration; non-commercial research and education",
        folder="natural_images/imagenet",
        registration="register at https://www.image-net.org, download ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar, unpack each class's own tar into natural_images/imagenet/train/<WordNet id>/ and sort "
        "the validation pictures into natural_images/imagenet/validation/<WordNet id>/ (or val/)",
        required_paths=("train",),
        alternatives=(HELD_OUT,),
        sample_counts={"train": 1_281_167, "test": 50_000},
    )

    def list_images(self) -> ImageList:
        """<part>/<WordNet id>/*, sorted by id and name."""
        ids = _subfolders(self.folder / "train")
        if not ids:
            raise DataError(f"{self.folder / 'train'} holds no folders of classes")
        self.task = classification(ids, "object")
        part = "train"
        if self.split == "test":
            part = next(name for name in HELD_OUT if (self.folder / name).exists())
        unknown = sorted(set(_subfolders(self.folder / part)) - set(ids))
        if unknown:
            raise DataError(f"{self.folder / part / unknown[0]} is a class that {self.folder / 'train'} does not have")
        paths: list[str] = []
        labels: list[int] = []
        for label, wordnet_id in enumerate(ids):
            folder = self.folder / part / wordnet_id
            if folder.exists():
                names = list_files(folder, ".jpeg", ".jpg", ".png")
                paths += [f"{part}/{wordnet_id}/{name}" for name in names]
                labels += [label] * len(names)
        return ImageList(paths, np.array(labels, dtype=np.int64))


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [ImageNet]
