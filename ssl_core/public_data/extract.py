"""Unpack an archive into a folder: nothing outside it, at most a number of bytes, and completely or not at all.

Files are written to a temporary folder below the target and moved when all are complete. Links are created after all
files, so that no file is written through a link.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Self

from ssl_core.errors import DataError
from ssl_core.public_data.source import DONE_DIR, Archive

CHUNK = 1 << 20
MAX_RATIO, MAX_EXTRA_BYTES = 50, 1 << 30  # default bound: 50 times the archive plus 1 GiB
DAMAGE_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile, NotImplementedError,
    struct.error,
)  # fmt: skip
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Entry:
    """A file, folder or link in an archive.

    Attributes:
        name: path in the archive.
        kind: "file", "folder" or "link".
        size: bytes of a file.
        content: opens a file.
        target: path that a link points to.
        hard: whether `target` is relative to the archive instead of to the link.
    """

    name: str
    kind: Literal["file", "folder", "link"]
    size: int = 0
    content: Callable[[], Any] = lambda: None
    target: str = ""
    hard: bool = False


def unpack(path: Path, archive: Archive, folder: Path, progress: Progress) -> None:
    """Unpack the archive at `path` and merge it into `folder`. `archive.produces` appears last.

    Raises:
        DataError: if the archive is damaged, too large, lacks `archive.produces` or points outside. `folder` is then
            unchanged.
    """
    work = folder / f".unpacking-{archive.file}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _Extractor(path, archive, work, progress).run()
        if archive.produces and not (work / archive.produces).exists():
            raise DataError(f"{path} does not hold {archive.produces}; it is not the archive that was expected")
        mark = folder / DONE_DIR / archive.file
        if not archive.produces:
            mark.parent.mkdir(exist_ok=True)  # before the merge: without it a part would look like a user's copy
        _merge(work, folder, PurePosixPath(archive.produces).parts)
        if not archive.produces:
            mark.touch()
    except DAMAGE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged or no {archive.kind} archive ({reason})") from None
    except RuntimeError as error:  # zipfile: encrypted, or an unknown compression
        raise DataError(f"{path} cannot be unpacked ({' '.join(str(error).split())})") from None
    except OSError as error:
        raise DataError(f"{path} cannot be unpacked: {error.filename or folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Extractor:
    """Unpacks one archive into an empty folder."""

    def __init__(self, path: Path, archive: Archive, work: Path, progress: Progress) -> None:
        self.path, self.archive, self.work, self.progress = path, archive, work, progress
        self.max_bytes = archive.max_unpacked_bytes or MAX_RATIO * path.stat().st_size + MAX_EXTRA_BYTES
        self.done = 0

    def run(self) -> None:
        """Write folders and files, then links."""
        kind, links = self.archive.kind, []
        if kind != "file" and not self.path.stat().st_size:
            raise EOFError("it is empty")
        if kind in ("gz", "file"):
            with gzip.open(self.path) if kind == "gz" else self.path.open("rb") as content:
                self._write(content, self._target_path(self.archive.produces or self.archive.file, strip=0), None)
            return
        with contextlib.closing(_zip(self.path) if kind == "zip" else _tar(self.path)) as entries:
            for entry in entries:
                place = self._target_path(entry.name, self.archive.strip_components)
                if place is None:
                    continue
                if entry.kind == "link":
                    links.append((place, entry))
                elif entry.kind == "folder":
                    place.mkdir(parents=True, exist_ok=True)
                else:
                    with contextlib.closing(entry.content()) as content:
                        self._write(content, place, entry.size)
        for place, entry in links:
            self._link(place, entry)

    def _target_path(self, name: str, strip: int) -> Path | None:
        """The path of an entry on disk; None if its name is stripped completely.

        Raises:
            DataError: if the path is outside of the folder.
        """
        normalised = name.replace("\\", "/")
        is_absolute = normalised.startswith("/") or re.match(r"[A-Za-z]:", normalised)
        if is_absolute or ".." in normalised.split("/") or "\0" in normalised:
            raise self._refuse(f"the entry '{name}' points outside of it")
        parts = [part for part in normalised.split("/") if part not in ("", ".")][strip:]
        return self.work.joinpath(*parts) if parts else None

    def _write(self, content: IO[bytes] | gzip.GzipFile, place: Path | None, size: int | None) -> None:
        """Write one file.

        Raises:
            DataError: if the archive unpacks to more bytes than its bound.
            EOFError: if the file has fewer bytes than its header states.
        """
        assert place is not None
        place.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with place.open("wb") as out:
            while chunk := content.read(CHUNK):
                written += len(chunk)
                self.done += len(chunk)
                if self.done > self.max_bytes:
                    raise self._refuse(f"it unpacks to more than {self.max_bytes:,} bytes")
                out.write(chunk)
        self.progress(f"unpacking {self.archive.file}", self.done, None)
        if size is not None and written != size:
            raise EOFError(f"{place.name} has {written:,} bytes, not {size:,}")

    def _link(self, place: Path, entry: Entry) -> None:
        """Copy the file that a link points to, or link to the folder.

        Raises:
            DataError: if the link or its target is outside of the archive.
        """
        top = self.work.resolve()
        start = (
            self._target_path(entry.target, self.archive.strip_components)
            if entry.hard
            else place.parent / entry.target
        )
        target = start.resolve() if start is not None else None
        if os.path.isabs(entry.target) or target is None or not target.is_relative_to(top):
            raise self._refuse(f"the link '{entry.name}' points outside of it, to '{entry.target}'")
        if not place.parent.resolve().is_relative_to(top):
            raise self._refuse(f"the link '{entry.name}' is outside of it")
        place.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            place.symlink_to(os.path.relpath(target, place.parent.resolve()))
        elif target.is_file():
            with target.open("rb") as content:
                self._write(content, place, None)
        # a link without a target is skipped, since no loader could read it

    def _refuse(self, why: str) -> DataError:
        return DataError(f"{self.path} is refused: {why}")


def _zip(path: Path) -> Generator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if info.is_dir():
                yield Entry(info.filename, "folder")
            elif stat.S_ISLNK(mode):
                yield Entry(info.filename, "link", target=archive.open(info).read(4096).decode("utf-8", "replace"))
            else:
                yield Entry(info.filename, "file", info.file_size, functools.partial(archive.open, info))


class _Header(tarfile.TarInfo):
    """Header that treats a tar file without the end-of-archive block as truncated."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse a header.

        Raises:
            tarfile.ReadError: for a block that is neither a header nor the end. tarfile itself would stop silently.
        """
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the block of zeros at the end of the archive
            raise tarfile.ReadError(f"{error} where a header or the end of the archive should be") from None


def _tar(path: Path) -> Generator[Entry]:
    """Entries of a tar archive.

    `tarfile.data_filter` would replace none of the checks of `_Unpacking`: zip archives need them too, and the filter
    strips a leading slash from a name, where an archive with such a name is refused here.
    """
    with tarfile.open(path, "r:*", tarinfo=_Header) as archive:
        for member in archive:
            if member.isdir():
                yield Entry(member.name, "folder")
            elif member.issym() or member.islnk():
                yield Entry(member.name, "link", target=member.linkname, hard=member.islnk())
            elif member.isfile():
                yield Entry(member.name, "file", member.size, functools.partial(archive.extractfile, member))
            else:
                raise DataError(f"{path} is refused: '{member.name}' is a device or a pipe")
            archive.members = []  # type: ignore[attr-defined]  # otherwise the names of all members stay in memory


def _merge(work: Path, folder: Path, last: tuple[str, ...]) -> None:
    """Move the content of one folder into another, with `last` at the end. A folder that is new is moved whole."""
    first = last[0] if last else None
    for entry in sorted(work.iterdir(), key=lambda path: (path.name == first, path.name)):
        target = folder / entry.name
        if entry.is_dir() and not entry.is_symlink() and target.is_dir():
            _merge(entry, target, last[1:] if entry.name == first else ())
        else:
            os.replace(entry, target)
