"""A page with a few samples of inspected data, as the tokenizer sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.data import Continuous, Text
from ssl_core.report.page import style
from ssl_core.report.schema import save
from ssl_core.runs.inspection.inspect import Opened
from ssl_core.runs.inspection.schema import Inspection
from ssl_core.tokens import ContinuousTarget
from ssl_core.utils.console import as_utf8

PAGE = "samples.html"
SHOWN = 6
"""Samples that are drawn."""
MAX_CHANNELS = 3
MAX_LETTERS = 600

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{ title }}</title>
<style>
{{ style }}</style>
</head>
<body>
<header><h1>{{ title }}</h1></header>
<main>
<section aria-labelledby="found"><h2 id="found">What was found</h2>
<pre style="white-space: pre-wrap">{{ lines }}</pre></section>
<section aria-labelledby="samples"><h2 id="samples">Samples</h2>
<p>{{ count }} of {{ total }} training samples, as they are read and prepared. Brightness and height span the values of
each picture.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Samples">
<table>
<thead><tr><th scope="col">sample</th>{% for name in names %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, label, cells in rows %}
<tr><th scope="row">{{ name }}{% if label %}<br><span class="quiet">{{ label }}</span>{% endif %}</th>
{% for cell in cells %}
<td>{% if cell.address is defined %}<img src="{{ cell.address }}" alt="{{ cell.alt }}" width="180">
{% else %}{{ cell }}{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div></section>
</main>
</body>
</html>
"""


def write_samples(inspection: Inspection, opened: Opened, folder: Path) -> Path:
    """Write samples.html into a folder, which is made; returns its path.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    import jinja2

    from ssl_core.errors import ConfigError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}; name another folder") from None
    names, rows = sample_rows(opened)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    total = f"{inspection.samples.get('train', 0):,}"
    page = environment.from_string(TEMPLATE).render(
        style=style(), title=f"{inspection.path}: {inspection.modality}", lines="\n".join(inspection.lines()),
        names=names, rows=rows, count=len(rows), total=total,
    )  # fmt: skip
    save(folder / PAGE, as_utf8(page))
    return folder / PAGE


def sample_rows(opened: Opened) -> tuple[list[str], list[tuple[str, str, list[Any]]]]:
    """Titles of columns, and for each sample its name, its label and a cell for each column."""
    train, look = opened.splits["train"], opened.looks["train"]
    columns: dict[str, list[Any]] = {}
    numbers = opened.rows[:SHOWN]
    count = len(numbers)
    for title, cells in _segments(opened, count):
        columns[title] = cells
    for name, kind in train.fields.items():
        if isinstance(kind, Text):
            columns[f"{name}, as read"] = [_text(look.inputs[number][name]) for number in numbers]
        elif not (isinstance(kind, Continuous) and len(kind.shape) > 1) and name != "missing":
            columns[name] = [_numbers(look.inputs[number][name]) for number in numbers]
    names = train.task.names if train.task is not None else ()
    rows = []
    for row, number in enumerate(numbers):
        index = look.usable[number]
        label = train[index]["label"]
        word = "" if label is None else str(names[label]) if names and np.ndim(label) == 0 else str(label)
        rows.append((train.describe(index), word, [cells[row] for cells in columns.values()]))
    return list(columns), rows


@torch.no_grad()
def _segments(opened: Opened, count: int) -> Iterator[tuple[str, list[Any]]]:
    """Pictures of the continuous segments that have some."""
    tokenizer = opened.tokenizer
    batch = {name: torch.from_numpy(np.ascontiguousarray(x[:count])) for name, x in opened.prepared.items()}
    batch = dict(tokenizer.crop(batch, {})) if not tokenizer.draw_crop(1, torch.Generator()) else batch
    tokens = tokenizer(batch)
    for number, segment in enumerate(tokenizer.layout.segments):
        target = tokens.targets[number]
        if not isinstance(target, ContinuousTarget):
            continue
        picture = tokenizer.to_image(number, target.patches.float())
        if picture is not None:
            array = picture.numpy()
            yield segment.name, [_drawn(x, f"{segment.name} of sample {row + 1}") for row, x in enumerate(array)]


def _drawn(x: np.ndarray, alt: str) -> Any:
    """A curve (channels, T), or a picture (channels, H, W); the middle of a volume."""
    from ssl_core.report import plots
    from ssl_core.report.pictures import Image

    low, high = plots.finite_range([x])
    if x.ndim == 2:
        margin = 0.05 * max(high - low, 1e-6)
        return plots.waves(x[:MAX_CHANNELS], None, (low - margin, high + margin), alt)
    x = x[:, x.shape[1] // 2] if x.ndim == 4 else x
    x = x if x.shape[0] in (1, 3) else x[:1]
    return Image(plots.to_png(x, low, high), alt)


def _text(value: np.ndarray) -> str:
    text = as_utf8(" | ".join(map(str, np.asarray(value).reshape(-1))))
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]} ... ({len(text):,} letters)"


def _numbers(value: np.ndarray) -> str:
    values = np.asarray(value).reshape(-1)
    more = f" and {len(values) - 12} more" if len(values) > 12 else ""
    return ", ".join(f"{number:.4g}" for number in values[:12].tolist()) + more
