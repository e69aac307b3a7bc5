"""mC4 (Xue et al., 2021): web pages in seven languages, for pretraining.

The complete data are terabytes. `sslx data prepare` reads the first documents of each language from the Hugging Face
hub, or from the upstream's files (multilingual/c4-*.json.gz), and writes them to shards of JSON lines. Their number is
`--set dataset.documents=N` or the variable SSLX_MC4_DOCUMENTS. A later call with a larger number continues after the
last full shard.
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
from ssl_plugins.datasets.public._hub import call_hub, datasets_library, write_rows
from ssl_plugins.datasets.public._text_pairs import LineFile

HUB = "allenai/c4"  # the repository "mc4" no longer exists and referred to this one
LANGUAGES = ("en", "fr", "de", "zh", "es", "ja", "ko")  # in the order of the samples
SPLITS: dict[Split, str] = {"train": "train", "test": "validation"}
VARIABLE = "SSLX_MC4_DOCUMENTS"
DOCUMENTS = 100_000  # of each language in the training split
TEST_SHARE = 0.01  # documents of the test split, relative to training
SHARD = 10_000
MANIFEST = "mc4.json"


class MC4(PublicDataset):
    """mC4, web pages in seven languages in turn, for pretraining; the first documents only, no labels."""

    name = "mc4"
    modality = "multilingual-text"
    source = Source(
        homepage="https://huggingface.co/datasets/allenai/c4",
        terms="ODC-BY 1.0, and Common Crawl's terms of use",
        folder="text/mc4",
        required_paths=(MANIFEST,),
    )

    class Options(PublicDataset.Options):
        """Options of mC4."""

        documents: int | None = Field(
            None, ge=1, description="documents of each language in the training split; by default all that are on disk"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"text": Text()}
        self.shard_size, counts = _read_manifest(self.folder)
        self.documents = min(counts[SPLITS[split]].values())  # the same number of each language
        limit = options.documents if split == "train" else None
        if limit is not None and limit > self.documents:
            raise DataError(
                f"dataset.documents={limit}, but {self.folder} holds {self.documents} of each language; "
                f"run `sslx data prepare {self.name} --set dataset.documents={limit}`"
            )
        self.documents = limit or self.documents
        count = -(-self.documents // self.shard_size)
        self.shards = [
            [_open_shard(self.folder, split, language, number) for number in range(count)] for language in LANGUAGES
        ]

    def __len__(self) -> int:
        return self.documents * len(LANGUAGES)

    def __getitem__(self, index: int) -> Sample:
        """{"text": a document}. The language is the index modulo the number of languages.

        Raises:
            BadSample: if the line is damaged.
        """
        lines, row = self._find(index)
        return {"inputs": {"text": np.array(lines.text(row))}, "label": None}

    def describe(self, index: int) -> str:
        """File and line."""
        lines, row = self._find(index)
        return lines.where(row)

    def fingerprint(self) -> str:
        """Changes with the options and the shards."""
        states = ",".join(lines.state() for shards in self.shards for lines in shards)
        return f"{super().fingerprint()}:{self.documents}:{states}"

    def _find(self, index: int) -> tuple[LineFile, int]:
        """The shard of a document and its line."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, language = divmod(index, len(LANGUAGES))
        return self.shards[language][number // self.shard_size], number % self.shard_size

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Fetch the number of documents in SSLX_MC4_DOCUMENTS.

        Raises:
            ConfigError: if the variable is no positive whole number.
            DataError: if the hub fails.
        """
        cls.prepare(folder, cls.Options())

    @classmethod
    def prepare(cls, folder: Path, options: Options) -> None:
        """Fetch the documents that are not on disk yet.

        Raises:
            ConfigError: if SSLX_MC4_DOCUMENTS is no positive whole number.
            DataError: if the hub fails.
        """
        documents = options.documents or _documents_from_environment()
        targets: dict[Split, int] = {"train": documents, "test": max(1, round(documents * TEST_SHARE))}
        size, on_disk = _read_manifest(folder) if (folder / MANIFEST).is_file() else (SHARD, None)
        manifest: dict[str, Any] = {"shard": size}
        for split, target in targets.items():
            counts = on_disk[SPLITS[split]] if on_disk else dict.fromkeys(LANGUAGES, 0)
            manifest[SPLITS[split]] = {
                language: _fetch(folder, split, language, target, size) if count < target else count
                for language, count in counts.items()
            }
        part = folder / f"{MANIFEST}.part"
        part.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        os.replace(part, folder / MANIFEST)


def _documents_from_environment() -> int:
    value = os.environ.get(VARIABLE, str(DOCUMENTS))
    if not value.isdigit() or not int(value):
        raise ConfigError(f"{VARIABLE}={value} must be a whole number of documents of each language")
    return int(value)


def _read_manifest(folder: Path) -> tuple[int, dict[str, dict[str, int]]]:
    """Documents of a shard, and of each split and language.

    Raises:
        DataError: if the manifest is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        counts = {split: {of: int(manifest[split][of]) for of in LANGUAGES} for split in SPLITS.values()}
        return int(manifest["shard"]), counts
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{folder / MANIFEST} is damaged; remove it and run `sslx data prepare {MC4.name}`") from None


def _path(folder: Path, split: Split, language: str, number: int) -> Path:
    return folder / SPLITS[split] / f"{language}-{number:05}.jsonl"


def _open_shard(folder: Path, split: Split, language: str, number: int) -> LineFile:
    path = _path(folder, split, language, number)
    if not path.is_file():
        raise DataError(f"there is no {path}, though {folder / MANIFEST} counts it; remove that and prepare mc4 again")
    return LineFile(path)


def _fetch(folder: Path, split: Split, language: str, target: int, size: int) -> int:
    """Write the missing shards of `size` documents each. Returns the number of documents on disk."""
    full = next(n for n in itertools.count() if not _is_full(_path(folder, split, language, n), size))
    count = full * size
    rows = _documents(folder, split, language, count)
    for number in itertools.count(full):
        part = list(itertools.islice(rows, max(0, min(size, target - count))))
        if not part:
            break
        count += write_rows(_path(folder, split, language, number), part)
    if not count:
        raise DataError(f"mC4 in language '{language}' came without a document")
    return count


def _is_full(path: Path, size: int) -> bool:
    return path.is_file() and len(LineFile(path)) >= size


def _documents(folder: Path, split: Split, language: str, skip: int) -> Iterator[dict[str, str]]:
    """{"text": ...} of each document after the first `skip`.

    Raises:
        DataError: if the hub fails or a file is damaged.
    """
    infix = "" if split == "train" else "-validation"
    pattern = f"multilingual/c4-{language}{infix}.tfrecord-*.json.gz"
    files = sorted(folder.glob(pattern))
    if files:
        for text in itertools.islice(_read_gz(files), skip, None):
            yield {"text": text}
        return
    name = f"{HUB} ({pattern})"
    key = SPLITS[split]

    def stream() -> Iterator[Any]:
        return iter(
            datasets_library().load_dataset(HUB, data_files={key: pattern}, split=key, streaming=True).skip(skip)
        )

    rows = call_hub(name, stream)
    while (row := call_hub(name, lambda: next(rows, None))) is not None:
        yield {"text": row["text"]}


def _read_gz(files: list[Path]) -> Iterator[str]:
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
