"""Originals beside masked input and reconstruction, for the web page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from markupsafe import Markup

from ssl_core.report import plots

if TYPE_CHECKING:
    from ssl_core.report.reconstruction import Reconstruction

COLUMNS = ("original", "masked input", "reconstruction")
MAX_TOKENS = 240
MAX_CHANNELS = 3


@dataclass(frozen=True)
class Image:
    """A PNG as a data URL, and its text alternative."""

    address: str
    alt: str


@dataclass(frozen=True)
class Text:
    """Tokens, each with its state: seen, hidden, right or wrong. more: number of tokens that are left out."""

    tokens: Sequence[tuple[str, str]]
    more: int = 0
    spaced: bool = True


Picture: TypeAlias = Image | Markup | Text


@dataclass(frozen=True)
class Panel:
    """A segment: rows of samples, one entry for each of COLUMNS."""

    title: str
    caption: str
    kind: Literal["image", "waves", "text"]
    rows: Sequence[Sequence[Picture]]
    ratio: float = 1.0


def panel(segment: Reconstruction) -> Panel | None:
    """The panel of a segment; None for values without a picture."""
    share = f"{segment.hidden.mean():.0%} of {segment.hidden.shape[1]} tokens hidden"
    if segment.target == "discrete":
        return _text_panel(segment, share)
    axes = segment.original.ndim - 2
    if axes == 1 and (len(segment.grid) == 1 or segment.original.shape[1] != segment.hidden.shape[1]):
        return _wave_panel(segment, share)
    return _image_panel(segment, share) if axes in (2, 3) else None


def _stages(segment: Reconstruction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of COLUMNS."""
    return segment.original, segment.masked, segment.reconstruction


def _alt(stage: str, row: int, segment: Reconstruction) -> str:
    hidden = f", {segment.hidden[row].mean():.0%} of its tokens hidden" if stage == "masked input" else ""
    return f"{segment.name}, sample {row + 1}: {stage}{hidden}"


def _wave_panel(segment: Reconstruction, share: str) -> Panel:
    channels = segment.original.shape[1]
    count = min(channels, MAX_CHANNELS)
    rows = []
    for row in range(len(segment.original)):
        original, masked, reconstruction = (stage[row, :count] for stage in _stages(segment))
        low, high = plots.finite_range([original, reconstruction])
        margin = 0.05 * max(high - low, 1e-6)
        limits = (low - margin, high + margin)
        backgrounds = (None, None, original)
        rows.append(
            [
                plots.waves(x, background, limits, _alt(stage, row, segment))
                for x, background, stage in zip((original, masked, reconstruction), backgrounds, COLUMNS, strict=True)
            ]
        )
    which = f"; channels 1 to {count} of {channels}" if channels > count else ""
    return Panel(segment.name, f"{share}{which}; thin line behind the reconstruction: the original", "waves", rows)


def _image_panel(segment: Reconstruction, share: str) -> Panel:
    stages = _stages(segment)
    which = ""
    if segment.original.ndim == 5:
        depth = segment.original.shape[2]
        stages = tuple(stage[:, :, depth // 2] for stage in stages)  # type: ignore[assignment]
        which += f"; slice {depth // 2 + 1} of {depth}"
    channels = stages[0].shape[1]
    if channels not in (1, 3):
        stages = tuple(stage[:, :1] for stage in stages)  # type: ignore[assignment]
        which += f"; channel 1 of {channels}"
    rows = []
    for row in range(len(stages[0])):
        low, high = plots.finite_range([stages[0][row]])
        rows.append(
            [
                Image(plots.to_png(stage[row], low, high), _alt(name, row, segment))
                for stage, name in zip(stages, COLUMNS, strict=True)
            ]
        )
    height, width = stages[0].shape[-2:]
    caption = f"{share}, shown as hatching{which}; colours span the original's range"
    return Panel(segment.name, caption, "image", rows, min(max(width / height, 0.5), 4.0))


def _text_panel(segment: Reconstruction, share: str) -> Panel:
    rows: list[list[Text]] = []
    spaced = max((len(str(token)) for token in np.unique(segment.original[:, :MAX_TOKENS])), default=1) > 1
    samples = zip(segment.original, segment.reconstruction, segment.hidden, strict=True)
    for tokens, predictions, is_hidden in samples:
        more = max(len(tokens) - MAX_TOKENS, 0)
        original, predicted, hidden = tokens[:MAX_TOKENS], predictions[:MAX_TOKENS], is_hidden[:MAX_TOKENS]
        states = ["right" if a == b else "wrong" for a, b in zip(original, predicted, strict=True)]
        stages = (
            [(str(token), "seen") for token in original],
            [
                ("▢" if masked else str(token), "hidden" if masked else "seen")
                for token, masked in zip(original, hidden, strict=True)
            ],
            [
                (str(token), state if masked else "seen")
                for token, state, masked in zip(predicted, states, hidden, strict=True)
            ],
        )
        rows.append([Text(tokens_of_stage, more, spaced) for tokens_of_stage in stages])
    correct = (segment.original == segment.reconstruction)[segment.hidden]
    caption = f"{share}, shown as ▢; right (underlined): {correct.sum()} of {correct.size}; wrong: struck through"
    return Panel(segment.name, caption, "text", rows)
