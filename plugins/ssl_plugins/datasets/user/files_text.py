"""The user's texts: documents, lines, JSON lines or a column of a table, with or without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import BadSample, DataError, Dataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets._io.file_listing import TABLE_EXTENSIONS, list_sources
from ssl_plugins.datasets._io.tables import MetadataCollector, check_extensions
from ssl_plugins.datasets._io.texts import (
    JSON_EXTENSIONS,
    TextDocument,
    TextLines,
    TextSource,
    locations_of,
    read_text_source,
)
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

PLAIN_EXTENSIONS = (".txt", ".txt.gz")
EXTENSIONS = (*PLAIN_EXTENSIONS, *JSON_EXTENSIONS, *TABLE_EXTENSIONS)


class TextFiles(UserData):
    """Your own texts (txt by line or by file, JSONL, CSV, Parquet): one text or a pair of texts a sample."""

    modality = "text"

    class Options(RowOptions):
        """Options of the user's texts."""

        text: str = Field("text", description="column or key of the text")
        pair: str | None = Field(None, description="column or key of the second text of a pair")
        document: Literal["auto", "line", "file"] = Field(
            "auto", description="sample unit of a .txt; auto = the file in a folder, the line in a single file"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        entries = list_sources(options.root, options.test_root, EXTENSIONS, options.label_pattern, options)
        check_extensions(entries, EXTENSIONS, "file of text")
        metadata = MetadataCollector(options.task)
        column_of = {"text": options.text} | ({"pair": options.pair} if options.pair else {})
        is_single_file = Path(options.root).is_file()
        whole_files = options.document == "file" or (options.document == "auto" and not is_single_file)
        self.sources: list[TextSource] = []
        for entry in entries:
            if not entry.path.name.lower().endswith(PLAIN_EXTENSIONS):
                self.sources.append(read_text_source(entry, column_of, options, metadata))
                continue
            if options.pair:
                raise DataError(f"{entry.path} is plain text, which holds no pairs; leave dataset.pair out")
            source: TextSource = TextDocument(entry.path) if whole_files else TextLines(entry.path)
            metadata.append_file(entry, len(source))
            self.sources.append(source)
        self.locations = locations_of(self.sources, [entry.path for entry in entries])
        if not self.locations.starts[-1]:
            raise DataError(f"dataset.root {options.root} holds no text")
        self.assign_split(metadata.metadata(self.locations), target=metadata.target(), title=options.label or "label")
        self.fields = {"text": Text()}
        self.record_files(self.locations.paths)
        self.record_summary(entries)

    def __getitem__(self, index: int) -> Sample:
        """{"text": the text, or (2,) texts of a pair}.

        Raises:
            BadSample: the text is empty or not UTF-8.
        """
        file, index_in_file = self.locations.locate(int(self.rows[index]))
        texts = self.sources[file].texts(index_in_file)
        if not any(text.strip() for text in texts):
            raise BadSample("holds no text")
        return {"inputs": {"text": np.array(texts if len(texts) > 1 else texts[0])}, "label": self.label_of(index)}


class MultilingualTextFiles(TextFiles):
    """Your own texts in any languages (txt by line or by file, JSONL, CSV, Parquet): a text or a pair a sample."""

    modality = "multilingual-text"


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [TextFiles, MultilingualTextFiles]
