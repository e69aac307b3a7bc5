"""Own texts: documents, lines, JSON lines or a column of a table, with or without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import BadSample, DataError, Dataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets._io.file_listing import sources
from ssl_plugins.datasets._io.tables import ENDINGS, MarkColumns, check_endings
from ssl_plugins.datasets._io.texts import JSON_ENDINGS, Lines, Part, Whole, places_of, read_part, say_all
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

PLAIN = (".txt", ".txt.gz")
KNOWN = (*PLAIN, *JSON_ENDINGS, *ENDINGS)


class TextFiles(UserData):
    """Your own texts (txt by line or by file, JSONL, CSV, Parquet): one text or a pair of texts a sample."""

    modality = "text"

    class Options(RowOptions):
        """Options of own texts."""

        text: str = Field("text", description="column or key of the text")
        pair: str | None = Field(None, description="column or key of the second text of a pair")
        document: Literal["auto", "line", "file"] = Field(
            "auto", description="what a sample of a .txt is; auto = a file in a folder, a line of a single file"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        items = sources(options.root, options.test_root, KNOWN, options.label_pattern)
        check_endings(items, KNOWN, "file of text")
        marks = MarkColumns(options.task)
        wanted = {"text": options.text} | ({"pair": options.pair} if options.pair else {})
        alone = Path(options.root).is_file()
        whole = options.document == "file" or (options.document == "auto" and not alone)
        self.parts: list[Part] = []
        for item in items:
            if not item.path.name.lower().endswith(PLAIN):
                self.parts.append(read_part(item, wanted, options, marks))
                continue
            if options.pair:
                raise DataError(f"{item.path} is plain text, which holds no pairs; leave dataset.pair out")
            part: Part = Whole(item.path) if whole else Lines(item.path)
            say_all(item, len(part), marks)
            self.parts.append(part)
        self.places = places_of(self.parts, [item.path for item in items])
        if not self.places.starts[-1]:
            raise DataError(f"dataset.root {options.root} holds no text")
        self.settle(marks.said(self.places), target=marks.numbers(), title=options.label or "label")
        self.fields = {"text": Text()}
        self.stamp(self.places.paths)

    def __getitem__(self, index: int) -> Sample:
        """{"text": the text, or (2,) of a pair}. Errors: BadSample for one that is empty or not UTF-8."""
        number, place = self.places.part(int(self.rows[index]))
        found = self.parts[number].texts(place)
        if not any(text.strip() for text in found):
            raise BadSample("holds no text")
        return {"inputs": {"text": np.array(found if len(found) > 1 else found[0])}, "label": self.label_of(index)}


class MultilingualTextFiles(TextFiles):
    """Your own texts in any languages (txt by line or by file, JSONL, CSV, Parquet): a text or a pair a sample."""

    modality = "multilingual-text"


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [TextFiles, MultilingualTextFiles]
