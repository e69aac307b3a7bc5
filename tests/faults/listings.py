"""Rows of files and folders: which are read, what they are called, tables that list them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from corpus import Fault, Read
from PIL import Image

WAVS = [f"{i}.wav" for i in range(10)]


def wavs(folder: Path, names: list[str]) -> None:
    """Recordings of two words, by the parity of their position."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tone = np.sin(np.arange(800) * (0.1 + 0.2 * (i % 2)))
        soundfile.write(folder / name, (0.5 - 0.01 * i) * tone, 8000)  # no copies


def pictures(folder: Path, names: list[str]) -> None:
    """Small grey pictures."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(folder / name)


def listing(content: str | bytes, name: str = "list.csv", files: list[str] | None = None) -> Callable[[Path], Path]:
    """Writes recordings and a table of them."""

    def make(folder: Path) -> Path:
        wavs(folder, files or WAVS)
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def rows(separator: str = ",", path: str = "path", label: str = "label", prefix: str = "") -> str:
    """A table of `WAVS`."""
    lines = [f"{path}{separator}{label}", *(f"{prefix}{name}{separator}{'ab'[i % 2]}" for i, name in enumerate(WAVS))]
    return "\n".join(lines) + "\n"


def sizes(**expected: int) -> Callable[[Read], None]:
    """The number of samples of each split."""

    def expect(read: Read) -> None:
        assert read.sizes == expected

    return expect


def labelled(read: Read) -> None:
    """All ten samples, of classes a and b."""
    assert read.sizes == {"train": 8, "test": 2}
    assert read.train.task.names == ("a", "b")
    assert sorted(read.labels()) == ["a"] * 4 + ["b"] * 4


def classes(*names: str) -> Callable[[Read], None]:
    """The names of the classes; none for no task."""

    def expect(read: Read) -> None:
        assert (read.train.task.names if read.train.task else ()) == names

    return expect


def tree(*names: str) -> Callable[[Path], None]:
    """Recordings in folders."""
    return lambda folder: wavs(folder, list(names))


def several(*folders: str) -> list[str]:
    """Five recordings in each folder."""
    return [f"{folder}/{i}.wav" for folder in folders for i in range(5)]


def tree_of_pictures(folder: Path) -> None:
    pictures(folder, [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)])


def arrays(folder: Path) -> Path:
    """Pictures with words, and numbers that are not used."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "x.npz", images=pixels, word=np.array(["x", "y"] * 10), weight=np.arange(20))
    return folder / "x.npz"


def named_arrays(read: Read) -> None:
    classes("x", "y")(read)
    assert read.train.summary.facts["arrays not used"] == "weight"


def with_pipe(folder: Path) -> Path:
    pd.DataFrame({"a": range(20), "label": ["x", "y"] * 10}).to_csv(folder / "x.csv", index=False)
    os.mkfifo(folder / "pipe.csv")
    return folder


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.csv")
    return folder / "pipe.csv"


def odd_name(folder: Path) -> None:
    wavs(folder, WAVS)
    os.rename(os.fsencode(folder / "0.wav"), os.fsencode(folder) + b"/0\xe9.wav")


