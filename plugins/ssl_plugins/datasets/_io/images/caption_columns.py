"""Finds the images of tables by their values: their folder and ending, and the column where columns have no names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.files.listing import IMAGE_FOLDERS
from ssl_plugins.datasets._io.images.rasters import RASTER_EXTENSIONS
from ssl_plugins.datasets._io.tables.row_metadata import Table, as_names, numeric_share

NUMBERED = re.compile(r"column\d+")
LOOK_ROWS = 50
MOST_CLASSES = 100  # different values of a column that may be a label


@dataclass(frozen=True)
class FoundColumns:
    """The columns of images and captions. The image of a row is `folder / (value + ending)`."""

    image: str
    caption: str
    folder: Path
    ending: str


def find_columns(table: Table, options: Any) -> FoundColumns | None:
    """The column whose values name files of images, and that of the longest texts; None if the columns have names.

    The table's warnings and doubts say what was found.
    """
    if not table.columns or not (options.columns or all(map(NUMBERED.fullmatch, table.columns))):
        return None
    block = next(table.blocks(table.columns), None)
    if block is None or any(pa.types.is_nested(column.type) for column in block.values()):
        return None
    values = {name: as_names(column).to_pylist() for name, column in block.items()}
    names = [options.image] if options.image in values else list(values)
    places = ((name, find_images(table.path, values[name], options.images)) for name in names)
    found = next(((name, *place) for name, place in places if place), None)
    if found is None:
        return None
    image, folder, ending = found
    named = {options.label, options.group, options.split, options.pair, *options.drop_columns}
    texts = [name for name in values if name != image and name not in named and not numeric_share(block[name]) > 0.5]
    if options.caption in values:
        caption = options.caption
    elif texts:
        caption = max(texts, key=lambda name: float(np.mean([len(value or "") for value in values[name]])))
    else:
        return None
    where = f"{folder.name}/" if folder != table.path.parent else ""
    table.facts["columns"] = (
        f"{image} is the image ({where}{values[image][0]}{ending}), {caption} the caption; dataset.image and "
        f"dataset.caption name others"
    )
    for name in texts:
        distinct = len(set(values[name]))
        if name != caption and options.label is None and 1 < distinct <= min(MOST_CLASSES, len(values[name]) // 10):
            table.doubts["label"] = (
                f"{table.path}: column '{name}' has {distinct} different values; did you mean dataset.label={name} or "
                f"dataset.pair={name}? else name it in dataset.drop_columns"
            )
    return FoundColumns(image, caption, folder, ending)


def find_images(path: Path, values: Sequence[str | None], images: str | None = None) -> tuple[Path, str] | None:
    """The folder and the ending with which the first values of a column are files of images; None if not all are.

    Args:
        path: the table; images lie beside it or in a folder of images beside it.
        values: the values of the column.
        images: the folder of the images, where it is known.
    """
    return _place_of(values[:LOOK_ROWS], [Path(images)] if images else _folders(path.parent))


def _folders(parent: Path) -> list[Path]:
    """The folder of the table, and those of images in it."""
    try:
        children = sorted(child for child in parent.iterdir() if child.is_dir())
    except OSError:
        children = []
    return [parent, *(child for child in children if child.name.lower() in IMAGE_FOLDERS)]


def _place_of(values: Sequence[str | None], folders: Sequence[Path]) -> tuple[Path, str] | None:
    """The folder and the ending with which all values are files of images."""
    names = [value for value in values if value]
    if not names or len(names) < len(values):
        return None
    for folder in folders:
        for ending in ("", *RASTER_EXTENSIONS):
            if all(_is_image(folder, name + ending) for name in names):
                return folder, ending
    return None


def _is_image(folder: Path, name: str) -> bool:
    try:
        return name.lower().endswith(RASTER_EXTENSIONS) and (folder / name).is_file()
    except (OSError, ValueError):
        return False
