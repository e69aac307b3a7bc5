"""VQA v1 (Antol et al., 2015): images with a question and an answer."""

from __future__ import annotations

import random

from pydantic import Field

from ssl_core import Archive, DataError, Dataset, Source, Split, Task, hookimpl
from ssl_plugins.datasets.public._captions import CaptionedImages, read_json

PARTS: dict[Split, str] = {"train": "train2014", "test": "val2014"}
COCO, AMAZON = "http://images.cocodataset.org", "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
ANSWERS, QUESTIONS = "mscoco_{}_annotations.json", "MultipleChoice_mscoco_{}_questions.json"
COLUMNS = ("question_id", "image_id", "multiple_choice_answer")
REPLACED = 0.5


def _zip(url: str, produces: str) -> Archive:
    return Archive(url=url, file=url.rpartition("/")[2], kind="zip", produces=produces)


class Vqa(CaptionedImages):
    """VQA v1: an image, a question and an answer; whether the answer is the true one or another choice.

    There is one sample for each question whose answer is among its choices. Half of the answers are replaced by another
    choice. The published codes draw them with the seed of the run; here dataset.swap_seed does not depend on it.
    """

    name = "vqa"
    source = Source(
        homepage="https://visualqa.org/vqa_v1_download.html",
        terms="annotations CC BY 4.0; pictures under the terms of Flickr",
        folder="captioned_images/vqa/coco-vqa",
        archives=(
            _zip(f"{COCO}/zips/train2014.zip", "train2014"),
            _zip(f"{COCO}/zips/val2014.zip", "val2014"),
            _zip(f"{COCO}/annotations/annotations_trainval2014.zip", "annotations/captions_train2014.json"),
            _zip(f"{AMAZON}/Annotations_Train_mscoco.zip", ANSWERS.format("train2014")),
            _zip(f"{AMAZON}/Annotations_Val_mscoco.zip", ANSWERS.format("val2014")),
            _zip(f"{AMAZON}/Questions_Train_mscoco.zip", QUESTIONS.format("train2014")),
            _zip(f"{AMAZON}/Questions_Val_mscoco.zip", QUESTIONS.format("val2014")),
        ),
        required_paths=("annotations/captions_val2014.json",),
    )

    class Options(CaptionedImages.Options):
        """Options of VQA."""

        swap_seed: int = Field(42, description="seed of the replaced answers")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        part = PARTS[split]
        captions = self.folder / "annotations" / f"captions_{part}.json"
        files = dict(read_json(captions, "images", ("id", "file_name")))
        path = self.folder / QUESTIONS.format(part)
        rows = read_json(path, "questions", ("question_id", "question", "multiple_choices"))
        questions = {number: (question, choices) for number, question, choices in rows}
        generator = random.Random(options.swap_seed)
        path = self.folder / ANSWERS.format(part)
        texts: list[tuple[str, str]] = []
        for entry, (number, image, answer) in enumerate(read_json(path, "annotations", COLUMNS), start=1):
            if number not in questions or image not in files:
                what = f"question {number}" if number not in questions else f"image {image}"
                raise DataError(f"{path} entry {entry} of 'annotations': no other file names {what}")
            question, choices = questions[number]
            if answer not in choices:
                continue
            is_true = generator.random() >= REPLACED
            if not is_true:
                others = [choice for choice in choices if choice != answer]
                if not others:
                    raise DataError(f"{path} entry {entry} of 'annotations': question {number} has no other choice")
                answer = generator.choice(others)
            self.paths.append(f"{part}/{files[image]}")
            texts.append((question, answer))
            self.labels.append(int(is_true))
        self.texts = texts
        if not self.paths:
            raise DataError(f"{path} holds no answer that is among its question's choices")
        self.task = Task("classes", 2, "accuracy", names=("another", "true"), title="answer")


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Vqa]
