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
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.text import Text

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

# matplotlib needs real colours: these are placeholders that `to_svg` replaces by variables of the page
COLOURS = {"ink": "#010203", "muted": "#020304", "grid": "#030405"} | {
    f"series-{number}": f"#0{number}0a0b" for number in range(1, 5)
}
COLOURS |= {f"map-{number}": f"#0{number}0c0d" for number in range(1, 9)}
COLOURS |= {f"range-{number}": f"#0{number}0e0f" for number in range(1, 6)}
SERIES = [COLOURS[f"series-{number}"] for number in range(1, 5)]
WAVE_COLOURS = [COLOURS[f"series-{number}"] for number in (1, 2, 4)]  # without grey, the colour of the original
WAVE_LINES = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
RANGE_MARKERS = ("v", "s", "o", "D", "^")  # from the lowest to the highest range of a number
MAX_POINTS = 600
MAX_SCATTER = 2000
_number = itertools.count()


def to_svg(figure: Figure, label: str) -> Markup:
    """A figure as an <svg> element without fixed size, with unique ids and `label` as its accessible name."""
    buffer = io.StringIO()
    for label_text in figure.findobj(
        Text
    ):  # names may hold dollar signs; the rc parameter is for texts made while saving
        label_text.set_parse_math(False)
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


