"""GLUE (Wang et al., 2019): nine tasks on English sentences, MNLI with two test splits (protocol section 2.6).

Read as JSON lines, which `sslx data prepare` makes of the Hugging Face copy, or as the tab-separated files of
gluebenchmark.com. Training is "train", the test is "validation": the labels of GLUE's own test are not public.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ssl_core import Dataset, Split, hookimpl
from ssl_plugins.datasets.public._text_pairs import Hub, Sentences, Table, Upstream

ENTAILED = ("entailment", "not_entailment")


@dataclass(frozen=True)
class Place:
    """Where both forms lie below text/glue. here: folder of the JSON lines, and the hub's configuration.

    there: folder of the tab-separated files, with their columns of text and label. splits: the hub's for our test, and
    the upstream's file of it.
    """

    here: str
    there: str
    texts: tuple[str | int, ...]
    label: str | int
    test: tuple[str, str] = ("validation", "dev")


def _source(place: Place, train: int | None, test: int) -> Upstream:
    here = (f"{place.here}/train.jsonl", f"{place.here}/{place.test[0]}.jsonl")
    there = (f"{place.there}/train.tsv", f"{place.there}/{place.test[1]}.tsv")
    return Upstream(
        homepage="https://gluebenchmark.com/tasks",
        terms="those of each task's corpus; see the homepage",
        folder="text/glue",
        counts={"test": test} if train is None else {"train": train, "test": test},
        either=(here, there),
    )


class Glue(Sentences):
    """A task of GLUE."""

    modality = "text"
    place: ClassVar[Place]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        splits: dict[Split, str] = {"train": "train", "test": cls.place.test[0]}
        cls.hub = Hub("nyu-mll/glue", cls.place.here, splits)

    @classmethod
    def tables(cls, split: Split) -> tuple[Table, ...]:
        """JSON lines, or GLUE's own file."""
        place = cls.place
        theirs, ours = ("train", "train") if split == "train" else (place.test[1], place.test[0])
        here = Table(f"{place.here}/{ours}.jsonl", cls.texts)
        return here, Table(f"{place.there}/{theirs}.tsv", place.texts, place.label)


class Cola(Glue):
    """CoLA: whether a sentence is acceptable English (Pearson correlation)."""

    name = "cola"
    texts = ("sentence",)
    classes = ("unacceptable", "acceptable")
    metric = "pearson"
    title = "acceptability"
    place = Place("cola", "CoLA", (3,), 1)  # its files have no header
    source = _source(place, 8_551, 1_043)


MNLI = ("sentence1", "sentence2")


class MnliMatched(Glue):
    """MNLI: whether a premise entails a hypothesis, contradicts it or neither; tested on the genres of training."""

    name = "mnli_matched"
    texts = ("premise", "hypothesis")
    classes = ("entailment", "neutral", "contradiction")
    title = "entailment"
    place = Place("mnli", "MNLI", MNLI, "gold_label", ("validation_matched", "dev_matched"))
    source = _source(place, 392_702, 9_815)


class MnliMismatched(Glue):
    """MNLI: whether a premise entails a hypothesis, contradicts it or neither; tested on other genres."""

    name = "mnli_mismatched"
    texts = MnliMatched.texts
    classes = MnliMatched.classes
    title = MnliMatched.title
    place = Place("mnli", "MNLI", MNLI, "gold_label", ("validation_mismatched", "dev_mismatched"))
    source = _source(place, 392_702, 9_832)


class Mrpc(Glue):
    """MRPC: whether two sentences of the news mean the same."""

    name = "mrpc"
    classes = ("not_equivalent", "equivalent")
    title = "paraphrase"
    place = Place("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality")
    source = _source(place, 3_668, 408)


class Qnli(Glue):
    """QNLI: whether a sentence answers a question."""

    name = "qnli"
    texts = ("question", "sentence")
    classes = ENTAILED
    title = "entailment"
    place = Place("qnli", "QNLI", texts, "label")
    source = _source(place, 104_743, 5_463)


class Qqp(Glue):
    """QQP: whether two questions ask the same."""

    name = "qqp"
    texts = ("question1", "question2")
    classes = ("not_duplicate", "duplicate")
    title = "duplicate"
    short_rows = True  # some questions hold line ends
    place = Place("qqp", "QQP", texts, "is_duplicate")
    source = _source(place, None, 40_430)


class Rte(Glue):
    """RTE: whether one sentence entails another."""

    name = "rte"
    classes = ENTAILED
    title = "entailment"
    place = Place("rte", "RTE", Glue.texts, "label")
    source = _source(place, 2_490, 277)


class Sst2(Glue):
    """SST-2: whether a phrase from a film review is positive."""

    name = "sst2"
    texts = ("sentence",)
    classes = ("negative", "positive")
    title = "sentiment"
    place = Place("sst2", "SST-2", texts, "label")
    source = _source(place, 67_349, 872)


class Stsb(Glue):
    """STS-B: how similar two sentences are, 0 to 5 (Spearman correlation)."""

    name = "stsb"
    metric = "spearman"
    title = "similarity"
    place = Place("stsb", "STS-B", Glue.texts, "score")
    source = _source(place, 5_749, 1_500)


class Wnli(Glue):
    """WNLI: whether a sentence entails another in which a pronoun is replaced."""

    name = "wnli"
    classes = ("not_entailment", "entailment")  # the other way round than in RTE and QNLI
    title = "entailment"
    place = Place("wnli", "WNLI", Glue.texts, "label")
    source = _source(place, 635, 71)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Cola, MnliMatched, MnliMismatched, Mrpc, Qnli, Qqp, Rte, Sst2, Stsb, Wnli]
