"""Samples in tar files as WebDataset writes them: members with one name and several endings are one sample.

The files are read in place: the headers of the members once, the content of a member when its sample is used.
"""

from __future__ import annotations

import functools
import glob
import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ssl_core import BadSample, DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.copies import copies_of_contents
from ssl_plugins.datasets._io.files.entry import FileEntry, SampleLocations
from ssl_plugins.datasets._io.files.listing import (
    apply_pattern,
    is_excluded,
    list_sources,
    root_parts,
    splits_by_name,
    walk,
)
from ssl_plugins.datasets._io.files.state import file_state
from ssl_plugins.datasets._io.splitting import Codes, needs_test_split
from ssl_plugins.datasets._io.tables.options import METADATA_COLUMNS
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector

TAR = ".tar"
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
LABEL_ENDING = ".cls"
JSON_ENDING = ".json"
CAPTION_ENDINGS = (".txt", ".caption")
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How compressed files begin. A member of one could not be read without all before it."""
LOOK_MEMBERS = 100  # of a tar file, by whose endings its kind is recognised
KEPT = 4096  # files whose members are remembered, since each split opens them all


@dataclass(frozen=True)
class TarMember:
    """A file in a tar file that is not compressed.

    offset, size: where its bytes lie in the archive. state: of the archive, so that a changed one is another member.
    """

    archive: Path
    name: str
    offset: int
    size: int
    state: str

    @property
    def path(self) -> Path:
        """Its name in messages: as if the archive were a folder."""
        return self.archive / self.name

    def read(self) -> bytes:
        """All bytes.

        Raises:
            BadSample: the archive cannot be read, or ends before.
        """
        try:
            with self.archive.open("rb") as file:
                return self.read_from(file)
        except OSError as error:
            raise BadSample(f"cannot be read: {error.strerror}") from None

    def read_from(self, file: BinaryIO) -> bytes:
        """All bytes, from the archive that is open already: for many members of it.

        Raises:
            BadSample: the archive ends before.
            OSError: it cannot be read.
        """
        file.seek(self.offset)
        data = file.read(self.size)
        if len(data) < self.size:
            raise BadSample("is cut off at the end of the file")
        return data

    def open(self) -> io.BufferedReader:
        """The member as a file; only what is read of it comes into memory.

        Raises:
            BadSample: the archive cannot be read, or ends before.
        """
        try:
            if self.archive.stat().st_size < self.offset + self.size:
                raise BadSample("is cut off at the end of the file")
            return io.BufferedReader(_Part(self))
        except OSError as error:
            raise BadSample(f"cannot be read: {error.strerror}") from None


class _Part(io.RawIOBase):
    """The bytes of a member as a file of their own."""

    def __init__(self, member: TarMember) -> None:
        self.member, self.position = member, 0
        self.file = member.archive.open("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.member.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        rest = max(0, self.member.size - self.position)
        self.file.seek(self.member.offset + self.position)
        count = self.file.readinto(memoryview(buffer)[:rest]) or 0
        self.position += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


@functools.lru_cache(maxsize=KEPT)
def _samples(path: Path, state: str) -> dict[str, dict[str, TarMember]]:
    """The members of each sample by ending in lower case. state: part of the cache's key.

    Raises:
        DataError: the file is no tar file.
    """
    samples: dict[str, dict[str, TarMember]] = {}
    last = ""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, dot, ending = name.partition(".")
                if member.isfile() and not member.issparse() and stem:
                    key = f"{folder}/{stem}" if folder else stem
                    one = TarMember(path, member.name, member.offset_data, member.size, state)
                    samples.setdefault(key, {})[(dot + ending).lower()] = one
                last = member.name
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        after = f" after its member {last}" if last else ""
        cure = "fetch or write it again, or leave it out"
        if _is_compressed(path):
            reason, cure = "it is compressed", "unpack it, so that it is a plain tar file"
        elif last:
            cure += f" with dataset.exclude={path.name}"
        raise DataError(f"{path} cannot be read as a tar file{after}: {reason:.200}; {cure}") from None
    return samples


def _is_compressed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(COMPRESSED)
    except OSError:
        return False


class TarSamples:
    """The samples of a tar file that is not compressed.

    Args:
        path: the file.
        extensions: endings of the member that each sample has; a sample without one is left out.
        what: what such a member is called in messages.

    Attributes:
        members: the member of each sample with one of the extensions.
        keys: the name of each sample: that of its members without ending.
        beside: the other members of each sample, by ending in lower case.
        others: names of further members with one of the extensions, which are not read.

    Raises:
        DataError: the file is no tar file, or holds no such member.
    """

    def __init__(self, path: Path, extensions: Sequence[str], what: str) -> None:
        self.path = path
        self.members: list[TarMember] = []
        self.keys: list[str] = []
        self.beside: list[Mapping[str, TarMember]] = []
        self.others: list[str] = []
        for key, parts in _samples(path, file_state(path)).items():
            endings = [ending for ending in parts if ending.endswith(tuple(extensions))]
            if endings:
                self.keys.append(key)
                self.members.append(parts[endings[0]])
                self.beside.append({ending: one for ending, one in parts.items() if ending not in endings})
                self.others += [parts[ending].name for ending in endings[1:]]
        if not self.members:
            raise DataError(
                f"{path} holds no {what}; members are called NAME{extensions[0]}, and NAME.cls, NAME.txt or NAME.json "
                f"beside it"
            )

    def __len__(self) -> int:
        return len(self.members)

    @property
    def names(self) -> list[str]:
        """The name of each sample's member."""
        return [member.name for member in self.members]

    def content(self, row: int) -> bytes:
        """The bytes of a sample's member.

        Raises:
            BadSample: it cannot be read.
        """
        return self.members[row].read()

    def cheap_rows(self, count: int) -> int:
        """The first samples, at most `count`."""
        return min(count, len(self))

    def texts(self, endings: Sequence[str]) -> list[str | None]:
        """The text of the member of each sample with one of the endings; None where there is none.

        Raises:
            DataError: a member is not UTF-8 text.
        """
        members = [next((parts[one] for one in endings if one in parts), None) for parts in self.beside]
        with self.path.open("rb") as file:
            return [None if member is None else _text(member, file) for member in members]


