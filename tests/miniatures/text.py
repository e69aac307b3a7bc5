"""Miniatures of the public sets of text, and of images with text, in the upstreams' layout and formats.

WRITERS maps (modality, name) to a function that writes the set below a root.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

WORDS = (
    "the", "a", "river", "king", "song", "window", "small", "green", "runs", "sees", "of", "in", "old", "night",
    "under", "never", "paper", "loud", "seven", "after",
)  # fmt: skip
LANGUAGES = ("en", "fr", "es", "de", "zh", "ja", "ko")
NATIVE = {
    "en": "the river runs", "fr": "la rivière coule", "es": "el río corre", "de": "der Fluß fließt",
    "zh": "河流 奔腾", "ja": "川 が 流れる", "ko": "강이 흐른다",
}  # fmt: skip


def sentence(key: object, language: str = "") -> str:
    """A sentence that is unique to the key."""
    rng = random.Random(str(key))
    words = rng.choices(WORDS, k=6)
    return " ".join([*NATIVE[language].split(), *words[:2]] if language else words) + f" {rng.randrange(10**6)}"


def tsv(path: Path, header: str | None, rows: Iterable[Iterable[object]]) -> None:
    """Write tab-separated values without quoting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [*([header] if header else []), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# --- GLUE: text/glue/<TASK>/{train,dev}.tsv --------------------------------------------------------------------------

SIZES = {"train": 12, "dev": 8, "dev_matched": 8, "dev_mismatched": 8}
ENTAILMENT = ("entailment", "not_entailment")


def glue(root: Path, task: str, header: str | None, row: Callable[[str, int], Iterable[object]], *parts: str) -> None:
    for part in parts or ("train", "dev"):
        tsv(root / "text" / "glue" / task / f"{part}.tsv", header, (row(part, i) for i in range(SIZES[part])))


def pair(task: str, part: str, i: int) -> tuple[str, str]:
    return sentence((task, part, i, 1)), sentence((task, part, i, 2))


def cola(root: Path) -> None:
    """No header; columns: source, label, the author's mark, sentence."""
    glue(root, "CoLA", None, lambda part, i: ("gj04", i % 2, "" if i % 2 else "*", sentence(("cola", part, i))))


def sst2(root: Path) -> None:
    glue(root, "SST-2", "sentence\tlabel", lambda part, i: (f"{sentence(('sst', part, i))} ", i % 2))


def mrpc(root: Path) -> None:
    """With a byte order mark, as in the upstream."""
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    glue(root, "MRPC", header, lambda part, i: (i % 2, 700 + i, 800 + i, *pair("mrpc", part, i)))


def qqp(root: Path) -> None:
    """Questions with quotation marks, one with a line end inside, and an empty one."""
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"

    def row(part: str, i: int) -> tuple[object, ...]:
        first, second = pair("qqp", part, i)
        return (i, i, i, f'"{first}?', second, i % 2)

    glue(root, "QQP", header, row)
    with (root / "text" / "glue" / "QQP" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("90\t1\t2\tWhat is\nthis?\tAnd that?\t0\n91\t1\t2\t\tWhere is it?\t1\n")


def stsb(root: Path) -> None:
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"

    def row(part: str, i: int) -> tuple[object, ...]:
        score = f"{0.625 * (i % 9):.3f}"
        return (i, "main-captions", "MSRvid", "2012test", f"{i:04}", "none", "none", *pair("stsb", part, i), score)

    glue(root, "STS-B", header, row)


def mnli(root: Path) -> None:
    """One annotator's label in the training file, five in the others; gold_label is the last column."""
    parses = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2"
    names = ("contradiction", "neutral", "entailment")

    def row(part: str, i: int) -> tuple[object, ...]:
        labels = [names[(i + 1) % 3]] * (1 if part == "train" else 5)
        return (i, f"{i}n", f"{i}e", "fiction", "( a )", "( b )", "(ROOT a)", "(ROOT b)", *pair("mnli", part, i),
                *labels, names[i % 3])  # fmt: skip

    start = f"index\tpromptID\tpairID\tgenre\t{parses}"
    glue(root, "MNLI", f"{start}\tlabel1\tgold_label", row, "train")
    annotators = "\t".join(f"label{number}" for number in range(1, 6))
    glue(root, "MNLI", f"{start}\t{annotators}\tgold_label", row, "dev_matched", "dev_mismatched")


def qnli(root: Path) -> None:
    header = "index\tquestion\tsentence\tlabel"
    glue(root, "QNLI", header, lambda part, i: (i, *pair("qnli", part, i), ENTAILMENT[i % 2]))


def rte(root: Path) -> None:
    header = "index\tsentence1\tsentence2\tlabel"
    glue(root, "RTE", header, lambda part, i: (i, *pair("rte", part, i), ENTAILMENT[i % 2]))


def wnli(root: Path) -> None:
    """The label is a number."""
    header = "index\tsentence1\tsentence2\tlabel"
    glue(root, "WNLI", header, lambda part, i: (i, *pair("wnli", part, i), i % 2))


# --- WikiText-103, PAWS-X, mC4 ---------------------------------------------------------------------------------------


def wikitext103(root: Path) -> None:
    """wiki.<split>.tokens: a leading blank, rare words as <unk>, headings between =, blank lines."""
    folder = root / "text" / "wikitext103" / "wikitext-103"
    folder.mkdir(parents=True)
    for part, count in (("train", 14), ("valid", 9), ("test", 3)):
        lines = [" \n", f" = {part.title()} = \n", " \n"]
        lines += [
            f" {sentence(('wiki', part, i))} <unk> @-@ é . \n" + (" \n" if i % 3 == 0 else "") for i in range(count)
        ]
        (folder / f"wiki.{part}.tokens").write_text("".join(lines), encoding="utf-8")


def paws(root: Path, language: str) -> None:
    """x-final/<language>: translated_train.tsv and dev_2k.tsv, with an empty pair, as after a failed translation."""
    folder = root / "text" / "paws" / "x-final" / language
    for part, count in (("train" if language == "en" else "translated_train", 12), ("dev_2k", 8), ("test_2k", 2)):
        rows: list[tuple[object, ...]] = []
        for i in range(1, count + 1):
            rows.append((i, *(sentence((language, part, i, which), language) for which in (1, 2)), i % 2))
        if language != "en":
            rows.insert(3, (99, "", "", 0))
        tsv(folder / f"{part}.tsv", "id\tsentence1\tsentence2\tlabel", rows)


MC4_EACH = 5


def mc4_files(root: Path, each: int = MC4_EACH) -> Path:
    """multilingual/c4-<language>[-validation].tfrecord-<number>-of-<count>.json.gz, two files for training."""
    folder = root / "text" / "mc4"
    (folder / "multilingual").mkdir(parents=True)
    for language in LANGUAGES:
        for infix, number, count in (("", 0, 3), ("", 1, each - 3), ("-validation", 0, 2)):
            path = folder / "multilingual" / f"c4-{language}{infix}.tfrecord-{number:05}-of-00002.json.gz"
            with gzip.open(path, "wt", encoding="utf-8") as file:
                for i in range(count):
                    text = f"{sentence((language, infix, number, i), language)}\n{sentence(i)}"
                    row = {"text": text, "timestamp": "2019-01-01T00:00:00Z", "url": f"https://example.org/{i}"}
                    file.write(json.dumps(row) + "\n")
    return folder


def mc4(root: Path) -> None:
    """The upstream's files, and the shards that `sslx data prepare` writes."""
    from ssl_plugins.datasets.public.mc4 import MC4, VARIABLE

    folder = mc4_files(root)
    with mock.patch.dict(os.environ, {VARIABLE: str(MC4_EACH)}):
        MC4.convert(folder)


# --- COCO ------------------------------------------------------------------------------------------------------------


def picture(path: Path, key: int, width: int = 64, height: int = 48, mode: str = "RGB") -> None:
    """An image of random colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(key).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST).convert(mode).save(path)


def dump(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": {"year": 2017}, "licenses": [], **content}), encoding="utf-8")


CATEGORIES = ((1, "person"), (3, "car"), (90, "toothbrush"))


def mscoco(root: Path) -> None:
    """annotations/{captions,instances}_{train,val}2017.json; two captions for each image, in another order."""
    top = root / "captioned_images" / "mscoco"
    categories = [{"supercategory": "thing", "id": number, "name": name} for number, name in CATEGORIES]
    for part, start, count in (("train2017", 40, 24), ("val2017", 900, 12)):
        images = [start + 7 * i for i in range(count)]
        order = random.Random(part).sample(images, count)
        captions = [
            {"image_id": image, "id": take * 1000 + index, "caption": f"{sentence((part, image, take))}."}
            for take in (1, 2)
            for index, image in enumerate(order if take == 1 else images)
        ]
        instances = [
            {
                "segmentation": [[1.0, 2.0, 3.0]], "area": 4.0, "iscrowd": 0, "image_id": image, "bbox": [0, 0, 1, 1],
                "category_id": CATEGORIES[(index + take) % 3][0], "id": take * 1000 + index,
            }
            for take in (1, 2)
            for index, image in enumerate(images[1:])  # the first image has no labelled object
        ]  # fmt: skip
        image_entries = [{"id": image, "file_name": f"{image:012}.jpg", "height": 48, "width": 64} for image in images]
        dump(top / "annotations" / f"captions_{part}.json", {"images": image_entries, "annotations": captions})
        content = {"images": image_entries, "annotations": instances, "categories": categories}
        dump(top / "annotations" / f"instances_{part}.json", content)
        for image in images:
            picture(top / part / f"{image:012}.jpg", image, mode="L" if image % 5 == 0 else "RGB")


def vqa(root: Path) -> None:
    """Questions and answers of VQA v1 on COCO 2014. One answer in nine is not among the choices."""
    top = root / "captioned_images" / "vqa" / "coco-vqa"
    for part, count in (("train2014", 27), ("val2014", 18)):
        images = [100 + i for i in range(count // 3)]
        files = {image: f"COCO_{part}_{image:012}.jpg" for image in images}
        image_entries = [{"id": image, "file_name": files[image]} for image in images]
        captions = [{"image_id": images[0], "id": 1, "caption": "A man."}]
        dump(top / "annotations" / f"captions_{part}.json", {"images": image_entries, "annotations": captions})
        questions, answers = [], []
        for i in range(count):
            choices = [f"answer {number}" for number in random.Random(i).sample(range(40), 18)]
            image, number = images[i // 3], 10 * images[i // 3] + i % 3
            question = f"What {sentence((part, i))}?"
            questions.append(
                {"image_id": image, "question": question, "multiple_choices": choices, "question_id": number}
            )
            answer = "none of them" if i % 9 == 4 else choices[i % 18]
            answers.append({
                "question_type": "what", "multiple_choice_answer": answer, "image_id": image, "answer_type": "other",
                "question_id": number, "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": 1}],
            })  # fmt: skip
        dump(top / f"MultipleChoice_mscoco_{part}_questions.json", {"questions": questions})
        dump(top / f"mscoco_{part}_annotations.json", {"annotations": answers})
        for image, name in files.items():
            picture(top / part / name, image)


WRITERS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("text", "wikitext103"): wikitext103,
    ("text", "cola"): cola,
    ("text", "mnli_matched"): mnli,
    ("text", "mnli_mismatched"): mnli,
    ("text", "mrpc"): mrpc,
    ("text", "qnli"): qnli,
    ("text", "qqp"): qqp,
    ("text", "rte"): rte,
    ("text", "sst2"): sst2,
    ("text", "stsb"): stsb,
    ("text", "wnli"): wnli,
    **{("multilingual-text", f"paws_{language}"): functools.partial(paws, language=language) for language in LANGUAGES},
    ("multilingual-text", "mc4"): mc4,
    ("image-text", "mscoco"): mscoco,
    ("image-text", "mismatched_caption"): mscoco,
    ("image-text", "vqa"): vqa,
}
