"""Base class of the public data sets, which are read in their upstream's own layout."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from ssl_core import options as _options
from ssl_core.contracts import Dataset
from ssl_core.data import Split
from ssl_core.errors import ConfigError, DataError
from ssl_core.public_data.source import Source

ROOT_VARIABLE = "SSLX_DATA_DIR"


def data_root(root: str | Path | None = None) -> Path:
    """The folder of all public data: `root`, else the variable SSLX_DATA_DIR, else sslx/data in the user's cache."""
    chosen = root or os.environ.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sslx" / "data"


class PublicDataset(Dataset):
    """Base of the data sets that can be downloaded. `self.folder` is the data set's folder and is only read.

    A subclass sets `source`. Its `__init__` calls this one first and then lists the samples below `self.folder`.
    """

    source: ClassVar[Source]
    folder: Path

    class Options(_options.Options):
        """Options common to all public data sets."""

        root: str | None = Field(
            None, description="folder of public data; by default SSLX_DATA_DIR, else ~/.cache/sslx/data"
        )

        @field_validator("root", mode="after")
        @classmethod
        def _absolute(cls, value: str | None) -> str | None:
            """Absolute, so that a saved configuration is valid in any working directory."""
            return value and str(Path(value).expanduser().absolute())

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        if split not in self.splits:
            raise ConfigError(
                f"data set '{self.modality}/{self.name}' has no {split} split; use one of {', '.join(self.splits)}"
            )
        self.folder = self.locate(options.root)

    @classmethod
    def locate(cls, root: str | Path | None = None) -> Path:
        """The folder of the complete data set.

        Raises:
            DataError: if a path is missing. The message names the path and how to get it.
        """
        top = data_root(root)
        folder = cls.source.locate_in(top)
        missing = cls.source.missing_paths(folder)
        if not missing:
            return folder
        raise DataError(
            f"data set '{cls.modality}/{cls.name}' is not in {top}: there is no {folder / missing[0]}; "
            + cls.how_to_get(root)
        )

    @classmethod
    def how_to_get(cls, root: str | Path | None = None) -> str:
        """End of a message: the command that gets the data, or the manual steps if nothing is left to download."""
        folder = cls.source.locate_in(data_root(root))
        if cls.source.registration and all(archive.is_unpacked(folder) for archive in cls.source.archives):
            zips = [path for path in sorted(folder.glob("*.zip")) if not path.with_suffix("").exists()]
            return (f"unpack {zips[0]} in its own folder, or " if zips else "") + cls.source.registration
        return f"run `sslx data prepare {cls.modality}/{cls.name}" + (f" --root {root}`" if root else "`")

    def files(self) -> Iterable[Path]:
        """The files that samples are read from. `sslx data verify` checks that they exist.

        By default the paths in the attribute `paths`, relative to the folder; none without that attribute.
        """
        return (self.folder / path for path in getattr(self, "paths", ()))

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Convert the unpacked files, such as text to memory-mapped arrays. `sslx data prepare` calls it.

        It must write complete files or none: write to a temporary path, then rename. It must do nothing if its output
        exists or its input is missing.
        """

    @classmethod
    def prepare(cls, folder: Path, options: Any) -> None:
        """The step of `sslx data prepare NAME --set OPTION=VALUE` after unpacking: by default `convert`.

        Override it if the output depends on the data set's options, such as the number of documents to fetch.
        """
        cls.convert(folder)
