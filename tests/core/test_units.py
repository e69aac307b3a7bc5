"""Times and sizes as users write them."""

from __future__ import annotations

import pytest

from ssl_core.errors import ConfigError
from ssl_core.utils.units import parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "count"),
    [("10GB", 10**10), ("500 MB", 5 * 10**8), ("1.5TiB", 3 * 2**39), ("1000", 1000), ("2k", 2000), ("7b", 7)],
)
def test_sizes(text, count):
    assert parse_size(text, "--max-size") == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), (".5m", 30), ("1.5H", 5400), ("90m", 5400), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)],
)
def test_times(text, seconds):
    assert parse_time(text, "--older-than") == seconds


@pytest.mark.parametrize("text", ["", "ten", "10XB", "-1GB", "1e9"])
def test_no_sizes(text):
    with pytest.raises(ConfigError, match="--max-size"):
        parse_size(text, "--max-size")


@pytest.mark.parametrize("text", ["", "30", "30x", "-3d", "1e9s"])
def test_no_times(text):
    with pytest.raises(ConfigError, match="--older-than"):
        parse_time(text, "--older-than")
