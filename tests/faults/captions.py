"""Rows of pictures with captions, and of pictures in Parquet files."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from corpus import Fault, Read
from PIL import Image

COUNT = 20
RANDOM = np.random.RandomState(0)
PHOTOS = [RANDOM.randint(0, 256, (8, 12, 3)).astype(np.uint8) for _ in range(COUNT)]
SCAN = RANDOM.randint(300, 4000, (8, 12)).astype(np.uint16)


def png(image: np.ndarray) -> bytes:
    """The bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


ROW, COLUMN = np.mgrid[:16, :24]
SMOOTH = np.stack([10 * COLUMN, 230 - 9 * COLUMN, 14 * ROW], axis=-1).astype(np.uint8)


def photos(folder: Path, below: str = "in") -> None:
    """The photos as files."""
    (folder / below).mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(PHOTOS):
        Image.fromarray(photo).save(folder / below / f"{number}.png")


def lines(folder: Path, rows: list[dict[str, Any]], encoding: str = "utf-8") -> Path:
    """JSON lines."""
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding=encoding)
    return path


def matches(read: Read) -> None:
    """Each picture has its own caption: the number of the photo."""
    assert sum(read.sizes.values()) == COUNT
    for split, dataset in read.datasets.items():
        assert read.bad(split) == []
        for index in range(len(dataset)):
            inputs = dataset[index]["inputs"]
            number = int(str(inputs["caption"]).rsplit(" ", 1)[1])
            np.testing.assert_array_equal(inputs["image"], np.moveaxis(PHOTOS[number], -1, 0))


def plain(folder: Path) -> Path:
    photos(folder)
    return lines(folder, [{"image": f"in/{n}.png", "caption": f"thing {n}"} for n in range(COUNT)])


def deep(folder: Path) -> Path:
    (folder / "in").mkdir()
    for number in range(COUNT):
        Image.fromarray(SCAN).save(folder / "in" / f"{number}.png")
    return lines(folder, [{"image": f"in/{n}.png", "caption": f"thing {n}"} for n in range(COUNT)])


def saved_as(mode: str | None, ending: str, **options: Any) -> Callable[[Path], Path]:
    """The smooth picture in a mode and format, with the orientation "turned right" where it is a JPEG of RGB."""

    def make(folder: Path) -> Path:
        exif = Image.Exif()
        if mode is None:
            exif[0x0112] = 6
            options["exif"] = exif
        for number in range(COUNT):
            picture = Image.fromarray(SMOOTH)
            (picture.convert(mode) if mode else picture).save(folder / f"{number}{ending}", **options)
        return lines(folder, [{"image": f"{n}{ending}", "caption": f"thing {n}"} for n in range(COUNT)])

    return make


def shows(expected: np.ndarray) -> Callable[[Read], None]:
    def expect(read: Read) -> None:
        image = read.train[0]["inputs"]["image"]
        assert image.shape == (3, *expected.shape[:2])
        assert np.abs(image.astype(int) - np.moveaxis(expected, -1, 0)).max() <= 4

    return expect


def sixteen_bits(read: Read) -> None:
    np.testing.assert_array_equal(read.train[0]["inputs"]["image"], np.repeat(SCAN[np.newaxis], 3, axis=0))
    assert read.train.fields["image"].dtype == "uint16"
    prepared = read.prepared(size=8)[0]["image"]
    assert prepared.dtype == np.float32
    assert len(np.unique(prepared)) > 50


def backslashes(folder: Path) -> Path:
    photos(folder)
    (folder / "a.csv").write_text("image,caption\n" + "".join(f"in\\{n}.png,thing {n}\n" for n in range(COUNT)))
    return folder / "a.csv"


def drive(folder: Path) -> Path:
    (folder / "a.csv").write_text("image,caption\n" + "".join(f"C:\\data\\{n}.png,thing {n}\n" for n in range(COUNT)))
    return folder / "a.csv"


def latin(folder: Path) -> Path:
    photos(folder)
    rows = "".join(f"in/{n}.png,Stra\u00dfencaf\u00e9 {n}\n" for n in range(COUNT))
    (folder / "a.csv").write_text("image,caption\n" + rows, encoding="latin-1")
    return folder / "a.csv"


def umlauts(read: Read) -> None:
    matches(read)
    assert str(read.train[0]["inputs"]["caption"]).startswith("Stra\u00dfencaf\u00e9 ")


