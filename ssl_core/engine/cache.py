"""Where the things are kept that can be made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ssl_core.errors import ConfigError


def cache_root() -> Path:
    """Where prepared data is kept: SSLX_CACHE_DIR, else sslx in the user's cache folder. Errors: ConfigError."""
    given = os.environ.get("SSLX_CACHE_DIR")
    root = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sslx"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to the cache folder {root} ({error.strerror}); set SSLX_CACHE_DIR") from None
    return root
