"""Oxford Flowers 102 (Nilsback and Zisserman, 2008): which flower (protocol section 2.1)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._images import Listed, Pictures, classes, per_class

TABLE = "imagelabels.mat"
PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"


class VggFlower(Pictures):
    """Oxford Flowers: which of 102 flowers; 80 % of each flower's pictures for training, by the published rule.

    The official split (setid.mat) is not the protocol's. The classes, in order of first appearance in the label file,
    are shuffled in turn by one RandomState(42).
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
                digest="md5:e0620be6f572b9609742df49c70aed4d",
            ),
            Archive(
                url=f"{PAGE}102flowers.tgz", file="102flowers.tgz", kind="tar", produces="jpg",
                digest="md5:52808999861908f626f3c1f4e79d11fa",
            ),
        ),
        counts={"total": 8_189},
    )  # fmt: skip

    def listed(self) -> Listed:
        """jpg/image_<number>.jpg, numbers from 1; a label is the number on disk, minus 1."""
        labels = _labels(self.folder / TABLE)
        flowers = list(dict.fromkeys(labels.tolist()))
        self.task = classes([str(flower) for flower in sorted(flowers)], "flower")
        chosen, which = per_class([np.flatnonzero(labels == flower).tolist() for flower in flowers], self.split)
        return Listed([f"jpg/image_{place + 1:05}.jpg" for place in chosen], np.array(flowers)[which] - 1)


class VggFlowerSmall(VggFlower):
    """Oxford Flowers by DABS's name for 32 x 32: the same pictures, and 32 x 32 is the tokenizer's default."""

    name = "vgg_flower_small"
    aliases = ()


def _labels(table: Path) -> np.ndarray:
    """(n,) whole numbers, 1 to the number of flowers. Errors: DataError."""
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
