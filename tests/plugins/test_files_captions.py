"""Data set `files` for pictures with text: paths beside the file, pairs, and bad samples that are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ssl_plugins.datasets.user.files_captions import CaptionFiles


@pytest.fixture
def lines(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{i}.png")
    return [{"image": f"in/{i}.png", "caption": f"thing {i}", "label": ("no", "yes")[i % 2]} for i in range(20)]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_each_picture_has_its_caption(tmp_path, lines, both):
    datasets = both(CaptionFiles, write(tmp_path / "a.jsonl", lines))
    assert [len(d) for d in datasets] == [16, 4]
    for dataset in datasets:
        for index in range(len(dataset)):
            number = int(dataset.describe(index).rsplit(" ", 1)[1]) - 1
            sample = dataset[index]
            expected = np.asarray(Image.open(tmp_path / "in" / f"{number}.png")).transpose(2, 0, 1)
            np.testing.assert_array_equal(sample["inputs"]["image"], expected)
            assert sample["inputs"]["caption"] == f"thing {number}"
            assert sample["label"] == number % 2


def test_pairs_from_a_table(tmp_path, lines, both):
    body = "".join(f"{line['image']},what is it?,{line['caption']}\n" for line in lines)
    (tmp_path / "a.csv").write_text("image,q,a\n" + body)
    train, _ = both(CaptionFiles, tmp_path / "a.csv", caption="q", pair="a")
    assert train[0]["inputs"]["caption"].tolist()[0] == "what is it?"
    assert train.task is None


def test_bad_samples_are_named(tmp_path, lines, both, bad_samples, refused):
    lines[3]["caption"] = " "
    lines[5]["image"] = "in/none.png"
    (tmp_path / "in" / "7.png").write_bytes(b"no picture")
    path = write(tmp_path / "a.jsonl", lines)
    found = bad_samples(both(CaptionFiles, path))
    assert set(found) == {f"{path} line {n}" for n in (4, 6, 8)}
    assert "the caption of 'in/3.png' is empty" in found[f"{path} line 4"]
    assert "dataset.empty=keep" in found[f"{path} line 4"]
    assert "no picture 'in/none.png'" in found[f"{path} line 6"]
    assert "'in/7.png' cannot be read" in found[f"{path} line 8"]
    assert len(bad_samples(both(CaptionFiles, path, empty="keep"))) == 2
    del lines[9]["caption"]
    refused(CaptionFiles, write(path, lines), "a.jsonl line 10 has no key 'caption'")


def test_runs(tmp_path, lines, run_files):
    report = run_files(
        "image-text", write(tmp_path / "a.jsonl", lines), "--set", "tokenizer.size=16", "--set", "tokenizer.length=8"
    )
    assert report["scores"]
