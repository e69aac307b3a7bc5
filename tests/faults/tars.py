"""Rows of tar files in the form of WebDataset."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from corpus import Fault, Read

COUNT = 20
RATE = 8000
WORDS = ("yes", "no")
GERMAN = [f"Der Bär läuft über die große Straße Nummer {i}" for i in range(COUNT)]
TS = "time-series"


def tone(number: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * (300 + 40 * number) * np.arange(2400) / RATE)).astype(np.float32)


def sound(number: int, kind: str = "WAV") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, tone(number), RATE, format=kind, subtype="FLOAT" if kind == "WAV" else None)
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def series(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((2, 40)).astype(np.float32)


def write(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shards(
    of: Callable[[int], Mapping[str, bytes]], name: str = "{:05}.tar", folder: str = ""
) -> Callable[[Path], None]:
    """Two tar files of ten samples each. of: the members of a sample by ending."""

    def make(root: Path) -> None:
        for shard in range(2):
            numbers = range(10 * shard, 10 * shard + 10)
            members = {
                f"{folder}{number:03}.{ending}": data for number in numbers for ending, data in of(number).items()
            }
            write(root / name.format(shard), members)

    return make


def number_of(described: str) -> int:
    """The number of a sample, by the name of its member."""
    return int(described.rsplit("/", 1)[1].split(".")[0])


def check(read: Read, field: str, value: Callable[[int], Any], label: Callable[[int], Any] | None = None) -> None:
    """Each sample is that of its member, with its label; all are read once."""
    numbers = []
    names = read.train.task.names if read.train.task is not None else ()
    for split, dataset in read.datasets.items():
        assert read.bad(split) == []
        for index in range(len(dataset)):
            number = number_of(dataset.describe(index))
            sample = dataset[index]
            np.testing.assert_array_equal(sample["inputs"][field], value(number))
            found = sample["label"]
            assert (names[found] if names else found) == (label(number) if label is not None else None)
            numbers.append(number)
    assert sorted(numbers) == list(range(COUNT))
    assert read.train.summary.files == {".tar": 2}


def recordings(label: Callable[[int], Any] | None) -> Callable[[Read], None]:
    return lambda read: check(read, "waveform", lambda number: tone(number)[np.newaxis], label)


def word(number: int) -> str:
    return WORDS[number % 2]


def by_class(number: int) -> dict[str, bytes]:
    return {"wav": sound(number), "cls": word(number).encode()}


def by_json(number: int) -> dict[str, bytes]:
    content = {"label": word(number), "group": f"speaker{number // 4}", "id": number}
    return {"wav": sound(number), "json": json.dumps(content).encode()}


def with_text(number: int) -> dict[str, bytes]:
    return {"wav": sound(number), "txt": f"{word(number)}\n".encode()}


def in_groups(read: Read) -> None:
    recordings(word)(read)
    numbers = {number_of(read.datasets["test"].describe(index)) // 4 for index in range(len(read.datasets["test"]))}
    assert len(numbers) * 4 == read.sizes["test"]


def other_formats(folder: Path) -> None:
    kinds = ("FLAC", "OGG", "MP3", "AIFF")
    members = {f"{i:03}.{kinds[i % 4].lower()}": sound(i, kinds[i % 4]) for i in range(COUNT)}
    write(folder / "a.tar", members)


def loud(read: Read) -> None:
    assert read.sizes == {"train": 16, "test": 4}
    samples = [one["waveform"] for split in read.datasets for one in read.samples(split)]
    assert len(samples) == COUNT
    assert all(np.abs(one).max() > 0.3 for one in samples)


def damaged_member(number: int) -> dict[str, bytes]:
    return by_class(number) if number != 13 else {"wav": b"RIFF is not all of a header", "cls": b"yes"}


def one_is_named(read: Read) -> None:
    bad = read.bad("train") + read.bad("test")
    assert len(bad) == 1
    assert "00001.tar/013.wav: cannot be read as audio" in bad[0]


def cut_off(folder: Path) -> None:
    shards(by_class)(folder)
    path = folder / "00001.tar"
    path.write_bytes(path.read_bytes()[:30_000])


def first_shard(read: Read) -> None:
    assert sum(read.sizes.values()) == 10


def compressed_inside(folder: Path) -> None:
    shards(by_class)(folder)
    path = folder / "00001.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))


def compressed(folder: Path) -> Path:
    shards(by_class)(folder)
    path = folder / "all.tar.gz"
    path.write_bytes(gzip.compress((folder / "00000.tar").read_bytes()))
    return path


def names_with_dots(folder: Path) -> None:
    members = {f"{i}.{part}.wav": sound(2 * i + part) for i in range(10) for part in range(2)}
    write(folder / "a.tar", members)


def by_speaker(read: Read) -> None:
    assert read.sizes == {"train": 16, "test": 4}
    assert read.train.task is not None
    assert read.train.task.names == ("no", "yes")


def in_folders(folder: Path) -> None:
    members = {f"{word(i)}/{i:03}.wav": sound(i) for i in range(COUNT)}
    write(folder / "a.tar", members)


def damaged_json(number: int) -> dict[str, bytes]:
    return by_json(number) if number != 14 else {"wav": sound(14), "json": b"{"}


def damaged_label(number: int) -> dict[str, bytes]:
    content = json.dumps({"label": word(number)}).encode() if number != 14 else b"{"
    return {"wav": sound(number), "json": content}


def one_without_label(read: Read) -> None:
    assert (read.labels("train") + read.labels("test")).count(None) == 1


def json_list(number: int) -> dict[str, bytes]:
    content = {"label": [word(number)], "word": word(number)}
    return {"wav": sound(number), "json": json.dumps(content).encode()}


def windows(read: Read) -> None:
    assert read.sizes == {"train": 48, "test": 12}
    assert read.train.describe(1).endswith(".wav from 0.1 to 0.2 s")
    np.testing.assert_array_equal(
        read.train[1]["inputs"]["waveform"][0], tone(number_of(read.train.describe(1)))[800:1600]
    )


def twice(ending: str, content: Callable[[int], bytes]) -> Callable[[Path], None]:
    """Each sample lies in both tar files."""
    return shards(lambda number: {ending: content(number % 10)})


def never_divided(read: Read) -> None:
    numbers = [{number_of(data.describe(row)) % 10 for row in range(len(data))} for data in read.datasets.values()]
    assert len(numbers) == 2
    assert not set.intersection(*numbers)


def beside_recordings(folder: Path) -> None:
    """An archive beside its own content is not read."""
    (folder / "rec").mkdir()
    for number in range(COUNT):
        (folder / "rec" / f"{number:03}.wav").write_bytes(sound(number))
    write(folder / "rec.tar", {f"{number:03}.wav": sound(number) for number in range(COUNT)})


def files_alone(read: Read) -> None:
    assert read.train.summary.files == {".wav": COUNT}
    assert read.train.summary.ignored == {".tar": 1}


def text_of(number: int) -> dict[str, bytes]:
    return {"txt": GERMAN[number].encode(), "json": json.dumps({"label": word(number)}).encode()}


def latin_text(number: int) -> dict[str, bytes]:
    return {"txt": GERMAN[number].encode("cp1252")}


def with_index(folder: Path) -> None:
    """As the index that tools of WebDataset write beside the tar files."""
    shards(text_of)(folder)
    (folder / "_info.json").write_text('{"shardlist": [{"url": "00000.tar", "nsamples": 10}]}')


def german(read: Read) -> None:
    check(read, "text", GERMAN.__getitem__, word)


def german_without_labels(read: Read) -> None:
    check(read, "text", GERMAN.__getitem__)


def one_text_damaged(number: int) -> dict[str, bytes]:
    return {"txt": GERMAN[number].encode() if number != 3 else b"\0\1\2\0\5\6"}


def one_text_is_named(read: Read) -> None:
    bad = read.bad("train") + read.bad("test")
    assert len(bad) == 1
    assert "00000.tar/003.txt: cannot be read as text" in bad[0]


def array_of(number: int) -> dict[str, bytes]:
    return {"npy": npy(series(number)), "cls": b"%d" % (number % 2)}


def classes_of_arrays(read: Read) -> None:
    check(read, "series", series, lambda number: str(number % 2))


def numbers_beside(number: int) -> dict[str, bytes]:
    return {"npy": npy(series(number)), "json": json.dumps({"score": number + 0.5}).encode()}


def scores(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.kind == "number"
    for index in range(len(read.train)):
        assert read.train[index]["label"] == number_of(read.train.describe(index)) + 0.5


def objects(number: int) -> dict[str, bytes]:
    return {"npy": npy(series(number)) if number != 12 else b"no array"}


def test_shard(read: Read) -> None:
    assert read.sizes == {"train": 10, "test": 10}
    assert {number_of(read.train.describe(index)) for index in range(10)} == set(range(10))


def split_names(folder: Path) -> None:
    for split, numbers in (("train", range(10)), ("test", range(10, 20))):
        members = {f"{n:03}.{ending}": data for n in numbers for ending, data in by_class(n).items()}
        write(folder / f"{split}-000.tar", members)


def scans(number: int) -> dict[str, bytes]:
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16), dtype=np.uint8)
    return {"npy": npy(pixels), "json": json.dumps({"label": word(number)}).encode()}


def pixels_of(read: Read) -> None:
    check(
        read, "image", lambda n: np.random.default_rng(n).integers(0, 255, (1, 16, 16), dtype=np.uint8), word
    )  # fmt: skip


FAULTS = [
    Fault("recordings: classes", "speech", shards(by_class), recordings(word)),
    Fault("recordings: JSON", "speech", shards(by_json), in_groups),
    Fault("recordings: texts are no labels", "speech", shards(with_text), recordings(None)),
    Fault("recordings: texts as labels", "speech", shards(with_text), recordings(word), {"label": "txt"}),
    Fault("recordings: alone", "speech", shards(lambda number: {"wav": sound(number)}), recordings(None)),
    Fault("recordings: flac, ogg, mp3, aiff", "speech", other_formats, loud),
    Fault("recordings: windows", "speech", shards(by_class), windows, {"window": 0.1}),
    Fault("recordings: split by name", "speech", split_names, test_shard),
    Fault("recordings: beside their files", "speech", beside_recordings, files_alone),
    Fault(
        "recordings: label in the path of the member", "speech", in_folders, by_speaker,
        {"label_pattern": r"a\.tar/(?P<label>\w+)/"},
    ),
    Fault(
        "recordings: an option that names nothing", "speech", shards(by_json), recordings(word),
        {"label": "wrd"}, error=r"dataset.label=wrd: no sample of .* has a member NAME.wrd, or a key 'wrd'.*json",
        cure={"label": "label"},
    ),
    Fault(
        "recordings: a list as label", "speech", shards(json_list), recordings(word),
        error=r"00000.tar/000.json: the key 'label' holds a list.*dataset.label", cure={"label": "word"},
    ),
    Fault("copies: recordings", "speech", twice("wav", sound), never_divided, warning="10 samples are copies"),
    Fault(
        "copies: arrays", TS, twice("npy", lambda n: npy(series(n))), never_divided, warning="10 samples are copies"
    ),
    Fault(
        "copies: images", "image", twice("npy", lambda n: scans(n)["npy"]), never_divided,
        warning="10 samples are copies",
    ),
    Fault("damage: a recording", "speech", shards(damaged_member), one_is_named),
    Fault(
        "damage: JSON of labels", "speech", shards(damaged_label), one_without_label,
        doubt=r"1 members cannot be read as JSON.*00001.tar/014.json.*no label",
    ),
    Fault(
        "damage: JSON of groups", "speech", shards(damaged_json), first_shard,
        error=r"00001.tar/014.json cannot be read as JSON.*dataset.exclude=00001.tar",
        cure={"exclude": ("00001.tar",)},
    ),
    Fault(
        "damage: the end is missing", "speech", cut_off, first_shard,
        error=r"00001.tar cannot be read as a tar file after its member 0\d+.(wav|cls): .*dataset.exclude=00001.tar",
        cure={"exclude": ("00001.tar",)},
    ),
    Fault("damage: compressed, called .tar", "speech", compressed_inside, error=r"00001.tar .*compressed; unpack it"),
    Fault("tar.gz: recordings", "speech", compressed, error=r"all.tar.gz is an archive; unpack it"),
    Fault("tar.gz: texts", "text", compressed, error=r"all.tar.gz is an archive; unpack it"),
    Fault("tar.gz: series", TS, compressed, error=r"all.tar.gz is an archive; unpack it"),
    Fault("other members: nothing to read", "speech", shards(text_of), error="00000.tar holds no recording"),
    Fault(
        "other members: dots in names", "speech", names_with_dots,
        warning=r"10 members are left out.*a.tar/0.1.wav; a sample's name ends at the first dot",
    ),
    Fault("texts: with JSON", "text", shards(text_of), german),
    Fault("texts: in a folder", "text", shards(text_of, folder="part/"), german),
    Fault("texts: beside an index", "text", with_index, german),
    Fault("texts: cp1252", "text", shards(latin_text), german_without_labels, doubt="dataset.encoding=cp1252"),
    Fault("texts: cp1252 by option", "text", shards(latin_text), german_without_labels, {"encoding": "cp1252"}),
    Fault("damage: a text", "text", shards(one_text_damaged), one_text_is_named),
    Fault(
        "texts: pairs", "text", shards(text_of), german, {"pair": "other"}, error="no pairs; leave dataset.pair out",
        cure={"pair": None},
    ),
    Fault("series: classes", TS, shards(array_of), classes_of_arrays),
    Fault("series: numbers", TS, shards(numbers_beside), scores, {"label": "score"}),
    Fault(
        "damage: an array", TS, shards(objects), first_shard,
        error=r"00001.tar/012.npy cannot be read as an array.*dataset.exclude=00001.tar",
        cure={"exclude": ("00001.tar",)},
    ),
    Fault("images: JSON", "image", shards(scans), pixels_of),
    Fault("scans: JSON", "medical-image", shards(scans), pixels_of),
]  # fmt: skip
