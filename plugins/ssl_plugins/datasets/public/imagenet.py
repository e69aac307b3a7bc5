"""ImageNet-1k (Deng et al., 2009; Russakovsky et al., 2015): photographs of a thousand things (protocol 2.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssl_core import DataError, Dataset, hookimpl
from ssl_plugins.datasets.public._images import Listed, OneOf, Pictures, classes, files

HELD_OUT = ("validation", "val")


class ImageNet(Pictures):
    """ImageNet-1k: which of 1,000 things is in a photograph; the validation pictures are the test split.

    Folders named by WordNet id; a class is the rank of its id among the training folders, so a subset works, too.
    MetaMAE's ImageNet32 is this with pictures made 32 x 32, which is the tokenizer's work and its default here.
    """

    name = "imagenet"
    aliases = ("imagenet32",)
    source = OneOf(
        homepage="https://www.image-net.org/challenges/LSVRC/2012/",
        terms="registration; non-commercial research and education",
        folder="natural_images/imagenet",
        registration="register at https://www.image-net.org, download ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar, unpack each class's own tar into natural_images/imagenet/train/<WordNet id>/ and sort "
        "the validation pictures into natural_images/imagenet/validation/<WordNet id>/ (or val/)",
        needs=("train",),
        alternatives=(HELD_OUT,),
        counts={"train": 1_281_167, "test": 50_000},
    )

    def listed(self) -> Listed:
        """<part>/<WordNet id>/*, sorted by id and name."""
        known = _folders(self.folder / "train")
        if not known:
            raise DataError(f"{self.folder / 'train'} holds no folders of classes")
        self.task = classes(known, "thing")
        part = "train"
        if self.split == "test":
            part = next(name for name in HELD_OUT if (self.folder / name).exists())
        unknown = sorted(set(_folders(self.folder / part)) - set(known))
        if unknown:
            raise DataError(f"{self.folder / part / unknown[0]} is a class that {self.folder / 'train'} has not")
        paths: list[str] = []
        labels: list[int] = []
        for label, one in enumerate(known):
            place = self.folder / part / one
            if place.exists():
                names = files(place, ".jpeg", ".jpg", ".png")
                paths += [f"{part}/{one}/{name}" for name in names]
                labels += [label] * len(names)
        return Listed(paths, np.array(labels, dtype=np.int64))


def _folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [ImageNet]
