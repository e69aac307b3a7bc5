"""The data sets of the user's files recognise what a path holds."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import tifffile
from PIL import Image

from ssl_core import Recognition, plugins
from ssl_core.runs.inspection.candidates import choose, find_candidates
from ssl_plugins.datasets._io.recognition.rules import recognise

RNG = np.random.default_rng(0)
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "away", "from", "here"]


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def phrase(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=9))


def letters(alphabet: str, count: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=count))


def pictures(folder: Path, shape: tuple[int, ...] = (12, 12, 3), count: int = 6, ending: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(noise(*shape)).save(folder / f"{i}.{ending}")


def recordings(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(5):
        soundfile.write(folder / f"{i}.wav", RNG.normal(size=2000) * 0.1, 8000)


def sensors(count: int = 500) -> pd.DataFrame:
    t = np.arange(count)
    return pd.DataFrame({"time": t * 0.01, "x": np.sin(t / 20), "y": np.cos(t / 15) + RNG.normal(size=count) * 0.05})


def people(count: int = 60) -> pd.DataFrame:
    return pd.DataFrame(
        {"age": RNG.integers(18, 90, count), "height": RNG.normal(size=count), "city": RNG.choice(["a", "b"], count)}
    )


def write_wafers(folder: Path) -> None:
    for i in range(6):
        np.save(folder / f"{i}.npy", RNG.integers(0, 3, (20, 20)).astype(np.uint8))


def write_wm811k(folder: Path) -> None:
    sizes = np.array([16, 20, 25])
    np.savez(
        folder / "train.npz", pixels=RNG.integers(0, 3, int((sizes**2).sum())).astype(np.uint8), height=sizes,
        width=sizes, offset=np.concatenate([[0], np.cumsum(sizes**2)]),
    )  # fmt: skip


def write_recordings_of_sensors(folder: Path) -> None:
    for i in range(5):
        sensors(700).to_csv(folder / f"walk{i}.csv", index=False)


def write_fasta(alphabet: str, name: str = "x.fasta") -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_text("".join(f">s{i}\n{letters(alphabet, 120, i)}\n" for i in range(8))) and None
    )


def write_captions(folder: Path) -> None:
    pictures(folder)
    for i in range(6):
        (folder / f"{i}.txt").write_text(phrase(i))


def write_caption_table(folder: Path) -> None:
    pictures(folder / "img")
    rows = [{"image": f"img/{i}.png", "caption": phrase(i)} for i in range(6)]
    pd.DataFrame(rows).to_csv(folder / "captions.csv", index=False)


def ask(columns: tuple[str, str, str], image: Callable[[int], object], name: str = "") -> Callable[[Path], None]:
    """Six pictures in a folder, and a table of their names, questions and few answers; without `name` lists in JSON."""

    def write(folder: Path) -> None:
        pictures(folder / "images")
        rows = [(phrase(i), ("yes", "no")[i % 2], image(i % 6)) for i in range(24)]
        if name:
            pd.DataFrame(rows, columns=columns).to_csv(folder / name, index=False)
        else:
            (folder / "questions.json").write_text(json.dumps(rows))

    return write


def two_splits(write: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same form in a folder for each split."""

    def both(folder: Path) -> None:
        for split in ("train", "test"):
            (folder / split).mkdir()
            write(folder / split)

    return both


ASKED = {"caption": "question", "label": "answer"}
QUESTIONS: dict[str, tuple[Callable[[Path], None], dict[str, object]]] = {
    "paths": (ask(("question", "answer", "path"), lambda i: f"images/{i}.png", "q.csv"), ASKED),
    "names in a folder": (ask(("question", "answer", "image"), lambda i: f"{i}.png", "q.csv"), ASKED),
    "numbers": (ask(("question", "answer", "image_id"), lambda i: i, "q.csv"), {"image": "image_id", **ASKED}),
    "another name": (
        ask(("question", "answer", "picture"), lambda i: f"images/{i}.png", "q.csv"), {"image": "picture", **ASKED}
    ),
    "lists in json": (ask(("", "", ""), lambda i: i), {}),
}  # fmt: skip


