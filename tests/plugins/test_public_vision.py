"""Public image sets on miniatures: files, splits and labels."""

from __future__ import annotations

import math
import os
import pickle
import runpy
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from ssl_core import BadSample, DataError
from ssl_core.plugins import load
from ssl_plugins.datasets.public import (
    _arrays,
    _images,
    aircraft,
    chexpert,
    cifar10,
    cu_birds,
    dtd,
    eurosat,
    imagenet,
    traffic_sign,
    vgg_flower,
    wm811k,
    xray8,
)

MINIATURES = runpy.run_path(str(Path(__file__).parents[1] / "miniatures" / "vision.py"))
WRITERS = MINIATURES["WRITERS"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data folder with all of the sets. Tests do not change it."""
    folder = tmp_path_factory.mktemp("data")
    for writer in dict.fromkeys(WRITERS.values()):
        writer(folder)
    return folder


def both(cls: type, root: Path, **options: Any) -> tuple[Any, Any]:
    """The training and the test split."""
    values = cls.Options(root=str(root), **options)
    return cls(values, "train"), cls(values, "test")


def classes_of(dataset: Any) -> list[str]:
    return [dataset.task.names[label] for label in dataset.labels]


def copy_set(root: Path, target: Path, cls: type) -> Path:
    """Copy one data set, for a test to damage. Returns its folder."""
    folder = target.joinpath(*cls.source.folder.split("/"))
    shutil.copytree(root / cls.source.folder, folder)
    return folder


def published_split(groups: list[list[Any]]) -> dict[str, list[Any]]:
    """The published rule: one generator shuffles each class, the first 80 % are for training."""
    random = np.random.RandomState(42)
    splits: dict[str, list[Any]] = {"train": [], "test": []}
    for group in groups:
        items = list(group)
        random.shuffle(items)
        cut = math.floor(len(items) * 4 / 5)
        splits["train"] += items[:cut]
        splits["test"] += items[cut:]
    return splits


# --- natural images --------------------------------------------------------------------------------------------------


def test_imagenet_classes_are_the_training_folders(root, tmp_path):
    train, test = both(imagenet.ImageNet, root)
    assert train.task.names == MINIATURES["WORDNET"]
    for dataset, part in ((train, "train"), (test, "validation")):
        assert dataset.paths == sorted(str(p.relative_to(train.folder)) for p in (train.folder / part).rglob("*.JPEG"))
        assert classes_of(dataset) == [path.split("/")[1] for path in dataset.paths]
    for index in range(6):  # grey and CMYK images among them
        assert train[index]["inputs"]["image"].shape[0] == 3
    top = copy_set(root, tmp_path, imagenet.ImageNet)
    (top / "validation").rename(top / "val")  # torchvision's name
    assert len(both(imagenet.ImageNet, tmp_path)[1]) == 6
    shutil.rmtree(top / "train" / "n01443537")
    with pytest.raises(DataError, match=r"val/n01443537 is a class that .*train does not have"):
        both(imagenet.ImageNet, tmp_path)


def test_message_for_missing_imagenet_names_the_registration(tmp_path):
    with pytest.raises(DataError, match=r"no .*imagenet/train; register at https://www.image-net.org, download"):
        both(imagenet.ImageNet, tmp_path)


def test_cifar10_images_and_labels(root, tmp_path):
    train, test = both(cifar10.Cifar10, root)
    assert (len(train), len(test)) == (60, 12)
    parts = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    rows = []
    for part in parts:  # as the upstream's page describes
        batch = pickle.loads((train.folder / "cifar-10-batches-py" / part).read_bytes(), encoding="bytes")
        rows += list(zip(batch[b"data"], batch[b"labels"], strict=True))
    images = [dataset[index] for dataset in (train, test) for index in range(len(dataset))]
    for sample, (pixels, label) in zip(images, rows, strict=True):
        np.testing.assert_array_equal(sample["inputs"]["image"], pixels.reshape(3, 32, 32))
        assert sample["label"] == label
    assert train.describe(13).endswith("data_batch_2 row 1")
    top = copy_set(root, tmp_path, cifar10.Cifar10)
    (top / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"\x80\x02}q\x00(U\x04data")
    with pytest.raises(DataError, match=r"data_batch_3 is damaged or no pickle of the upstream's form"):
        both(cifar10.Cifar10, tmp_path)


def test_aircraft_boxes_and_classes(root, tmp_path):
    train, test = both(aircraft.Aircraft, root)
    assert train.task.names == ("707-320", "A300B4", "Boeing 737-700")
    for dataset in (train, test):
        images = [int(Path(path).stem) for path in dataset.paths]
        assert classes_of(dataset) == [MINIATURES["VARIANTS"][image % 3] for image in images]
        assert {image // 1_000_000 for image in images} == ({1} if dataset is train else {2})
    with Image.open(train.folder / train.paths[1]) as file:
        image = np.moveaxis(np.asarray(file.convert("RGB")), -1, 0)
    right = 20 + int(Path(train.paths[1]).stem) % 3
    np.testing.assert_array_equal(train[1]["inputs"]["image"], image[:, 2:15, 3:right])
    data = copy_set(root, tmp_path, aircraft.Aircraft) / aircraft.DATA
    table = data / "images_variant_test.txt"
    table.write_text(table.read_text() + "2000000 Concorde\n")
    with pytest.raises(DataError, match=r"images_variant_test\.txt row 7: the class 'Concorde' is in no training"):
        both(aircraft.Aircraft, tmp_path)
    (data / "images_box.txt").write_text("1000000 1 2 3\n")
    with pytest.raises(DataError, match=r"images_box\.txt row 1: expected four whole numbers"):
        both(aircraft.Aircraft, tmp_path)


def test_cu_birds_splits_and_classes(root, tmp_path):
    train, test = both(cu_birds.CuBirds, root)
    for dataset in (train, test):
        for path, label in zip(dataset.paths, dataset.labels, strict=True):
            species, name = path.split("/")[-2:]
            assert (dataset.task.names[label], int(species[:3])) == (species, label + 1)
            assert (int(name.split("_")[-2]) % 3 > 0) == (dataset is train)
    assert len(train) + len(test) == 18
    assert train[2]["inputs"]["image"].shape[0] == 3  # image 4 is grey
    top = copy_set(root, tmp_path, cu_birds.CuBirds)
    labels = top / "CUB_200_2011" / "image_class_labels.txt"
    text = labels.read_text()
    labels.write_text(text.replace("\n18 3\n", "\n18 4\n"))
    with pytest.raises(DataError, match=r"labels\.txt: image 18 has class 4, which no training picture has"):
        both(cu_birds.CuBirds, tmp_path)
    labels.write_text(text.replace("\n18 3\n", "\n"))
    with pytest.raises(DataError, match=r"image_class_labels\.txt has no row for image 18"):
        both(cu_birds.CuBirds, tmp_path)
    labels.write_text(text + "19\n")
    with pytest.raises(DataError, match=r"image_class_labels\.txt line 19: expected two columns, not '19'"):
        both(cu_birds.CuBirds, tmp_path)


def test_dtd_splits_and_classes(root, tmp_path):
    train, test = both(dtd.Dtd, root)
    assert train.task.names == ("banded", "dotted", "zigzagged")
    tens = [Counter(int(Path(path).stem[-4:]) // 10 for path in dataset.paths) for dataset in (train, test)]
    assert tens == [{0: 9, 1: 9}, {2: 9}]
    for dataset in (train, test):
        assert classes_of(dataset) == [path.split("/")[-2] for path in dataset.paths]
    table = copy_set(root, tmp_path, dtd.Dtd) / "dtd" / "labels" / "test1.txt"
    table.write_text("banded/banded_0020.jpg\nwoven/woven_0001.jpg\n")
    with pytest.raises(DataError, match=r"test1\.txt row 2: the class 'woven' is in no training picture"):
        both(dtd.Dtd, tmp_path)
    table.write_text("banded_0020.jpg\n")
    with pytest.raises(DataError, match=r"test1\.txt line 1: expected <texture>/<file>"):
        both(dtd.Dtd, tmp_path)


def test_traffic_sign_follows_the_published_split(root, tmp_path, monkeypatch):
    train, test = both(traffic_sign.TrafficSign, root)
    images = train.folder / "GTSRB" / "Final_Training" / "Images"
    expected = published_split([sorted(path.name for path in (images / f"{s:05}").glob("*.ppm")) for s in range(43)])
    for dataset in (train, test):
        assert [Path(path).name for path in dataset.paths] == expected[dataset.split]
        assert classes_of(dataset) == [path.split("/")[-2] for path in dataset.paths]
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: sorted(listdir(folder), reverse=True))
    assert both(traffic_sign.TrafficSign, root)[0].paths == train.paths
    monkeypatch.undo()
    empty = copy_set(root, tmp_path, traffic_sign.TrafficSign) / traffic_sign.IMAGES / "00017"
    for path in empty.glob("*.ppm"):
        path.unlink()
    with pytest.raises(DataError, match=r"Images/00017 holds no \*\.ppm"):
        both(traffic_sign.TrafficSign, tmp_path)


def test_vgg_flower_follows_the_published_split(root, tmp_path):
    train, test = both(vgg_flower.VggFlower, root)
    flowers = MINIATURES["FLOWERS"].tolist()
    groups = [[row + 1 for row, other in enumerate(flowers) if other == flower] for flower in (3, 1, 2)]
    expected = published_split(groups)
    for dataset in (train, test):
        images = [int(Path(path).stem.split("_")[1]) for path in dataset.paths]
        assert images == expected[dataset.split]
        assert [label + 1 for label in dataset.labels] == [flowers[image - 1] for image in images]
        assert classes_of(dataset) == [str(flowers[image - 1]) for image in images]
    top = copy_set(root, tmp_path, vgg_flower.VggFlower)
    (top / "imagelabels.mat").write_bytes(b"no table at all" * 20)
    with pytest.raises(DataError, match=r"imagelabels\.mat holds no row 'labels'"):
        both(vgg_flower.VggFlower, tmp_path)


# --- medical images --------------------------------------------------------------------------------------------------


def test_chexpert_labels_are_the_certain_findings(root, tmp_path):
    train, test = both(chexpert.CheXpert, root)
    assert (train.task.kind, train.task.metric, train.task.size) == ("labels", "auroc", 5)
    for dataset, table in ((train, "train"), (test, "valid")):
        rows = (train.folder / "CheXpert-v1.0-small" / f"{table}.csv").read_text().splitlines()[1:]
        cells = [row.split(",") for row in rows]
        assert dataset.paths == [row[0] for row in cells]
        expected = [[int(row[5 + column] == "1.0") for column in (8, 2, 6, 5, 10)] for row in cells]
        assert dataset.labels.tolist() == expected
        assert [dataset[index]["label"].tolist() for index in range(len(dataset))] == expected
    assert 0 < train.labels.mean() < 1
    assert train[0]["inputs"]["image"].shape[0] == 1
    top = copy_set(root, tmp_path, chexpert.CheXpert)
    MINIATURES["chexpert"](tmp_path, "CheXpert-v1.0")
    full, _ = both(chexpert.CheXpert, tmp_path)
    assert {path.split("/")[0] for path in full.paths} == {"CheXpert-v1.0"}  # read if both exist
    table = top / "CheXpert-v1.0" / "train.csv"
    text = table.read_text()
    rows = [line.split(",") for line in text.splitlines()]
    rows[3][rows[0].index("Edema")] = "maybe"
    table.write_text("\n".join(",".join(row) for row in rows))
    with pytest.raises(DataError, match=r"CheXpert-v1\.0/train\.csv row 4: findings must be 1\.0, 0\.0, -1\.0 or"):
        both(chexpert.CheXpert, tmp_path)
    table.write_text(text.replace("Edema", "Oedema"))
    with pytest.raises(DataError, match=r"train\.csv has no column 'Edema'"):
        both(chexpert.CheXpert, tmp_path)


def test_message_for_missing_chexpert_names_the_registration(tmp_path):
    with pytest.raises(DataError, match=r"no .*-small/train\.csv; register at https://stanfordmlgroup") as caught:
        both(chexpert.CheXpert, tmp_path)
    assert "\n" not in str(caught.value)


def test_message_for_a_packed_chexpert_names_the_zip(root, tmp_path):
    top = tmp_path / "medical_images" / "chexpert"
    top.mkdir(parents=True)
    (top / "CheXpert-v1.0-small.zip").touch()
    with pytest.raises(
        DataError, match=rf"train\.csv; unpack {top}/CheXpert-v1\.0-small\.zip in its own folder, or reg"
    ):
        both(chexpert.CheXpert, tmp_path)
    shutil.copytree(root / "medical_images" / "chexpert", top, dirs_exist_ok=True)
    assert len(both(chexpert.CheXpert, tmp_path)[1]) == 6
    (top / "CheXpert-v1.0-small" / "valid.csv").unlink()
    with pytest.raises(DataError, match=r"valid\.csv; register at"):  # the zip is unpacked already
        both(chexpert.CheXpert, tmp_path)


def test_message_for_xray8_without_table_names_the_table(root, tmp_path):
    top = copy_set(root, tmp_path, xray8.Xray8)
    (top / "metadata.csv").unlink()
    with pytest.raises(DataError, match=r"no .*xray8/metadata\.csv; download Data_Entry_2017 \(a csv\) by hand"):
        both(xray8.Xray8, tmp_path)
    assert all(archive.is_unpacked(top) for archive in xray8.Xray8.source.archives)  # nothing is downloaded
    shutil.rmtree(top / "images")
    with pytest.raises(DataError, match="run `sslx data prepare medical-image/xray8"):
        both(xray8.Xray8, tmp_path)
    assert not any(archive.is_unpacked(top) for archive in xray8.Xray8.source.archives)


def test_xray8_follows_the_published_split(root, tmp_path):
    train, test = both(xray8.Xray8, root)
    names = sorted(MINIATURES["XRAYS"])
    order = np.random.RandomState(42).permutation(len(names))
    cut = int(0.9 * len(names))
    assert [Path(path).name for path in train.paths] == [names[index] for index in order[:cut]]
    assert [Path(path).name for path in test.paths] == [names[index] for index in order[cut:]]
    for dataset in (train, test):
        for path, label in zip(dataset.paths, dataset.labels, strict=True):
            findings = MINIATURES["XRAYS"][Path(path).name]
            assert label.tolist() == [int(finding in findings) for finding in dataset.task.names]
    assert {dataset[index]["inputs"]["image"].shape[0] for dataset in (train, test) for index in range(3)} == {1}
    top = copy_set(root, tmp_path, xray8.Xray8)
    table = top / "metadata.csv"
    table.write_text(table.read_text().replace("00000003_001.png", "00000099_001.png"))
    with pytest.raises(DataError, match=r"metadata\.csv has no row for images/00000003_001\.png"):
        both(xray8.Xray8, tmp_path)
    table.write_text("<html>Box</html>\n")
    with pytest.raises(DataError, match=r"metadata\.csv has no column 'Image Index'; is it the web page"):
        both(xray8.Xray8, tmp_path)


# --- satellite images ------------------------------------------------------------------------------------------------


def tenths(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    cut = math.ceil(len(rows) * 9 / 10)
    return rows[:cut], rows[cut:]


def test_eurosat_splits(root):
    sets = [*both(eurosat.EuroSat, root), *both(eurosat.EuroSatTransfer, root)]
    top = sets[0].folder
    paths = sorted(str(path.relative_to(top)) for path in top.rglob("*.tif"))
    order = [paths[index] for index in np.random.RandomState(42).permutation(len(paths))]
    pretraining, transfer = tenths(order)
    assert [dataset.paths for dataset in sets] == [*tenths(pretraining), *tenths(transfer)]
    assert [len(dataset) for dataset in sets] == [81, 9, 9, 1]
    for dataset in sets:
        assert classes_of(dataset) == [path.split("/")[-2] for path in dataset.paths]
    image = sets[0][0]["inputs"]["image"]
    np.testing.assert_array_equal(image, tifffile.imread(top / sets[0].paths[0]).transpose(2, 0, 1))


def test_published_eurosat_has_one_test_image_fewer(root):
    fixed = both(eurosat.EuroSat, root)
    published = both(eurosat.EuroSat, root, protocol="published")
    assert published[0].paths == fixed[0].paths
    assert published[1].paths == fixed[1].paths[1:]  # the first of the last tenth is dropped


@pytest.mark.parametrize("count", [10, 27_000, 24_300, 2_700, 172_950, 638_507, 7])
def test_head_tail_sizes(count):
    rows = np.arange(count)
    assert len(_arrays.head_tail(rows, "train", "fixed")) == -(-9 * count // 10)
    assert len(_arrays.head_tail(rows, "test", "fixed")) == count // 10
    published = _arrays.head_tail(rows, "test", "published")
    assert len(published) == math.floor((1 - 0.9) * count)
    assert not len(published) or published[-1] == count - 1


def test_eurosat_image_of_three_bands_is_a_bad_sample(root, tmp_path):
    copy_set(root, tmp_path, eurosat.EuroSat)
    train, _ = both(eurosat.EuroSat, tmp_path)
    path = train.folder / train.paths[2]
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    with pytest.raises(BadSample, match=r"uint8 of shape \(64, 64, 3\), not 64 x 64 pixels of 13 bands"):
        train[2]


# --- all data sets ---------------------------------------------------------------------------------------------------

ALL = [pytest.param(entry.value, id=entry.name) for entry in load().entries("dataset") if entry.value.source]
MODULES = (aircraft, chexpert, cifar10, cu_birds, dtd, eurosat, imagenet, traffic_sign, vgg_flower, wm811k, xray8)
ALL = [param for param in ALL if param.values[0].__module__ in {module.__name__ for module in MODULES}]
FILES = [param for param in ALL if issubclass(param.values[0], _images.ImageDataset)]


def test_every_data_set_has_a_miniature():
    assert {(param.values[0].modality, param.values[0].name) for param in ALL} == set(WRITERS)
    aliases = {alias for param in ALL for alias in param.values[0].aliases}
    assert aliases == {"imagenet32", "cub", "vggflower", "traffic-sign", "wafer-map"}


@pytest.mark.parametrize(
    ("cls", "table"),
    [
        (aircraft.Aircraft, f"{aircraft.DATA}/{aircraft.TABLES['train']}"),
        (cu_birds.CuBirds, cu_birds.LABELS),
        (dtd.Dtd, "dtd/labels/val1.txt"),
    ],
)
def test_message_for_a_table_that_is_not_utf8_names_the_line(cls, table, root, tmp_path):
    path = copy_set(root, tmp_path, cls) / table
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*rows[:2], b"\n", b"\xe9" + rows[2], *rows[3:]]))
    with pytest.raises(DataError, match=rf"{path.name} line 4 is not UTF-8 text; save the file as UTF-8"):
        both(cls, tmp_path)


@pytest.mark.parametrize("cls", FILES)
def test_files_are_the_images(cls, root):
    for dataset in both(cls, root):
        files = list(dataset.files())
        assert [str(path) for path in files] == [dataset.describe(index) for index in range(len(dataset))]
        assert all(path.is_file() for path in files)


@pytest.mark.parametrize("cls", FILES)
def test_opening_a_set_reads_no_image(cls, root, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    monkeypatch.setattr(tifffile, "imread", None)
    assert all(len(dataset) for dataset in both(cls, root))


@pytest.mark.parametrize("cls", ALL)
def test_message_for_missing_data_is_one_line(cls, tmp_path):
    with pytest.raises(DataError, match=rf"data set '{cls.modality}/{cls.name}' is not in {tmp_path}") as caught:
        both(cls, tmp_path)
    assert "\n" not in str(caught.value)
    assert ("register at" if not cls.source.archives else "`sslx data prepare ") in str(caught.value)


@pytest.mark.parametrize(
    "cls", [param for param in FILES if not param.values[0].name.endswith(("_small", "_transfer"))]
)
def test_damaged_image_is_a_bad_sample(cls, root, tmp_path):
    copy_set(root, tmp_path, cls)
    train, _ = both(cls, tmp_path)
    path = train.folder / train.paths[1]
    for damaged in (b"", b"no picture", path.read_bytes()[:40], path.read_bytes()[:-40]):
        path.write_bytes(damaged)
        with pytest.raises(BadSample) as caught:
            train[1]
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(BadSample, match="cannot be read as"):
        train[1]
    assert str(path) == train.describe(1)
    assert train[0]["inputs"]["image"].size


def test_fingerprint_changes_if_an_image_is_changed_or_removed(root, tmp_path):
    copy_set(root, tmp_path, chexpert.CheXpert)  # its images are listed in a table
    train, test = both(chexpert.CheXpert, tmp_path)
    first, other = train.fingerprint(), test.fingerprint()
    path = train.folder / train.paths[1]
    os.utime(path, ns=(1, 1))
    touched = both(chexpert.CheXpert, tmp_path)[0].fingerprint()
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, ns=(1, 1))
    longer = both(chexpert.CheXpert, tmp_path)[0].fingerprint()
    path.unlink()
    reopened = both(chexpert.CheXpert, tmp_path)
    assert len({first, touched, longer, reopened[0].fingerprint()}) == 4
    assert reopened[1].fingerprint() == other


def test_fingerprint_changes_with_names_labels_and_pixels(root, tmp_path):
    table = copy_set(root, tmp_path, chexpert.CheXpert) / "CheXpert-v1.0-small" / "train.csv"
    fingerprints = [both(chexpert.CheXpert, tmp_path)[0].fingerprint() for _ in range(2)]
    text = table.read_text()
    for changed in (text.replace("-1.0,", "1.0,"), text.replace("patient00003", "patient00033")):
        table.write_text(changed)
        fingerprints.append(both(chexpert.CheXpert, tmp_path)[0].fingerprint())
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3
    batch = copy_set(root, tmp_path, cifar10.Cifar10) / "cifar-10-batches-py" / "data_batch_5"
    before = [both(cifar10.Cifar10, tmp_path)[0].fingerprint()]
    raw = bytearray(batch.read_bytes())
    raw[2000] ^= 1
    batch.write_bytes(bytes(raw))
    assert both(cifar10.Cifar10, tmp_path)[0].fingerprint() not in before
