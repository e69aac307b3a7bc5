"""Recognises the format of a file by its content, whatever its name ends in, and opens it decompressed."""

from __future__ import annotations

import io
import lzma
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.files.archives import ZIP_ERRORS

HEAD_BYTES = 1 << 20  # what encoding and format are detected from
COMPRESSIONS = {
    b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4",
}  # fmt: skip
COMPRESSION_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
BOMB_BYTES, BOMB_RATIO = 1 << 30, 200
"""A compressed table of more than so many bytes, and so many times its own size, is refused: tables rarely shrink to
less than a hundredth."""
TO_PARQUET = "write it again with pandas: df.to_parquet('table.parquet')"
SIGNATURES: dict[bytes, tuple[str, str]] = {
    b"PAR1": ("parquet", ""),
    b"ARROW1": ("arrow", ""),
    b"\xff\xff\xff\xff": ("arrow-stream", ""),
    b"FEA1": ("a Feather file of version 1", TO_PARQUET),
    b"\x80\x02": ("a pickle, which can run code when it is read", TO_PARQUET),
    b"\x80\x03": ("a pickle, which can run code when it is read", TO_PARQUET),
    b"\x80\x04": ("a pickle, which can run code when it is read", TO_PARQUET),
    b"\x80\x05": ("a pickle, which can run code when it is read", TO_PARQUET),
    b"\xd0\xcf\x11\xe0": ("an Excel file of the old format .xls", "save it as .xlsx or CSV"),
    b"\x89HDF": ("an HDF5 file", TO_PARQUET),
    b"\x93NUMPY": ("a numpy array", "write it as CSV or Parquet"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"%PDF": ("a PDF document", "name a CSV or Parquet file"),
    b"\x89PNG": ("a picture", "name a CSV or Parquet file"),
    b"\xff\xd8\xff": ("a picture", "name a CSV or Parquet file"),
    b"RIFF": ("a recording", "name a CSV or Parquet file"),
    b"<!DOCTYPE": ("a web page, perhaps of a download that failed", "fetch the file again"),
    b"<!doctype": ("a web page, perhaps of a download that failed", "fetch the file again"),
    b"<html": ("a web page, perhaps of a download that failed", "fetch the file again"),
    b"<?xml": ("an XML file", "write it as CSV or Parquet"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "fetch it with git lfs pull"),
}
"""The first bytes of a file: the format, and how to convert a file that cannot be read."""


@dataclass(frozen=True)
class FileKind:
    """What a file holds.

    Args:
        format: "parquet", "arrow", "arrow-stream", "xlsx", or "text", which is CSV or JSON.
        compression: "gzip", "bz2", "xz", "zstd", "lz4" or None.
        head: the first bytes, decompressed.
        is_complete: whether `head` is the whole file.
    """

    format: str
    compression: str | None
    head: bytes
    is_complete: bool


def uncompressed_name(path: Path) -> str:
    """The file's name in lower case, without the ending of a compression."""
    name = path.name.lower()
    return next((name.removesuffix(ending) for ending in COMPRESSION_ENDINGS if name.endswith(ending)), name)


def open_decompressed(path: Path, compression: str | None) -> io.BufferedReader:
    """A binary file that is read sequentially.

    Raises:
        DataError: when more than `BOMB_BYTES` and `BOMB_RATIO` times the file's size are read of a compressed file.
    """
    if compression is None:
        return path.open("rb")
    if compression == "xz":
        return io.BufferedReader(Decompressed(path, lzma.open(path)))
    return io.BufferedReader(Decompressed(path, pa.CompressedInputStream(pa.PythonFile(path.open("rb")), compression)))


class Decompressed(io.RawIOBase):
    """A compressed file, read decompressed up to a limit."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file, self.rest = path, file, max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self.file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer; returns their number.

        Raises:
            DataError: the limit is passed.
        """
        count = int(self.file.readinto(buffer))  # not read: pyarrow keeps what it allocated for a read that fails
        self.rest -= count
        if self.rest < 0:
            raise DataError(
                f"{self.path} unpacks to more than {BOMB_BYTES >> 30} GB, over {BOMB_RATIO} times its size; if it is "
                f"what you want to read, unpack it and name the unpacked file"
            )
        return count


def read_head(path: Path, size: int = HEAD_BYTES) -> tuple[str | None, bytes]:
    """The compression of a file, and at most `size` decompressed bytes.

    Raises:
        DataError: the file cannot be read or is not a regular file.
    """
    if not path.is_file():
        raise DataError(f"{path} is no regular file; name a file or a folder")
    try:
        with path.open("rb") as file:
            start = file.read(16)
        compression = next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), None)
        chunks, rest = [], size
        with open_decompressed(path, compression) as stream:
            while rest and (chunk := stream.read(rest)):
                chunks.append(chunk)
                rest -= len(chunk)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split()):.200}") from None
    return compression, b"".join(chunks)


def file_kind(path: Path) -> FileKind:
    """The format of a table.

    Raises:
        DataError: the file cannot be read, or is of a format that is no table; the message says how to convert it.
    """
    compression, head = read_head(path)
    is_complete = len(head) < HEAD_BYTES
    name, cure = next((kind for magic, kind in SIGNATURES.items() if head.startswith(magic)), ("text", ""))
    if head.startswith(b"PK\x03\x04"):
        name, cure = _kind_of_zip(path)
    elif name == "text" and head.count(b"\0") and not _may_be_utf16(head):
        name, cure = "binary data", "name a CSV, JSON, Parquet, Feather or Excel file"
    if cure:
        raise DataError(f"{path} is {name}; {cure}")
    if compression is not None and name != "text":
        raise DataError(f"{path} is a {name} file compressed with {compression}; unpack it first")
    return FileKind(name, compression, head, is_complete)


def _kind_of_zip(path: Path) -> tuple[str, str]:
    """The format of a file that begins as a ZIP archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_ERRORS:
        return "a ZIP archive that is damaged", "fetch or write it again"
    if "xl/workbook.xml" in names:
        return "xlsx", ""
    if "content.xml" in names:
        return "an OpenDocument file", "save it as .xlsx or CSV"
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz file of numpy arrays", "write it as CSV or Parquet"
    shown = ", ".join(name for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"a ZIP archive of {shown or 'nothing'}", "unpack it and name the folder or file"


def _may_be_utf16(head: bytes) -> bool:
    """Whether NUL bytes are those of UTF-16 or UTF-32: a byte order mark, or NUL in most places of one parity."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[:4] == b"\0\0\xfe\xff":
        return True
    pairs = max(1, len(head) // 2)
    return max(head[::2].count(0), head[1::2].count(0)) > 0.7 * pairs
