"""The content of a user's ZIP archive as a folder in the cache."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from ssl_core.errors import DataError
from ssl_core.public_data.extract import DAMAGE_ERRORS, unpack
from ssl_core.public_data.source import Archive
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.cache_entries import hold_entry
from ssl_core.utils.locks import file_lock

UNPACKED_DIR = "unpacked"
MAX_UNPACKED = 64 << 30  # bytes


def unpacked_archive(path: Path, max_bytes: int = MAX_UNPACKED) -> Path:
    """Unpack a ZIP archive into the cache, when it is first used.

    Nothing is written outside of the folder, whatever names the archive holds. The folder is called after the archive,
    below one that is called after its content (names, sizes and checksums of its members), so that an archive that
    was changed is unpacked anew.

    Args:
        path: the archive.
        max_bytes: bound of the unpacked size.

    Returns:
        The folder of its members.

    Raises:
        ConfigError: the cache cannot be written.
        DataError: the archive is damaged, encrypted or too large, or a member points outside of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, *DAMAGE_ERRORS) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is damaged or no ZIP archive ({reason}); fetch or write it again") from None
    encrypted = next((one.filename for one in members if one.flag_bits & 1), None)
    if encrypted is not None:
        raise DataError(f"{path} is encrypted ({encrypted}); unpack it with its password, and name the folder")
    size = sum(one.file_size for one in members)
    if size > max_bytes:
        raise DataError(f"{path} unpacks to {size:,} bytes, more than {max_bytes:,}; unpack it, and name the folder")
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    for one in members:
        digest.update(f"\0{one.filename}\0{one.file_size}\0{one.CRC}".encode("utf-8", "surrogatepass"))
    archive_id = Archive(url="", file=path.name, kind="zip", max_unpacked_bytes=max_bytes)
    parent = cache_dir() / UNPACKED_DIR / digest.hexdigest()[:20]
    folder = parent / path.name
    hold_entry(parent)
    if not archive_id.is_unpacked(folder):
        parent.mkdir(parents=True, exist_ok=True)
        with file_lock(parent / ".lock", lambda: None):
            if not archive_id.is_unpacked(folder):
                folder.mkdir(exist_ok=True)
                unpack(path, archive_id, folder, lambda what, done, total: None)
    return folder
