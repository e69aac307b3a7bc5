"""Further samples of kinds of which the other files have one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from corpus import Fault, Read
from PIL import Image

RANDOM = np.random.RandomState
PHOTO = RANDOM(0).randint(0, 256, (16, 24, 3)).astype(np.uint8)


def text(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content, encoding="utf-8")
        return folder / name

    return make


def sizes(**expected: int) -> Callable[[Read], None]:
    def expect(read: Read) -> None:
        assert read.sizes == expected

    return expect


# --- tables ----------------------------------------------------------------------------------------------------------

DECIMALS = "a;b;label\n" + "".join(f"{i % 7},5;{i % 3},25;{'ab'[i % 2]}\n" for i in range(20))


def decimal_numbers(read: Read) -> None:
    assert read.train.fields["numeric"].shape == (2,)
    values = np.concatenate([read.array("numeric", split) for split in read.datasets])
    assert sorted(set(values[:, 0])) == [i + 0.5 for i in range(7)]
    assert sorted(set(values[:, 1])) == [i + 0.25 for i in range(3)]


def twice(name: str, *rest: str) -> Callable[[Path], Path]:
    """A Parquet file with two columns of one name."""

    def make(folder: Path) -> Path:
        names = [name, name, *rest]
        arrays = [pa.array([f"{i % 5}.5" if name == "x" else f"word {i}" for i in range(20)]) for _ in names]
        pq.write_table(pa.Table.from_arrays(arrays, names=names), folder / "x.parquet")
        return folder / "x.parquet"

    return make


def one_class(read: Read) -> None:
    assert read.train.task is None
    assert any("so that there is nothing to predict" in line for line in read.train.warnings), read.train.warnings


def tables_by_commas(folder: Path) -> str:
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("x,y\n" + "".join(f"{i % 4}.5,{i % 3}.25\n" for i in range(10)))
    return f"{folder / 'a.csv'},{folder / 'b.csv'}"


# --- recordings ------------------------------------------------------------------------------------------------------


def tone(pitch: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(8000) / 8000)).astype(np.float32)


def write_tones(folder: Path, count: int = 10) -> list[Path]:
    paths = [folder / f"{i:02}.wav" for i in range(count)]
    for i, path in enumerate(paths):
        soundfile.write(path, tone(200 + 40 * i), 8000)
    return paths


def listing(header: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        paths = write_tones(folder)
        rows = "".join(f"{path.name},{'ab'[i % 2]}\n" for i, path in enumerate(paths))
        (folder / "list.csv").write_text(f"{header}\n{rows}")
        return folder / "list.csv"

    return make


def recordings_by_commas(folder: Path) -> str:
    return ",".join(map(str, write_tones(folder, 6)))


def one_recording(folder: Path) -> Path:
    return write_tones(folder, 1)[0]


# --- pictures --------------------------------------------------------------------------------------------------------


def pictures_by_commas(folder: Path) -> str:
    paths = [folder / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        Image.fromarray(np.roll(PHOTO, i, axis=0)).save(path)
    return ",".join(map(str, paths))


def mixed_numbers(folder: Path) -> None:
    for i in range(12):
        x = RANDOM(i).randint(0, 256, (3, 8, 8))
        np.save(folder / f"{i:02}.npy", x.astype(np.uint8) if i % 2 else x.astype(np.float32))


def mixed_depths(folder: Path) -> None:
    for i in range(12):
        x = RANDOM(i).randint(0, 256, (8, 8))
        Image.fromarray(x.astype(np.uint8) if i % 2 else x.astype(np.uint16)).save(folder / f"{i:02}.png")


def mixed_sizes(folder: Path) -> None:
    for i in range(12):
        Image.fromarray(RANDOM(i).randint(0, 256, (40 + 8 * i, 30 + 10 * i, 3)).astype(np.uint8)).save(
            folder / f"{i}.png"
        )


def resized(read: Read) -> None:
    assert read.train.fields["image"].shape == (3, None, None)
    assert {one["image"].shape for one in read.prepared()} == {(3, 32, 32)}


def labels_of_arrays(name: str, dtype: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        x = RANDOM(0).randint(0, 256, (20, 8, 8, 3)).astype(np.uint8)
        y = (RANDOM(1).rand(20, 4) < 0.5).astype(dtype)
        np.savez(folder / "x.npz", images=x, **{name: y})
        return folder / "x.npz"

    return make


def four_labels(read: Read) -> None:
    assert read.train.task is not None
    assert (read.train.task.kind, read.train.task.size) == ("labels", 4)
    expected = (RANDOM(1).rand(20, 4) < 0.5).astype(int).tolist()
    found = [np.asarray(label).tolist() for split in read.datasets for label in read.labels(split)]
    assert sorted(found) == sorted(expected)


def flat(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.save(folder / name, np.arange(100.0))
        return folder / name

    return make


# --- captions --------------------------------------------------------------------------------------------------------


def captions(name: Callable[[int], str], caption: Callable[[int], Any] = str) -> Callable[[Path], Path]:
    """JSON lines of images and captions, with the images 0.png to 11.png beside them."""

    def make(folder: Path) -> Path:
        for i in range(12):
            Image.fromarray(np.roll(PHOTO, i, axis=0)).save(folder / f"{i}.png")
        rows = [{"image": name(i), "caption": caption(i)} for i in range(12)]
        (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return folder / "a.jsonl"

    return make


def all_kept(read: Read) -> None:
    assert sum(read.sizes.values()) == 12
    assert read.bad("train") + read.bad("test") == []


def no_picture_in_two_splits(read: Read) -> None:
    pictures = [{one["image"].tobytes() for one in read.samples(split)} for split in ("train", "test")]
    assert sum(read.sizes.values()) == 24
    assert not pictures[0] & pictures[1]


def pairs_of_captions(folder: Path) -> Path:
    for i in range(12):
        Image.fromarray(np.roll(PHOTO, i, axis=0)).save(folder / f"{i}.png")
    rows = "".join(f"./{i}.png,the {word} picture {i}\n" for i in range(12) for word in ("first", "second"))
    (folder / "a.csv").write_text("image,caption\n" + rows)
    return folder / "a.csv"


THAI = "ภาษาไทยเขียนติดกันโดยไม่มีช่องว่างระหว่างคำทำให้การตัดคำเป็นเรื่องยากสำหรับคอมพิวเตอร์"


def known_letters(read: Read) -> None:
    kind = read.prepared(vocab_size=400, length=64)
    rows = [next(value for name, value in one.items() if value.ndim and value.dtype.kind in "iu") for one in kind]
    assert len({tuple(row.tolist()) for row in rows}) == len(rows), "the rows differ"


FAULTS = [
    Fault("decimal comma: with the delimiter set", "tabular", text("x.csv", DECIMALS), decimal_numbers,
          {"delimiter": ";"}),
    Fault("duplicate names: Parquet of series", "time-series", twice("x", "y"), error="two columns 'x'; rename one"),
    Fault("duplicate names: Parquet of texts", "text", twice("text"), error="two columns 'text'; rename one"),
    Fault("one class: a table", "tabular",
          text("x.csv", "a,label\n" + "".join(f"{i % 5}.5,yes\n" for i in range(20))), one_class),
    Fault("one class: folders of one name", "text",
          text("x.jsonl", "\n".join(json.dumps({"text": f"word {i}", "label": "a"}) for i in range(20))), one_class),
    Fault("several files: tables", "tabular", tables_by_commas, sizes(train=16, test=4)),
    Fault("several files: recordings", "speech", recordings_by_commas, sizes(train=5, test=1)),
    Fault("several files: pictures", "image", pictures_by_commas, sizes(train=5, test=1)),
    Fault("listing: header class", "speech", listing("path,class"), doubt="did you mean dataset.label=class"),
    Fault("listing: header Label", "speech", listing("path,Label"), doubt="did you mean dataset.label=Label"),
    Fault("listing: header class is the label", "speech", listing("file,class"),
          lambda read: _two_classes(read), {"label": "class"}),
    Fault("one recording", "speech", one_recording, sizes(train=1),
          error="one sample.*none is left for the test split", cure={"test_fraction": 0}, plain=False),
    Fault("mixed numbers: float and uint8 arrays", "image", mixed_numbers, doubt="different scales"),
    Fault("mixed numbers: 8 and 16 bits", "medical-image", mixed_depths, doubt="different scales"),
    Fault("mixed sizes", "image", mixed_sizes, resized),
    Fault("labels: a matrix y", "image", labels_of_arrays("y", np.int64), four_labels),
    Fault("labels: a matrix of booleans", "image", labels_of_arrays("labels", bool), four_labels),
    Fault("1-D: a series", "time-series", flat("x.npy"), error=r"\(100,\)|no series|one sample"),
    Fault("1-D: multispectral", "multispectral", flat("x.npy"), error=r"has the shape \(100,\); save one array"),
    Fault("captions: http", "image-text", captions("http://x.org/{}.png".format), error="is an address"),
    Fault("captions: s3", "image-text", captions("s3://bucket/{}.png".format), error="is an address"),
    Fault("captions: drive D", "image-text", captions("D:\\\\data\\\\{}.png".format), error="there is no image 'D:"),
    Fault("captions: Windows paths below", "image-text", captions(".\\{}.png".format), all_kept),
    Fault("captions: null is kept", "image-text", captions("{}.png".format, lambda i: None if i % 3 else f"a word {i}"),
          all_kept, {"empty": "keep"}),
    Fault("captions: blanks are kept", "image-text",
          captions("{}.png".format, lambda i: "  " if i % 3 else f"a word {i}"), all_kept, {"empty": "keep"}),
    Fault("captions: two to a picture", "image-text", pairs_of_captions, no_picture_in_two_splits),
    Fault("scripts: Thai in several languages", "multilingual-text",
          text("a.txt", "\n".join(THAI[i:] + THAI[:i] for i in range(0, 40, 2))), known_letters),
]  # fmt: skip


def _two_classes(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.names == ("a", "b")
