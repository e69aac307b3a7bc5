"""MSCOCO 2017 (Lin et al., 2014): images with captions, for pretraining and for detecting swapped captions.

As in the published codes, an image has the last of its captions and the last of its labelled objects.
"""

from __future__ import annotations

import random
from typing import Any

from ssl_core import Archive, DataError, Dataset, Source, Split, Task, hookimpl
from ssl_plugins.datasets.public._captions import CaptionedImages, load_json, read_json, select_columns

PARTS: dict[Split, str] = {"train": "train2017", "test": "val2017"}
SWAP_SEED = 42
SWAPPED = 0.5
SOURCE = Source(
    homepage="https://cocodataset.org/#download",
    terms="annotations CC BY 4.0; pictures under the terms of Flickr",
    folder="captioned_images/mscoco",
    archives=(
        Archive(
            url="http://images.cocodataset.org/zips/train2017.zip", file="train2017.zip", kind="zip",
            produces="train2017",
            checksum="md5:cced6f7f71b7629ddf16f17bbcfab6b2",
        ),
        Archive(
            url="http://images.cocodataset.org/zips/val2017.zip", file="val2017.zip", kind="zip", produces="val2017",
            size=815_585_330, checksum="md5:442b8da7639aecaf257c1dceb8ba8c80",
        ),
        Archive(
            url="http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
            file="annotations_trainval2017.zip", kind="zip", produces="annotations/instances_train2017.json",
            size=252_907_541, checksum="md5:f4bbac642086de4f52a3fdda2de5fa2c",
        ),
    ),
    required_paths=(
        "annotations/captions_train2017.json", "annotations/captions_val2017.json",
        "annotations/instances_val2017.json",
    ),
    sample_counts={"train": 117_266, "test": 4_952},
)  # fmt: skip


class MsCoco(CaptionedImages):
    """MSCOCO 2017: images with a caption; 80 classes of the last labelled object."""

    name = "mscoco"
    source = SOURCE

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        part = PARTS[split]
        annotations = self.folder / "annotations"
        captions: dict[int, str] = {}  # update keeps the position of an image's first caption, and the text of its last
        captions.update(read_json(annotations / f"captions_{part}.json", "annotations", ("image_id", "caption")))
        path = annotations / f"instances_{part}.json"
        content = load_json(path)
        categories = select_columns(path, content, "categories", ("id", "name"))
        rank = {number: label for label, (number, _) in enumerate(categories)}
        labels: dict[int, int] = {}
        for number, (image, category) in enumerate(
            select_columns(path, content, "annotations", ("image_id", "category_id")), 1
        ):
            if category not in rank:
                raise DataError(f"{path} entry {number} of 'annotations': there is no category {category}")
            labels[image] = rank[category]
        images = [image for image in captions if image in labels]
        if not images:
            raise DataError(f"{annotations} names no image of {part} with a caption and an object")
        self.paths = [f"{part}/{image:012}.jpg" for image in images]
        self.texts = [str(captions[image]) for image in images]
        self.labels = [labels[image] for image in images]
        self.task = Task(
            "classes", len(categories), "accuracy", names=tuple(str(name) for _, name in categories), title="object"
        )


class MismatchedCaption(MsCoco):
    """MSCOCO 2017 with half of the captions swapped: whether the caption belongs to the image."""

    name = "mismatched_caption"
    aliases = ("mismatched-caption",)

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        generator = random.Random(SWAP_SEED)
        swapped = [index for index in range(len(self)) if generator.random() < SWAPPED]
        texts = list(self.texts)
        self.labels = [1] * len(self)
        shift = (
            generator.randint(1, len(swapped)) if swapped else 0
        )  # a shift by n swaps none, with probability 1 / n, as published
        for index, other in zip(swapped, swapped[shift:] + swapped[:shift], strict=True):
            texts[index], self.labels[index] = self.texts[other], 0
        self.texts = texts
        self.task = Task("classes", 2, "accuracy", names=("swapped", "own"), title="caption")


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [MsCoco, MismatchedCaption]
