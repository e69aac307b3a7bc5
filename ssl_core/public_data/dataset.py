"""Public data sets: read where the user keeps them, in the upstream's own layout."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from ssl_core import options as _options
from ssl_core.contracts import Dataset
from ssl_core.data import Split
from ssl_core.errors import DataError
from ssl_core.public_data.source import Source

ROOT_VARIABLE = "SSLX_DATA_DIR"


def data_root(root: str | Path | None = None) -> Path:
    """The folder of all public data: `root`, else the variable SSLX_DATA_DIR, else sslx/data in the user's cache."""
    given = root or os.environ.get(ROOT_VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sslx" / "data"


class PublicDataset(Dataset):
    """Base of the data sets that anyone can get. `self.folder` is where it lies; nothing in it is ever changed here.

    A subclass names its `source`, and in `__init__` calls this one's, then lists its samples from `self.folder`.
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
            """So that a saved configuration can be used from another folder."""
            return value and str(Path(value).expanduser().absolute())

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        self.folder = self.locate(options.root)

    @classmethod
    def locate(cls, root: str | Path | None = None) -> Path:
        """The folder that holds the data set, whole. Errors: DataError that says what is missing and how to get it."""
        place = data_root(root)
        folder = cls.source.place(place)
        missing = cls.source.missing(folder)
        if not missing:
            return folder
        raise DataError(
            f"data set '{cls.modality}/{cls.name}' is not in {place}: there is no {folder / missing[0]}; "
            + cls.how_to_get(root)
        )

    @classmethod
    def how_to_get(cls, root: str | Path | None = None) -> str:
        """The rest of a message: a command, or what to do by hand where there is nothing to download any more."""
        folder = cls.source.place(data_root(root))
        if cls.source.registration and all(archive.is_unpacked(folder) for archive in cls.source.archives):
            packed = [path for path in sorted(folder.glob("*.zip")) if not path.with_suffix("").exists()]
            return (f"unpack {packed[0]} where it lies, or " if packed else "") + cls.source.registration
        return f"run `sslx data prepare {cls.modality}/{cls.name}" + (f" --root {root}`" if root else "`")

    def files(self) -> Iterable[Path]:
        """The files that samples are read from one by one; `sslx data verify` looks whether they are there.

        By default those that an attribute `paths` lists, relative to the folder; none without it.
        """
        return (self.folder / path for path in getattr(self, "paths", ()))

    @classmethod
    def convert(cls, folder: Path) -> None:
        """What remains once all archives are unpacked, e.g. arrays made of text. `sslx data prepare` calls it.

        It must write whole files or none (write beside, then rename), and do nothing where its work is done or what
        it reads is not there.
        """

    @classmethod
    def prepare(cls, folder: Path, options: Any) -> None:
        """What `sslx data prepare NAME --set OPTION=VALUE` does once all archives are unpacked: by default `convert`.

        A data set overrides it if its own `Options` say what is fetched or made, such as how much of a stream.
        """
        cls.convert(folder)
