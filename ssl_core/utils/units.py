"""Times and sizes as users write them and as they are shown."""

from __future__ import annotations

import re

from ssl_core.errors import ConfigError

SIZE = re.compile(r"(\d+(?:\.\d*)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([smhdw])", re.IGNORECASE)
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_time(text: str, option: str) -> float:
    """Seconds of "90s", "10m", "1.5h", "30d" or "2w".

    Raises:
        ConfigError: it is no time.
    """
    match = TIME.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{option} {text}: write it as 90s, 10m, 1.5h or 30d")
    return float(match[1]) * SECONDS[match[2].lower()]


def parse_size(text: str, option: str) -> int:
    """Bytes of "10GB", "500 MB", "1.5TiB" or "1000".

    Raises:
        ConfigError: it is no size.
    """
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{option} {text}: write it as 500MB, 10GB or 1.5TiB")
    number, unit, binary = match.groups()
    power = " kmgt".index(unit.lower() or " ")
    return int(float(number) * (1024 if binary else 1000) ** power)


def size_text(count: float) -> str:
    """Bytes as text: "512 B", "3.4 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def age_text(seconds: float) -> str:
    """An age as text: "5 min", "3 h", "12 d"."""
    for unit, length in (("d", 86_400), ("h", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds) / 60:.0f} min"
