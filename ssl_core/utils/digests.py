"""Digests that tell whether a file is still as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits, as `sha256sum` prints it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(entries: Mapping[str, Any]) -> str:
    """A digest of what a JSON file says, the same before it is written and after it is read.

    Entries that JSON does not know are taken as `str` writes them.
    """
    text = json.dumps(json.loads(json.dumps(entries, default=str)), sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