def _text(member: TarMember, file: BinaryIO) -> str:
    try:
        return member.read_from(file).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError(f"{member.path} is not UTF-8 text; write it again as UTF-8") from None
    except BadSample as error:
        raise DataError(f"{member.path} {error}") from None


@functools.lru_cache(maxsize=KEPT)
def _json_values(path: Path, state: str, keys: tuple[str, ...]) -> tuple[dict[str, list[Any]], list[str]]:
    """The values of some keys in the JSON of each sample that has one; the names of those that cannot be read.

    A key such as `meta.word` is the key word of the object meta. state: part of the cache's key.
    """
    values: dict[str, list[Any]] = {}
    unread: list[str] = []
    members = {name: parts[JSON_ENDING] for name, parts in _samples(path, state).items() if JSON_ENDING in parts}
    with path.open("rb") as file:
        for sample, member in members.items():
            try:
                content = json.loads(member.read_from(file))
            except (BadSample, ValueError, RecursionError):
                unread.append(member.path.as_posix())
                continue
            if isinstance(content, dict):
                values[sample] = [_nested(content, key) for key in keys]
    return values, unread


def _nested(content: Any, key: str) -> Any:
    if key in content:
        return content[key]
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


class TarShards:
    """The tar files of a root, and the label, group and split of each sample.

    The label is the member NAME.cls, else the key `label` of NAME.json; group and split are keys of NAME.json. The
    options label, group and split name other members (`txt`) or keys. `label_pattern` is searched in the path of each
    member, with the tar file as a folder.

    Args:
        options: those of the user's data.
        extensions: endings of the member that each sample has.
        what: what such a member is called in messages.

    Attributes:
        entries: the tar files, and what was found in them.
        tars: the samples of each.
        values: for each tar file, by kind, a value or None for each sample.

    Raises:
        ConfigError: the pattern cannot be used.
        DataError: a file cannot be read, or an option names nothing that there is.
    """

    def __init__(self, options: Any, extensions: Sequence[str], what: str) -> None:
        test_root = getattr(options, "test_root", None)
        entries = list_sources(options.root, test_root, (TAR,), None, options)
        self.entries = entries if test_root else entries.with_entries(splits_by_name(entries))
        self.tars = [TarSamples(entry.path, extensions, what) for entry in self.entries]
        self.named: dict[str, str | None] = {kind: getattr(options, kind, None) for kind in METADATA_COLUMNS}
        self.unread: list[str] = []
        self.values = [self._values(tar) for tar in self.tars]
        if self.unread and any({"group", "split"} & set(values) for values in self.values):
            archive = next(path.name for path in self.paths if self.unread[0].startswith(f"{path.as_posix()}/"))
            raise DataError(
                f"{self.unread[0]} cannot be read as JSON, and others name groups or splits; write it again, or leave "
                f"its tar file out with dataset.exclude={archive}"
            )
        for kind, name in self.named.items():
            if name is not None and not any(kind in values for values in self.values):
                endings = sorted(
                    {ending.removeprefix(".") for tar in self.tars for one in tar.beside for ending in one}
                )
                raise DataError(
                    f"dataset.{kind}={name}: no sample of {options.root} has a member NAME.{name}, or a key '{name}' "
                    f"in NAME.json; beside each {what} there is {', '.join(endings) or 'nothing'}"
                )
        if options.label_pattern is not None:
            self._apply(options.label_pattern)
        self._note_findings()

    def _values(self, tar: TarSamples) -> dict[str, list[Any]]:
        """What the members beside those of the samples say, by kind; kinds of which there is nothing are left out."""
        values: dict[str, list[Any]] = {}
        keys: dict[str, str] = {}
        for kind, name in self.named.items():
            ending = LABEL_ENDING if name is None and kind == "label" else f".{name or kind}"
            if any(ending in parts for parts in tar.beside):
                values[kind] = list(tar.texts([ending]))
            if name is None or kind not in values:
                keys[kind] = name or kind
        found, unread = _json_values(tar.path, file_state(tar.path), tuple(keys.values()))
        self.unread += unread
        for number, kind in enumerate(keys):
            said = [found[key][number] if key in found else None for key in tar.keys]
            own = values.get(kind, [None] * len(said))
            merged = [other if one is None else one for one, other in zip(own, said, strict=True)]
            if any(value is not None for value in merged):
                values[kind] = _plain(merged, tar, kind, keys[kind])
        return values

    def _apply(self, pattern: str) -> None:
        """Set label, group and split from the paths of the members."""
        entries = [
            FileEntry(member.path, f"{entry.name}/{member.name}", split=entry.split)
            for entry, tar in zip(self.entries, self.tars, strict=True)
            for member in tar.members
        ]
        matched, start = apply_pattern(entries, pattern), 0
        for tar, values in zip(self.tars, self.values, strict=True):
            part = matched[start : start + len(tar)]
            start += len(tar)
            for kind in METADATA_COLUMNS:
                said = [getattr(entry, kind) for entry in part]
                if any(value is not None for value in said):
                    values[kind] = said

    def _note_findings(self) -> None:
        files = self.entries
        if others := [(tar.path, name) for tar in self.tars for name in tar.others]:
            path, name = others[0]
            files.warnings.append(
                f"{len(others)} members are left out, for their samples have another one of this kind, e.g. "
                f"{path / name}; a sample's name ends at the first dot"
            )
        if self.unread:
            files.doubts.append(
                f"{len(self.unread)} members cannot be read as JSON, e.g. {self.unread[0]}, so that their samples have "
                f"no label; write them again, or leave the tar file out with dataset.exclude"
            )
        texts = sum(".txt" in parts for tar in self.tars for parts in tar.beside)
        if texts and not any("label" in values for values in self.values):
            files.facts["beside"] = f"{texts:,} texts, which are not read; dataset.label=txt makes them the labels"

    @property
    def paths(self) -> list[Path]:
        """The tar files."""
        return [tar.path for tar in self.tars]

    @property
    def locations(self) -> SampleLocations:
        """Names each sample by its member."""
        starts = np.cumsum([0, *map(len, self.tars)])
        return SampleLocations(self.paths, starts, names=tuple(tar.names for tar in self.tars))

    def copies(self) -> np.ndarray | None:
        """(n,) int64: samples of equal members have one number.

        None if no two are alike, or if the data name the test split.
        """
        named = {str(name) for values in self.values for name in values.get("split", ()) if name is not None}
        named |= {entry.split for entry in self.entries if entry.split is not None}
        if named and not needs_test_split(Codes(np.zeros(0, np.int32), tuple(named))):
            return None
        return copies_of_contents([member for tar in self.tars for member in tar.members])

    def collect(self, collector: MetadataCollector) -> None:
        """Append label, group and split of all samples to `collector`.

        Raises:
            DataError: a label is not a number where others are.
        """
        for entry, tar, values in zip(self.entries, self.tars, self.values, strict=True):
            block = {kind: _array(column) for kind, column in values.items()}
            describe = [str(member.path) for member in tar.members].__getitem__
            collector.append(block or {"": pa.nulls(len(tar))}, {kind: kind for kind in block}, entry, describe)

    def samples(self) -> list[FileEntry]:
        """The member of each sample as a file, with its label, group and split as texts."""
        out = []
        for entry, tar, values in zip(self.entries, self.tars, self.values, strict=True):
            for row, member in enumerate(tar.members):
                said = {kind: column[row] for kind, column in values.items()}
                known = {kind: str(value) for kind, value in said.items() if value is not None and value != ""}
                out.append(FileEntry(member.path, f"{entry.name}/{member.name}", **({"split": entry.split} | known)))
        return out


