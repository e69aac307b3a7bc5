"""Plots of the web page, drawn by matplotlib without its global state; imported only when a page is written.

The page contains the SVG itself, whose colours follow the page's light or dark scheme.
"""

from __future__ import annotations

import base64
import io
import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

# matplotlib needs real colours: these are placeholders that `to_svg` replaces by variables of the page
COLOURS = {"ink": "#010203", "muted": "#020304", "grid": "#030405"} | {
    f"series-{number}": f"#0{number}0a0b" for number in range(1, 5)
}
SERIES = [COLOURS[f"series-{number}"] for number in range(1, 5)]
WAVE_COLOURS = [COLOURS[f"series-{number}"] for number in (1, 2, 4)]  # without grey, the colour of the original
MAX_POINTS = 600
_number = itertools.count()


def to_svg(figure: Figure, label: str) -> Markup:
    """A figure as an <svg> element without fixed size, with unique ids and `label` as its accessible name."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sslx", "text.parse_math": False}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = f"p{next(_number)}-"
    text = re.sub(r'( id="|href="#|url\(#)', lambda match: match[1] + prefix, text)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    for name, colour in COLOURS.items():
        rest = rest.replace(colour, f"var(--{name})")
    return Markup(f'{head} role="img" aria-label="{escape(label)}">{rest}')


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty plot, in inches, in the page's colours."""
    figure = Figure(figsize=(width, height), layout="constrained")
    plot = figure.add_subplot()
    plot.patch.set_alpha(0)
    for name, spine in plot.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(COLOURS["muted"])
    plot.tick_params(colors=COLOURS["muted"], labelsize=9)
    plot.grid(True, color=COLOURS["grid"], linewidth=0.6)
    plot.set_axisbelow(True)
    return figure, plot


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MAX_POINTS points, each a mean of neighbours."""
    if len(steps) <= MAX_POINTS:
        return steps, values
    groups = np.array_split(np.arange(len(steps)), MAX_POINTS)
    return np.array([steps[g[-1]] for g in groups]), np.array([values[g].mean() for g in groups])


def curve(name: str, steps: np.ndarray, values: np.ndarray, wide: bool) -> Markup:
    """A metric over steps."""
    figure, plot = axes(9.0 if wide else 3.4, 3.0 if wide else 1.9)
    x, y = thin(steps, values)
    plot.plot(x, y, color=SERIES[0], linewidth=1.5, marker="o" if len(x) < 3 else None)
    if np.ptp(y) == 0:  # matplotlib would magnify rounding errors
        plot.set_ylim(*sorted((0.0, 2 * y[0] or 1.0)))
    plot.set_xlabel("step", color=COLOURS["muted"], fontsize=9)
    label = f"{name}: {values[0]:.4g} at step {steps[0]:,.0f}, {values[-1]:.4g} at step {steps[-1]:,.0f}, "
    return to_svg(figure, label + f"lowest {values.min():.4g}, highest {values.max():.4g}")


def progress(
    title: str,
    x: np.ndarray,
    values: np.ndarray,
    levels: Mapping[str, float],
    unit: str,
    higher_is_better: bool = True,
) -> Markup:
    """A score during training, with x in `unit`, and a horizontal line for each untrained baseline in `levels`."""
    figure, plot = axes(4.4, 2.6)
    plot.plot(x, values, color=SERIES[0], linewidth=1.6, marker="o", markersize=3.5, label="trained")
    for (name, level), colour in zip(levels.items(), SERIES[1:], strict=False):
        plot.axhline(level, color=colour, linewidth=1.2, linestyle="--", label=name)
    plot.set_xlabel(unit, color=COLOURS["muted"], fontsize=9)
    plot.margins(y=0.12)
    plot.legend(frameon=False, fontsize=8, labelcolor=COLOURS["ink"], loc="best")
    spoken = ", ".join(f"{name} {level:.3g}" for name, level in levels.items())
    best, word = (values.argmax(), "highest") if higher_is_better else (values.argmin(), "lowest")
    return to_svg(
        figure,
        f"{title}: {values[0]:.3g} at {x[0]:,.0f} {unit}, {values[-1]:.3g} at {x[-1]:,.0f}, "
        f"{word} {values[best]:.3g} at {x[best]:,.0f}; {spoken}",
    )


def method_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], levels: Mapping[str, float], unit: str
) -> Markup:  # fmt: skip
    """A score of several methods during training, with a horizontal line for each untrained baseline in `levels`."""
    figure, plot = axes(4.4, 3.0)
    styles = itertools.product(("-", "--", ":"), SERIES)
    for (name, (x, values)), (linestyle, colour) in zip(curves.items(), styles, strict=False):
        plot.plot(x, values, color=colour, linestyle=linestyle, linewidth=1.5, marker="o", markersize=3, label=name)
    for name, level in levels.items():
        plot.axhline(level, color=COLOURS["muted"], linewidth=1.0, linestyle="-.", label=f"{name} {level:.3g}")
    plot.set_xlabel(unit, color=COLOURS["muted"], fontsize=9)
    plot.legend(frameon=False, fontsize=7, labelcolor=COLOURS["ink"], loc="best")
    return to_svg(figure, "; ".join(f"{name}: {v[-1]:.3g} at {x[-1]:,.0f} {unit}" for name, (x, v) in curves.items()))


def bars(
    values: Mapping[str, tuple[float, float | None]], full: float, label: str, colours: Sequence[str] = SERIES
) -> Markup:
    """Horizontal bars with errors. values: by name, value and error; the axis spans 0 to `full` and all bars."""
    figure, plot = axes(3.4, 0.4 + 0.3 * len(values))
    names = list(values)
    for place, (name, colour) in enumerate(zip(names, itertools.cycle(colours), strict=False)):
        value, error = values[name]
        plot.barh(place, value, height=0.62, color=colour)
        if error is not None:
            plot.errorbar(value, place, xerr=error, color=COLOURS["ink"], linewidth=1.2, capsize=3)
    plot.set_yticks(range(len(names)), names, color=COLOURS["ink"])
    plot.invert_yaxis()
    plot.grid(False, axis="y")
    plot.tick_params(axis="y", length=0)
    lowest = min(0.0, *(value - (error or 0.0) for value, error in values.values()))
    highest = max(full, *(value + (error or 0.0) for value, error in values.values()))
    plot.set_xlim(lowest, highest if highest > lowest else 1.0)
    return to_svg(figure, label)


def waves(x: np.ndarray, background: np.ndarray | None, limits: tuple[float, float], label: str) -> Markup:
    """Channels over time. x, background: (C, T), NaN where hidden; the background is thin and grey."""
    figure, plot = axes(3.4, 1.4)
    for channel, colour in zip(range(len(x)), WAVE_COLOURS, strict=False):
        if background is not None:
            plot.plot(background[channel], color=COLOURS["muted"], linewidth=0.7, alpha=0.7)
        plot.plot(x[channel], color=colour, linewidth=1.1, marker="." if _is_sparse(x[channel]) else None, markersize=2)
    plot.set_xlim(0, max(x.shape[1] - 1, 1))
    plot.set_ylim(*limits)
    return to_svg(figure, label)


def _is_sparse(values: np.ndarray) -> bool:
    """Whether most finite values have no finite neighbour that a line could join them with."""
    finite = np.isfinite(values)
    return bool((finite[1:] & finite[:-1]).sum() < finite.sum() / 2)


def to_png(x: np.ndarray, low: float, high: float) -> str:
    """A picture (1 or 3 channels, H, W) as the data URL of a PNG; NaN becomes transparent."""
    finite = np.isfinite(x).all(axis=0)
    scaled = np.clip((np.nan_to_num(x) - low) / max(high - low, 1e-12), 0.0, 1.0)
    if len(x) == 3:
        pixels = np.concatenate([np.moveaxis(scaled, 0, -1), np.ones((*finite.shape, 1))], axis=-1)
    else:
        pixels = matplotlib.colormaps["viridis"](scaled[0])
    pixels[..., 3] = finite
    buffer = io.BytesIO()
    imsave(buffer, (255 * pixels).round().astype(np.uint8), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def finite_range(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Smallest and largest finite number of several arrays; 0 and 1 if there is none."""
    numbers = np.concatenate([np.ravel(v) for v in values])
    numbers = numbers[np.isfinite(numbers)]
    return (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
