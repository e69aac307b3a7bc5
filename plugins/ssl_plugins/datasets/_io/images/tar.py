"""Samples in tar files as WebDataset writes them: members with one name and several endings are one sample."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_core import BadSample, DataError
from ssl_plugins.datasets._io.images.raster_types import Content
from ssl_plugins.datasets._io.images.rasters import RASTER_EXTENSIONS

TAR = ".tar"
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
LABEL_ENDINGS = (".cls",)
CAPTION_ENDINGS = (".txt", ".caption")

Place = tuple[int, int]
"""Position and size of a member."""


class TarImages:
    """The images of a tar file that is not compressed, with the members beside them.

    Attributes:
        path: the file.
        names: name of each sample: that of its members without ending.
        images: place of each image.
        beside: places of the other members of each sample, by ending in lower case.

    Raises:
        DataError: the file is no tar file, or holds no image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        samples: dict[str, dict[str, Place]] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    stem, dot, ending = name.partition(".")
                    if member.isfile() and stem:
                        key = f"{folder}/{stem}" if folder else stem
                        samples.setdefault(key, {})[(dot + ending).lower()] = (member.offset_data, member.size)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{path} cannot be read as a tar file: {' '.join(str(error).split()):.200}") from None
        images = {
            name: next((place for ending, place in members.items() if ending.endswith(RASTER_EXTENSIONS)), None)
            for name, members in samples.items()
        }
        self.names = [name for name, place in images.items() if place is not None]
        self.images = [place for place in images.values() if place is not None]
        self.beside = [samples[name] for name in self.names]
        if not self.names:
            raise DataError(f"{path} holds no image; members are called NAME.jpg, and NAME.cls or NAME.txt beside it")

    def __len__(self) -> int:
        return len(self.names)

    def content(self, row: int) -> Content:
        """The bytes of an image."""
        return self._read(self.images[row])

    def cheap_rows(self, count: int) -> int:
        """The first images, at most `count`."""
        return min(count, len(self))

    def texts(self, endings: Sequence[str]) -> list[str | None]:
        """The text of the member of each sample with one of the endings; None where there is none.

        Raises:
            DataError: a member is not UTF-8 text.
        """
        places = [next((members[ending] for ending in endings if ending in members), None) for members in self.beside]
        out: list[str | None] = []
        with self.path.open("rb") as file:
            for name, place in zip(self.names, places, strict=True):
                try:
                    out.append(None if place is None else _at(file, place).decode("utf-8-sig").strip())
                except UnicodeDecodeError:
                    raise DataError(f"{self.path}: the text beside {name} is not UTF-8") from None
        return out

    def _read(self, place: Place) -> bytes:
        try:
            with self.path.open("rb") as file:
                data = _at(file, place)
        except OSError as error:
            raise BadSample(f"cannot be read: {error.strerror}") from None
        if len(data) < place[1]:
            raise BadSample("is cut off at the end of the file")
        return data


def _at(file: Any, place: Place) -> bytes:
    file.seek(place[0])
    data: bytes = file.read(place[1])
    return data


def check_archive(root: str) -> None:
    """Refuse an archive that cannot be read in place.

    Raises:
        DataError: `root` is one.
    """
    if root.lower().endswith(ARCHIVES) and Path(root).is_file():
        raise DataError(f"dataset.root {root} is an archive; unpack it and name the folder")
