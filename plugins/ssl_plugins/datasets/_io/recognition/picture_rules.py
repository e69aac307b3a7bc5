"""Which modality pictures are: by their channels, values and what lies beside them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import BadSample, Recognition
from ssl_plugins.datasets._io.files.listing import IMAGE_FOLDERS, MASK_FOLDERS
from ssl_plugins.datasets._io.images.caption_columns import LOOK_ROWS, NUMBERED, find_images
from ssl_plugins.datasets._io.images.captions import first_image_column
from ssl_plugins.datasets._io.images.raster_tiff import TIFF_EXTENSIONS
from ssl_plugins.datasets._io.images.raster_types import ImageHeader, RasterOptions
from ssl_plugins.datasets._io.images.rasters import read_header, read_raster
from ssl_plugins.datasets._io.recognition.survey import Survey, spread
from ssl_plugins.datasets._io.recognition.table_facts import TableFacts, look_at_tables
from ssl_plugins.datasets._io.tables.columns import as_names
from ssl_plugins.datasets._io.tables.options import TableOptions
from ssl_plugins.datasets._io.tables.table import Table

HEADERS, PIXELS = 12, 6
"""Pictures whose format, and whose pixels, are looked at."""
LARGEST = 1 << 22  # pixels of a picture that is read
WAFER_VALUES = {0, 1, 2}
MANY = 4
"""More channels than that are bands."""
OF_PICTURES = re.compile(r"image|picture|photo|img|file|^id$", re.IGNORECASE)
"""Names of columns that may hold the names or numbers of pictures."""
FEW_ANSWERS = 0.2
"""Share of different texts among answers up to which they are classes."""
BESIDE = 0.8
"""Share of pictures with a text beside them from which on these are captions."""


def recognise_pictures(found: Survey) -> dict[str, Recognition]:
    """Pictures in files: their modality, and captions beside them."""
    weight, words = found.weight("image"), found.words("image")
    paths, options = _without_masks(found)
    headers = [(path, header) for path in spread(paths, HEADERS) if (header := _header(path)) is not None]
    if not headers:
        return {"image": Recognition(0.3, f"files called as pictures are, which cannot be read ({words})")}
    scores, about = _by_headers(headers)
    out = {
        modality: Recognition(round(score * weight, 3), f"{about} ({words})", options)
        for modality, score in scores.items()
    }
    captions = _captions(found, paths)
    if captions is not None:
        why, values = captions
        out = {modality: Recognition(one.confidence * 0.5, one.why, options) for modality, one in out.items()}
        out["image-text"] = Recognition(round(0.9 * max(weight, 0.95), 3), why, values)
    return out


def _without_masks(found: Survey) -> tuple[list[Path], dict[str, Any]]:
    """The pictures without those of masks in a folder beside them, and the option that leaves these out."""
    paths = found.files["image"]
    folders = Counter(path.parent.name.lower() for path in paths)
    images = [name for name in folders if name in IMAGE_FOLDERS]
    masks = sorted({path.parent.name for path in paths if path.parent.name.lower() in MASK_FOLDERS})
    if not images or not masks:
        return paths, {}
    return [path for path in paths if path.parent.name not in masks], {"exclude": tuple(masks)}


def _header(path: Path) -> ImageHeader | None:
    try:
        return read_header(path, RasterOptions(alpha="keep"))
    except Exception:  # whatever a damaged file raises
        return None


def _by_headers(headers: list[tuple[Path, ImageHeader]]) -> tuple[dict[str, float], str]:
    """Confidence by modality, and what the pictures are in words."""
    channels = Counter(header.channels for _, header in headers).most_common(1)[0][0]
    some = [(path, header) for path, header in headers if header.channels == channels]
    deep = any(header.dtype != np.uint8 for _, header in some)
    tiff = all(path.name.lower().endswith(TIFF_EXTENSIONS) for path, _ in some)
    if channels > MANY:
        return {"multispectral": 0.95, "image": 0.2}, f"pictures of {channels} bands"
    if channels not in (1, 3):
        return {"multispectral": 0.75, "image": 0.5}, f"pictures of {channels} channels"
    if channels == 3:
        if tiff and deep:
            return {"image": 0.6, "multispectral": 0.5}, f"pictures of 3 channels of {some[0][1].dtype}"
        return {"image": 0.95, "medical-image": 0.2}, "pictures in colour"
    values = set[int]()
    small = [path for path, header in some if header.size[0] * header.size[1] <= LARGEST]
    for path in spread(small, PIXELS):
        values |= _values(path)
    return grey_scores(values, deep)


def grey_scores(values: set[int], deep: bool) -> tuple[dict[str, float], str]:
    """Confidence by modality of pictures with one channel that hold some values."""
    if values and values <= WAFER_VALUES and 2 in values:
        return {"wafer": 0.9, "image": 0.3}, "maps of 0, 1 and 2"
    if deep:
        return {"image": 0.6, "medical-image": 0.6}, "grey pictures of more than 8 bits"
    return {"image": 0.8, "medical-image": 0.5}, "grey pictures"


def _values(path: Path) -> set[int]:
    """The whole numbers that a picture holds as it is stored, or {-1} if there are others or many."""
    try:
        pixels = read_raster(path, RasterOptions(stored=True))
    except (BadSample, ValueError, OSError):
        return set()
    return _whole(pixels)


def _whole(pixels: np.ndarray) -> set[int]:
    values = np.unique(pixels)
    if len(values) > len(WAFER_VALUES) or (values != np.rint(values)).any():
        return {-1}
    return {int(value) for value in values}


def recognise_pixels(path: Path, key: str, *, channels: int, named: bool) -> dict[str, float]:
    """Confidence by modality of an array of pictures. named: whether its name or form says that it holds some."""
    factor = 1.0 if named else 0.6
    if channels > MANY:
        return {"multispectral": 0.8 * factor, "time-series": 0.5, "image": 0.2}
    if channels > 1:
        return {"image": 0.85 * factor, "time-series": 0.2 if named else 0.5}
    array = _first_pictures(path, key)
    if array is None:
        return {"image": 0.8 * factor, "time-series": 0.4}
    scores, _ = grey_scores(_whole(array), array.dtype != np.uint8)
    if key.startswith(("train_images", "val_images", "test_images")):  # the form of MedMNIST
        scores = {"medical-image": 0.8, "image": 0.5}
    return {modality: score * factor for modality, score in scores.items()} | {"time-series": 0.2 if named else 0.5}


def _first_pictures(path: Path, key: str) -> np.ndarray | None:
    try:
        if path.suffix.lower() == ".npy":
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[:200])
        with np.load(path, allow_pickle=False) as file:
            return np.array(file[key][:200])
    except Exception:  # whatever a damaged file raises
        return None


def _captions(found: Survey, pictures: list[Path]) -> tuple[str, dict[str, Any]] | None:
    """Why texts beside pictures are captions, and how they are read."""
    stems = {path.with_suffix("") for path in found.files.get("text", ()) if path.suffix.lower() == ".txt"}
    beside = sum(path.with_suffix("") in stems for path in pictures)
    if pictures and beside >= BESIDE * len(pictures) and "table" not in found.files and not _are_numbers(found):
        return f"pictures with a text beside each ({found.words('image')})", {}
    tables = found.files.get("table", [])
    if not tables:
        return None
    facts, _, alike = look_at_tables(tables)
    if facts is None:
        return None
    prose = [name for name, texts in facts.texts.items() if texts.is_prose]
    image = _image_column(facts) if prose else None
    if image is None:
        return None
    caption = "caption" if "caption" in prose else prose[0]
    values: dict[str, Any] = {}
    if not NUMBERED.fullmatch(image):  # columns without names are found by the reader in the same way
        values |= {} if image == first_image_column(facts.columns) else {"image": image}
        values |= {} if caption == "caption" else {"caption": caption}
        values |= _answer(facts, caption)
    if len(tables) > 1:
        values["root"] = ",".join(map(str, alike))
    return f"pictures with texts in {facts.path.name} (columns {image} and {caption})", values


def _image_column(facts: TableFacts) -> str | None:
    """The column of a table that names pictures: by their paths, or by names without ending or numbers of files."""
    paths = [name for name, texts in facts.texts.items() if texts.paths > 0.9]
    if paths:
        return paths[0]
    columns = [name for name in facts.columns if NUMBERED.fullmatch(name) or OF_PICTURES.search(name)]
    if not columns:
        return None
    table = Table.open(facts.path, TableOptions())
    block = next(iter(table.blocks(columns)))
    table.release()
    heads = ((name, as_names(block[name].slice(0, LOOK_ROWS)).to_pylist()) for name in columns)
    return next((name for name, values in heads if find_images(facts.path, values)), None)


def _answer(facts: TableFacts, caption: str) -> dict[str, Any]:
    """The answer to each question: the label if there are few different ones, else a second text."""
    answers = facts.texts.get("answer")
    if answers is None or caption == "answer" or "label" in facts.roles:
        return {}
    return {"label": "answer"} if answers.distinct <= FEW_ANSWERS else {"pair": "answer"}


def _are_numbers(found: Survey) -> bool:
    """Whether the texts hold numbers, as those of boxes do."""
    from ssl_plugins.datasets._io.recognition.text_facts import facts_of, lines_of

    lines = [line for path in spread(found.files["text"], 6) for line in lines_of(path)]
    return facts_of(lines).numbers > 0.5