def overlay(curves: Sequence[tuple[int, str, np.ndarray, np.ndarray]], name: str) -> Markup:
    """A metric of several runs over steps.

    Args:
        curves: the number of the run, which gives colour and mark as in `legend_mark`, its name, steps and values.
        name: the metric.
    """
    figure, plot = axes(9.0, 4.2)
    for number, _, x, y in curves:
        own = {key: value for key, value in mark(number, False).items() if key != "markeredgewidth"}
        line = ("-", "--", ":")[number // 4 % 3]
        plot.plot(x, y, linestyle=line, linewidth=1.4, markersize=5, markevery=max(1, len(x) // 8), **own)
    plot.set_xlabel("step", color=COLOURS["muted"], fontsize=9)
    plot.set_ylabel(name, color=COLOURS["muted"], fontsize=9)
    spoken = "; ".join(f"{run}: {y[-1]:.4g} at step {x[-1]:,.0f}" for _, run, x, y in curves)
    return to_svg(figure, f"{name} of {len(curves)} runs: {spoken}")


def bars(
    values: Mapping[str, tuple[float, float | None]], full: float, label: str, colours: Sequence[str] = SERIES,
    axis: str = "",
) -> Markup:  # fmt: skip
    """Horizontal bars with errors.

    values: by name, value and error; the axis, of title `axis`, spans 0 to `full` and all bars.
    """
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
    if axis:
        plot.set_xlabel(axis, color=COLOURS["muted"], fontsize=9)
    return to_svg(figure, label)


def waves(
    x: np.ndarray, background: np.ndarray | None, limits: tuple[float, float], label: str,
    axis: tuple[str, float] = ("position", 1.0),
) -> Markup:  # fmt: skip
    """Channels over time. x, background: (C, T), NaN where hidden; the background is thin and grey.

    axis: title of the horizontal axis, and the step along it.
    """
    figure, plot = axes(3.4, 1.6)
    place = np.arange(x.shape[1]) * axis[1]
    for channel, (colour, line) in enumerate(zip(WAVE_COLOURS[: len(x)], WAVE_LINES, strict=False)):
        if background is not None:
            plot.plot(place, background[channel], color=COLOURS["muted"], linewidth=0.7, alpha=0.7)
        marker = "." if _is_sparse(x[channel]) else None
        plot.plot(place, x[channel], color=colour, linestyle=line, linewidth=1.1, marker=marker, markersize=2)
    plot.set_xlim(0, max(x.shape[1] - 1, 1) * axis[1])
    plot.set_ylim(*limits)
    plot.set_xlabel(axis[0], color=COLOURS["muted"], fontsize=9)
    return to_svg(figure, label)


def scatter(
    points: np.ndarray, group: np.ndarray, ordered: bool, titles: tuple[str, str], label: str
) -> Markup:  # fmt: skip
    """Points (n, 2) with a mark for each group (n,); -1 is no group, drawn as a grey point.

    ordered: whether the groups are ranges of a number. titles: of the two axes.
    """
    figure, plot = axes(4.4, 4.0)
    size = 5.0 if len(points) <= 600 else 3.6
    for number in np.unique(group):
        own = points[group == number]
        plot.plot(own[:, 0], own[:, 1], linestyle="", markersize=size, **mark(int(number), ordered))
    for name, title in zip(("x", "y"), titles, strict=True):
        getattr(plot, f"set_{name}label")(title, color=COLOURS["muted"], fontsize=9)
    return _shorten(to_svg(figure, label))


def mark(group: int, ordered: bool) -> dict[str, Any]:
    """Colour and shape of a group's marks: ten shapes filled, then the same hollow. Ranges of a number have an order of
    their own."""
    if group < 0:
        return {"marker": ".", "color": COLOURS["muted"], "markeredgewidth": 0}
    if ordered:
        return {"marker": RANGE_MARKERS[group], "color": COLOURS[f"range-{group + 1}"], "markeredgewidth": 0}
    colour = COLOURS[f"map-{group % 8 + 1}"]
    hollow = group >= len(MARKERS)
    face = {"markerfacecolor": "none", "markeredgewidth": 0.8} if hollow else {"markeredgewidth": 0}
    return {"marker": MARKERS[group % len(MARKERS)], "color": colour, **face}


def legend_mark(group: int, ordered: bool, name: str) -> Markup:
    """The mark of a group alone."""
    figure = Figure(figsize=(0.2, 0.2))
    plot = figure.add_axes((0, 0, 1, 1))
    plot.set_axis_off()
    plot.plot([0.5], [0.5], linestyle="", markersize=8, **mark(group, ordered))
    plot.set_xlim(0, 1)
    plot.set_ylim(0, 1)
    return to_svg(figure, f"mark of the group {name}")


def _shorten(svg: Markup) -> Markup:
    """The same with less text for each point: coordinates to a tenth, and one style for all marks of a group."""
    mark_use = r'<use xlink:href="([^"]*)" x="([^"]*)" y="([^"]*)" style="([^"]*)"/>'

    def group(match: re.Match[str]) -> str:
        uses = re.findall(mark_use, match[0])
        if len({(href, style) for href, _, _, style in uses}) != 1:
            return match[0]
        href, _, _, style = uses[0]
        marks = "".join(f'<use xlink:href="{href}" x="{float(x):.1f}" y="{float(y):.1f}"/>' for _, x, y, _ in uses)
        return f'<g style="{style}">{marks}</g>'

    return Markup(re.sub(rf"(?:{mark_use}\s*)+", group, svg))


def predictions(true: np.ndarray, predicted: np.ndarray, title: str, label: str) -> Markup:
    """Predicted against true numbers, with the line where both are equal."""
    figure, plot = axes(4.6, 4.2)
    if len(true) > MAX_SCATTER:
        index = np.linspace(0, len(true) - 1, MAX_SCATTER).round().astype(int)
        true, predicted = true[index], predicted[index]
    low, high = finite_range([true, predicted])
    plot.plot([low, high], [low, high], color=COLOURS["muted"], linewidth=1.0, linestyle="--")
    plot.plot(true, predicted, linestyle="", marker="o", markersize=3, color=SERIES[0], markeredgewidth=0, alpha=0.6)
    plot.set_xlabel(f"true {title}", color=COLOURS["muted"], fontsize=9)
    plot.set_ylabel(f"predicted {title}", color=COLOURS["muted"], fontsize=9)
    return _shorten(to_svg(figure, label))


def _is_sparse(values: np.ndarray) -> bool:
    """Whether most finite values have no finite neighbour that a line could join them with."""
    finite = np.isfinite(values)
    return bool((finite[1:] & finite[:-1]).sum() < finite.sum() / 2)


def to_png(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> str:
    """A picture (1 or 3 channels, H, W) as the data URL of a PNG; NaN becomes transparent.

    low, high: values of the darkest and the lightest colour, also (channels, 1, 1).
    """
    finite = np.isfinite(x).all(axis=0)
    scaled = np.clip((np.nan_to_num(x) - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
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
