"""German Traffic Sign Recognition Benchmark (Stallkamp et al., 2012): traffic signs."""

from __future__ import annotations

from typing import ClassVar

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._images import ImageDataset, ImageList, classification, list_files, split_per_class

IMAGES = "GTSRB/Final_Training/Images"
SIGNS = 43


class TrafficSign(ImageDataset):
    """GTSRB: 43 traffic signs; 80 % of each sign's official training images for training.

    As published, one RandomState(42) shuffles the images of each sign. The published codes shuffle the order in which
    the file system lists them; here the names are sorted first, so that the split is the same everywhere. The images
    are tracks of 30 of one physical sign, and the split divides tracks: scores are better than on new signs.
    """

    name = "traffic_sign"
    aliases: ClassVar[tuple[str, ...]] = ("traffic-sign",)
    source = Source(
        homepage="https://benchmark.ini.rub.de/gtsrb_news.html",
        terms="see the homepage",
        folder="natural_images/traffic_sign",
        archives=(
            Archive(
                url="https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
                "GTSRB_Final_Training_Images.zip",
                file="GTSRB_Final_Training_Images.zip", kind="zip", produces=IMAGES,
                checksum="md5:f33fd80ac59bff73c82d25ab499e03a3",
            ),
        ),
        required_paths=(f"{IMAGES}/00000", f"{IMAGES}/{SIGNS - 1:05}"),
        sample_counts={"train": 31_367, "test": 7_842},
    )  # fmt: skip

    def list_images(self) -> ImageList:
        """<sign>/*.ppm of the signs 0 to 42."""
        names = [f"{sign:05}" for sign in range(SIGNS)]
        self.task = classification(names, "sign")
        groups = []
        for name in names:
            paths = list_files(self.folder / IMAGES / name, ".ppm")
            if not paths:
                raise DataError(f"{self.folder / IMAGES / name} holds no *.ppm; the copy is incomplete, fetch it again")
            groups.append([f"{IMAGES}/{name}/{file}" for file in paths])
        return ImageList(*split_per_class(groups, self.split))


class TrafficSignSmall(TrafficSign):
    """GTSRB under DABS's name for 32 x 32 pixels: the same images, which the tokenizer resizes by default."""

    name = "traffic_sign_small"
    aliases = ()


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [TrafficSign, TrafficSignSmall]
