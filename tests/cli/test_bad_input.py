"""Data that cannot be used, as a user meets it: one line that names file and row, and exit status 1.

A single bad sample is skipped and named; with --strict it ends the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from ssl_core.cli import app
from ssl_core.cli.common import command

TINY = [
    "--objective", "mae", "--steps", "1", "--batch-size", "2", "--preset", "none", "--set", "encoder.dim=16",
    "--set", "encoder.depth=1", "--set", "encoder.heads=2", "--set", "objective.width=16",
    "--set", "objective.heads=1", "--set", "objective.depth=1",
]  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(modality, data, *more): exit status and the lines on the standard error."""
    for name, value in {"SSLX_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "200", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)

    def call(modality: str, data: Path, *more: str) -> tuple[int, list[str]]:
        arguments = ["run", "--modality", modality, "--data", str(data), *TINY, *more, "--out", str(tmp_path / "run")]
        done = CliRunner().invoke(app.app, arguments)
        assert "Traceback" not in done.stderr
        return done.exit_code, done.stderr.splitlines()

    return call


def pixels(path: Path, shape: tuple[int, ...], mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(len(str(path))).integers(0, 256, shape, dtype=np.uint8)
    made = Image.fromarray(colours)
    (made.convert(mode) if mode else made).save(path)


def photos(root: Path, wrong: Callable[[Path], None]) -> Path:
    for number in range(20):
        pixels(root / "photos" / "ab"[number % 2] / f"{number:02}.png", (8, 8, 3))
    wrong(root / "photos" / "a" / "wrong.png")
    return root / "photos"


def odd_size(root: Path) -> Path:
    return photos(root, lambda path: pixels(path, (4, 6, 3)))


def odd_mode(root: Path) -> Path:
    return photos(root, lambda path: np.save(path.with_suffix(".npy"), np.zeros((5, 8, 8), np.uint8)))


def odd_letter(root: Path) -> Path:
    lines = [
        f">{number}\nACGTACG" + "".join("ACGT"[number // 4**place % 4] for place in range(5)) for number in range(20)
    ]
    lines[6] = ">6\nACGTACGJACGT"
    (root / "dna.fasta").write_text("\n".join(lines) + "\n")
    return root / "dna.fasta"


def no_caption(root: Path) -> Path:
    lines = []
    for number in range(20):
        pixels(root / "in" / f"{number}.png", (8, 8, 3))
        caption = "" if number == 4 else f"a thing of kind {number % 3}"
        lines.append(json.dumps({"image": f"in/{number}.png", "caption": caption}))
    (root / "all.jsonl").write_text("\n".join(lines) + "\n")
    return root / "all.jsonl"


ONE_SAMPLE: list[Any] = [
    ("image", odd_size, "photos/a/wrong.png", "4 pixels high and 6 wide", ["--set", "tokenizer.patch=4"]),
    ("image", odd_mode, "photos/a/wrong.npy", "5 channels", ["--set", "tokenizer.patch=4"]),
    ("genomics", odd_letter, "dna.fasta record 7", "is 'J'", ["--set", "tokenizer.length=12"]),
    (
        "image-text", no_caption, "all.jsonl row 5", "is empty",
        ["--set", "tokenizer.size=8", "--set", "tokenizer.patch=4", "--set", "tokenizer.length=8"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("modality", "write", "place", "what", "more"), ONE_SAMPLE, ids=[o[1].__name__ for o in ONE_SAMPLE]
)
def test_one_bad_sample_is_named_and_refused_if_strict(tmp_path, run, modality, write, place, what, more):
    data = write(tmp_path)
    code, lines = run(modality, data, *more, "--strict")
    (said,) = [line for line in lines if line.startswith("error: ")]
    assert code == 1
    assert str(tmp_path / place) in said
    assert what in said
    code, lines = run(modality, data, *more, "--overwrite")
    assert code == 0, lines
    (said,) = [line for line in lines if "1 bad samples" in line]
    assert str(tmp_path / place) in said
    assert what in said


def table(path: Path, **columns: Any) -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


SIZES = [f"{0.5 * number}" for number in range(30)]
KINDS = ["ab"[number % 2] for number in range(30)]


def no_column(root: Path) -> Path:
    return table(root / "t.csv", size=SIZES, kind=KINDS)


def semicolons(root: Path) -> Path:
    path = table(root / "t.csv", size=SIZES, label=KINDS)
    path.write_text(path.read_text().replace(",", ";") + "7\n")  # rows do not agree on a separator
    return path


def text_among_numbers(root: Path) -> Path:
    return table(root / "t.csv", size=[*SIZES[:20], "large", *SIZES[21:]], label=KINDS)


def class_in_test_only(root: Path) -> Path:
    split = ["test" if number >= 25 else "train" for number in range(30)]
    return table(root / "t.csv", size=SIZES, label=[*KINDS[:27], "c", *KINDS[28:]], split=split)


def class_of_photos_in_test_only(root: Path) -> Path:
    for number in range(8):
        pixels(
            root
            / "p"
            / ("test" if number > 5 else "train")
            / f"{'c' if number == 7 else 'ab'[number % 2]}-{number}.png",
            (8, 8, 3),
        )
    return root / "p"


WHOLE: list[Any] = [
    ("tabular", no_column, ("t.csv has no column 'label'",), ["--set", "dataset.label=label"]),
    ("tabular", semicolons, ("t.csv has a single column 'size;label'", 'dataset.delimiter=";"'), []),
    ("tabular", text_among_numbers, ("t.csv row 21", "'size'", "'large'"), ["--set", "dataset.numeric=size"]),
    ("tabular", class_in_test_only, ("class 'c' is only in the test split", "t.csv row 28"), []),
    (
        "image", class_of_photos_in_test_only, ("class 'c' is only in the test split", "p/test/c-7.png"),
        ["--label-pattern", r"(?P<split>\w+)/(?P<label>\w)-\d"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("modality", "write", "parts", "more"), WHOLE, ids=[o[1].__name__ for o in WHOLE])
def test_a_file_that_is_wrong_as_a_whole_is_refused(tmp_path, run, modality, write, parts, more):
    code, lines = run(modality, write(tmp_path), *more)
    (said,) = [line for line in lines if line.startswith("error: ")]
    assert code == 1
    assert [part for part in parts if part not in said] == [], said


@pytest.mark.parametrize(("name", "said"), [("run", "goes on with --resume"), ("finetune", "stopped by SIGINT\n")])
def test_a_stopped_command_names_a_way_on_only_if_there_is_one(name, said, capsys):
    def stopped():
        raise KeyboardInterrupt

    stopped.__name__ = name
    with pytest.raises(SystemExit, match="130"):
        command(stopped)()
    assert said in capsys.readouterr().err


def test_files_of_another_modality_are_named_with_the_option_that_reads_them(run, tmp_path):
    data = photos(tmp_path, lambda path: None)
    status, lines = run("speech", data)
    assert status == 1
    assert lines[-1].startswith(f"error: {data} looks like image (pictures")
    assert "and not like speech; --modality image reads it (dataset.root" in lines[-1]
    assert "or 30 others" in lines[-1]
    status, lines = run("speech", data, "--dry-run")
    assert status == 1
    assert "--modality image reads it" in lines[-1]
    status, _ = run("image", data, "--set", "tokenizer.patch=4")
    assert status == 0
    sound = tmp_path / "sound"
    for number in range(8):
        sound.mkdir(exist_ok=True)
        soundfile.write(sound / f"{number}.wav", np.random.default_rng(number).standard_normal(4000) / 9, 8000)
    for words in (["embed", str(tmp_path / "run"), str(sound)], ["eval", str(tmp_path / "run"), "--data", str(sound)],
                  ["finetune", str(tmp_path / "run"), "--data", str(sound)]):  # fmt: skip
        done = CliRunner().invoke(app.app, words)
        assert done.exit_code == 1
        assert "looks like speech" in done.stderr
        assert "give files of the kind that the encoder was trained on (dataset.root" in done.stderr


def test_a_fault_of_files_that_may_be_of_the_modality_stays_as_it_is(run, tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n")
    status, lines = run("tabular", tmp_path / "table.csv")
    assert status == 1
    assert "looks like" not in lines[-1]
