"""Public pictures with text in miniature: which captions and answers belong to which picture, and with which class."""

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
    """All of them in one folder of data, as a user would have them. Nobody changes it."""
    place = tmp_path_factory.mktemp("data")
    MINIATURES["mscoco"](place)
    MINIATURES["vqa"](place)
    return place


@pytest.fixture
def copied(root, tmp_path) -> Path:
    """One that may be changed."""
    shutil.copytree(root / "captioned_images", tmp_path / "captioned_images")
    return tmp_path


def both(cls: type, root: Path, **options: Any) -> tuple[Any, Any]:
    made = cls.Options(root=str(root), **options)
    return cls(made, "train"), cls(made, "test")


def content(root: Path, name: str) -> Any:
    return json.loads((root / name).read_text())


def change(root: Path, name: str, edit: Any) -> None:
    loaded = content(root, name)
    edit(loaded)
    (root / name).write_text(json.dumps(loaded))


# --- MSCOCO ----------------------------------------------------------------------------------------------------------


def expected_coco(root: Path, part: str) -> list[tuple[str, str, int]]:
    """Path, caption and class of each image, by lists alone."""
    captions = content(root, f"{COCO}/captions_{part}.json")["annotations"]
    instances = content(root, f"{COCO}/instances_{part}.json")
    kinds = [kind["id"] for kind in instances["categories"]]
    out = []
    seen: list[int] = []
    for caption in captions:
        image = caption["image_id"]
        found = [row["category_id"] for row in instances["annotations"] if row["image_id"] == image]
        if image in seen or not found:
            continue
        seen.append(image)
        last = [row["caption"] for row in captions if row["image_id"] == image][-1]
        out.append((f"{part}/{str(image).zfill(12)}.jpg", last, kinds.index(found[-1])))
    return out


def test_coco_takes_the_last_caption_and_object_of_each_image_in_order_of_the_captions(root):
    for dataset, part, count in zip(both(mscoco.MsCoco, root), ("train2017", "val2017"), (23, 11), strict=True):
        rows = expected_coco(root, part)
        assert len(rows) == count
        assert [row[0] for row in rows] != sorted(row[0] for row in rows)  # or the order would say nothing
        assert list(zip(dataset.paths, dataset.texts, dataset.labels, strict=True)) == rows
        assert dataset.task.names == ("person", "car", "toothbrush")
        assert (dataset.task.kind, dataset.task.metric) == ("classes", "accuracy")
        assert dataset.fields == {"image": Continuous((3, 224, 224)), "caption": Text()}
        sample = dataset[2]
        assert str(sample["inputs"]["caption"]) == rows[2][1]
        assert sample["label"] == rows[2][2]
        assert sample["inputs"]["image"].shape == (3, 224, 224)
        assert sample["inputs"]["image"].dtype == np.uint8


def test_half_of_the_captions_are_swapped_by_the_published_rule(root):
    for dataset, part in zip(both(mscoco.MismatchedCaption, root), ("train2017", "val2017"), strict=True):
        rows = expected_coco(root, part)
        random.seed(42)  # the global generator, as in the published code
        draws = [random.random() for _ in rows]
        away = [i for i, draw in enumerate(draws) if draw < 0.5]
        roll = random.randint(1, len(away))
        texts = [row[1] for row in rows]
        for place, i in enumerate(away):
            texts[i] = rows[away[(place + roll) % len(away)]][1]
        assert dataset.texts == texts
        assert dataset.labels == [int(draw >= 0.5) for draw in draws]
        assert dataset.paths == [row[0] for row in rows]
        assert (dataset.task.size, dataset.task.names) == (2, ("swapped", "own"))
        assert roll < len(away)
        assert all(
            (text == row[1]) == bool(label) for text, row, label in zip(texts, rows, dataset.labels, strict=True)
        )


def test_the_swap_leaves_pythons_own_generator_alone(root):
    random.seed(5)
    before = random.getstate()
    both(mscoco.MismatchedCaption, root)
    both(vqa.Vqa, root)
    assert random.getstate() == before


# --- VQA -------------------------------------------------------------------------------------------------------------


def expected_vqa(root: Path, part: str, seed: int) -> list[tuple[str, tuple[str, str], int]]:
    """The published rule, by looking everything up again."""
    files = {row["id"]: row["file_name"] for row in content(root, f"{VQA}/annotations/captions_{part}.json")["images"]}
    questions = content(root, f"{VQA}/MultipleChoice_mscoco_{part}_questions.json")["questions"]
    random.seed(seed)
    out = []
    for row in content(root, f"{VQA}/mscoco_{part}_annotations.json")["annotations"]:
        question = next(one for one in questions if one["question_id"] == row["question_id"])
        answer, label = row["multiple_choice_answer"], 1
        if answer not in question["multiple_choices"]:
            continue
        if random.random() < 0.5:
            answer = random.choice([one for one in question["multiple_choices"] if one != answer])
            label = 0
        out.append((f"{part}/{files[row['image_id']]}", (question["question"], answer), label))
    return out


@pytest.mark.parametrize("seed", [42, 7])
def test_vqa_replaces_half_of_the_answers_by_another_choice(root, seed):
    for dataset, part, count in zip(both(vqa.Vqa, root, swap_seed=seed), vqa.PARTS.values(), (24, 16), strict=True):
        rows = expected_vqa(root, part, seed)
        assert len(rows) == count  # one in nine has no true choice
        assert list(zip(dataset.paths, dataset.texts, dataset.labels, strict=True)) == rows
        assert 0.2 < np.mean(dataset.labels) < 0.8
        assert (dataset.task.size, dataset.task.names) == (2, ("another", "true"))
        sample = dataset[1]
        assert sample["inputs"]["caption"].tolist() == list(rows[1][1])
        assert sample["label"] == rows[1][2]


