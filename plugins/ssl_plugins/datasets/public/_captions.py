"""Base class of the public sets of images with text: COCO's images, and its large JSON files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from ssl_core import BadSample, Continuous, DataError, PublicDataset, Sample, Split, Text
from ssl_plugins.datasets._io.files.state import file_state_digest

RESIZED = (480, 640)  # width, height; landscape images too, as in the published codes
UNUSED_KEYS = ("segmentation", "bbox", "answers", "license", "coco_url", "flickr_url", "date_captured")


class CaptionedImages(PublicDataset):
    """Images, each with a text. A subclass fills `paths`, `texts` (a text or a pair for each image) and `labels`."""

    modality = "image-text"

    class Options(PublicDataset.Options):
        """Options common to the public sets of images with text."""

        size: int = Field(224, ge=8, description="height and width of an image (pixels)")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((3, options.size, options.size)), "caption": Text()}
        self.paths: list[str] = []
        self.texts: Sequence[str | tuple[str, str]] = []
        self.labels: list[int] = []

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3, size, size) uint8, "caption": the text, or (2,) for a pair} and the class.

        Raises:
            BadSample: if the image cannot be read.
        """
        image = read_image(self.folder / self.paths[index], self.options.size)
        return {"inputs": {"image": image, "caption": np.array(self.texts[index])}, "label": self.labels[index]}

    def describe(self, index: int) -> str:
        """The image's path and the number of its text."""
        return f"{self.folder / self.paths[index]} (text {index + 1} of the {self.split} split)"

    def fingerprint(self) -> str:
        """Changes with the options, and with the name, text, class, size or time of modification of any image."""
        rows = zip(self.paths, self.texts, self.labels, strict=True)
        digest = hashlib.sha256("\n".join(map(repr, rows)).encode())
        return f"{super().fingerprint()}:{digest.hexdigest()}:{file_state_digest(self.folder, self.paths)}"


def read_image(path: Path, size: int) -> np.ndarray:
    """An image as RGB, (3, size, size) uint8.

    As in the published codes: resized to 480 wide and 640 high regardless of its aspect ratio, cropped to the central
    480 x 480, then resized to `size`, bilinear in both steps.

    Raises:
        BadSample: if the image cannot be read.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSample(f"cannot be read as a picture ({' '.join(str(error).split())})") from None
    width, height = RESIZED
    top = (height - width) // 2
    bilinear = Image.Resampling.BILINEAR
    square = image.resize(RESIZED, bilinear).crop((0, top, width, top + width)).resize((size, size), bilinear)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def read_json(path: Path, key: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The values of `columns` of each entry of the list `key` in a JSON file.

    Raises:
        DataError: if the file cannot be read or an entry lacks a column. The message names file and entry.
    """
    return select_columns(path, load_json(path), key, columns)


def load_json(path: Path) -> dict[str, Any]:
    """A JSON file. UNUSED_KEYS are dropped while it is parsed, to save memory.

    Raises:
        DataError: if the file cannot be read.
    """

    def drop_unused(entry: dict[str, Any]) -> dict[str, Any]:
        for name in UNUSED_KEYS:
            entry.pop(name, None)
        return entry

    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=drop_unused)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no object of JSON")
    return content


def select_columns(path: Path, content: dict[str, Any], key: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The values of `columns` of each entry of content[key].

    Raises:
        DataError: if an entry lacks a column. The message names file and entry.
    """
    rows = content.get(key)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} has no list '{key}'")
    values = []
    for number, row in enumerate(rows, start=1):
        try:
            values.append(tuple(row[column] for column in columns))
        except (KeyError, TypeError):
            raise DataError(f"{path} entry {number} of '{key}' lacks one of {', '.join(columns)}") from None
    return values