def write_path_list(folder: Path) -> None:
    recordings(folder / "wav")
    pd.DataFrame({"path": [f"wav/{i}.wav" for i in range(5)], "label": list("ababa")}).to_csv(folder / "list.csv")


def write_masks(folder: Path) -> None:
    (folder / "images").mkdir()
    for i in range(4):
        tifffile.imwrite(folder / "images" / f"{i}.tif", RNG.integers(0, 4000, (16, 16, 7)).astype(np.uint16))
    pictures(folder / "masks", (16, 16))


def write_uci(folder: Path) -> None:
    people().to_csv(folder / "adult.data", index=False, header=False)
    people(20).to_csv(folder / "adult.test", index=False, header=False)
    (folder / "README.md").write_text("# About\n" + phrase(0))


def write_lines(folder: Path) -> None:
    (folder / "x.txt").write_text("\n".join(phrase(i) for i in range(30)))


def write_two_scripts(folder: Path) -> None:
    lines = [phrase(i) for i in range(10)] + ["всё это написано по русски и без ошибок"] * 10
    (folder / "x.txt").write_text("\n".join(lines), encoding="utf-8")


def write_genome(folder: Path) -> None:
    with gzip.open(folder / "g.fna.gz", "wt") as file:
        file.write(f">chr1\n{letters('ACGT', 60_000)}\n")


def csv(make: Callable[[], pd.DataFrame], **options: object) -> Callable[[Path], None]:
    return lambda folder: make().to_csv(folder / "x.csv", index=False, **options)  # type: ignore[call-overload]


def texts() -> pd.DataFrame:
    return pd.DataFrame({"sentence": [phrase(i) for i in range(40)], "label": [i % 2 for i in range(40)]})


def sequences() -> pd.DataFrame:
    return pd.DataFrame({"seq": [letters("ACDEFGHIKLMNPQRSTVWY", 50, i) for i in range(30)], "label": [0, 1] * 15})


def write_zip(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """What `make` writes, in an archive that is all there is."""

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as other:
            make(Path(other))
            shutil.make_archive(str(folder / "data"), "zip", other)

    return write


def tar_of(members: dict[str, bytes]) -> Callable[[Path], None]:
    """Two tar files of WebDataset with three samples each. members: the content by ending."""

    def write(folder: Path) -> None:
        for shard in range(2):
            with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
                for number in range(3):
                    for ending, content in members.items():
                        info = tarfile.TarInfo(f"{shard}{number}.{ending}")
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))

    return write


def write_nested_json(folder: Path) -> None:
    for language in ("de", "en"):
        articles = [{"title": str(i), "paragraphs": [{"context": phrase(i) + " " + phrase(i + 9)}]} for i in range(9)]
        (folder / f"quad.{language}.json").write_text(json.dumps({"data": articles}))