def test_vqa_has_a_seed_of_its_own(root):
    assert vqa.Vqa.Options().swap_seed == 42
    assert both(vqa.Vqa, root)[0].texts != both(vqa.Vqa, root, swap_seed=43)[0].texts


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (300, 200)])
def test_a_picture_loses_an_eighth_above_and_below_and_its_aspect(tmp_path, size):
    """Whatever its form it is made 480 wide and 640 high; 480 x 480 of the middle are kept (P23)."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 8] = (255, 0, 0)
    pixels[-height // 8 :] = (0, 0, 255)
    pixels[:, width // 2 :, 1] = 200
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    found = _captions.read_picture(tmp_path / "picture.png", 224)
    assert found.shape == (3, 224, 224)
    assert found[0, 2:].max() == found[2, :-2].max() == 0  # no red, no blue but for the seam
    assert found[1, :, :110].max() == 0
    assert found[1, :, 114:].min() == 200  # the whole width is there


def test_another_size_and_grey_pictures(root):
    train, _ = both(mscoco.MsCoco, root, size=32)
    grey = next(i for i, path in enumerate(train.paths) if Image.open(train.folder / path).mode == "L")
    picture = train[grey]["inputs"]["image"]
    assert picture.shape == (3, 32, 32)
    assert (picture[0] == picture[2]).all()
    assert picture.std() > 0


@pytest.mark.parametrize("cls", ALL)
def test_a_broken_picture_is_one_bad_sample(cls, copied):
    _, test = both(cls, copied)
    place = test.folder / test.paths[1]
    whole = place.read_bytes()
    for broken in (b"", b"no picture", whole[: len(whole) // 2]):
        place.write_bytes(broken)
        with pytest.raises(BadSample, match="cannot be read as a picture"):
            test[1]
    place.unlink()
    with pytest.raises(BadSample, match="cannot be read as a picture"):
        test[1]
    assert test.describe(1).startswith(str(place))
    other = next(i for i, path in enumerate(test.paths) if path != test.paths[1])
    assert test[other]["inputs"]["image"].any()


@pytest.mark.parametrize("cls", ALL)
def test_no_picture_is_read_before_it_is_asked_for(cls, root, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    assert all(len(dataset) for dataset in both(cls, root))


# --- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "file", "edit", "message"),
    [
        (
            mscoco.MsCoco, f"{COCO}/instances_train2017.json",
            lambda it: it["annotations"][2].update(category_id=91),
            r"instances_train2017\.json entry 3 of 'annotations': there is no category 91",
        ),
        (
            mscoco.MsCoco, f"{COCO}/captions_val2017.json", lambda it: it["annotations"][4].pop("caption"),
            r"captions_val2017\.json entry 5 of 'annotations' lacks one of image_id, caption",
        ),
        (
            mscoco.MismatchedCaption, f"{COCO}/captions_val2017.json", lambda it: it.pop("annotations"),
            r"captions_val2017\.json has no list 'annotations'",
        ),
        (
            vqa.Vqa, f"{VQA}/mscoco_val2014_annotations.json",
            lambda it: it["annotations"][1].update(question_id=5),
            r"mscoco_val2014_annotations\.json entry 2 of 'annotations': no other file names question 5",
        ),
        (
            vqa.Vqa, f"{VQA}/mscoco_train2014_annotations.json",
            lambda it: it["annotations"][0].update(image_id=5),
            r"mscoco_train2014_annotations\.json entry 1 of 'annotations': no other file names image 5",
        ),
    ],
)  # fmt: skip
def test_a_bad_entry_is_one_line_with_file_and_number(cls, file, edit, message, copied):
    change(copied, file, edit)
    with pytest.raises(DataError, match=message) as caught:
        both(cls, copied)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_json_is_named(copied):
    path = copied / COCO / "instances_train2017.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"instances_train2017\.json cannot be read as JSON"):
        both(mscoco.MsCoco, copied)


@pytest.mark.parametrize("cls", ALL)
def test_a_missing_data_set_says_how_to_get_it(cls, tmp_path):
    with pytest.raises(DataError) as caught:
        both(cls, tmp_path)
    assert "\n" not in str(caught.value)
    assert f"`sslx data prepare image-text/{cls.name} --root {tmp_path}`" in str(caught.value)


@pytest.mark.parametrize("cls", ALL)
def test_the_fingerprint_follows_paths_texts_and_classes(cls, copied):
    made = both(cls, copied)[0]
    first = made.fingerprint()
    assert both(cls, copied)[0].fingerprint() == first
    for column, other in (("paths", "x.jpg"), ("texts", "Another."), ("labels", 77)):
        before = getattr(made, column)
        setattr(made, column, [other, *before[1:]])
        assert made.fingerprint() != first
        setattr(made, column, before)
    assert made.fingerprint() == first


@pytest.mark.parametrize("cls", ALL)
def test_the_fingerprint_follows_a_picture_that_is_changed_or_gone(cls, copied):
    train, test = both(cls, copied)
    first, other = train.fingerprint(), test.fingerprint()
    place = train.folder / train.paths[0]
    os.utime(place, ns=(1, 1))
    touched = both(cls, copied)[0].fingerprint()
    place.unlink()
    again = both(cls, copied)
    assert len({first, touched, again[0].fingerprint()}) == 3
    assert again[1].fingerprint() == other


def test_metamaes_name_finds_the_mismatched_captions():
    assert "mismatched-caption" in mscoco.MismatchedCaption.aliases