def latin_lines(folder: Path) -> Path:
    photos(folder)
    rows = [{"image": f"in/{n}.png", "caption": f"Stra\u00dfencaf\u00e9 {n}"} for n in range(COUNT)]
    return lines(folder, rows, "latin-1")


def array_of_objects(folder: Path) -> Path:
    photos(folder)
    rows = [{"image": f"in/{n}.png", "caption": f"thing {n}"} for n in range(COUNT)]
    (folder / "a.json").write_text(json.dumps(rows, indent=1))
    return folder / "a.json"


def semicolons(folder: Path) -> Path:
    photos(folder)
    (folder / "a.csv").write_text("filename;caption\n" + "".join(f"in/{n}.png;thing {n}\n" for n in range(COUNT)))
    return folder / "a.csv"


def addresses(folder: Path) -> Path:
    return lines(folder, [{"image": f"https://x.org/{n}.png", "caption": f"thing {n}"} for n in range(COUNT)])


def nested(folder: Path) -> Path:
    photos(folder)
    return lines(
        folder, [{"image": f"in/{n}.png", "text": {"en": f"thing {n}", "de": f"Ding {n}"}} for n in range(COUNT)]
    )


def null_captions(folder: Path) -> Path:
    photos(folder)
    return lines(
        folder, [{"image": f"in/{n}.png", "caption": None if n % 4 == 0 else f"thing {n}"} for n in range(COUNT)]
    )


def kept(read: Read) -> None:
    assert sum(len(read.samples(split)) for split in read.datasets) == COUNT
    empty = [str(inputs["caption"]) == "" for split in read.datasets for inputs in read.samples(split)]
    assert sum(empty) == 5


def skipped(read: Read) -> None:
    bad = [line for split in read.datasets for line in read.bad(split)]
    assert len(bad) == 5
    assert all("dataset.empty=keep" in line for line in bad)


def five_each(folder: Path) -> Path:
    photos(folder)
    rows = [{"image": f"in/{n}.png", "caption": f"{word} {n}"} for word in "abcde" for n in range(COUNT)]
    return lines(folder, rows)


def five_in_a_list(folder: Path) -> Path:
    photos(folder)
    return lines(folder, [{"image": f"in/{n}.png", "captions": [f"{w} {n}" for w in "abcde"]} for n in range(COUNT)])


def together(read: Read) -> None:
    assert read.sizes == {"train": 80, "test": 20}
    pictures = [
        {str(inputs["caption"]).rsplit(" ", 1)[1] for inputs in read.samples(split)} for split in ("train", "test")
    ]
    assert len(pictures[0]) == 16
    assert not pictures[0] & pictures[1]
    assert "5 to an image" in read.train.summary.facts["captions"]


def five_each_with(column: Callable[[int], str]) -> Callable[[Path], Path]:
    """Five captions to a picture, in parts that the column names."""

    def make(folder: Path) -> Path:
        photos(folder)
        names = [column(n) for n in range(COUNT)]
        return lines(
            folder,
            [
                {"image": f"in/{n}.png", "caption": f"{word} {n}", "split": names[n]}
                for n in range(COUNT)
                for word in "abcde"
            ],
        )

    return make


def bytes_of_rows(folder: Path) -> Path:
    """A row for each caption, and no name of its picture."""
    rows = [n for n in range(COUNT) for _ in "abcde"]
    table = pa.table({"image": [png(PHOTOS[n]) for n in rows], "caption": [f"thing {n}" for n in rows]})
    pq.write_table(table, folder / "a.parquet", row_group_size=30)
    return folder / "a.parquet"


def apart(*parts: str) -> Callable[[Read], None]:
    """No picture is in two of the splits."""

    def expect(read: Read) -> None:
        assert sum(read.sizes.values()) == 5 * COUNT
        numbers = [{str(one["caption"]).rsplit(" ", 1)[1] for one in read.samples(split)} for split in parts]
        assert len(set().union(*numbers)) == sum(map(len, numbers))
        assert read.train.summary.facts["captions"] == "5 to an image, which are in one split"

    return expect


def captions_apart(folder: Path) -> Path:
    """The captions of each picture are in both splits, by the column of the split."""
    photos(folder)
    splits = ("train", "train", "test")
    return lines(
        folder,
        [{"image": f"in/{n}.png", "caption": f"{s} {n}", "split": s} for n in range(COUNT) for s in splits],
    )


def not_whole(read: Read) -> None:
    assert read.sizes == {"train": 2 * COUNT, "test": COUNT}
    assert read.train.summary.facts["captions"] == "3 to an image"


