"""Originals beside masked input and reconstruction, made ready for the web page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from markupsafe import Markup

from ssl_core.report import plots

if TYPE_CHECKING:
    from ssl_core.report.reconstruction import Rebuilt

COLUMNS = ("original", "masked input", "reconstruction")
MOST_TOKENS = 240
MOST_CHANNELS = 3


@dataclass(frozen=True)
class Image:
    """A PNG as a data address, and what it shows."""

    address: str
    alt: str


@dataclass(frozen=True)
class Text:
    """Tokens, each with its state: seen, hidden, right or wrong."""

    tokens: Sequence[tuple[str, str]]
    more: int = 0
    spaced: bool = True


Shown: TypeAlias = Image | Markup | Text


@dataclass(frozen=True)
class Panel:
    """A segment: rows of samples, one entry for each of COLUMNS."""

    title: str
    caption: str
    kind: Literal["image", "waves", "text"]
    rows: Sequence[Sequence[Shown]]
    ratio: float = 1.0


def panel(rebuilt: Rebuilt) -> Panel | None:
    """The panel of a segment; None for values without a picture."""
    share = f"{rebuilt.hidden.mean():.0%} of {rebuilt.hidden.shape[1]} tokens hidden"
    if rebuilt.target == "discrete":
        return _texts(rebuilt, share)
    axes = rebuilt.original.ndim - 2
    if axes == 1 and (len(rebuilt.grid) == 1 or rebuilt.original.shape[1] != rebuilt.hidden.shape[1]):
        return _waves(rebuilt, share)
    return _images(rebuilt, share) if axes in (2, 3) else None


def _stages(rebuilt: Rebuilt) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rebuilt.original, rebuilt.masked, rebuilt.reconstruction


def _alt(stage: str, row: int, rebuilt: Rebuilt) -> str:
    hidden = f", {rebuilt.hidden[row].mean():.0%} of its tokens hidden" if stage == "masked input" else ""
    return f"{rebuilt.name}, sample {row + 1}: {stage}{hidden}"


def _waves(rebuilt: Rebuilt, share: str) -> Panel:
    channels = rebuilt.original.shape[1]
    shown = min(channels, MOST_CHANNELS)
    rows = []
    for row in range(len(rebuilt.original)):
        original, masked, made = (stage[row, :shown] for stage in _stages(rebuilt))
        low, high = plots.span([original, made])
        room = 0.05 * max(high - low, 1e-6)
        limits = (low - room, high + room)
        behind = (None, None, original)
        rows.append(
            [
                plots.waves(x, faint, limits, _alt(stage, row, rebuilt))
                for x, faint, stage in zip((original, masked, made), behind, COLUMNS, strict=True)
            ]
        )
    which = f"; channels 1 to {shown} of {channels}" if channels > shown else ""
    return Panel(rebuilt.name, f"{share}{which}; behind the reconstruction, thin: the original", "waves", rows)


def _images(rebuilt: Rebuilt, share: str) -> Panel:
    stages = _stages(rebuilt)
    which = ""
    if rebuilt.original.ndim == 5:
        depth = rebuilt.original.shape[2]
        stages = tuple(stage[:, :, depth // 2] for stage in stages)  # type: ignore[assignment]
        which += f"; slice {depth // 2 + 1} of {depth}"
    channels = stages[0].shape[1]
    if channels not in (1, 3):
        stages = tuple(stage[:, :1] for stage in stages)  # type: ignore[assignment]
        which += f"; channel 1 of {channels}"
    rows = []
    for row in range(len(stages[0])):
        low, high = plots.span([stages[0][row]])
        rows.append(
            [
                Image(plots.to_png(stage[row], low, high), _alt(name, row, rebuilt))
                for stage, name in zip(stages, COLUMNS, strict=True)
            ]
        )
    height, width = stages[0].shape[-2:]
    caption = f"{share}, shown as hatching{which}; colours span the original's range"
    return Panel(rebuilt.name, caption, "image", rows, min(max(width / height, 0.5), 4.0))


def _texts(rebuilt: Rebuilt, share: str) -> Panel:
    rows: list[list[Text]] = []
    spaced = max((len(str(token)) for token in np.unique(rebuilt.original[:, :MOST_TOKENS])), default=1) > 1
    for original, made, hidden in zip(rebuilt.original, rebuilt.reconstruction, rebuilt.hidden, strict=True):
        more = max(len(original) - MOST_TOKENS, 0)
        original, made, hidden = original[:MOST_TOKENS], made[:MOST_TOKENS], hidden[:MOST_TOKENS]
        right = ["right" if a == b else "wrong" for a, b in zip(original, made, strict=True)]
        stages = (
            [(str(token), "seen") for token in original],
            [("▢" if gone else str(token), "hidden" if gone else "seen") for token, gone in zip(original, hidden)],  # noqa: B905
            [(str(t), how if gone else "seen") for t, how, gone in zip(made, right, hidden, strict=True)],
        )
        rows.append([Text(tokens, more, spaced) for tokens in stages])
    hit = (rebuilt.original == rebuilt.reconstruction)[rebuilt.hidden]
    caption = f"{share}, shown as ▢; rebuilt rightly (underlined): {hit.sum()} of {hit.size}; wrongly: struck through"
    return Panel(rebuilt.name, caption, "text", rows)
