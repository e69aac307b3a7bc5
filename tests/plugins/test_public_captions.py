"""Public sets of images with text on miniatures: captions, answers, classes and the published image crop."""

from __future__ import annotations

import json
import os
import random
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core import BadSample, Continuous, DataError, Text
from ssl_plugins.datasets.public import _captions, mscoco, vqa

MINIATURES = runpy.run_path(str(Path(__file__).parents[1] / "miniatures" / "text.py"))
sentence = MINIATURES["sentence"]
ALL = [pytest.param(cls, id=cls.name) for cls in (mscoco.MsCoco, mscoco.MismatchedCaption, vqa.Vqa)]
COCO = "captioned_images/mscoco/annotations"
VQA = "captioned_images/vqa/coco-vqa"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data folder with all of the sets. Tests do not change it."""
    folder = tmp_path_factory.mktemp("data")
    MINIATURES["mscoco"](folder)
    MINIATURES["vqa"](folder)
    return folder


@pytest.fixture
def copied(root, tmp_path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(root / "captioned_images", tmp_path / "captioned_images")
    return tmp_path


def both(cls: type, root: Path, **options: Any) -> tuple[Any, Any]:
    """The training and the test split."""
    values = cls.Options(root=str(root), **options)
    return cls(values, "train"), cls(values, "test")


def content(root: Path, name: str) -> Any:
    return json.loads((root / name).read_text())


def change(root: Path, name: str, edit: Any) -> None:
    entries = content(root, name)
    edit(entries)
    (root / name).write_text(json.dumps(entries))


# --- MSCOCO ----------------------------------------------------------------------------------------------------------


def expected_coco(root: Path, part: str) -> list[tuple[str, str, int]]:
    """Path, caption and class of each image, computed independently."""
    captions = content(root, f"{COCO}/captions_{part}.json")["annotations"]
    instances = content(root, f"{COCO}/instances_{part}.json")
    categories = [category["id"] for category in instances["categories"]]
    out = []
    seen: list[int] = []
    for caption in captions:
        image = caption["image_id"]
        objects = [row["category_id"] for row in instances["annotations"] if row["image_id"] == image]
        if image in seen or not objects:
            continue
        seen.append(image)
        last = [row["caption"] for row in captions if row["image_id"] == image][-1]
        out.append((f"{part}/{str(image).zfill(12)}.jpg", last, categories.index(objects[-1])))
    return out


def test_coco_uses_the_last_caption_and_object_of_each_image(root):
    for dataset, part, count in zip(both(mscoco.MsCoco, root), ("train2017", "val2017"), (23, 11), strict=True):
        rows = expected_coco(root, part)
        assert len(rows) == count
        assert [row[0] for row in rows] != sorted(row[0] for row in rows)  # the order of the captions differs
        assert list(zip(dataset.paths, dataset.texts, dataset.labels, strict=True)) == rows
        assert dataset.task.names == ("person", "car", "toothbrush")
        assert (dataset.task.kind, dataset.task.metric) == ("classes", "accuracy")
        assert dataset.fields == {"image": Continuous((3, 224, 224)), "caption": Text()}
        sample = dataset[2]
        assert str(sample["inputs"]["caption"]) == rows[2][1]
        assert sample["label"] == rows[2][2]
        assert sample["inputs"]["image"].shape == (3, 224, 224)
        assert sample["inputs"]["image"].dtype == np.uint8


def test_captions_are_swapped_by_the_published_rule(root):
    for dataset, part in zip(both(mscoco.MismatchedCaption, root), ("train2017", "val2017"), strict=True):
        rows = expected_coco(root, part)
        random.seed(42)  # the global generator, as in the published code
        draws = [random.random() for _ in rows]
        swapped = [i for i, draw in enumerate(draws) if draw < 0.5]
        roll = random.randint(1, len(swapped))
        texts = [row[1] for row in rows]
        for position, i in enumerate(swapped):
            texts[i] = rows[swapped[(position + roll) % len(swapped)]][1]
        assert dataset.texts == texts
        assert dataset.labels == [int(draw >= 0.5) for draw in draws]
        assert dataset.paths == [row[0] for row in rows]
        assert (dataset.task.size, dataset.task.names) == (2, ("swapped", "own"))
        assert roll < len(swapped)
        assert all(
            (text == row[1]) == bool(label) for text, row, label in zip(texts, rows, dataset.labels, strict=True)
        )


def test_swapping_does_not_change_the_global_generator(root):
    random.seed(5)
    before = random.getstate()
    both(mscoco.MismatchedCaption, root)
    both(vqa.Vqa, root)
    assert random.getstate() == before


# --- VQA -------------------------------------------------------------------------------------------------------------


def expected_vqa(root: Path, part: str, seed: int) -> list[tuple[str, tuple[str, str], int]]:
    """The published rule, computed independently."""
    files = {row["id"]: row["file_name"] for row in content(root, f"{VQA}/annotations/captions_{part}.json")["images"]}
    questions = content(root, f"{VQA}/MultipleChoice_mscoco_{part}_questions.json")["questions"]
    random.seed(seed)
    out = []
    for row in content(root, f"{VQA}/mscoco_{part}_annotations.json")["annotations"]:
        question = next(entry for entry in questions if entry["question_id"] == row["question_id"])
        answer, label = row["multiple_choice_answer"], 1
        if answer not in question["multiple_choices"]:
            continue
        if random.random() < 0.5:
            answer = random.choice([choice for choice in question["multiple_choices"] if choice != answer])
            label = 0
        out.append((f"{part}/{files[row['image_id']]}", (question["question"], answer), label))
    return out


@pytest.mark.parametrize("seed", [42, 7])
def test_vqa_replaces_answers_by_the_published_rule(root, seed):
    for dataset, part, count in zip(both(vqa.Vqa, root, swap_seed=seed), vqa.PARTS.values(), (24, 16), strict=True):
        rows = expected_vqa(root, part, seed)
        assert len(rows) == count  # the true answer of one in nine is not among the choices
        assert list(zip(dataset.paths, dataset.texts, dataset.labels, strict=True)) == rows
        assert 0.2 < np.mean(dataset.labels) < 0.8
        assert (dataset.task.size, dataset.task.names) == (2, ("another", "true"))
        sample = dataset[1]
        assert sample["inputs"]["caption"].tolist() == list(rows[1][1])
        assert sample["label"] == rows[1][2]


def test_vqa_answers_depend_on_swap_seed(root):
    assert vqa.Vqa.Options().swap_seed == 42
    assert both(vqa.Vqa, root)[0].texts != both(vqa.Vqa, root, swap_seed=43)[0].texts


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (300, 200)])
def test_image_is_squashed_and_cropped_as_published(tmp_path, size):
    """Any image is resized to 480 x 640 and cropped to the central 480 x 480: an eighth is cut above and below."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 8] = (255, 0, 0)
    pixels[-height // 8 :] = (0, 0, 255)
    pixels[:, width // 2 :, 1] = 200
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    image = _captions.read_image(tmp_path / "picture.png", 224)
    assert image.shape == (3, 224, 224)
    assert image[0, 2:].max() == image[2, :-2].max() == 0  # red and blue are cut, except for interpolation
    assert image[1, :, :110].max() == 0
    assert image[1, :, 114:].min() == 200  # the full width remains


def test_size_option_and_grey_images(root):
    train, _ = both(mscoco.MsCoco, root, size=32)
    grey = next(i for i, path in enumerate(train.paths) if Image.open(train.folder / path).mode == "L")
    image = train[grey]["inputs"]["image"]
    assert image.shape == (3, 32, 32)
    assert (image[0] == image[2]).all()
    assert image.std() > 0


@pytest.mark.parametrize("cls", ALL)
def test_damaged_image_is_a_bad_sample(cls, copied):
    _, test = both(cls, copied)
    path = test.folder / test.paths[1]
    content = path.read_bytes()
    for damaged in (b"", b"no picture", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(BadSample, match="cannot be read as a picture"):
            test[1]
    path.unlink()
    with pytest.raises(BadSample, match="cannot be read as a picture"):
        test[1]
    assert test.describe(1).startswith(str(path))
    other = next(i for i, path in enumerate(test.paths) if path != test.paths[1])
    assert test[other]["inputs"]["image"].any()


@pytest.mark.parametrize("cls", ALL)
def test_opening_a_set_reads_no_image(cls, root, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    assert all(len(dataset) for dataset in both(cls, root))


# --- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "file", "edit", "message"),
    [
        (
            mscoco.MsCoco, f"{COCO}/instances_train2017.json",
            lambda entries: entries["annotations"][2].update(category_id=91),
            r"instances_train2017\.json entry 3 of 'annotations': there is no category 91",
        ),
        (
            mscoco.MsCoco, f"{COCO}/captions_val2017.json", lambda entries: entries["annotations"][4].pop("caption"),
            r"captions_val2017\.json entry 5 of 'annotations' lacks one of image_id, caption",
        ),
        (
            mscoco.MismatchedCaption, f"{COCO}/captions_val2017.json", lambda entries: entries.pop("annotations"),
            r"captions_val2017\.json has no list 'annotations'",
        ),
        (
            vqa.Vqa, f"{VQA}/mscoco_val2014_annotations.json",
            lambda entries: entries["annotations"][1].update(question_id=5),
            r"mscoco_val2014_annotations\.json entry 2 of 'annotations': no other file names question 5",
        ),
        (
            vqa.Vqa, f"{VQA}/mscoco_train2014_annotations.json",
            lambda entries: entries["annotations"][0].update(image_id=5),
            r"mscoco_train2014_annotations\.json entry 1 of 'annotations': no other file names image 5",
        ),
    ],
)  # fmt: skip
def test_message_for_a_bad_entry_names_file_and_entry(cls, file, edit, message, copied):
    change(copied, file, edit)
    with pytest.raises(DataError, match=message) as caught:
        both(cls, copied)
    assert "\n" not in str(caught.value)


def test_message_for_damaged_json_names_the_file(copied):
    path = copied / COCO / "instances_train2017.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"instances_train2017\.json cannot be read as JSON"):
        both(mscoco.MsCoco, copied)


@pytest.mark.parametrize("cls", ALL)
def test_message_for_missing_data_names_the_command(cls, tmp_path):
    with pytest.raises(DataError) as caught:
        both(cls, tmp_path)
    assert "\n" not in str(caught.value)
    assert f"`sslx data prepare image-text/{cls.name} --root {tmp_path}`" in str(caught.value)


@pytest.mark.parametrize("cls", ALL)
def test_fingerprint_changes_with_paths_texts_and_classes(cls, copied):
    train = both(cls, copied)[0]
    first = train.fingerprint()
    assert both(cls, copied)[0].fingerprint() == first
    for column, other in (("paths", "x.jpg"), ("texts", "Another."), ("labels", 77)):
        before = getattr(train, column)
        setattr(train, column, [other, *before[1:]])
        assert train.fingerprint() != first
        setattr(train, column, before)
    assert train.fingerprint() == first


@pytest.mark.parametrize("cls", ALL)
def test_fingerprint_changes_if_an_image_is_changed_or_removed(cls, copied):
    train, test = both(cls, copied)
    first, other = train.fingerprint(), test.fingerprint()
    path = train.folder / train.paths[0]
    os.utime(path, ns=(1, 1))
    touched = both(cls, copied)[0].fingerprint()
    path.unlink()
    reopened = both(cls, copied)
    assert len({first, touched, reopened[0].fingerprint()}) == 3
    assert reopened[1].fingerprint() == other


def test_metamaes_name_is_an_alias():
    assert "mismatched-caption" in mscoco.MismatchedCaption.aliases
