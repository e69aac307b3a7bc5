"""Oxford Flowers 102 (Nilsback and Zisserman, 2008): flowers."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._images import ImageDataset, ImageList, classification, split_per_class

TABLE = "imagelabels.mat"
PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"


class VggFlower(ImageDataset):
    """Oxford Flowers: 102 flowers; 80 % of each flower's images for training, as in the published codes.

    These do not use the official split (setid.mat). One RandomState(42) shuffles the images of each class, in the order
    in which the classes first appear in the label file.
    """

    name = "vgg_flower"
    aliases: ClassVar[tuple[str, ...]] = ("vggflower",)
    source = Source(
        homepage=PAGE,
        terms="not stated",
        folder="natural_images/flowers",
        archives=(
            Archive(
                url=f"{PAGE}{TABLE}", file=TABLE, kind="file", produces=TABLE,
                checksum="md5:e0620be6f572b9609742df49c70aed4d",
            ),
            Archive(
                url=f"{PAGE}102flowers.tgz", file="102flowers.tgz", kind="tar", produces="jpg",
                checksum="md5:52808999861908f626f3c1f4e79d11fa",
            ),
        ),
        sample_counts={"total": 8_189},
    )  # fmt: skip

    def list_images(self) -> ImageList:
        """jpg/image_<number>.jpg with numbers from 1. A class is the number in the label file, minus 1."""
        labels = _labels(self.folder / TABLE)
        flowers = list(dict.fromkeys(labels.tolist()))
        self.task = classification([str(flower) for flower in sorted(flowers)], "flower")
        chosen, positions = split_per_class(
            [np.flatnonzero(labels == flower).tolist() for flower in flowers], self.split
        )
        return ImageList([f"jpg/image_{row + 1:05}.jpg" for row in chosen], np.array(flowers)[positions] - 1)


class VggFlowerSmall(VggFlower):
    """Oxford Flowers under DABS's name for 32 x 32 pixels: the same images, which the tokenizer resizes by default."""

    name = "vgg_flower_small"
    aliases = ()


def _labels(table: Path) -> np.ndarray:
    """(n,) whole numbers from 1 to the number of flowers.

    Raises:
        DataError: if the file has no such labels.
    """
    from scipy.io import loadmat  # slow to import

    try:
        labels = np.asarray(loadmat(table, variable_names=["labels"])["labels"][0]).astype(np.int64)
    except (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError) as error:
        raise DataError(f"{table} holds no row 'labels' ({' '.join(str(error).split()):.120})") from None
    if set(labels.tolist()) != set(range(1, len(set(labels.tolist())) + 1)):
        raise DataError(f"{table}: the labels are not numbered 1, 2, 3, ...")
    return labels


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [VggFlower, VggFlowerSmall]
