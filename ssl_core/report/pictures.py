"""Samples in the form of their modality for the web page: images, waves, texts and table rows, with sound."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from markupsafe import Markup

from ssl_core.contracts import PictureStyle
from ssl_core.report import plots
from ssl_core.report.audio import MAX_SECONDS, Player
from ssl_core.report.figures import Neighbour, Neighbours
from ssl_core.report.reconstruction import Reconstruction, SegmentValues

COLUMNS = ("original", "masked input", "reconstruction")
MAX_TOKENS = 240
MAX_CHANNELS = 3
MAX_SIDE = 128
"""Most pixels of a side of a picture; larger ones are averaged down."""
NEIGHBOUR_SIDE = 96
TABLE_SAMPLES = 3
TABLE_ROWS = 60
HIDDEN = "▢"
LINES = ("solid", "dashed", "dotted")
Kind: TypeAlias = Literal["image", "waves", "text", "table"]


@dataclass(frozen=True)
class Image:
    """A PNG as a data URL, its text alternative, and width over height."""

    address: str
    alt: str
    ratio: float = 1.0


@dataclass(frozen=True)
class Text:
    """Tokens, each with its state: seen, hidden, right, wrong or predicted. more: number of tokens that are left out.

    spaced: whether there are blanks between tokens.
    """

    tokens: Sequence[tuple[str, str]]
    more: int = 0
    spaced: bool = True


Picture: TypeAlias = Image | Markup | Text


@dataclass(frozen=True)
class Audio:
    """A recording as a data URL, and its name."""

    address: str
    label: str


@dataclass(frozen=True)
class Cell:
    """A picture with its sound, if it has one."""

    picture: Picture
    audio: Audio | None = None


@dataclass(frozen=True)
class TableSample:
    """A sample as rows of a table: the name of each row, and an entry for each of COLUMNS."""

    title: str
    rows: Sequence[tuple[str, Sequence[Text]]]
    more: int = 0


@dataclass(frozen=True)
class Panel:
    """A segment: rows of samples, one entry for each of COLUMNS; or, of kind "table", samples as tables."""

    title: str
    caption: str
    kind: Kind
    rows: Sequence[Sequence[Cell]] = ()
    ratio: float = 1.0
    samples: Sequence[TableSample] = ()


def panels(segments: Sequence[Reconstruction], player: Player) -> list[Panel]:
    """The panels of all segments that have a picture; those that are rows of a table share one."""
    named = [segment for segment in segments if segment.style.names]
    made: list[Panel | None] = []
    for segment in segments:
        if segment.style.names:
            made += [_table_panel(named)] if segment is named[0] else []
        else:
            made.append(_panel(segment, player))
    return [one for one in made if one is not None]


def _panel(segment: Reconstruction, player: Player) -> Panel | None:
    """The panel of a segment; None for values without a picture."""
    kind = kind_of(segment.original, segment.hidden.shape[1], segment.grid, segment.target)
    share = f"{_share(segment):.0%} of {segment.hidden.shape[1]} tokens hidden"
    if segment.valid is not None and not segment.valid.all():
        share += ", without those that hold no data"
    if kind == "text":
        return _text_panel(segment, share)
    if kind == "waves":
        return _wave_panel(segment, share)
    return _image_panel(segment, share, player) if kind == "image" else None


def kind_of(values: np.ndarray, tokens: int, grid: Sequence[int], target: str) -> Kind | None:
    """How values are drawn that have no names; None if they have no picture."""
    if target == "discrete":
        return "text"
    axes = values.ndim - 2
    if axes == 1 and (len(grid) == 1 or values.shape[1] != tokens):
        return "waves"
    return "image" if axes in (2, 3) else None


def _share(segment: Reconstruction) -> float:
    """Share of the tokens with data that are hidden."""
    valid = segment.is_valid
    return float(segment.hidden[valid].mean()) if valid.any() else 0.0


def _stages(segment: Reconstruction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of COLUMNS."""
    return segment.original, segment.masked, segment.reconstruction


def _alt(stage: str, row: int, segment: Reconstruction) -> str:
    hidden = f", {segment.hidden[row].mean():.0%} of its tokens hidden" if stage == "masked input" else ""
    return f"{segment.name}, sample {row + 1}: {stage}{hidden}"


# --- waves -----------------------------------------------------------------------------------------------------------


