"""Download one file: resumed after an interruption, checked, and renamed once complete."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ssl_core.errors import DataError
from ssl_core.public_data.source import Archive
from ssl_core.utils.locks import file_lock

SCHEMES = ("http", "https", "ftp", "file")
CHUNK = 1 << 20
TRIES = 5  # in a row that transfer no byte
WAIT = 1.0  # seconds before the second try; doubled before each further one
TIMEOUT = 60.0  # seconds without a byte
Progress = Callable[[str, int, int | None], None]


class _Interrupted(Exception):
    """The connection broke. The bytes on disk are kept."""


def fetch(archive: Archive, store: Path, progress: Progress, homepage: str = "") -> Path:
    """Path of the archive's file in `store`, with the right size and checksum. It is downloaded unless it exists.

    Raises:
        DataError: if the download or a check fails. A downloaded file that fails a check is deleted; one that existed
            before is kept.
    """
    final = store / archive.file
    if final.exists():
        problem = _find_problem(archive, final, progress)
        if problem:
            raise DataError(f"{final} {problem}; remove it, and the next call downloads it")
        return final
    if urllib.parse.urlsplit(archive.url).scheme not in SCHEMES:
        raise DataError(f"{archive.url} is no http, https, ftp or file address")
    store.mkdir(parents=True, exist_ok=True)
    part = store / f"{archive.file}.part"
    tag = store / f"{archive.file}.part.tag"
    with _download_lock(part):
        by_hand = f"download it by hand{f' (see {homepage})' if homepage else ''} as {final} and repeat the command"
        _download(archive, part, tag, progress, by_hand)
        problem = _find_problem(archive, part, progress)
        tag.unlink(missing_ok=True)
        if problem:
            part.unlink()
            raise DataError(f"the download from {archive.url} {problem}; it was deleted. Try again, or {by_hand}")
        os.replace(part, final)
    return final


def _download(archive: Archive, part: Path, tag: Path, progress: Progress, by_hand: str) -> None:
    """Download into `part`, over several connections if they break."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(archive, part, tag, progress)
            return
        except urllib.error.HTTPError as error:
            if error.code not in (408, 429, 500, 502, 503, 504):
                _drop_empty(part, tag)
                raise DataError(f"{archive.url}: HTTP {error.code} {error.reason}; {by_hand}") from None
            reason: object = f"HTTP {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, _Interrupted) as error:
            reason = getattr(error, "reason", None) or error
            if archive.url.startswith("file:"):
                _drop_empty(part, tag)
                raise DataError(f"{archive.url} cannot be read: {' '.join(str(reason).split())}") from None
        failures = 0 if _size(part) > before else failures + 1
        if failures >= TRIES:
            size = _size(part)
            _drop_empty(part, tag)
            raise DataError(
                f"{archive.url}: {' '.join(str(reason).split()) or 'the connection broke'}; {size:,} bytes are kept "
                f"and the same command goes on from there, or {by_hand}"
            )
        time.sleep(WAIT * 2 ** max(failures - 1, 0))


def _transfer(archive: Archive, part: Path, tag: Path, progress: Progress) -> None:
    """Download over one connection.

    Raises:
        _Interrupted: if the connection ends early. Errors of urllib pass through.
    """
    offset = _size(part)
    validator = tag.read_text() if tag.exists() else ""
    if offset and not (validator or archive.checksum):
        offset = 0  # without either, a change of the file between two connections would go unnoticed
    headers = {"User-Agent": "sslx", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-"} | ({"If-Range": validator} if validator else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if offset == _total_size(error.headers.get("Content-Range")):
            return
        part.unlink()
        raise _Interrupted("the partial download does not fit the file") from None
    with response:
        resumed = getattr(response, "status", None) == 206
        if resumed and not (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-"):
            part.unlink()
            raise _Interrupted("the server sent another part of the file than requested")
        start = offset if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else archive.size
        _check_disk_space(part.parent, (total or 0) - start, archive)
        tag.write_text(_validator(response.headers))
        with part.open("ab" if resumed else "wb") as out:
            done = start
            while chunk := response.read(CHUNK):
                out.write(chunk)
                done += len(chunk)
                progress(f"downloading {archive.file}", done, total)
    if total is not None and done < total:
        raise _Interrupted(f"the connection broke after {done:,} of {total:,} bytes")


def _validator(headers: Any) -> str:
    """The value for If-Range: a strong ETag, else the time of modification."""
    etag = headers.get("ETag") or ""
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified") or ""


def _total_size(content_range: str | None) -> int | None:
    match = re.search(r"/(\d+)$", content_range or "")
    return int(match[1]) if match else None


def _find_problem(archive: Archive, path: Path, progress: Progress) -> str | None:
    """What is wrong with a complete file; None if its size and checksum are right."""
    size = _size(path)
    if archive.size is not None and size != archive.size:
        return f"has {size:,} bytes, not {archive.size:,}"
    if archive.checksum is None:
        return None
    method, _, expected = archive.checksum.partition(":")
    actual = hashlib.new(method)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            actual.update(chunk)
            progress(f"checking {archive.file}", file.tell(), size)
    return None if actual.hexdigest() == expected.lower() else f"has the {method} {actual.hexdigest()}, not {expected}"


def _check_disk_space(folder: Path, size: int, archive: Archive) -> None:
    """Raises DataError if fewer than `size` bytes are free."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(f"{archive.file} takes {size:,} more bytes, {folder} has {free:,} left; free some space")


def _download_lock(part: Path) -> AbstractContextManager[None]:
    """A lock on the file's download.

    Raises:
        DataError: while another process downloads the same file.
    """

    def on_locked() -> None:
        raise DataError(f"another process is downloading {part.with_suffix('')}; wait for it")

    return file_lock(part.with_name(part.name + ".lock"), on_locked)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _drop_empty(part: Path, tag: Path) -> None:
    if not _size(part):
        part.unlink(missing_ok=True)
        tag.unlink(missing_ok=True)