FORMS: dict[str, tuple[Callable[[Path], object], str, dict[str, object]]] = {
    "wav": (recordings, "speech", {}),
    "list of wav": (write_path_list, "speech", {}),
    "jpg": (lambda f: pictures(f, ending="jpg"), "image", {}),
    "grey png": (lambda f: pictures(f, (12, 12)), "image", {}),
    "class folders": (lambda f: [pictures(f / name) for name in "ab"], "image", {}),
    "npz of images": (
        lambda f: np.savez(f / "x.npz", images=noise(20, 3, 16, 16), labels=np.arange(20) % 2), "image", {}
    ),
    "MedMNIST": (
        lambda f: np.savez(f / "x.npz", train_images=noise(20, 28, 28), test_images=noise(9, 28, 28)), "medical-image",
        {},
    ),
    "bands beside masks": (write_masks, "multispectral", {"exclude": ("masks",)}),
    "maps of wafers": (write_wafers, "wafer", {}),
    "WM-811K": (write_wm811k, "wafer", {}),
    "image and txt": (write_captions, "image-text", {}),
    "table of captions": (write_caption_table, "image-text", {}),
    **{f"questions: {name}": (write, "image-text", options) for name, (write, options) in QUESTIONS.items()},
    "sensors in csv": (csv(sensors), "time-series", {"window": 50}),
    "a recording a file": (write_recordings_of_sensors, "time-series", {}),
    "npy recordings": (
        lambda f: [np.save(f / f"{i}.npy", RNG.normal(size=(500 + i, 3))) for i in range(5)], "time-series", {}
    ),
    "npz of series": (lambda f: np.savez(f / "x.npz", series=RNG.normal(size=(20, 3, 90))), "time-series", {}),
    "table": (csv(people), "tabular", {}),
    "semicolons": (csv(people, sep=";", decimal=","), "tabular", {}),
    "train and test": (
        lambda f: [people().to_csv(f / f"{name}.csv", index=False) for name in ("train", "test")], "tabular", {}
    ),
    "json lines": (lambda f: people().to_json(f / "x.jsonl", orient="records", lines=True), "tabular", {}),
    "parquet": (lambda f: people().to_parquet(f / "x.parquet"), "tabular", {}),
    "UCI": (write_uci, "tabular", {"root": "adult.data", "test_root": "adult.test"}),
    "zip of pictures": (write_zip(pictures), "image", {}),
    "zip of a table": (write_zip(csv(people)), "tabular", {}),
    "tar of recordings": (tar_of({"wav": b"-", "txt": b"-"}), "speech", {}),
    "tar of pictures": (tar_of({"jpg": b"-", "cls": b"-"}), "image", {}),
    "tar of captions": (tar_of({"jpg": b"-", "txt": b"-", "json": b"{}"}), "image-text", {}),
    "tar of scans": (tar_of({"dcm": b"-", "cls": b"-"}), "medical-image", {}),
    "tar of texts": (tar_of({"txt": b"-", "json": b"{}"}), "text", {}),
    "tar of arrays": (tar_of({"npy": b"-"}), "time-series", {}),
    "nested json of two languages": (write_nested_json, "multilingual-text", {}),
    "texts in csv": (csv(texts), "text", {"text": "sentence"}),
    "lines": (write_lines, "text", {}),
    "documents": (lambda f: [(f / f"{i}.txt").write_text(phrase(i)) for i in range(9)], "text", {}),
    "two scripts": (write_two_scripts, "multilingual-text", {}),
    "DNA": (write_fasta("ACGT"), "genomics", {}),
    "genome": (write_genome, "genomics", {"window": 250}),
    "proteins": (write_fasta("ACDEFGHIKLMNPQRSTVWY"), "protein", {}),
    "sequences in csv": (csv(sequences), "protein", {"sequence": "seq"}),
    "a sequence a line": (
        lambda f: (f / "x.txt").write_text("\n".join(letters("ACGT", 60, i) for i in range(20))), "genomics", {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_form_is_recognised_for_sure(tmp_path, form):
    write, modality, options = FORMS[form]
    write(tmp_path)
    candidates, problems = find_candidates(str(tmp_path), plugins.load())
    assert not problems
    chosen = choose(candidates)
    assert chosen is not None, candidates
    assert (chosen.modality, chosen.dataset) == (modality, "files")
    found = {**chosen.options, **({} if chosen.root is None else {"root": chosen.root})}
    for name, value in options.items():
        held = found[name]
        assert (Path(held).name if name in ("root", "test_root") else held) == value
    assert set(found) == set(options)


@pytest.mark.parametrize("form", QUESTIONS)
@pytest.mark.parametrize("split", [False, True], ids=["one table", "a table a split"])
def test_questions_about_pictures_are_read_as_recognised(tmp_path, form, split):
    write, _ = QUESTIONS[form]
    (two_splits(write) if split else write)(tmp_path)
    chosen = choose(find_candidates(str(tmp_path), plugins.load())[0])
    assert chosen is not None
    assert chosen.modality == "image-text"
    kind = plugins.load().dataset("files", "image-text")
    options = kind.Options(**{"root": chosen.root or str(tmp_path), "test_fraction": 0.5, **chosen.options})
    for name in ("train", "test"):
        data = kind(options, name)
        assert len(data) > 0
        texts = {str(data[i]["inputs"]["caption"]) for i in range(len(data))}
        assert texts <= {phrase(i) for i in range(24)}
        assert data[0]["inputs"]["image"].shape == (3, 12, 12)
        assert (data.task is not None) == ("label" in chosen.options)


def test_many_answers_are_a_second_text(tmp_path):
    pictures(tmp_path / "images")
    rows = [(phrase(i), f"it is number {i}", f"images/{i % 6}.png") for i in range(24)]
    pd.DataFrame(rows, columns=["question", "answer", "path"]).to_csv(tmp_path / "q.csv", index=False)
    chosen = choose(find_candidates(str(tmp_path), plugins.load())[0])
    assert chosen is not None
    assert chosen.options == {"caption": "question", "pair": "answer"}


def test_numbers_of_something_else_name_no_pictures(tmp_path):
    """Ages that happen to be names of files: the texts are not about the pictures."""
    ask(("question", "answer", "age"), lambda i: i, "q.csv")(tmp_path)
    found = {one.modality: one for one in find_candidates(str(tmp_path), plugins.load())[0]}
    assert "image-text" not in found


def several_kinds(folder: Path) -> None:
    recordings(folder)
    pictures(folder)


def only_labels(folder: Path) -> None:
    rows = {"filename": [f"{i}.png" for i in range(20)], "label": list("ab") * 10}
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)


def records(folder: Path) -> None:
    (folder / "x.json").write_text(json.dumps({"data": [{"paragraphs": [{"value": 1.5}]}], "version": "1"}))


DOUBTFUL: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "empty": (lambda f: None, set()),
    "recordings and pictures": (several_kinds, {"speech", "image"}),
    "only labels": (only_labels, set()),
    "binary": (lambda f: (f / "x.bin").write_bytes(bytes(range(256)) * 40), set()),
    "tar": (lambda f: (f / "x.tar").write_bytes(b"no tar file" * 100), set()),
    "archive": (lambda f: (f / "x.zip").write_bytes(b"PK\x03\x04" + bytes(100)), set()),
    "nested records without texts": (records, set()),
    "a single protein": (lambda f: (f / "x.fasta").write_text(">a\nMKVLAW\n"), set()),
    "deep grey pictures": (
        lambda f: [Image.fromarray(noise(9, 9).astype(np.uint16) * 9).save(f / f"{i}.png") for i in range(4)],
        {"image", "medical-image"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", DOUBTFUL)
def test_doubtful_form_is_not_sure(tmp_path, form):
    write, possible = DOUBTFUL[form]
    write(tmp_path)
    candidates, problems = find_candidates(str(tmp_path), plugins.load())
    assert not problems
    assert choose(candidates) is None
    assert {one.modality for one in candidates if one.confidence >= 0.5} == possible


def test_patterns_and_single_files(tmp_path):
    people().to_csv(tmp_path / "a.csv", index=False)
    people().to_csv(tmp_path / "b.csv", index=False)
    for root in (tmp_path / "a.csv", tmp_path / "*.csv", f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}"):
        assert max(recognise(str(root)).items(), key=lambda item: item[1].confidence)[0] == "tabular"
    assert not recognise(str(tmp_path / "absent"))


def test_change_of_a_file_is_seen(tmp_path):
    path = tmp_path / "x.csv"
    people().to_csv(path, index=False)
    assert recognise(str(path))["tabular"].confidence > 0.8
    texts().to_csv(path, index=False)
    assert recognise(str(path))["text"].confidence > 0.8


def test_confidence_is_a_share():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Recognition(1.5, "")