def _wave_panel(segment: Reconstruction, share: str) -> Panel:
    channels = segment.original.shape[1]
    count = min(channels, MAX_CHANNELS)
    rows = []
    for row in range(len(segment.original)):
        original, masked, reconstruction = (stage[row, :count] for stage in _stages(segment))
        limits = _limits([original, reconstruction])
        backgrounds = (None, None, original)
        rows.append(
            [
                Cell(plots.waves(x, background, limits, _alt(stage, row, segment), _axis(segment.style)))
                for x, background, stage in zip((original, masked, reconstruction), backgrounds, COLUMNS, strict=True)
            ]
        )
    caption = f"{share}{_channels_text(channels, segment.style)}; thin line behind the reconstruction: the original"
    return Panel(segment.name, caption, "waves", rows)


def _limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    low, high = plots.finite_range(values)
    margin = 0.05 * max(high - low, 1e-6)
    return low - margin, high + margin


def _axis(style: PictureStyle) -> tuple[str, float]:
    """Title of the axis of a curve, and the step along it."""
    return (style.axes[-1] if style.axes else "position"), style.spacing


def _channels_text(channels: int, style: PictureStyle) -> str:
    """Which channels are drawn, and how."""
    count = min(channels, MAX_CHANNELS)
    which = f"; channels 1 to {count} of {channels}" if channels > count else ""
    if channels == 1 and not style.channels:
        return which
    names = style.channels[:count] or tuple(f"channel {number}" for number in range(1, count + 1))
    return f"{which}; lines: " + ", ".join(f"{name} {line}" for name, line in zip(names, LINES, strict=False))


# --- images ----------------------------------------------------------------------------------------------------------


