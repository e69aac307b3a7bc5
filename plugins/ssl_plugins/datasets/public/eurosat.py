"""EuroSAT, all 13 bands of Sentinel-2 (Helber et al., 2019): land use in satellite images."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from ssl_core import Archive, BadSample, Continuous, Dataset, Sample, Source, Split, hookimpl
from ssl_plugins.datasets.public._arrays import NinetyTenOptions, head_tail, shuffled_order
from ssl_plugins.datasets.public._images import ImageDataset, ImageList, classification, list_files

IMAGES = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
NAMES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip
SHAPE = (13, 64, 64)
SOURCE = Source(
    homepage="https://github.com/phelber/EuroSAT",
    terms="MIT",
    folder="satellite_images",
    archives=(
        Archive(
            url="https://huggingface.co/datasets/torchgeo/eurosat/resolve/main/EuroSATallBands.zip",
            file="EuroSATallBands.zip", kind="zip", produces=IMAGES, checksum="md5:5ac12b3b2557aa56e1826e981e8e200e",
        ),
    ),
    required_paths=tuple(f"{IMAGES}/{name}" for name in NAMES),
)  # fmt: skip


class EuroSatPart(ImageDataset):
    """90 % or 10 % of EuroSAT, split again into training and test.

    Bands B1 to B8, B9, B10, B11, B12, B8A. As published, RandomState(42) permutes all images; the first 90 % are for
    pretraining, the others for transfer, and the first 90 % of either are its training split. The published codes
    permute the order of TensorFlow Datasets; here it is that of the sorted paths. Sizes are equal, members differ.
    """

    modality = "multispectral"
    share: ClassVar[Split]

    class Options(NinetyTenOptions):
        """Options of EuroSAT."""

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous(SHAPE)}

    def list_images(self) -> ImageList:
        """<class>/<class>_<number>.tif."""
        self.task = classification(NAMES, "land use")
        listing = [(label, list_files(self.folder / IMAGES / name, ".tif")) for label, name in enumerate(NAMES)]
        paths = [f"{IMAGES}/{NAMES[label]}/{name}" for label, names in listing for name in names]
        labels = np.repeat(np.arange(len(NAMES)), [len(names) for _, names in listing])
        order = shuffled_order(len(paths))
        chosen = head_tail(head_tail(order, self.share, "fixed"), self.split, self.options.protocol)
        return ImageList([paths[index] for index in chosen], labels[chosen])

    def __getitem__(self, index: int) -> Sample:
        """{"image": (13, 64, 64) uint16} in sensor units, and the class.

        Raises:
            BadSample: if the file cannot be read.
        """
        image = read_bands(self.folder / self.paths[index])
        return {"inputs": {"image": image}, "label": int(self.labels[index])}


class EuroSat(EuroSatPart):
    """EuroSAT with 13 bands, for pretraining: ten classes of land use; 90 % of the images."""

    name = "eurosat"
    share = "train"
    source = replace(SOURCE, sample_counts={"train": 21_870, "test": 2_430})


class EuroSatTransfer(EuroSatPart):
    """EuroSAT with 13 bands, for transfer: ten classes of land use; the 10 % that pretraining leaves out."""

    name = "eurosat_transfer"
    share = "test"
    source = replace(SOURCE, sample_counts={"train": 2_430, "test": 270})


def read_bands(path: Path) -> np.ndarray:
    """(13, 64, 64) of a TIFF file with the bands last or first.

    Raises:
        BadSample: if the file cannot be read or has another shape.
    """
    import tifffile  # only this data set needs it

    try:
        image = tifffile.imread(path)
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error) as error:
        raise BadSample(f"cannot be read as TIFF ({' '.join(str(error).split()):.150})") from None
    if image.shape == (*SHAPE[1:], SHAPE[0]):
        image = np.moveaxis(image, -1, 0)
    if image.shape != SHAPE or image.dtype.kind not in "uif":
        raise BadSample(f"holds {image.dtype} of shape {image.shape}, not 64 x 64 pixels of 13 bands")
    return np.ascontiguousarray(image)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [EuroSat, EuroSatTransfer]
