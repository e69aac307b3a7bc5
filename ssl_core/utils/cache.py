"""The cache directory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ssl_core.errors import ConfigError


def cache_dir() -> Path:
    """The folder of prepared data and compiled code: SSLX_CACHE_DIR, else sslx in the user's cache folder.

    Raises:
        ConfigError: if it cannot be written.
    """
    variable = os.environ.get("SSLX_CACHE_DIR")
    folder = Path(variable) if variable else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sslx"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to the cache folder {folder} ({error.strerror}); set SSLX_CACHE_DIR") from None
    return folder
