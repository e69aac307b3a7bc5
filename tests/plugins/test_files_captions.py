"""Data set `files` for images with text: relative image paths, pairs, bad samples."""

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


def test_images_and_captions_match(tmp_path, lines, open_both):
    datasets = open_both(CaptionFiles, write(tmp_path / "a.jsonl", lines))
    assert [len(d) for d in datasets] == [16, 4]
    for dataset in datasets:
        for index in range(len(dataset)):
            number = int(dataset.describe(index).rsplit(" ", 1)[1]) - 1
            sample = dataset[index]
            expected = np.asarray(Image.open(tmp_path / "in" / f"{number}.png")).transpose(2, 0, 1)
            np.testing.assert_array_equal(sample["inputs"]["image"], expected)
            assert sample["inputs"]["caption"] == f"thing {number}"
            assert sample["label"] == number % 2


def test_pairs_from_a_table(tmp_path, lines, open_both):
    body = "".join(f"{line['image']},what is it?,{line['caption']}\n" for line in lines)
    (tmp_path / "a.csv").write_text("image,q,a\n" + body)
    train, _ = open_both(CaptionFiles, tmp_path / "a.csv", caption="q", pair="a")
    assert train[0]["inputs"]["caption"].tolist()[0] == "what is it?"
    assert train.task is None


def test_bad_sample_messages(tmp_path, lines, open_both, bad_samples, assert_refused):
    lines[3]["caption"] = " "
    lines[5]["image"] = "in/none.png"
    (tmp_path / "in" / "7.png").write_bytes(b"not an image")
    path = write(tmp_path / "a.jsonl", lines)
    messages = bad_samples(open_both(CaptionFiles, path))
    assert set(messages) == {f"{path} row {n}" for n in (4, 6, 8)}
    assert "the caption of 'in/3.png' is empty" in messages[f"{path} row 4"]
    assert "dataset.empty=keep" in messages[f"{path} row 4"]
    assert "no image 'in/none.png'" in messages[f"{path} row 6"]
    assert "'in/7.png' cannot be read" in messages[f"{path} row 8"]
    assert len(bad_samples(open_both(CaptionFiles, path, empty="keep"))) == 2
    del lines[9]["caption"]
    assert f"{path} row 10" in bad_samples(open_both(CaptionFiles, write(path, lines)))
    for line in lines:
        line["text"] = line.pop("caption", "")
    assert_refused(CaptionFiles, write(path, lines), "a.jsonl has no column 'caption'; set dataset.caption")


def test_runs(tmp_path, lines, run_files):
    report = run_files(
        "image-text", write(tmp_path / "a.jsonl", lines), "--set", "tokenizer.size=16", "--set", "tokenizer.length=8"
    )
    assert report["scores"]
