"""Where a public data set comes from, and which archives it consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

ArchiveKind = Literal["zip", "tar", "gz", "file"]


DONE_DIR = ".unpacked"
"""Folder below a data set's folder with one empty file for each unpacked archive that has no `produces`."""


@dataclass(frozen=True)
class Archive:
    """One file to download, and what it unpacks to.

    Attributes:
        url: http, https, ftp or file address.
        file: name on disk.
        kind: "zip"; "tar", compressed or not; "gz", one compressed file; "file", stored unchanged.
        produces: path below the data set's folder that exists once the archive is unpacked. It is moved there last. For
            "gz" and "file" it is the path of the file. Without it, a file in DONE_DIR records that the archive is
            unpacked.
        size: bytes, if the upstream publishes them.
        checksum: "sha256:..." or "md5:..." in lower-case hexadecimal, if the upstream publishes one.
        strip_components: leading folders to drop from the names inside, as in `tar --strip-components`.
        max_unpacked_bytes: bound of the unpacked size; by default 50 times the archive plus 1 GiB.
        shared_output: for one of several archives without `produces`, the path that they fill together. If it exists
            and DONE_DIR does not, the user put the data there, and no archive is downloaded.
    """

    url: str
    file: str
    kind: ArchiveKind
    produces: str = ""
    size: int | None = None
    checksum: str | None = None
    strip_components: int = 0
    max_unpacked_bytes: int | None = None
    shared_output: str = ""

    def is_unpacked(self, folder: Path) -> bool:
        """Whether the archive is unpacked in a data set's folder, or not needed there."""
        if self.produces:
            return (folder / self.produces).exists()
        marks = folder / DONE_DIR
        is_users_copy = bool(self.shared_output) and (folder / self.shared_output).exists() and not marks.is_dir()
        return is_users_copy or (marks / self.file).exists()


@dataclass(frozen=True)
class Source:
    """Where a public data set comes from and what its folder holds.

    Attributes:
        homepage: web page of the data set.
        terms: licence or terms of use.
        folder: path below the root of all public data, as in DABS ("speech/librispeech").
        archives: files to download, in order.
        registration: manual steps, for data behind a registration.
        required_paths: paths below the folder that must exist, besides what the archives produce.
        sample_counts: published number of samples of "train", "validation" and "test", or of all as "total", with
            default options.
    """

    homepage: str
    terms: str
    folder: str
    archives: tuple[Archive, ...] = ()
    registration: str | None = None
    required_paths: tuple[str, ...] = ()
    sample_counts: Mapping[str, int] = field(default_factory=dict)

    def missing_paths(self, folder: Path) -> list[str]:
        """The paths that a folder lacks, relative to it."""
        has_marks = (folder / DONE_DIR).is_dir()
        archives = [archive for archive in self.archives if archive.produces or has_marks]
        missing = [
            archive.produces or f"{DONE_DIR}/{archive.file}" for archive in archives if not archive.is_unpacked(folder)
        ]
        return [*missing, *(path for path in self.required_paths if not (folder / path).exists())]

    def candidate_dirs(self, root: Path) -> list[Path]:
        """Folders that may hold the data: root/speech/librispeech, root/librispeech and root itself."""
        parts = PurePosixPath(self.folder).parts
        return [root.joinpath(*parts[start:]) for start in range(len(parts) + 1)]

    def locate_in(self, root: Path) -> Path:
        """The candidate folder that lacks least; the first one, root/speech/librispeech, if all are empty."""
        return min(self.candidate_dirs(root), key=self._count_missing)

    def _count_missing(self, folder: Path) -> int:
        """Number of paths that a folder lacks.

        Archives with a shared output count even without DONE_DIR. Otherwise an interrupted download would look worse
        than an empty folder.
        """
        pending = {
            f"{DONE_DIR}/{archive.file}"
            for archive in self.archives
            if archive.shared_output and not archive.is_unpacked(folder)
        }
        return len(pending.union(self.missing_paths(folder)))