def glob(pattern: str, *names: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        wavs(folder, list(names))
        return str(folder / pattern)

    return make


def glob_of_pictures(pattern: str, *folders: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        pictures(folder, [f"{name}/{i}.png" for name in folders for i in range(3)])
        return str(folder / pattern)

    return make


SPLIT_FOLDERS = [f"sp/{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")]


def as_the_folder(read: Read) -> None:
    """The folders are the splits, and those below the classes."""
    sizes(train=6, test=6)(read)
    assert all(f"/sp/{split}/" in data.describe(i) for split, data in read.datasets.items() for i in range(6))
    assert read.labels("test") == ["cat"] * 3 + ["dog"] * 3


def cat_and_dog(read: Read) -> None:
    classes("cat", "dog")(read)
    assert all(
        f"/{label}/" in data.describe(i)
        for split, data in read.datasets.items()
        for i, label in enumerate(read.labels(split))
    )


def sites(folder: Path) -> None:
    for i, name in enumerate(f"site{site}_{split}.csv" for site in (1, 2, 3) for split in ("train", "test")):
        pd.DataFrame({"a": 100 * i + np.arange(8) / 8, "label": ["x", "y"] * 4}).to_csv(folder / name, index=False)


def split_by_names(read: Read) -> None:
    sizes(train=24, test=24)(read)
    for split, dataset in read.datasets.items():
        assert all(f"_{split}.csv" in dataset.describe(i) for i in range(24))


def excluded_metadata(folder: Path) -> None:
    """Folders of classes, and a table that says other ones."""
    pictures(folder, [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)])
    rows = [f"{name}/{i}.png,{'xy'[i % 2]}" for name in ("cat", "dog") for i in range(5)]
    (folder / "metadata.csv").write_text("file_name,label\n" + "\n".join(rows) + "\n")


def list_of_pictures(folder: Path) -> Path:
    pictures(folder, [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)])
    rows = [f"{folder / 'dog' if name == 'dog' else name}/{i}.png" for name in ("cat", "dog") for i in range(5)]
    (folder / "list.csv").write_text("path\n" + "\n".join(rows) + "\n")
    return folder / "list.csv"


def folder_of_arrays(root: str = "") -> Callable[[Path], str]:
    """Three files of ten pictures; `root` below the folder, with commas between several."""

    def make(folder: Path) -> str:
        for i in (1, 2, 3):
            pixels = np.random.default_rng(i).integers(0, 256, (10, 1, 8, 8), dtype=np.uint8)
            np.savez(folder / f"i{i}.npz", images=pixels, labels=np.array(["x", "y"] * 5))
            np.save(folder / f"one{i}.npy", pixels[0, 0])
            np.save(folder / f"many{i}.npy", pixels)
        for path in folder.glob("*.npy" if not root else "nothing"):
            path.unlink()
        return ",".join(str(folder / part) for part in root.split(","))

    return make


def of_files(*names: str, count: int) -> Callable[[Read], None]:
    """The files that hold the samples, and their number."""

    def expect(read: Read) -> None:
        found = {data.describe(i).split(" sample ")[0] for data in read.datasets.values() for i in range(len(data))}
        assert {Path(name).name for name in found} == set(names)
        assert sum(read.sizes.values()) == count

    return expect


def glob_of_tables(folder: Path) -> str:
    for name in ("p1.csv", "p2.csv", "notes.csv"):
        table = {"text": ["x"] * 5} if name == "notes.csv" else {"a": np.arange(10) / 8, "label": ["x", "y"] * 5}
        pd.DataFrame(table).to_csv(folder / name, index=False)
    return str(folder / "p*.csv")


def several_files(folder: Path) -> str:
    wavs(folder, ["a.wav", "b.wav", "x/a.wav"])
    return ",".join(str(folder / name) for name in ("a.wav", "b.wav", "x/a.wav"))


def pipe_of_texts(folder: Path) -> None:
    for i in range(5):
        (folder / f"{i}.txt").write_text(f"text {i}")
    os.mkfifo(folder / "a.txt")


def image_folder(folder: Path) -> None:
    pictures(folder, [f"{i}.png" for i in range(10)])
    table = pd.DataFrame({"file_name": [f"{i}.png" for i in range(10)], "label": ["a", "b"] * 5})
    table.to_csv(folder / "metadata.csv", index=False)


def audio_folder(folder: Path) -> None:
    for split, count in (("train", 8), ("test", 2)):
        wavs(folder, [f"{split}/{i}.wav" for i in range(count)])
        lines = [f'{{"file_name": "{i}.wav", "word": "{"ab"[i % 2]}"}}\n' for i in range(count)]
        (folder / split / "metadata.jsonl").write_text("".join(lines))


