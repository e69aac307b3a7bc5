"""What public data of pictures with text have in common: the pictures of COCO, and its large files of JSON."""

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
from ssl_plugins.datasets._io.file_state import file_state_digest

TALL = (480, 640)  # width, height: every picture is first made this, upright or not (P23)
BULKY = ("segmentation", "bbox", "answers", "license", "coco_url", "flickr_url", "date_captured")  # nobody asks for


class Captioned(PublicDataset):
    """A picture and its text. A subclass fills `paths`, `texts` (each one text or a pair) and `labels`."""

    modality = "image-text"

    class Options(PublicDataset.Options):
        """Options common to public data of pictures with text."""

        size: int = Field(224, ge=8, description="height and width of a picture (pixels)")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((3, options.size, options.size)), "caption": Text()}
        self.paths: list[str] = []
        self.texts: Sequence[str | tuple[str, str]] = []
        self.labels: list[int] = []

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3, size, size) bytes, "caption": the text or the (2,) of a pair} and the class.

        Errors: BadSample for a picture that cannot be read.
        """
        picture = read_picture(self.folder / self.paths[index], self.options.size)
        return {"inputs": {"image": picture, "caption": np.array(self.texts[index])}, "label": self.labels[index]}

    def describe(self, index: int) -> str:
        """The picture's path, and what place its text has."""
        return f"{self.folder / self.paths[index]} (text {index + 1} of the {self.split} split)"

    def fingerprint(self) -> str:
        """Changes with the options, and with any picture's name, text, class, size or time of change."""
        rows = zip(self.paths, self.texts, self.labels, strict=True)
        made = hashlib.sha256("\n".join(map(repr, rows)).encode())
        return f"{super().fingerprint()}:{made.hexdigest()}:{file_state_digest(self.folder, self.paths)}"


def read_picture(path: Path, size: int) -> np.ndarray:
    """(3, size, size) bytes: RGB, 480 wide and 640 high without its aspect, the middle 480 x 480, then `size`.

    Protocol section 2.4, bilinear throughout. Errors: BadSample.
    """
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSample(f"cannot be read as a picture ({' '.join(str(error).split())})") from None
    width, height = TALL
    above = (height - width) // 2
    bilinear = Image.Resampling.BILINEAR
    square = picture.resize(TALL, bilinear).crop((0, above, width, above + width)).resize((size, size), bilinear)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def read_json(path: Path, key: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The list that a file of JSON holds under `key`: of each entry the values in `columns`.

    What is bulky is thrown away while the file is read. Errors: DataError with file and entry.
    """
    return pick(path, load_json(path), key, columns)


def load_json(path: Path) -> dict[str, Any]:
    """A file of JSON without its bulky parts. Errors: DataError."""

    def lean(entry: dict[str, Any]) -> dict[str, Any]:
        for name in BULKY:
            entry.pop(name, None)
        return entry

    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=lean)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no object of JSON")
    return content


def pick(path: Path, content: dict[str, Any], key: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Of each entry of content[key] the values in `columns`. Errors: DataError with file and entry."""
    rows = content.get(key)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} has no list '{key}'")
    picked = []
    for number, row in enumerate(rows, start=1):
        try:
            picked.append(tuple(row[column] for column in columns))
        except (KeyError, TypeError):
            raise DataError(f"{path} entry {number} of '{key}' lacks one of {', '.join(columns)}") from None
    return picked
