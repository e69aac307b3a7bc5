"""Miniatures of the public image sets, in the upstreams' layout and formats.

WRITERS maps (modality, name) to a function that writes the set below a root.
"""

from __future__ import annotations

import csv
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from scipy.io import savemat

RNG = np.random.default_rng(0)


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] | None = None) -> None:
    """An image of random pixels and, by default, random size (width, height), in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size or RNG.integers(9, 20, 2)
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode).save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


# --- natural images --------------------------------------------------------------------------------------------------

WORDNET = ("n01440764", "n01443537", "n02119789")


def imagenet(root: Path) -> None:
    """{train,validation}/<wnid>/*.JPEG; some images are grey or CMYK, as in the upstream."""
    top = root / "natural_images" / "imagenet"
    for wnid in WORDNET:
        for number in range(6):
            mode = {1: "L", 2: "CMYK"}.get(number, "RGB")
            picture(top / "train" / wnid / f"{wnid}_{number * 7}.JPEG", mode)
        for number in range(2):
            picture(top / "validation" / wnid / f"ILSVRC2012_val_{number:08}.JPEG")


def cifar10(root: Path) -> None:
    """cifar-10-batches-py: six pickles of Python 2."""
    top = root / "natural_images" / "cifar10" / "cifar-10-batches-py"
    top.mkdir(parents=True)
    for part, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        batch = {
            "data": RNG.integers(0, 256, (12, 3072), dtype=np.uint8),
            "labels": [(part + number) % 10 for number in range(12)],
            "batch_label": f"training batch {part + 1} of 5",
            "filenames": [f"thing_s_{number:06}.png" for number in range(12)],
        }
        (top / name).write_bytes(python2(batch))
    (top / "batches.meta").write_bytes(python2({"num_cases_per_batch": 12, "label_names": ["airplane"]}))


VARIANTS = ("Boeing 737-700", "707-320", "A300B4")


def aircraft(root: Path) -> None:
    """Tables with two columns, of which the second may contain blanks."""
    data = root / "natural_images" / "aircraft" / "fgvc-aircraft-2013b" / "data"
    numbers = {"trainval": range(1000000, 1000012), "test": range(2000000, 2000006)}
    boxes = []
    for table, images in numbers.items():
        write(data / f"images_variant_{table}.txt", *(f"{image} {VARIANTS[image % 3]}" for image in images))
        for image in images:
            picture(data / "images" / f"{image}.jpg", size=(30, 24))
            boxes.append(f"{image} 3 2 {20 + image % 3} 15")
    write(data / "images_box.txt", *boxes)


def cu_birds(root: Path) -> None:
    top = root / "natural_images" / "cu_birds" / "CUB_200_2011"
    species = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    rows = [(number + 1, number // 6) for number in range(18)]
    names = {image: f"{species[label]}/{species[label][4:]}_{image:04}_{image * 37}.jpg" for image, label in rows}
    write(top / "images.txt", *(f"{image} {name}" for image, name in names.items()))
    write(top / "image_class_labels.txt", *(f"{image} {label + 1}" for image, label in rows))
    write(top / "train_test_split.txt", *(f"{image} {int(image % 3 > 0)}" for image, _ in rows))
    write(top / "classes.txt", *(f"{number} {name}" for number, name in enumerate(species, start=1)))
    for image, name in names.items():
        picture(top / "images" / name, "L" if image == 4 else "RGB")


def dtd(root: Path) -> None:
    top = root / "natural_images" / "dtd" / "dtd"
    textures = ("zigzagged", "banded", "dotted")
    for number, table in enumerate(("train", "val", "test")):
        rows = [f"{texture}/{texture}_{number * 10 + image:04}.jpg" for texture in textures for image in range(3)]
        for division in (1, 2):
            write(top / "labels" / f"{table}{division}.txt", *rows)
        for row in rows:
            picture(top / "images" / row)


def traffic_sign(root: Path) -> None:
    """GTSRB/Final_Training/Images/<sign>/<track>_<shot>.ppm and a table."""
    images = root / "natural_images" / "traffic_sign" / "GTSRB" / "Final_Training" / "Images"
    for sign in range(43):
        for number in range(3 + sign % 3):
            picture(images / f"{sign:05}" / f"{number // 2:05}_{number % 2:05}.ppm")
        write(images / f"{sign:05}" / f"GT-{sign:05}.csv", "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId")


FLOWERS = np.array([3, 3, 1, 3, 1, 2, 2, 2, 2, 1, 3, 3, 1, 2, 1, 2, 3, 1, 1], dtype=np.uint8)


def vgg_flower(root: Path) -> None:
    top = root / "natural_images" / "flowers"
    for number in range(1, len(FLOWERS) + 1):
        picture(top / "jpg" / f"image_{number:05}.jpg")
    savemat(top / "imagelabels.mat", {"labels": FLOWERS[np.newaxis]})


# --- medical images --------------------------------------------------------------------------------------------------

FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip


def chexpert(root: Path, edition: str = "CheXpert-v1.0-small") -> None:
    """{train,valid}.csv: path, four columns about the patient and the view, 14 findings of 1.0, 0.0, -1.0 or empty."""
    top = root / "medical_images" / "chexpert"
    values = ("", "1.0", "0.0", "-1.0")
    for table, patients in (("train", range(1, 13)), ("valid", range(64541, 64547))):
        (top / edition).mkdir(parents=True, exist_ok=True)
        with (top / edition / f"{table}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS])
            for patient in patients:
                path = f"{edition}/{table}/patient{patient:05}/study1/view1_frontal.jpg"
                findings = [values[(patient * 3 + column * (column + 1)) % 4] for column in range(14)]
                writer.writerow([path, "Female", "68", "Frontal", "AP", *findings])
                picture(top / path, "L")


XRAYS = {
    f"{patient:08}_{shot:03}.png": ("No Finding", "Mass|Nodule", "Pneumothorax", "Hernia|Effusion|Edema")[patient % 4]
    for patient in range(1, 9)
    for shot in range(3)
}


def xray8(root: Path) -> None:
    """images/*.png, most grey and some RGBA, and metadata.csv."""
    top = root / "medical_images" / "xray8"
    for number, name in enumerate(XRAYS):
        picture(top / "images" / name, "RGBA" if number == 5 else "L")
    with (top / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Image Index", "Finding Labels", "Follow-up #", "Patient ID"])
        writer.writerows([name, labels, 0, int(name[:8])] for name, labels in XRAYS.items())


# --- satellite images ------------------------------------------------------------------------------------------------

LAND = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip


def eurosat(root: Path) -> None:
    """Uncompressed 16-bit GeoTIFF, 64 x 64 with the 13 bands last."""
    top = root / "satellite_images" / "ds" / "images" / "remote_sensing" / "otherDatasets" / "sentinel_2" / "tif"
    for name in LAND:
        (top / name).mkdir(parents=True)
        for number in range(1, 11):
            bands = RNG.integers(0, 4000, (64, 64, 13), dtype=np.uint16)
            tifffile.imwrite(
                top / name / f"{name}_{number}.tif", bands, photometric="minisblack", planarconfig="contig"
            )


# --- wafers ----------------------------------------------------------------------------------------------------------

FAILURES = ("none", "Random", "Donut", "Scratch", "Center", "Loc", "Edge-Loc", "Edge-Ring", "Near-full")
WAFERS = 60


def wafer_columns() -> dict[str, list[Any]]:
    """The upstream's columns. One of three wafers is labelled."""
    maps = [RNG.integers(0, 3, (6 + row % 5, 7 + row % 3), dtype=np.uint8) for row in range(WAFERS)]
    failures = [FAILURES[row // 3 % 9] if row % 3 == 0 else 0 for row in range(WAFERS)]
    return {"dieSize": [float(wafer_map.size) for wafer_map in maps], "failureType": failures, "waferMap": maps}


def wm811k_pickle(path: Path) -> None:
    """MIR-WM811K/Python/WM811K.pkl: a pandas table with texts or 0 as labels."""
    import pandas as pd  # slow

    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        name: pd.Series(values, dtype=object if name != "dieSize" else float)
        for name, values in wafer_columns().items()
    }
    frame = pd.DataFrame(columns)
    frame.columns = pd.Index(list(columns), dtype=object)
    path.write_bytes(pickle.dumps(frame, protocol=4))


def lswmd_pickle(path: Path) -> None:
    """Kaggle's LSWMD.pkl: by Python 2 and pandas 0.18, with arrays [[text]] or empty arrays as labels."""
    columns = wafer_columns()
    labels = [np.array([[failure]]) if failure else np.zeros((0, 0)) for failure in columns["failureType"]]
    objects = np.empty((2, WAFERS), dtype=object)
    for row in range(WAFERS):
        objects[:, row] = [columns["waferMap"][row], labels[row]]
    names = np.array(["waferMap", "dieSize", "failureType"], dtype=object)
    axes = [
        OldIndex("Index", {"data": names, "name": None}),
        OldIndex("RangeIndex", {"start": 0, "stop": WAFERS, "step": 1}),
    ]
    sizes = np.array([columns["dieSize"]])
    blocks = [
        {"values": sizes, "mgr_locs": slice(1, 2, 1)},
        {"values": np.asfortranarray(objects), "mgr_locs": np.array([0, 2])},
    ]
    frame = OldFrame()
    frame._data, frame._typ = OldManager(), "dataframe"
    frame._data.parts = (
        axes,
        [sizes, objects],
        [names[1:2], names[[0, 2]]],
        {"0.14.1": {"axes": axes, "blocks": blocks}},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2(frame))


def wafer(root: Path) -> None:
    """Kaggle's pickle, which is written without pandas, and the arrays that `sslx data prepare` writes."""
    from ssl_plugins.datasets.public.wm811k import Wafer

    lswmd_pickle(root / "semiconductors" / "LSWMD.pkl")
    Wafer.convert(root / "semiconductors")


# --- pickles of Python 2 ---------------------------------------------------------------------------------------------


class OldFrame:
    """Stands in for pandas.core.frame.DataFrame."""


class OldManager:
    """Stands in for pandas.core.internals.BlockManager of pandas 0.14 to 1.2."""

    def __getstate__(self) -> Any:
        return self.parts

    parts: tuple[Any, ...] = ()


class OldIndex:
    """Stands in for an index, which pandas unpickles by a function."""

    def __init__(self, kind: str, arguments: dict[str, Any]) -> None:
        self.kind, self.arguments = kind, arguments

    def __reduce__(self) -> Any:
        return new_index, (KINDS[self.kind], self.arguments)


def new_index(kind: type, arguments: dict[str, Any]) -> None:
    """Stands in for pandas.indexes.base._new_Index."""


KINDS = {"Index": type("Index", (), {}), "RangeIndex": type("RangeIndex", (), {})}
OLD_NAMES: dict[Any, str] = {
    OldFrame: "pandas.core.frame DataFrame",
    OldManager: "pandas.core.internals BlockManager",
    new_index: "pandas.indexes.base _new_Index",
    KINDS["Index"]: "pandas.indexes.base Index",
    KINDS["RangeIndex"]: "pandas.indexes.range RangeIndex",
    slice: "__builtin__ slice",
}


class _Python2(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes protocol 2 like Python 2: texts as 8-bit strings, classes with their old names."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_text(self, text: Any) -> None:
        raw = text.encode("latin1") if isinstance(text, str) else bytes(text)
        short = len(raw) < 256
        self.write(
            pickle.SHORT_BINSTRING + bytes([len(raw)]) if short else pickle.BINSTRING + struct.pack("<i", len(raw))
        )
        self.write(raw)
        self.memoize(text)

    def save_global(self, thing: Any, name: str | None = None) -> None:
        module = thing.__module__.replace("numpy._core", "numpy.core") if hasattr(thing, "__module__") else ""
        full_name = OLD_NAMES.get(thing) or f"{module} {thing.__name__}"
        self.write(pickle.GLOBAL + full_name.replace(" ", "\n").encode() + b"\n")
        self.memoize(thing)

    dispatch[str] = dispatch[bytes] = save_text
    dispatch[type] = dispatch[FunctionType] = save_global


def python2(thing: Any) -> bytes:
    """A pickle of protocol 2, as written by Python 2."""
    import io

    out = io.BytesIO()
    _Python2(out, protocol=2).dump(thing)
    return out.getvalue()


WRITERS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("image", "imagenet"): imagenet,
    ("medical-image", "chexpert"): chexpert,
    ("medical-image", "xray8"): xray8,
    ("multispectral", "eurosat"): eurosat,
    ("multispectral", "eurosat_transfer"): eurosat,
    ("wafer", "wafer"): wafer,
    ("wafer", "wafer_transfer"): wafer,
}
for _writer in (cifar10, aircraft, cu_birds, dtd, traffic_sign, vgg_flower):
    WRITERS |= {("image", _writer.__name__): _writer, ("image", f"{_writer.__name__}_small"): _writer}
