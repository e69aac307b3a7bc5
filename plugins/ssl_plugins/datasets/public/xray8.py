"""ChestX-ray8 (Wang et al., 2017), with the images of ChestX-ray14: findings in chest X-rays."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, Task, hookimpl
from ssl_plugins.datasets._io.texts.texts import open_text
from ssl_plugins.datasets.public._images import SPLIT_SEED, ImageDataset, ImageList, list_files

TABLE = "metadata.csv"
IMAGE, LABELS = "Image Index", "Finding Labels"
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
)  # fmt: skip
PARTS = (
    "vfk49d74nhbxq3nqjg0900w5nvkorp5c", "i28rlmbvmfjbl8p2n3ril0pptcmcu9d1", "f1t00wrtdk94satdfb9olcolqx20z2jp",
    "0aowwzs5lhjrceb3qp67ahp0rd1l1etg", "v5e3goj22zr6h8tzualxfsqlqaygfbsn", "asi7ikud9jwnkrnkj99jnpfkjdes7l6l",
    "jn1b4mw4n6lnh74ovmcjb8y48h8xj07n", "tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j", "upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj",
    "l6nilvfa9cg3s28tqv1qc1olm3gnz54p", "hhq8fkdgvcari67vfhs7ppg2w6ni4jze", "ioqwiy20ihqwyr8pf4c24eazhh281pbu",
)  # fmt: skip


class Xray8(ImageDataset):
    """ChestX-ray8: eight findings in chest X-rays; 90 % of the images for training.

    As published, RandomState(42) shuffles all images. The published code shuffles the order in which the file system
    lists them; here the names are sorted first. Images are split, not patients, so a patient may be in both splits.
    """

    name = "xray8"
    modality = "medical-image"
    mode = "L"
    source = Source(
        homepage="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        terms="free use, with acknowledgement of the NIH Clinical Center",
        folder="medical_images/xray8",
        archives=tuple(
            Archive(
                url=f"https://nihcc.box.com/shared/static/{part}.gz", file=f"chestxray8_images_{number}.tar.gz",
                kind="tar", shared_output="images",
            )
            for number, part in enumerate(PARTS)
        ),
        registration="download Data_Entry_2017 (a csv) by hand from "
        f"https://nihcc.app.box.com/v/ChestXray-NIHCC/file/219760887468 and save it as medical_images/xray8/{TABLE}",
        required_paths=("images", TABLE),
        sample_counts={"train": 100_908, "test": 11_212},
    )  # fmt: skip

    def list_images(self) -> ImageList:
        """images/*.png."""
        self.task = Task("labels", len(FINDINGS), "auroc", names=FINDINGS, title="finding")
        findings_of = _read(self.folder / TABLE)
        names = list_files(self.folder / "images", ".png")
        missing = next((name for name in names if name not in findings_of), None)
        if missing is not None:
            raise DataError(f"{self.folder / TABLE} has no row for images/{missing}")
        np.random.RandomState(SPLIT_SEED).shuffle(names)
        cut = int(0.9 * len(names))
        chosen = names[:cut] if self.split == "train" else names[cut:]
        labels = [[finding in findings_of[name] for finding in FINDINGS] for name in chosen]
        return ImageList(
            [f"images/{name}" for name in chosen], np.array(labels, dtype=np.int8).reshape(-1, len(FINDINGS))
        )


def _read(table: Path) -> dict[str, frozenset[str]]:
    """The findings of each image.

    Raises:
        DataError: if the table lacks a column.
    """
    with open_text(table) as file:
        rows = csv.DictReader(file)
        for column in (IMAGE, LABELS):
            if column not in (rows.fieldnames or ()):
                raise DataError(f"{table} has no column '{column}'; is it the web page instead of the csv?")
        return {row[IMAGE]: frozenset((row[LABELS] or "").split("|")) for row in rows}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Xray8]
