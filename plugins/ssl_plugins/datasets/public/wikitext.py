"""WikiText-103 (Merity et al., 2016): articles of the English Wikipedia, for pretraining.

The tokenised version (wikitext-103-v1, in which rare words are <unk>); each line is a sample. The data are JSON lines,
which `sslx data prepare` fetches from the Hugging Face hub, or the upstream's wiki.<split>.tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError, Dataset, PublicDataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets.public._hub import hub_rows, write_rows
from ssl_plugins.datasets.public._text_pairs import LineFile, SourceWithLayouts

HUB = ("Salesforce/wikitext", "wikitext-103-v1")
SPLITS: dict[Split, str] = {"train": "train", "test": "validation"}  # the hub's name of each split
JSON_FILES: dict[Split, str] = {"train": "wikitext103-train.jsonl", "test": "wikitext103-validation.jsonl"}
TOKEN_FILES: dict[Split, str] = {"train": "wikitext-103/wiki.train.tokens", "test": "wikitext-103/wiki.valid.tokens"}


class WikiText103(PublicDataset):
    """WikiText-103, 100 M words of Wikipedia articles, for pretraining; a line is a sample, no labels."""

    name = "wikitext103"
    modality = "text"
    source = SourceWithLayouts(
        homepage="https://huggingface.co/datasets/Salesforce/wikitext",
        terms="CC BY-SA 4.0",
        folder="text/wikitext103",
        sample_counts={"train": 1_165_029, "test": 2_461},
        layouts=(tuple(JSON_FILES.values()), tuple(TOKEN_FILES.values())),
    )

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"text": Text()}
        self.is_json = (self.folder / JSON_FILES[split]).is_file()
        self.lines = LineFile(self.folder / (JSON_FILES if self.is_json else TOKEN_FILES)[split])
        self.rows = np.array([row for row in range(len(self.lines)) if self.lines.raw(row).strip()], dtype=np.int64)
        if not len(self.rows):
            raise DataError(f"{self.lines.path} holds no text")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """{"text": a line}.

        Raises:
            BadSample: if the line is not UTF-8 or no JSON.
        """
        row = int(self.rows[index])
        text = self.lines.text(row) if self.is_json else self.lines[row]
        return {"inputs": {"text": np.array(text.strip())}, "label": None}

    def describe(self, index: int) -> str:
        """File and line."""
        return self.lines.where(int(self.rows[index]))

    def fingerprint(self) -> str:
        """Changes with the options and the file."""
        return f"{super().fingerprint()}:{self.lines.state()}"

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Fetch both splits from the Hugging Face hub, unless one layout is complete.

        Raises:
            DataError: if the hub fails.
        """
        if not cls.source.missing_paths(folder):
            return
        for split, hub_split in SPLITS.items():
            if not (folder / JSON_FILES[split]).is_file():
                write_rows(folder / JSON_FILES[split], _drop_blank(hub_rows(*HUB, hub_split, ("text",))))


def _drop_blank(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows that are not blank. About 40 % of the upstream's lines are."""
    return (row for row in rows if row["text"].strip())


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [WikiText103]
