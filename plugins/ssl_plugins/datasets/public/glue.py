"""GLUE (Wang et al., 2019): nine tasks on English sentences, MNLI with two test splits.

The data are JSON lines, which `sslx data prepare` fetches from the Hugging Face hub, or the tab-separated files of
gluebenchmark.com. The test split is GLUE's validation split, since the labels of GLUE's test split are not public.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ssl_core import Dataset, Split, hookimpl
from ssl_plugins.datasets.public._text_pairs import HubDataset, SentenceDataset, SourceWithLayouts, TableFile

ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueFiles:
    """The files of a task in both layouts, below text/glue.

    Attributes:
        config: folder of the JSON lines, and configuration on the hub.
        tsv_folder: folder of the tab-separated files.
        texts: columns of their texts.
        label: column of their labels.
        test: name of the test split on the hub, and of its tab-separated file.
    """

    config: str
    tsv_folder: str
    texts: tuple[str | int, ...]
    label: str | int
    test: tuple[str, str] = ("validation", "dev")


def _source(files: GlueFiles, train: int | None, test: int) -> SourceWithLayouts:
    json_lines = (f"{files.config}/train.jsonl", f"{files.config}/{files.test[0]}.jsonl")
    tables = (f"{files.tsv_folder}/train.tsv", f"{files.tsv_folder}/{files.test[1]}.tsv")
    return SourceWithLayouts(
        homepage="https://gluebenchmark.com/tasks",
        terms="those of each task's corpus; see the homepage",
        folder="text/glue",
        sample_counts={"test": test} if train is None else {"train": train, "test": test},
        layouts=(json_lines, tables),
    )


class Glue(SentenceDataset):
    """A task of GLUE."""

    modality = "text"
    glue_files: ClassVar[GlueFiles]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        splits: dict[Split, str] = {"train": "train", "test": cls.glue_files.test[0]}
        cls.hub = HubDataset("nyu-mll/glue", cls.glue_files.config, splits)

    @classmethod
    def tables(cls, split: Split) -> tuple[TableFile, ...]:
        """JSON lines, or GLUE's own file."""
        files = cls.glue_files
        hub_split, tsv_split = ("train", "train") if split == "train" else files.test
        json_lines = TableFile(f"{files.config}/{hub_split}.jsonl", cls.texts)
        return json_lines, TableFile(f"{files.tsv_folder}/{tsv_split}.tsv", files.texts, files.label)


class Cola(Glue):
    """CoLA: whether a sentence is acceptable English; scored by Pearson correlation."""

    name = "cola"
    texts = ("sentence",)
    classes = ("unacceptable", "acceptable")
    metric = "pearson"
    title = "acceptability"
    glue_files = GlueFiles("cola", "CoLA", (3,), 1)  # the files have no header
    source = _source(glue_files, 8_551, 1_043)


MNLI = ("sentence1", "sentence2")


class MnliMatched(Glue):
    """MNLI: whether a premise entails a hypothesis, contradicts it or neither; tested on the genres of training."""

    name = "mnli_matched"
    texts = ("premise", "hypothesis")
    classes = ("entailment", "neutral", "contradiction")
    title = "entailment"
    glue_files = GlueFiles("mnli", "MNLI", MNLI, "gold_label", ("validation_matched", "dev_matched"))
    source = _source(glue_files, 392_702, 9_815)


class MnliMismatched(Glue):
    """MNLI: whether a premise entails a hypothesis, contradicts it or neither; tested on other genres."""

    name = "mnli_mismatched"
    texts = MnliMatched.texts
    classes = MnliMatched.classes
    title = MnliMatched.title
    glue_files = GlueFiles("mnli", "MNLI", MNLI, "gold_label", ("validation_mismatched", "dev_mismatched"))
    source = _source(glue_files, 392_702, 9_832)


class Mrpc(Glue):
    """MRPC: whether two sentences from the news have the same meaning."""

    name = "mrpc"
    classes = ("not_equivalent", "equivalent")
    title = "paraphrase"
    glue_files = GlueFiles("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality")
    source = _source(glue_files, 3_668, 408)


class Qnli(Glue):
    """QNLI: whether a sentence answers a question."""

    name = "qnli"
    texts = ("question", "sentence")
    classes = ENTAILMENT
    title = "entailment"
    glue_files = GlueFiles("qnli", "QNLI", texts, "label")
    source = _source(glue_files, 104_743, 5_463)


class Qqp(Glue):
    """QQP: whether two questions have the same meaning."""

    name = "qqp"
    texts = ("question1", "question2")
    classes = ("not_duplicate", "duplicate")
    title = "duplicate"
    short_rows = True  # some questions contain line ends
    glue_files = GlueFiles("qqp", "QQP", texts, "is_duplicate")
    source = _source(glue_files, None, 40_430)


class Rte(Glue):
    """RTE: whether one sentence entails another."""

    name = "rte"
    classes = ENTAILMENT
    title = "entailment"
    glue_files = GlueFiles("rte", "RTE", Glue.texts, "label")
    source = _source(glue_files, 2_490, 277)


class Sst2(Glue):
    """SST-2: whether a phrase from a film review is positive."""

    name = "sst2"
    texts = ("sentence",)
    classes = ("negative", "positive")
    title = "sentiment"
    glue_files = GlueFiles("sst2", "SST-2", texts, "label")
    source = _source(glue_files, 67_349, 872)


class Stsb(Glue):
    """STS-B: similarity of two sentences, 0 to 5; scored by Spearman correlation."""

    name = "stsb"
    metric = "spearman"
    title = "similarity"
    glue_files = GlueFiles("stsb", "STS-B", Glue.texts, "score")
    source = _source(glue_files, 5_749, 1_500)


class Wnli(Glue):
    """WNLI: whether a sentence entails another in which a pronoun is replaced."""

    name = "wnli"
    classes = ("not_entailment", "entailment")  # reversed with respect to RTE and QNLI
    title = "entailment"
    glue_files = GlueFiles("wnli", "WNLI", Glue.texts, "label")
    source = _source(glue_files, 635, 71)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Cola, MnliMatched, MnliMismatched, Mrpc, Qnli, Qqp, Rte, Sst2, Stsb, Wnli]
