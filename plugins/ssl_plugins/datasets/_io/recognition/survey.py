"""The files below a root, by what their endings name."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssl_core import DataError
from ssl_plugins.datasets._io.audio.recordings import FFMPEG_ENDINGS, endings
from ssl_plugins.datasets._io.files.archives import ENDING as ARCHIVE_ENDING
from ssl_plugins.datasets._io.files.archives import folder_in_place_of, open_root
from ssl_plugins.datasets._io.files.entry import ending_of
from ssl_plugins.datasets._io.files.listing import TABLE_EXTENSIONS, root_parts, walk
from ssl_plugins.datasets._io.files.tar import TAR
from ssl_plugins.datasets._io.images.raster_medical import VOLUME_EXTENSIONS
from ssl_plugins.datasets._io.images.raster_pillow import PILLOW_EXTENSIONS
from ssl_plugins.datasets._io.images.raster_tiff import TIFF_EXTENSIONS
from ssl_plugins.datasets._io.npz import ARRAY_EXTENSIONS
from ssl_plugins.datasets._io.series.arrays import CONTAINER_EXTENSIONS
from ssl_plugins.datasets._io.series.recordings import EDF_EXTENSIONS
from ssl_plugins.datasets._io.series.wide import UCR_ENDINGS
from ssl_plugins.datasets._io.texts.encodings import with_compressions
from ssl_plugins.datasets._io.texts.sequence_records import FASTA_EXTENSIONS

TEXT_EXTENSIONS = with_compressions((".txt", ".text", ".md", ".log", ".seq", ".dat"))
FAMILIES: dict[str, tuple[str, ...]] = {
    "UCR": UCR_ENDINGS, "scan": VOLUME_EXTENSIONS, "sequence": FASTA_EXTENSIONS, "EDF": EDF_EXTENSIONS,
    "archive": (".ts", ".arff"), "array": ARRAY_EXTENSIONS, "container": CONTAINER_EXTENSIONS,
    "image": (*PILLOW_EXTENSIONS, *TIFF_EXTENSIONS), "table": TABLE_EXTENSIONS, "tar": (TAR,),
    "recording": (*endings(), *FFMPEG_ENDINGS), "text": TEXT_EXTENSIONS,
}  # fmt: skip
"""What an ending names; of several, the first."""
ENDINGS = tuple(ending for known in FAMILIES.values() for ending in known)
ONE_SAMPLE = ("recording", "image", "scan", "EDF")
"""Families with one sample a file, beside which tables and texts say more of them."""
ABOUT = re.compile(r"^(readme|licen[cs]e|notice|manifest|changelog|citation|upstream_|metadata\.)", re.IGNORECASE)
"""Names of files that are about the data."""
SECOND = 0.25
"""Share of the files, or of their bytes, from which on a second family is no by-product."""


@dataclass
class Survey:
    """The files of a root.

    Args:
        root: the root as it was given.
        files: the files by family, in the order of their paths.
        others: number of files of no family, by ending.
        strangers: these files.
        state: changes with any file's name, size or time of modification.
    """

    root: str
    files: dict[str, list[Path]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    strangers: list[Path] = field(default_factory=list)
    state: str = ""

    @property
    def is_file(self) -> bool:
        """Whether the root is a single file."""
        return Path(self.root).expanduser().is_file()

    @property
    def known(self) -> list[Path]:
        """All files of a family."""
        return [path for paths in self.files.values() for path in paths]

    def share(self, family: str) -> float:
        """The share of a family in the files that may hold data: by number or by bytes, whichever is larger.

        Of families with one sample a file the number counts, since these have files of very different sizes.
        """
        rivals = {name: paths for name, paths in self.files.items() if name == family or not self._serves(name, family)}
        own = rivals.get(family, [])
        if not own:
            return 0.0
        count = sum(map(len, rivals.values()))
        if family in ONE_SAMPLE:
            return len(own) / count
        sizes = {name: sum(map(_size, paths)) for name, paths in rivals.items()}
        return min(1.0, max(len(own) / count, sizes[family] / max(1, sum(sizes.values()))))

    def weight(self, family: str) -> float:
        """A factor on the confidence: 1 if the root holds this family alone, else less."""
        share = self.share(family)
        return 1.0 if share > 1 - SECOND else 0.7 if share >= SECOND else 0.4

    def _serves(self, name: str, family: str) -> bool:
        """Whether files of one family are about those of another, as a table of labels is about recordings."""
        return name in ("table", "text") and (family in ONE_SAMPLE or (family == "sequence" and name == "table"))

    def words(self, family: str) -> str:
        """The number of files of a family by ending: "20 .wav, 3 .mp3"."""
        return count_words(Counter(ending_of(path.name) for path in self.files.get(family, ())))


def survey(root: str) -> Survey | None:
    """The files below a root; None if there is no such file or folder."""
    paths = _paths(root)
    if paths is None:
        return None
    found, digest = Survey(root), hashlib.blake2b(root.encode("utf-8", "surrogatepass"), digest_size=16)
    about: list[Path] = []
    for path in paths:
        try:
            info = path.stat()
        except OSError:
            continue
        digest.update(f"{path}:{info.st_size}:{info.st_mtime_ns}".encode("utf-8", "surrogatepass"))
        family = family_of(path)
        if len(paths) > 1 and ABOUT.match(path.name) and family in (None, "text", "table"):
            about.append(path)
        elif not path.is_file():
            found.others["no regular file"] += 1
        elif family is None:
            found.others[ending_of(path.name)] += 1
            found.strangers.append(path)
        else:
            found.files.setdefault(family, []).append(path)
    if any(family != "text" for family in found.files):  # notes beside data
        notes = [path for path in found.files.get("text", ()) if path.suffix.lower() == ".md"]
        about += notes
        found.files["text"] = [path for path in found.files.get("text", ()) if path not in notes]
    if not found.known and not found.strangers:  # nothing else is there
        for path in about:
            found.files.setdefault(family_of(path) or "text", []).append(path)
    else:
        found.others.update(ending_of(path.name) for path in about)
    found.files = {family: files for family, files in found.files.items() if files}
    found.state = digest.hexdigest()
    return found


def family_of(path: Path) -> str | None:
    """The family that a file's ending names."""
    name = path.name.lower()
    return next((family for family, known in FAMILIES.items() if name.endswith(known)), None)


def _paths(root: str) -> list[Path] | None:
    """The files of a root, those in ZIP archives included; None if there are none."""
    found = _files(root)
    if found is None:
        return None
    paths: list[Path] = []
    for path in found:
        folder = folder_in_place_of(path, ENDINGS) if path.name.lower().endswith(ARCHIVE_ENDING) else None
        paths += [path] if folder is None else sorted(walk(folder))
    return paths


def _files(root: str) -> list[Path] | None:
    root = open_root(root)
    parts = root_parts(root)
    if len(parts) > 1:
        return [Path(part).expanduser() for part in parts]
    path = Path(root).expanduser()
    if path.is_dir():
        try:
            return sorted(walk(path))
        except DataError:
            return None
    if path.exists():
        return [path]
    if glob.has_magic(root):
        return sorted(Path(name) for name in glob.glob(os.path.expanduser(root), recursive=True))
    return None


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of some paths, evenly spaced."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def count_words(counts: Counter[str], most: int = 4) -> str:
    """Numbers of files by ending, the most frequent first."""
    parts = [f"{count:,} {ending}" for ending, count in counts.most_common(most)]
    return ", ".join(parts) + (", ..." if len(counts) > most else "")


def total_bytes(paths: Iterable[Path]) -> int:
    """The sizes of some files together."""
    return sum(map(_size, paths))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
