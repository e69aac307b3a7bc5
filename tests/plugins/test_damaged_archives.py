"""ZIP archives whose directory is damaged: each reader refuses them by name, or takes them as no archive."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from ssl_core import DataError
from ssl_core.public_data.unpacked import unpacked_archive
from ssl_plugins.datasets._io.files.archives import is_archive, member_names
from ssl_plugins.datasets._io.files.kind import file_kind

ENTRY = b"PK\x01\x02"  # begins an entry of the central directory


def archive(path: Path, offset: int, change: bytes) -> Path:
    """An archive of a table, with bytes of its directory entry replaced."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("t.csv", "a,b\n1,2\n")
    content = bytearray(path.read_bytes())
    start = content.index(ENTRY) + offset
    content[start : start + len(change)] = change
    path.write_bytes(content)
    return path


DAMAGES = {
    "a version that zipfile does not know": (6, struct.pack("<H", 255)),
    "a name that is empty": (46, b"\0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_directory_is_no_traceback(damage, tmp_path):
    path = archive(tmp_path / "data.zip", *DAMAGES[damage])
    assert member_names(path) == []
    is_archive(path)
    with pytest.raises(DataError, match=r"data\.zip is a ZIP archive .*; (fetch or write it again|unpack it)"):
        file_kind(path)


def test_an_archive_of_an_unknown_version_is_refused_by_name(tmp_path):
    path = archive(tmp_path / "data.zip", *DAMAGES["a version that zipfile does not know"])
    with pytest.raises(DataError, match=r"data\.zip is damaged .*zip file version 25\.5.*; fetch or write it again"):
        unpacked_archive(path)


def test_the_whole_archive_is_read(tmp_path):
    path = archive(tmp_path / "data.zip", 0, ENTRY)
    assert member_names(path) == ["t.csv"]
    assert is_archive(path)