def picture_list(folder: Path) -> Path:
    pictures(folder, [f"p/{i}.png" for i in range(10)])
    lines = ["filename;label", *(f"p/{i}.png;{'ab'[i % 2]}" for i in range(10)), "p/gone.png;a"]
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def ignored(read: Read) -> None:
    """Files that are no recordings are counted."""
    assert read.train.summary.files == {".wav": 10}
    assert read.train.summary.ignored == {".xyz": 4, ".TXT": 1}


def mixed(folder: Path) -> None:
    wavs(folder, WAVS)
    for i in range(4):
        (folder / f"{i}.xyz").write_text("x")
    (folder / "notes.TXT").write_text("x")


def no_recordings(folder: Path) -> None:
    for i in range(3):
        (folder / f"{i}.mid").write_text("x")


LINES = "".join(f'{{"path": "{name}", "label": "{"ab"[i % 2]}"}}\n' for i, name in enumerate(WAVS))
FAULTS = [
    Fault("list: semicolons", "speech", listing(rows(";")), labelled),
    Fault("list: column filename", "speech", listing(rows(path="filename")), labelled),
    Fault("list: column file_name", "speech", listing(rows(path="file_name")), labelled),
    Fault("list: column Path", "speech", listing(rows(path="Path")), labelled),
    Fault("list: UTF-16", "speech", listing(rows().encode("utf-16")), labelled),
    Fault("list: paths of Windows", "speech", listing(rows(prefix=".\\")), labelled),
    Fault("list: JSON lines", "speech", listing(LINES, "list.jsonl"), labelled),
    Fault("list: Label", "speech", listing(rows(label="Label")), sizes(train=8, test=2),
        doubt="did you mean dataset.label=Label"),
    Fault("list: blank before the label", "speech", listing(rows(label=" label")), labelled),
    Fault("list: column word", "speech", listing(rows(label="word")), labelled, options={"label": "word"}),
    Fault("list: column of paths by name", "speech", listing(rows(path="clip")), labelled, error="no column of paths",
        cure={"path_column": "clip"}),
    Fault("list: missing files", "speech", listing(rows() + "gone.wav,a\nlost.wav,b\n"), labelled,
        warning="2 of the 12 files .* do not exist and are left out .row 11: gone.wav"),
    Fault("list: all files missing", "speech", listing("path\nx.wav\ny.wav\n"),
        error="none of the 2 files.*row 1: x.wav"),
    Fault("list: pickle", "speech", listing(b"\x80\x04\x95abc"), error="is a pickle"),
    Fault("list of pictures: semicolons, filename, one missing", "image", picture_list, labelled,
        warning="1 of the 11 files"),
    Fault("metadata.csv of an imagefolder", "image", image_folder, labelled),
    Fault("metadata.jsonl of an audiofolder", "speech", audio_folder, labelled, options={"label": "word"}),
    Fault("a stray file beside class folders", "speech", tree(*several("cat", "dog"), "stray.wav"), classes(),
        doubt="folders .cat, dog.* stray.wav .*dataset.exclude=stray.wav"),
    Fault("a stray file, excluded", "speech", tree(*several("cat", "dog"), "stray.wav"), classes("cat", "dog"),
        options={"exclude": "stray.wav"}),
    Fault("a folder around class folders", "speech", tree(*several("data/cat", "data/dog")), classes("cat", "dog")),
    Fault("two folders around splits", "speech",
        tree(*several(*(f"a/b/{s}/{c}" for s in ("train", "test") for c in ("x", "y")))), classes("x", "y")),
    Fault("one folder is no class", "speech", tree(*several("cat")), classes()),
    Fault("an excluded folder", "speech", tree(*several("cat", "dog", "raw")), classes("cat", "dog"),
        options={"exclude": "raw"}),
    Fault("other endings", "speech", mixed, ignored),
    Fault("only other endings", "speech", no_recordings,
        error="holds no file ending in .*; it holds 3 .mid: set dataset.extensions"),
    Fault("a name that is not UTF-8", "speech", odd_name, sizes(train=7, test=2), warning=r"0\\xe9.wav is left out"),
    Fault("a pipe in a folder", "tabular", with_pipe, sizes(train=16, test=4), doubt="'a'"),
    Fault("a column without a table", "speech", tree(*several("cat", "dog")), options={"label": "word"},
        error=r"dataset\.label=word names a column, and no table lists the files"),
    Fault("a column without a table, of images", "image", tree_of_pictures, options={"group": "person"},
        error=r"dataset\.group=person names a column, .*metadata\.csv with the columns file_name and person"),
    Fault("an array of labels under its own name", "image", arrays, named_arrays, options={"label": "word"}),
    Fault("an array that is not there", "image", arrays, options={"label": "wrod"},
        error="dataset.label=wrod: .*holds no such array; did you mean 'word'"),
    Fault("a pipe", "tabular", pipe, error="no regular file, perhaps a pipe"),
    Fault("a glob of recordings", "speech", glob("a*.wav", "a1.wav", "a2.wav", "a3.wav", "b.wav"),
        sizes(train=2, test=1)),
    Fault("a glob of all folders", "speech", glob("**/*.wav", *several("x/y", "z")), sizes(train=8, test=2)),
    Fault("a glob of recordings in folders", "speech", glob("*/*.wav", *several("cat", "dog")), cat_and_dog),
    Fault("a glob of splits", "image", glob_of_pictures("sp/**/*.png", *SPLIT_FOLDERS), as_the_folder),
    Fault("a glob of split folders", "image", glob_of_pictures("sp/t*/*/*.png", *SPLIT_FOLDERS), as_the_folder),
    Fault("a glob below one split", "image", glob_of_pictures("sp/train/*/?.png", *SPLIT_FOLDERS), cat_and_dog),
    Fault("a glob, all excluded", "image", glob_of_pictures("sp/**/*.png", *SPLIT_FOLDERS), options={"exclude": "sp,*"},
        error="dataset.exclude leaves out each of its files"),
    Fault("splits in names, groups by a pattern", "tabular", sites, split_by_names,
        options={"label_pattern": "(?P<group>site[0-9])"}),
    Fault("excluded metadata", "image", excluded_metadata, classes("cat", "dog"), options={"exclude": "metadata.csv"}),
    Fault("excluded rows of a list", "image", list_of_pictures, sizes(train=6, test=2),
        options={"exclude": "cat/0.png,dog/1.png"}),
    Fault("an excluded folder of a list", "image", list_of_pictures, sizes(train=4, test=1),
        options={"exclude": "dog"}),
    Fault("a list, all excluded", "image", list_of_pictures, options={"exclude": "*.png"},
        error="dataset.exclude leaves out each of the files that it lists"),
    Fault("an excluded npz", "image", folder_of_arrays(), of_files("i1.npz", "i3.npz", count=20),
        options={"exclude": "i2.npz"}),
    Fault("a glob of npz", "image", folder_of_arrays("i*.npz"), of_files("i1.npz", "i2.npz", "i3.npz", count=30)),
    Fault("several npz", "image", folder_of_arrays("i1.npz,i2.npz"), of_files("i1.npz", "i2.npz", count=20)),
    Fault("a glob of npy of one picture each", "image", folder_of_arrays("one*.npy"),
        of_files("one1.npy", "one2.npy", "one3.npy", count=3)),
    Fault("a glob of npy of many pictures", "image", folder_of_arrays("many*.npy"),
        of_files("many1.npy", "many2.npy", "many3.npy", count=30)),
    Fault("a glob of nothing", "speech", glob("c*.wav", "a1.wav"), error="no file has such a name"),
    Fault("a glob of tables", "tabular", glob_of_tables, sizes(train=16, test=4)),
    Fault("several recordings", "speech", several_files, sizes(train=2, test=1)),
    Fault("a pipe among texts", "text", pipe_of_texts, sizes(train=4, test=1)),
    Fault("a single recording", "speech", glob("a.wav", "a.wav"), error="no sample is left|one sample"),
]  # fmt: skip
