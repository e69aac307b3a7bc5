"""Compiled objects that a killed run left incomplete: the compiler takes every file that exists for a whole one."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

OBJECTS = frozenset({".so", ".o", ".a", ".dylib", ".dll", ".pyd", ".cubin", ".hsaco"})
SOURCES = frozenset({".py", ".cpp", ".ptx"})
# By class of the ELF header: format of the offset of the section headers, its place, and that of their size and count.
SECTION_HEADERS = {1: ("I", 0x20, 0x2E), 2: ("Q", 0x28, 0x3A)}
HEADER_BYTES = 64


def drop_torn(folder: Path) -> list[Path]:
    """Delete the torn objects and empty sources below a folder of compiled code; return what was deleted."""
    torn = [path for path in _files(folder) if is_torn(path)]
    for path in torn:
        with contextlib.suppress(OSError):
            path.unlink()
    return torn


def is_torn(path: Path) -> bool:
    """Whether a compiled object is empty, holds zeros in place of its header, or ends before its last section.

    Of sources only empty ones count as torn. A file that cannot be read is not.
    """
    try:
        size = path.stat().st_size
        if path.suffix in SOURCES or size == 0:
            return size == 0 and path.suffix in SOURCES | OBJECTS
        if path.suffix not in OBJECTS:
            return False
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError:
        return False
    if not header.strip(b"\0"):
        return True
    return header.startswith(b"\x7fELF") and _needed_size(header) > size


def _needed_size(header: bytes) -> float:
    """The least size of an ELF file: section headers are its last part, and are written last."""
    if len(header) < HEADER_BYTES or header[4] not in SECTION_HEADERS:
        return float("inf")
    order = "<" if header[5] == 1 else ">"
    kind, place, counts = SECTION_HEADERS[header[4]]
    (start,) = struct.unpack_from(order + kind, header, place)
    size, count = struct.unpack_from(order + "HH", header, counts)
    return float(start + size * count) if start else float("inf")


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def set_aside(folder: Path) -> None:
    """Move a folder away and delete it, so that nothing in it is found again."""
    aside = folder.with_name(f"{folder.name}-damaged-{os.getpid()}")
    with contextlib.suppress(OSError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def is_load_error(error: BaseException | None) -> bool:
    """Whether a compiled object could not be loaded, by an exception or one that it comes from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ImportError) or (type(error) is OSError and error.errno is None):  # dlopen sets no errno
            return True
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return False
