"""Matches the channels of new time series with those that an encoder was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssl_core import ConfigError, DataError, nearest


@dataclass(frozen=True)
class Channels:
    """Names of channels, and whether the data name them. Without names they are called by their numbers, from 0."""

    names: tuple[str, ...]
    named: bool


@dataclass(frozen=True)
class Matching:
    """The channels of new data in the order of training. index: of each in the new data, None if it is missing."""

    index: tuple[int | None, ...]
    warnings: tuple[str, ...] = ()


def match_channels(own: Channels, trained: Channels, options: Any) -> Matching:
    """Match by name; by number where either side has no names.

    Args:
        own: the channels of the new data.
        trained: those of the data that the encoder was trained on.
        options: those of the new data, as `RowOptions`.

    Raises:
        DataError: a channel seems to have another name, or the number of channels differs.
    """
    root = options.root
    if not (trained.named and own.named):
        if len(own.names) != len(trained.names):
            chosen = ",".join(own.names[: len(trained.names)])
            raise DataError(
                f"dataset.root {root} has {len(own.names)} channels, and the encoder was trained on "
                f"{len(trained.names)}; choose as many in dataset.channels, e.g. dataset.channels={chosen}"
            )
        line = "the channels are matched by their order, since not all data name them"
        return Matching(tuple(range(len(own.names))), (line,) if trained.named or own.named else ())
    missing = [name for name in trained.names if name not in own.names]
    added = [name for name in own.names if name not in trained.names]
    renamed = [name for name in missing if name not in options.role_columns]
    if renamed and (added or len(missing) == len(trained.names)):
        known = nearest(renamed[0], added or list(own.names), "column")
        raise DataError(
            f"dataset.root {root} has no column '{renamed[0]}', on which the encoder was trained; rename it if it is "
            f"here ({known})"
            + (
                f", or set {options.dropping(*added)} to fill in the mean of the training data"
                if len(missing) < len(trained.names)
                else ""
            )
        )
    warnings = []
    if added:
        warnings.append(f"columns left out, since the encoder was not trained on them: {', '.join(added)}")
    if missing:
        warnings.append(f"columns that are missing, filled with the mean of the training data: {', '.join(missing)}")
    index = tuple(own.names.index(name) if name in own.names else None for name in trained.names)
    return Matching(index, tuple(warnings))


def channel_number(name: str, count: int) -> int:
    """The number of a channel of arrays.

    Raises:
        ConfigError: it is none.
    """
    if not name.isdecimal() or int(name) >= count:
        raise ConfigError(f"dataset.channels: arrays have channels 0 to {count - 1}, and no '{name}'")
    return int(name)
