"""mC4 (Xue et al., 2021): web pages in seven languages, for pretraining (protocol section 2.7).

All of it is terabytes. `sslx data prepare` streams the first documents of each language from the Hugging Face hub, or
reads them from files of the upstream (multilingual/c4-*.json.gz), into shards of JSON lines. `--set
dataset.documents=N` or the variable SSLX_MC4_DOCUMENTS says how many; asked for more later, it goes on behind the last
full shard.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ssl_core import ConfigError, DataError, Dataset, PublicDataset, Sample, Source, Split, Text, hookimpl
from ssl_plugins.datasets.public._hub import asked, library, write_rows
from ssl_plugins.datasets.public._text_pairs import Lines

HUB = "allenai/c4"  # the hub's own "mc4" is gone, and pointed there
LANGUAGES = ("en", "fr", "de", "zh", "es", "ja", "ko")  # the order in which they take turns
SPLITS: dict[Split, str] = {"train": "train", "test": "validation"}
VARIABLE = "SSLX_MC4_DOCUMENTS"
DOCUMENTS = 100_000  # of each language; held out are a hundredth of it
HELD_OUT = 0.01
SHARD = 10_000
MADE = "mc4.json"


class MC4(PublicDataset):
    """mC4, web pages in seven languages taking turns, for pretraining; the first documents only, no labels."""

    name = "mc4"
    modality = "multilingual-text"
    source = Source(
        homepage="https://huggingface.co/datasets/allenai/c4",
        terms="ODC-BY 1.0, and Common Crawl's terms of use",
        folder="text/mc4",
        needs=(MADE,),
    )

    class Options(PublicDataset.Options):
        """Options of mC4."""

        documents: int | None = Field(
            None, ge=1, description="documents of each language in the training split; by default all that were fetched"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"text": Text()}
        self.size, counts = _made(self.folder)
        self.each = min(counts[SPLITS[split]].values())  # the turns end with the language that ends first
        wanted = options.documents if split == "train" else None
        if wanted is not None and wanted > self.each:
            raise DataError(
                f"dataset.documents={wanted}, but {self.folder} holds {self.each} of each language; "
                f"run `sslx data prepare {self.name} --set dataset.documents={wanted}`"
            )
        self.each = wanted or self.each
        count = -(-self.each // self.size)
        self.shards = [[_shard(self.folder, split, of, at) for at in range(count)] for of in LANGUAGES]

    def __len__(self) -> int:
        return self.each * len(LANGUAGES)

    def __getitem__(self, index: int) -> Sample:
        """{"text": a document}; the languages take turns. Errors: BadSample."""
        lines, row = self._place(index)
        return {"inputs": {"text": np.array(lines.text(row))}, "label": None}

    def describe(self, index: int) -> str:
        """File and line."""
        lines, row = self._place(index)
        return lines.where(row)

    def fingerprint(self) -> str:
        """Changes with the options and with the shards."""
        states = ",".join(lines.state() for of in self.shards for lines in of)
        return f"{super().fingerprint()}:{self.each}:{states}"

    def _place(self, index: int) -> tuple[Lines, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        turn, language = divmod(index, len(LANGUAGES))
        return self.shards[language][turn // self.size], turn % self.size

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Fetch as many documents as the variable says. Errors: ConfigError, DataError."""
        cls.prepare(folder, cls.Options())

    @classmethod
    def prepare(cls, folder: Path, options: Options) -> None:
        """Fetch what is asked for and not there yet. Errors: ConfigError, DataError."""
        documents = options.documents or _asked_for()
        wanted: dict[Split, int] = {"train": documents, "test": max(1, round(documents * HELD_OUT))}
        size, before = _made(folder) if (folder / MADE).is_file() else (SHARD, None)
        made: dict[str, Any] = {"shard": size}
        for split, count in wanted.items():
            have = before[SPLITS[split]] if before else dict.fromkeys(LANGUAGES, 0)
            made[SPLITS[split]] = {
                of: _fetch(folder, split, of, count, size) if have[of] < count else have[of] for of in LANGUAGES
            }
        beside = folder / f"{MADE}.part"
        beside.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, folder / MADE)


def _asked_for() -> int:
    given = os.environ.get(VARIABLE, str(DOCUMENTS))
    if not given.isdigit() or not int(given):
        raise ConfigError(f"{VARIABLE}={given} must be a whole number of documents of each language")
    return int(given)


def _made(folder: Path) -> tuple[int, dict[str, dict[str, int]]]:
    """Documents of a shard, and how many there are: {split: {language: count}}. Errors: DataError."""
    try:
        made = json.loads((folder / MADE).read_text(encoding="utf-8"))
        counts = {split: {of: int(made[split][of]) for of in LANGUAGES} for split in SPLITS.values()}
        return int(made["shard"]), counts
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{folder / MADE} is damaged; remove it and run `sslx data prepare {MC4.name}`") from None


def _path(folder: Path, split: Split, language: str, number: int) -> Path:
    return folder / SPLITS[split] / f"{language}-{number:05}.jsonl"


def _shard(folder: Path, split: Split, language: str, number: int) -> Lines:
    path = _path(folder, split, language, number)
    if not path.is_file():
        raise DataError(f"there is no {path}, though {folder / MADE} counts it; remove that and prepare mc4 again")
    return Lines(path)


def _fetch(folder: Path, split: Split, language: str, wanted: int, size: int) -> int:
    """Write the shards that are missing, of `size` documents each; returns how many documents there are."""
    full = next(at for at in itertools.count() if not _is_full(_path(folder, split, language, at), size))
    count = full * size
    rows = _documents(folder, split, language, count)
    for number in itertools.count(full):
        part = list(itertools.islice(rows, max(0, min(size, wanted - count))))
        if not part:
            break
        count += write_rows(_path(folder, split, language, number), part)
    if not count:
        raise DataError(f"mC4 in language '{language}' came without a document")
    return count


def _is_full(path: Path, size: int) -> bool:
    return path.is_file() and len(Lines(path)) >= size


def _documents(folder: Path, split: Split, language: str, skip: int) -> Iterator[dict[str, str]]:
    """{"text": ...} of each document but the first `skip`. Errors: DataError."""
    infix = "" if split == "train" else "-validation"
    pattern = f"multilingual/c4-{language}{infix}.tfrecord-*.json.gz"
    files = sorted(folder.glob(pattern))
    if files:
        for text in itertools.islice(_unzipped(files), skip, None):
            yield {"text": text}
        return
    what = f"{HUB} ({pattern})"
    key = SPLITS[split]

    def stream() -> Iterator[Any]:
        return iter(library().load_dataset(HUB, data_files={key: pattern}, split=key, streaming=True).skip(skip))

    rows = asked(what, stream)
    while (row := asked(what, lambda: next(rows, None))) is not None:
        yield {"text": row["text"]}


def _unzipped(files: list[Path]) -> Iterator[str]:
    for path in files:
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                for row, line in enumerate(file, start=1):
                    try:
                        yield json.loads(line)["text"]
                    except (ValueError, KeyError, TypeError):
                        raise DataError(f'{path} line {row} is no line of JSON with "text"') from None
        except (OSError, EOFError) as error:
            raise DataError(f"{path} is damaged or no gz file ({' '.join(str(error).split())})") from None


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [MC4]
