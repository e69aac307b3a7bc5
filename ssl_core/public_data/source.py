"""Where a public data set comes from, and which archives it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

ArchiveKind = Literal["zip", "tar", "gz", "file"]


DONE_DIR = ".unpacked"
"""Folder of a data set in which archives that name nothing in `gives` are ticked off."""


@dataclass(frozen=True)
class Archive:
    """One file to download, and what it becomes.

    url: http, https, ftp or file. file: its name on disk. kind: "zip"; "tar", compressed or not; "gz", one compressed
    file; "file", kept as it is. gives: a path below the data set's folder that exists once it is unpacked, moved into
    place last; for "gz" and "file" the path of the file itself. Without it a mark records that it is done.
    size: bytes; digest: "sha256:..." or "md5:...", lower-case hexadecimal; None where the upstream names none.
    strip: leading folders to drop from the names inside. unpacked: upper bound of the unpacked bytes; by default
    50 times the archive and 1 GiB. fills: for one of several archives without `gives`, the path that they fill
    together; where it exists and nothing was ever ticked off, it is somebody's own copy, and none of them is needed.
    """

    url: str
    file: str
    kind: ArchiveKind
    produces: str = ""
    size: int | None = None
    digest: str | None = None
    strip_components: int = 0
    unpacked: int | None = None
    shared_output: str = ""

    def is_unpacked(self, folder: Path) -> bool:
        """Whether it is unpacked in a data set's folder, or not needed there."""
        if self.produces:
            return (folder / self.produces).exists()
        marks = folder / DONE_DIR
        own = bool(self.shared_output) and (folder / self.shared_output).exists() and not marks.is_dir()
        return own or (marks / self.file).exists()


@dataclass(frozen=True)
class Source:
    """Where a public data set comes from and what its folder holds.

    terms: licence or terms of use. folder: its place below the root of all public data, as in DABS ("speech/
    librispeech"). archives: what can be downloaded. registration: what to do by hand, for data behind a registration.
    needs: paths below the folder that must exist. counts: published number of samples of "train" and "test", or of
    both as "total", under the default options.
    """

    homepage: str
    terms: str
    folder: str
    archives: tuple[Archive, ...] = ()
    registration: str | None = None
    needs: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def missing(self, folder: Path) -> list[str]:
        """The paths that a folder lacks, relative to it."""
        marked = (folder / DONE_DIR).is_dir()
        wanted = [archive for archive in self.archives if archive.produces or marked]
        lacking = [
            archive.produces or f"{DONE_DIR}/{archive.file}" for archive in wanted if not archive.is_unpacked(folder)
        ]
        return [*lacking, *(need for need in self.needs if not (folder / need).exists())]

    def places(self, root: Path) -> list[Path]:
        """Where it may lie: root/speech/librispeech, root/librispeech, or root itself."""
        parts = PurePosixPath(self.folder).parts
        return [root.joinpath(*parts[start:]) for start in range(len(parts) + 1)]

    def place(self, root: Path) -> Path:
        """Where most of it lies; where it belongs, if nothing is there."""
        return min(self.places(root), key=self._lack)

    def _lack(self, folder: Path) -> int:
        """How many paths a folder lacks. Parts never ticked off there count, or half a copy would lose to none."""
        pending = {
            f"{DONE_DIR}/{one.file}" for one in self.archives if one.shared_output and not one.is_unpacked(folder)
        }
        return len(pending.union(self.missing(folder)))
