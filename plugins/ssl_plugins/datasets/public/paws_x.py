"""PAWS-X (Yang et al., 2019): paraphrases in seven languages.

The data are JSON lines, which `sslx data prepare` fetches from the Hugging Face hub, or the upstream's
x-final/<language>. The test split is the upstream's dev_2k.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ssl_core import Dataset, PublicDataset, Split, hookimpl
from ssl_plugins.datasets.public._text_pairs import HubDataset, SentenceDataset, SourceWithLayouts, TableFile


def _files(language: str) -> dict[Split, tuple[str, str]]:
    train = "train" if language == "en" else "translated_train"
    return {
        "train": (f"paws_{language}/train.jsonl", f"x-final/{language}/{train}.tsv"),
        "test": (f"paws_{language}/validation.jsonl", f"x-final/{language}/dev_2k.tsv"),
    }


def _source(language: str) -> SourceWithLayouts:
    files = _files(language)
    return SourceWithLayouts(
        homepage="https://github.com/google-research-datasets/paws/tree/master/pawsx",
        terms="free for any purpose; Google asks to be named",
        folder="text/paws",
        sample_counts={"train": 49_401, "test": 2_000} if language == "en" else {},
        layouts=((files["train"][0], files["test"][0]), (files["train"][1], files["test"][1])),
    )


class PawsX(SentenceDataset):
    """Pairs of one language. Except in English, the training pairs are machine translations.

    Where the translation failed, a sentence is empty. Such pairs are dropped, unless protocol=published.
    """

    modality = "multilingual-text"
    classes = ("different", "same")
    title = "paraphrase"
    language: ClassVar[str]

    class Options(PublicDataset.Options):
        """Options of PAWS-X."""

        protocol: Literal["fixed", "published"] = Field(
            "fixed", description="published: keep pairs with an empty sentence, as the published codes do"
        )

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.hub = HubDataset("google-research-datasets/paws-x", cls.language, {"train": "train", "test": "validation"})

    def __init__(self, options: Options, split: Split) -> None:
        self.keep_empty = options.protocol == "published"
        super().__init__(options, split)

    @classmethod
    def tables(cls, split: Split) -> tuple[TableFile, ...]:
        """JSON lines, or the upstream's own file."""
        return tuple(TableFile(file, cls.texts) for file in _files(cls.language)[split])


class PawsEnglish(PawsX):
    """PAWS-X, English: whether two sentences of similar words have the same meaning."""

    name, language = "paws_en", "en"
    source = _source("en")


class PawsFrench(PawsX):
    """PAWS-X, French: whether two sentences of similar words have the same meaning."""

    name, language = "paws_fr", "fr"
    source = _source("fr")


class PawsSpanish(PawsX):
    """PAWS-X, Spanish: whether two sentences of similar words have the same meaning."""

    name, language = "paws_es", "es"
    source = _source("es")


class PawsGerman(PawsX):
    """PAWS-X, German: whether two sentences of similar words have the same meaning."""

    name, language = "paws_de", "de"
    source = _source("de")


class PawsChinese(PawsX):
    """PAWS-X, Chinese: whether two sentences of similar words have the same meaning."""

    name, language = "paws_zh", "zh"
    source = _source("zh")


class PawsJapanese(PawsX):
    """PAWS-X, Japanese: whether two sentences of similar words have the same meaning."""

    name, language = "paws_ja", "ja"
    source = _source("ja")


class PawsKorean(PawsX):
    """PAWS-X, Korean: whether two sentences of similar words have the same meaning."""

    name, language = "paws_ko", "ko"
    source = _source("ko")


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [PawsEnglish, PawsFrench, PawsSpanish, PawsGerman, PawsChinese, PawsJapanese, PawsKorean]
