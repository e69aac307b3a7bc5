"""German Traffic Sign Recognition Benchmark (Stallkamp et al., 2012): which sign (protocol 2.1, pitfall P24)."""

from __future__ import annotations

from typing import ClassVar

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._images import Listed, Pictures, classes, files, per_class

IMAGES = "GTSRB/Final_Training/Images"
SIGNS = 43


class TrafficSign(Pictures):
    """GTSRB: which of 43 traffic signs; 80 % of each sign's official training pictures for training.

    As published, each sign's pictures are shuffled by one RandomState(42). The published codes shuffle whatever order
    the file system lists; here the names are sorted first, so that the split is the same everywhere (P24). Pictures
    come in tracks of 30 of one physical sign, and the protocol divides tracks: scores are better than on new signs.
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
                digest="md5:f33fd80ac59bff73c82d25ab499e03a3",
            ),
        ),
        needs=(f"{IMAGES}/00000", f"{IMAGES}/{SIGNS - 1:05}"),
        counts={"train": 31_367, "test": 7_842},
    )  # fmt: skip

    def listed(self) -> Listed:
        """<sign>/*.ppm of signs 0 to 42."""
        names = [f"{sign:05}" for sign in range(SIGNS)]
        self.task = classes(names, "sign")
        groups = []
        for name in names:
            found = files(self.folder / IMAGES / name, ".ppm")
            if not found:
                raise DataError(f"{self.folder / IMAGES / name} holds no *.ppm; the copy is not whole, fetch it again")
            groups.append([f"{IMAGES}/{name}/{file}" for file in found])
        return Listed(*per_class(groups, self.split))


class TrafficSignSmall(TrafficSign):
    """GTSRB by DABS's name for 32 x 32: the same pictures, and 32 x 32 is the tokenizer's default."""

    name = "traffic_sign_small"
    aliases = ()


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [TrafficSign, TrafficSignSmall]