def _flat(image: np.ndarray, style: PictureStyle, most: int) -> tuple[np.ndarray, str]:
    """Images (n, C, *space) as (n, 1 or 3, H, W) of at most `most` pixels a side, and what is left out."""
    which = ""
    if image.ndim == 5:
        depth = image.shape[2]
        image, which = image[:, :, depth // 2], f"; slice {depth // 2 + 1} of {depth}"
    channels = image.shape[1]
    if style.rgb is not None:
        image = image[:, list(style.rgb)]
        names = [style.channels[i] if style.channels else f"channel {i + 1}" for i in style.rgb]
        which += f"; red, green, blue: {', '.join(names)} of {channels}, each from its 2nd to its 98th percentile"
    elif channels not in (1, 3):
        image, which = image[:, :1], which + f"; channel 1 of {channels}"
    return _smaller(image, most), which


def _smaller(image: np.ndarray, most: int) -> np.ndarray:
    """(n, C, H, W) with each side averaged down to at most `most`; NaN where all pixels are NaN."""
    step = max(1, -(-max(image.shape[-2:]) // most))
    if step == 1:
        return image
    height, width = (size // step * step or size for size in image.shape[-2:])
    steps = tuple(step if size >= step else 1 for size in (height, width))
    blocks = image[..., :height, :width].reshape(
        *image.shape[:2], height // steps[0], steps[0], width // steps[1], steps[1]
    )
    known = np.isfinite(blocks).sum(axis=(3, 5))
    total = np.nan_to_num(blocks).sum(axis=(3, 5))
    return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def _colours(image: np.ndarray, style: PictureStyle) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Smallest and largest value of the colours of an image (C, H, W)."""
    if style.rgb is None or not np.isfinite(image).any():
        return plots.finite_range([image])
    low, high = np.nanpercentile(image, (2, 98), axis=(1, 2))
    return low[:, None, None], high[:, None, None]


def _ratio(image: np.ndarray) -> float:
    height, width = image.shape[-2:]
    return float(min(max(width / height, 0.5), 4.0))


def _axes_text(style: PictureStyle, columns: int) -> str:
    """What the axes of an image are."""
    if len(style.axes) < 2:
        return ""
    end = f" from 0 to {style.spacing * columns:.3g}" if style.spacing != 1 else ""
    return f"; vertical: {style.axes[-2]}; horizontal: {style.axes[-1]}{end}"


def _image_panel(segment: Reconstruction, share: str, player: Player) -> Panel:
    flat = [_flat(stage, segment.style, MAX_SIDE) for stage in _stages(segment)]
    stages, which = [image for image, _ in flat], flat[0][1]
    ratio = _ratio(stages[0])
    rows = []
    for row in range(len(stages[0])):
        low, high = _colours(stages[0][row], segment.style)
        sounds = (segment.recordings.get(row), None, segment.rebuilt.get(row))
        cells = []
        for stage, name, sound in zip(stages, COLUMNS, sounds, strict=True):
            address = player.address(sound)
            audio = None if address is None else Audio(address, f"sound of sample {row + 1}, {name}")
            cells.append(Cell(Image(plots.to_png(stage[row], low, high), _alt(name, row, segment), ratio), audio))
        rows.append(cells)
    caption = f"{share}, shown as hatching{which}{_axes_text(segment.style, segment.original.shape[-1])}"
    if segment.style.rgb is None:
        caption += "; colours span the original's range"
    if any(cell.audio for cells in rows for cell in cells):
        caption += (
            f"; sound: the first {MAX_SECONDS:g} s of the raw recording, and the reconstruction with estimated phases "
            "(Griffin and Lim, 1984), each as loud as the other"
        )
    return Panel(segment.name, caption, "image", rows, ratio)


# --- texts -----------------------------------------------------------------------------------------------------------


def _text(tokens: Sequence[str], valid: np.ndarray, spaced: bool, states: Sequence[str] | None = None) -> Text:
    """The tokens of a sample that hold data, at most MAX_TOKENS; all seen unless `states` says otherwise."""
    place = np.flatnonzero(valid).tolist()
    pairs = [(tokens[i], "seen" if states is None else states[i]) for i in place[:MAX_TOKENS]]
    return Text(pairs, len(place) - len(pairs), spaced)


def _is_spaced(tokens: np.ndarray) -> bool:
    """Whether blanks go between tokens: numbers need them, text has its own."""
    return tokens.dtype.kind != "U"


def _text_panel(segment: Reconstruction, share: str) -> Panel:
    spaced, rows = _is_spaced(segment.original), []
    samples = zip(segment.original, segment.reconstruction, segment.hidden, segment.is_valid, strict=True)
    for original, reconstruction, hidden, valid in samples:
        before, after = (list(map(str, tokens)) for tokens in (original, reconstruction))
        masked = [
            (" " * token.startswith(" ") + HIDDEN) if is_hidden else token
            for token, is_hidden in zip(before, hidden, strict=True)
        ]
        right = [
            ("right" if one == other else "wrong") if is_hidden else "seen"
            for one, other, is_hidden in zip(before, after, hidden, strict=True)
        ]
        stages = (
            _text(before, valid, spaced),
            _text(masked, valid, spaced, ["hidden" if is_hidden else "seen" for is_hidden in hidden]),
            _text(after, valid, spaced, right),
        )
        rows.append([Cell(text) for text in stages])
    counted = segment.hidden & segment.is_valid
    correct = (segment.original == segment.reconstruction)[counted]
    caption = (
        f"{share}, shown as {HIDDEN}; right (underlined): {correct.sum()} of {correct.size}; wrong: struck through"
    )
    return Panel(segment.name, caption, "text", rows)


# --- tables ----------------------------------------------------------------------------------------------------------


def _entries(values: np.ndarray, tokens: int) -> np.ndarray:
    """Values of a segment whose tokens have names as text (n, Ls)."""
    flat = values.reshape(len(values), tokens)
    if flat.dtype.kind in "US":
        return flat
    return np.array([[f"{x:.4g}" if isinstance(x, float) else str(x) for x in row] for row in flat.tolist()])


def _table_panel(segments: Sequence[Reconstruction]) -> Panel:
    samples = []
    for row in range(min(TABLE_SAMPLES, len(segments[0].original))):
        rows = [one for segment in segments for one in _table_rows(segment, row)]
        samples.append(TableSample(f"sample {row + 1}", rows[:TABLE_ROWS], max(0, len(rows) - TABLE_ROWS)))
    hidden = np.concatenate([segment.hidden[segment.is_valid] for segment in segments])
    share = float(hidden.mean()) if hidden.size else 0.0
    caption = f"{share:.0%} of the columns hidden, shown as {HIDDEN}; predictions are underlined"
    if any(segment.target == "discrete" for segment in segments):
        caption += "; wrong categories are struck through"
    return Panel("columns", caption, "table", samples=samples)


def _table_rows(segment: Reconstruction, row: int) -> list[tuple[str, list[Text]]]:
    tokens = len(segment.style.names)
    before, after = (_entries(values, tokens)[row] for values in (segment.original, segment.reconstruction))
    rows = []
    for place, name in enumerate(segment.style.names):
        if not segment.is_valid[row, place]:
            rows.append((name, [Text([("missing", "absent")])] * 3))
            continue
        if not segment.hidden[row, place]:
            texts = [(before[place], "seen")] * 3
        else:
            state = "predicted"
            if segment.target == "discrete":
                state = "right" if before[place] == after[place] else "wrong"
            texts = [(before[place], "seen"), (HIDDEN, "hidden"), (after[place], state)]
        rows.append((name, [Text([(str(text), state)]) for text, state in texts]))
    return rows


# --- neighbours ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """A sample beside others: its heading, what is known of it, its pictures and its sound."""

    heading: str
    label: str
    name: str
    pictures: Sequence[tuple[Kind, Picture]]
    audio: Audio | None
    same: bool | None


@dataclass(frozen=True)
class Group:
    """A query and its neighbours as cards; for tables also the rows: a name, and an entry for each card."""

    cards: Sequence[Card]
    rows: Sequence[tuple[str, Sequence[str]]]
    more: int


def groups(neighbours: Neighbours, player: Player) -> list[Group]:
    """Each query with its neighbours."""
    tables = [one for one in neighbours.values if one.style.names]
    others = [one for one in neighbours.values if not one.style.names]
    sounds: dict[int, str | None] = {}
    # every query first, then the nearest of each, so that all share a budget that is too small
    ranks = itertools.zip_longest(*([query, *found] for query, found in neighbours.queries))
    for one in itertools.chain.from_iterable(ranks):
        if one is not None:
            sounds[one.row] = player.address(neighbours.recordings.get(one.row))
    return [_group(query, found, tables, others, sounds) for query, found in neighbours.queries]


def _group(
    query: Neighbour, found: Sequence[Neighbour], tables: Sequence[SegmentValues], others: Sequence[SegmentValues],
    sounds: dict[int, str | None],
) -> Group:  # fmt: skip
    members = [query, *found]
    cards = []
    for rank, one in enumerate(members):
        heading = "sample" if one.distance is None else f"neighbour {rank}, distance {one.distance:.3g}"
        pictures = [(kind, picture) for segment in others for kind, picture in _of_sample(segment, one, heading)]
        address = sounds.get(one.row)
        audio = None if address is None else Audio(address, f"sound of {heading} of {query.name}")
        same = None if not rank or not query.label else one.label == query.label
        cards.append(Card(heading, one.label, one.name, pictures, audio, same))
    rows = [
        (name, [_entry(segment, one.row, place) for one in members])
        for segment in tables
        for place, name in enumerate(segment.style.names)
    ]
    return Group(cards, rows[:TABLE_ROWS], max(0, len(rows) - TABLE_ROWS))


def _entry(segment: SegmentValues, row: int, place: int) -> str:
    if segment.valid is not None and not segment.valid[row, place]:
        return "missing"
    return str(_entries(segment.values[row : row + 1], len(segment.style.names))[0, place])


def _of_sample(segment: SegmentValues, one: Neighbour, heading: str) -> list[tuple[Kind, Picture]]:
    """The picture of a segment of one sample; nothing if it has none."""
    tokens = int(np.prod(segment.grid))
    kind = kind_of(segment.values, tokens, segment.grid, segment.target)
    values = segment.values[one.row : one.row + 1]
    label = f"{segment.name} of {heading}, {one.name}" + (f", label {one.label}" if one.label else "")
    if kind == "text":
        valid = np.ones(tokens, dtype=bool) if segment.valid is None else segment.valid[one.row]
        return [(kind, _text(list(map(str, values[0])), valid, _is_spaced(values)))]
    if kind == "waves":
        x = values[0, :MAX_CHANNELS]
        return [(kind, plots.waves(x, None, _limits([x]), label, _axis(segment.style)))]
    if kind == "image":
        flat, _ = _flat(values, segment.style, NEIGHBOUR_SIDE)
        low, high = _colours(flat[0], segment.style)
        return [(kind, Image(plots.to_png(flat[0], low, high), label, _ratio(flat)))]
    return []
