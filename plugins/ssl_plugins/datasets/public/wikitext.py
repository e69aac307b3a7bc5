"""WikiText-103 (Merity et al., 2016): good articles of the English Wikipedia, for pretraining (protocol section 2.6).

The tokenised version (wikitext-103-v1: rare words are <unk>), one line an example. Read as JSON lines, which `sslx data
prepare` makes of the Hugging Face copy, or as the upstream's wiki.<split>.tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError, Dataset, PublicDataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets.public._hub import hub_rows, write_rows
from ssl_plugins.datasets.public._text_pairs import Lines, Upstream

HUB = ("Salesforce/wikitext", "wikitext-103-v1")
SPLITS: dict[Split, str] = {"train": "train", "test": "validation"}  # here, and on the hub
HERE: dict[Split, str] = {"train": "wikitext103-train.jsonl", "test": "wikitext103-validation.jsonl"}
THERE: dict[Split, str] = {"train": "wikitext-103/wiki.train.tokens", "test": "wikitext-103/wiki.valid.tokens"}


class WikiText103(PublicDataset):
    """WikiText-103, 100 M words of Wikipedia articles, for pretraining; a line is an example, no labels."""

    name = "wikitext103"
    modality = "text"
    source = Upstream(
        homepage="https://huggingface.co/datasets/Salesforce/wikitext",
        terms="CC BY-SA 4.0",
        folder="text/wikitext103",
        counts={"train": 1_165_029, "test": 2_461},
        either=(tuple(HERE.values()), tuple(THERE.values())),
    )

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"text": Text()}
        self.json = (self.folder / HERE[split]).is_file()
        self.lines = Lines(self.folder / (HERE if self.json else THERE)[split])
        self.rows = np.array([at for at in range(len(self.lines)) if self.lines.raw(at).strip()], dtype=np.int64)
        if not len(self.rows):
            raise DataError(f"{self.lines.path} holds no text")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """{"text": a line}. Errors: BadSample for one that is not UTF-8, or no JSON."""
        row = int(self.rows[index])
        text = self.lines.text(row) if self.json else self.lines[row]
        return {"inputs": {"text": np.array(text.strip())}, "label": None}

    def describe(self, index: int) -> str:
        """File and line."""
        return self.lines.where(int(self.rows[index]))

    def fingerprint(self) -> str:
        """Changes with the options and with the file."""
        return f"{super().fingerprint()}:{self.lines.state()}"

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Fetch both splits from the Hugging Face hub, unless they are there in any form. Errors: DataError."""
        if not cls.source.missing(folder):
            return
        for split, theirs in SPLITS.items():
            if not (folder / HERE[split]).is_file():
                write_rows(folder / HERE[split], _with_text(hub_rows(*HUB, theirs, ("text",))))


def _with_text(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Four lines in ten of the upstream's file are blank."""
    return (row for row in rows if row["text"].strip())


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [WikiText103]