def huggingface(folder: Path, name: str = "a.parquet", start: int = 0, stop: int = COUNT, **columns: Any) -> Path:
    """A Parquet file as `datasets` writes it."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(PHOTOS[n]), "path": f"{n}.png"} for n in range(start, stop)], kind)
    table = pa.table({"image": images} | {key: pa.array(values[start:stop]) for key, values in columns.items()})
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / name, row_group_size=7)
    return folder / name


def with_captions(folder: Path) -> Path:
    return huggingface(folder, caption=[f"thing {n}" for n in range(COUNT)])


def with_lists(folder: Path) -> Path:
    return huggingface(folder, caption=[[f"{word} {n}" for word in "abcde"] for n in range(COUNT)])


def with_classes(folder: Path) -> Path:
    return huggingface(folder, label=[n % 2 for n in range(COUNT)])


def named_classes(read: Read) -> None:
    assert read.train.fields["image"].shape == (3, 8, 12)
    assert read.train.task is not None
    assert read.train.task.names == ("cat", "dog")
    for split, dataset in read.datasets.items():
        assert read.bad(split) == []
        for index in range(len(dataset)):
            row = int(dataset.describe(index).rsplit(" ", 1)[1]) - 1
            sample = dataset[index]
            np.testing.assert_array_equal(sample["inputs"]["image"], np.moveaxis(PHOTOS[row], -1, 0))
            assert sample["label"] == row % 2


def named_splits(folder: Path) -> None:
    labels = [n % 2 for n in range(COUNT)]
    (folder / "data").mkdir()
    for name, start, stop in (
        ("train-00000-of-00002", 0, 6),
        ("train-00001-of-00002", 6, 12),
        ("test-00000-of-00001", 12, 20),
    ):
        huggingface(folder / "data", f"{name}.parquet", start, stop, label=labels)


def split_sizes(read: Read) -> None:
    assert read.sizes == {"train": 12, "test": 8}
    assert read.train.task is not None
    assert read.train.summary.files == {".parquet": 3}


def two_image_columns(folder: Path) -> Path:
    table = pa.table({"left": [png(photo) for photo in PHOTOS], "right": [png(photo[::-1]) for photo in PHOTOS]})
    pq.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


def mirrored(read: Read) -> None:
    row = int(read.train.describe(0).rsplit(" ", 1)[1]) - 1
    np.testing.assert_array_equal(read.train[0]["inputs"]["image"], np.moveaxis(PHOTOS[row][::-1], -1, 0))


def coco(folder: Path) -> Path:
    photos(folder, "train2017")
    (folder / "annotations").mkdir()
    images = [{"id": 7 * n, "file_name": f"{n}.png"} for n in range(COUNT)]
    captions = [{"id": n, "image_id": 7 * n, "caption": f"thing {n}"} for n in range(COUNT)]
    path = folder / "annotations" / "captions_train2017.json"
    path.write_text(json.dumps({"images": images, "annotations": captions}))
    return path


def texts_beside(folder: Path) -> None:
    photos(folder, ".")
    for number in range(COUNT):
        (folder / f"{number}.txt").write_text(f"thing {number}\n")


def one_text_missing(folder: Path) -> None:
    texts_beside(folder)
    (folder / "3.txt").unlink()


def one_skipped(read: Read) -> None:
    bad = [line for split in read.datasets for line in read.bad(split)]
    assert len(bad) == 1
    assert "3.png" in bad[0]


def webdataset(folder: Path) -> None:
    """Two shards with an image, a class and a text in each sample."""
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for number in range(10 * shard, 10 * shard + 10):
                members = {"png": png(PHOTOS[number]), "cls": b"%d" % (number % 2), "txt": f"thing {number}".encode()}
                for ending, data in members.items():
                    info = tarfile.TarInfo(f"{number:06}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


def two_classes(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.names == ("0", "1")
    for split, dataset in read.datasets.items():
        assert read.bad(split) == []
        for index in range(len(dataset)):
            shard, member = dataset.describe(index).split("/")[-2:]
            number = int(member.removesuffix(".png"))
            assert shard == f"{number // 10:05}.tar"
            pixels = dataset[index]["inputs"]["image"]
            np.testing.assert_array_equal(pixels, np.moveaxis(PHOTOS[number], -1, 0))
            assert dataset[index]["label"] == number % 2


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for number, photo in enumerate(PHOTOS):
            archive.writestr(f"{number}.png", png(photo))
    return folder / "photos.zip"


def photos_of_archive(read: Read) -> None:
    found = {one["image"].tobytes() for split in read.datasets for one in read.samples(split)}
    assert found == {np.moveaxis(photo, -1, 0).tobytes() for photo in PHOTOS}


def clear_picture(folder: Path) -> Path:
    (folder / "in").mkdir()
    for number in range(COUNT):
        Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(folder / "in" / f"{number}.png")
    return lines(folder, [{"image": f"in/{n}.png", "caption": f"thing {n}"} for n in range(COUNT)])


def white(read: Read) -> None:
    assert (read.train[0]["inputs"]["image"] == 255).all()


def elsewhere(folder: Path) -> Path:
    photos(folder, "pictures")
    return lines(folder, [{"image": f"{n}.png", "caption": f"thing {n}"} for n in range(COUNT)])


def file_names(folder: Path) -> Path:
    photos(folder, ".")
    return lines(folder, [{"file_name": f"{n}.png", "caption": f"thing {n}"} for n in range(COUNT)])


FAULTS = [
    Fault("captions: plain", "image-text", plain, matches),
    Fault("captions: 16-bit grey", "image-text", deep, sixteen_bits),
    Fault("captions: transparent", "image-text", clear_picture, white),
    Fault("captions: latin-1", "image-text", latin, umlauts, doubt="dataset.encoding"),
    Fault("captions: latin-1 in JSON lines", "image-text", latin_lines, umlauts, doubt="dataset.encoding"),
    Fault("captions: an array of objects", "image-text", array_of_objects, matches),
    Fault("captions: semicolons", "image-text", semicolons, matches),
    Fault("captions: Windows paths", "image-text", backslashes, matches),
    Fault("captions: Windows drive", "image-text", drive, error=r"a.csv row \d+: there is no image 'C:\\data"),
    Fault("captions: addresses", "image-text", addresses, error=r"row \d+: 'https://x.org/\d+.png' is an address"),
    Fault(
        "captions: nested keys",
        "image-text",
        nested,
        matches,
        {"caption": "text"},
        error=r"a.jsonl row 1: 'text' holds an object with the keys .*dataset.caption=text.en",
        cure={"caption": "text.en"},
    ),
    Fault("captions: null kept", "image-text", null_captions, kept, {"empty": "keep"}),
    Fault("captions: null refused", "image-text", null_captions, skipped),
    Fault("captions: five rows to a picture", "image-text", five_each, together),
    Fault("captions: a list of five", "image-text", five_in_a_list, together, {"caption": "captions"}),
    Fault(
        "captions: five rows to a picture, train and val are named",
        "image-text",
        five_each_with(lambda n: "val" if n < 4 else "train"),
        apart("train", "validation", "test"),
    ),
    Fault(
        "captions: five rows to a picture, validation is drawn",
        "image-text",
        five_each_with(lambda n: "test" if n < 4 else "train"),
        apart("train", "validation", "test"),
        {"validation_fraction": 0.2},
    ),
    Fault("captions: Parquet with a row for each caption", "image-text", bytes_of_rows, apart("train", "test")),
    Fault("captions: a picture in two named splits", "image-text", captions_apart, not_whole),
    Fault("captions: file_name", "image-text", file_names, matches),
    Fault("captions: COCO", "image-text", coco, matches),
    Fault("captions: text files", "image-text", texts_beside, matches),
    Fault("captions: a text file is missing", "image-text", one_text_missing, one_skipped),
    Fault("captions: Parquet with image bytes", "image-text", with_captions, matches),
    Fault("captions: Parquet with lists", "image-text", with_lists, together),
    Fault("tar: WebDataset of captions", "image-text", webdataset, matches),
    Fault("tar: WebDataset of classes", "image", webdataset, two_classes),
    Fault("orientation", "image-text", saved_as(None, ".jpg", quality=100, subsampling=0), shows(np.rot90(SMOOTH, -1))),
    Fault("CMYK: JPEG", "image-text", saved_as("CMYK", ".jpg", quality=100, subsampling=0), shows(SMOOTH)),
    Fault("CMYK: TIFF", "image-text", saved_as("CMYK", ".tif"), shows(SMOOTH)),
    Fault("zip: pictures", "image", zipped, photos_of_archive),
    Fault("Parquet: image bytes and classes", "image", with_classes, named_classes),
    Fault("Parquet: named splits", "image", named_splits, split_sizes),
    Fault("Parquet: scans", "medical-image", with_classes, named_classes),
    Fault(
        "Parquet: two columns of images",
        "image",
        two_image_columns,
        mirrored,
        error="several columns of images",
        cure={"image": "right"},
    ),
]