def _plain(values: list[Any], tar: TarSamples, kind: str, key: str) -> list[Any]:
    """Values as numbers, if all are, else as texts.

    Raises:
        DataError: one is a list or an object.
    """
    for value, sample in zip(values, tar.keys, strict=True):
        if isinstance(value, list | dict):
            raise DataError(
                f"{tar.path / sample}{JSON_ENDING}: the key '{key}' holds a list or an object, and the {kind} is one "
                f"value; write one value, or name another key in dataset.{kind}"
            )
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return values
    return [None if value is None else str(value) for value in values]


def _array(values: Sequence[Any]) -> Any:
    """A column of texts, whole numbers or numbers with decimals."""
    if any(isinstance(value, float) for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array(values, pa.string() if any(isinstance(value, str) for value in values) else None)


def has_tars(root: str, rivals: Sequence[str] = (), options: Any = None) -> bool:
    """Whether a root names tar files: it is one, a pattern or list of some, or a folder that holds some.

    Args:
        root: as `dataset.root`.
        rivals: endings of other files of samples; a folder that holds one of these is read for them.
        options: `exclude` of these leaves files out.
    """
    for part in root_parts(root):
        folder = Path(part)
        if files_ending(part, TAR) and not (rivals and folder.is_dir() and _holds(folder, rivals, options)):
            return True
    return False


def _holds(folder: Path, endings: Sequence[str], options: Any) -> bool:
    return any(
        path.name.lower().endswith(tuple(endings)) and not is_excluded(path.relative_to(folder).as_posix(), options)
        for path in walk(folder)
    )


def member_endings(path: Path, most: int = LOOK_MEMBERS) -> Counter[str]:
    """Endings of the first members of a tar file, in lower case, by number; none if it cannot be read as one."""
    found: Counter[str] = Counter()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in itertools.islice(archive, most):
                name = member.name.rpartition("/")[2]
                if member.isfile() and not name.startswith("."):
                    found[name[name.index(".") :].lower() if "." in name else ""] += 1
    except (tarfile.TarError, OSError, EOFError):
        pass
    return found


def files_ending(root: str, ending: str) -> list[Path]:
    """The files of this ending: the root, those of a pattern, or those in its folder or in the folders in it."""
    path = Path(root)
    if glob.has_magic(root) and not path.exists():
        return sorted(Path(name) for name in glob.glob(root, recursive=True) if name.lower().endswith(ending))
    if path.is_file():
        return [path] if path.name.lower().endswith(ending) else []
    return sorted(path.glob(f"*{ending}")) or sorted(path.glob(f"*/*{ending}"))


def check_archive(root: str) -> None:
    """Refuse an archive that cannot be read in place.

    Raises:
        DataError: `root` is one.
    """
    if root.lower().endswith(ARCHIVES) and Path(root).is_file():
        raise DataError(f"dataset.root {root} is an archive; unpack it and name the folder")
