"""A comparison as tables: for the terminal, Markdown, CSV, LaTeX, a web page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ssl_core.report.comparison import Column, Comparison, as_records
from ssl_core.report.page import style
from ssl_core.report.schema import save
from ssl_core.report.scores import FEATURES, LOWER, PERCENT, metric_title

if TYPE_CHECKING:
    from markupsafe import Markup

LEGEND = (
    "Mean ± standard deviation over seeds. In brackets p of a paired t-test over seeds against the best of random "
    f"init, raw input and, if measured, classical features. {LOWER}: smaller is better."
)


@dataclass(frozen=True)
class TextTable:
    """A table of text. bold: (row, column) of best values; separator_row: the row above which a line is drawn."""

    title: str
    header: list[str]
    body: list[list[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    separator_row: int | None = None

    def transpose(self, corner: str) -> TextTable:
        """Columns as rows; `corner` is the header of the first column."""
        _, *names = self.header
        header = [corner, *(cells[0] for cells in self.body)]
        body = [[name, *(cells[place] for cells in self.body)] for place, name in enumerate(names, start=1)]
        return TextTable(self.title, header, body, frozenset((column - 1, row + 1) for row, column in self.bold))


def format_mean(value: float, deviation: float | None, column: Column) -> str:
    """A mean with its deviation: one digit for percents, three for other metrics."""
    digits = 1 if column.metric in PERCENT else 3
    text = f"{value * column.scale:.{digits}f}"
    return text if deviation is None else f"{text} ± {deviation * column.scale:.{digits}f}"


def score_tables(comparison: Comparison) -> list[TextTable]:
    """One table for each probe and read-out: methods by data, then the untrained rows; data by methods if narrower."""
    tables = []
    for probe, features in dict.fromkeys((column.probe, column.features) for column in comparison.columns):
        columns = [column for column in comparison.columns if (column.probe, column.features) == (probe, features)]
        ranks = comparison.ranks(probe, features) if len(columns) > 1 else {}
        header = ["method", *(_column_title(column) for column in columns), *(["mean rank"] if ranks else [])]
        body, bold = [], set()
        for number, row in enumerate(comparison.rows):
            cells = [row]
            for column in columns:
                if comparison.best(column) == row:
                    bold.add((number, len(cells)))
                cells.append(_mean_text(comparison, row, column))
            if ranks:
                cells.append(f"{ranks[row]:.2f}" if row in ranks else "-")
            body.append(cells)
        title = f"{'kNN' if probe == 'knn' else probe} probe, read-out {features}"
        table = TextTable(title, header, body, frozenset(bold), len(comparison.methods))
        tables.append(table.transpose("data") if len(columns) > len(body) else table)
    return tables


def _column_title(column: Column) -> str:
    return f"{column.label}, {metric_title(column.metric, column.higher_is_better)}"


def _mean_text(comparison: Comparison, row: str, column: Column) -> str:
    values = comparison.values.get((row, column))
    if values is None:
        return "-"
    text = format_mean(values.mean, values.deviation, column)
    baseline = comparison.baseline(column)
    if baseline is None or row not in comparison.methods:
        return text
    _, p, _ = comparison.gain(row, baseline, column)
    return text if p is None else f"{text} ({format_p(p)})"


def format_p(p: float) -> str:
    """ "p=0.03"."""
    return "p<0.001" if p < 0.001 else f"p={p:.2g}"


def cost_table(comparison: Comparison) -> TextTable:
    """The cost of each method's runs on each data set."""
    header = ["method", "data", "runs", "steps", "training s", "total s", "samples/s", "memory GiB"]
    body = [
        [
            method, data, str(cost.runs), f"{cost.steps:,.0f}",
            f"{cost.train_seconds:,.1f}", f"{cost.wall_seconds:,.1f}",
            f"{cost.samples_per_second:,.0f}", f"{cost.peak_memory_bytes / 2**30:.2f}",
        ]
        for (method, data), cost in comparison.costs.items()
    ]  # fmt: skip
    return TextTable("Cost of a run, mean over seeds", header, body)


def verdicts(comparison: Comparison) -> list[str]:
    """A line for each column: the best method, its gains over the second best and the baseline, and their p."""
    lines = []
    for column in comparison.columns:
        best, second, baseline = (
            comparison.best_method(column), comparison.runner_up(column), comparison.baseline(column),
        )  # fmt: skip
        if best is None:
            continue
        parts = []
        for prefix, other in (("", second), ("untrained: ", baseline)):
            if other is None:
                continue
            gain, p, seeds = comparison.gain(best, other, column)
            if math.isnan(gain):
                continue
            digits = 1 if column.metric in PERCENT else 3
            test = f", paired t-test over {seeds} seeds {format_p(p)}" if p is not None else f", {seeds} common seeds"
            parts.append(f"{gain * column.scale:+.{digits}f} to {prefix}{other}{test}")
        lines.append(f"{column.title}: best method {best}" + (f" ({'; '.join(parts)})" if parts else ""))
    return lines


def rich_tables(comparison: Comparison) -> list[Table]:
    """Tables for the terminal."""
    tables = []
    texts = [*score_tables(comparison), cost_table(comparison)]
    for text_table in texts:
        last = text_table is texts[-1]
        remarks = [*verdicts(comparison), *comparison.notes, LEGEND] if last else []
        table = Table(title=text_table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
                      caption=escape("\n".join(remarks)) or None, caption_justify="left")  # fmt: skip
        for place, name in enumerate(text_table.header):
            table.add_column(escape(name), justify="left" if place == 0 else "right")
        for row, cells in enumerate(text_table.body):
            table.add_row(
                *(Text(cell, "bold" if (row, place) in text_table.bold else "") for place, cell in enumerate(cells))
            )
        tables.append(table)
    return tables


def markdown(comparison: Comparison, failures: Sequence[str] = ()) -> str:
    """Tables in GitHub's Markdown."""
    parts = []
    for table in (*score_tables(comparison), cost_table(comparison)):
        lines = [f"**{table.title}**", "", _markdown_row(table.header), "|" + "---|" * len(table.header)]
        lines += [
            _markdown_row([f"**{cell}**" if (row, place) in table.bold else cell for place, cell in enumerate(cells)])
            for row, cells in enumerate(table.body)
        ]
        parts.append("\n".join(lines))
    remarks = [
        *verdicts(comparison),
        *comparison.notes,
        *failures,
        f"Measured on {'; '.join(comparison.devices)}.",
        LEGEND,
    ]
    parts.append("\n".join(f"- {line}" for line in remarks))
    return "\n\n".join(parts) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def csv_text(comparison: Comparison) -> str:
    """One line for each method, task and probe."""
    records = as_records(comparison)
    out = io.StringIO()
    keys = [key for key in records[0] if key != "values"] if records else ["data", "method"]
    writer = csv.DictWriter(out, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in record.items()} for record in records)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula: names may come from others."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def latex(comparison: Comparison) -> str:
    """Tables with the rules of booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in (*score_tables(comparison), cost_table(comparison)):
        columns = "l" + "r" * (len(table.header) - 1)
        lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _latex_row(table.header), "\\midrule"]
        for row, cells in enumerate(table.body):
            if row == table.separator_row:
                lines.append("\\midrule")
            lines.append(_latex_row(cells, {place for place in range(len(cells)) if (row, place) in table.bold}))
        parts.append(
            "\n".join([f"% {' '.join(table.title.translate(TEX).split())}", *lines, "\\bottomrule", "\\end{tabular}"])
        )
    return "\n\n".join(parts) + "\n"


TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "±": r"$\pm$", "<": "$<$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        LOWER: r"$\downarrow$", "²": "$^2$",
    }
    | {c: f"\\{c}" for c in "%_&#${}"}
)  # fmt: skip


def _latex_row(cells: Sequence[str], bold: Iterable[int] = ()) -> str:
    bold = set(bold)
    texts = [" ".join(cell.translate(TEX).split()) for cell in cells]
    return " & ".join(f"\\textbf{{{text}}}" if place in bold else text for place, text in enumerate(texts)) + r" \\"


def html(comparison: Comparison, title: str, failures: Sequence[str] = ()) -> str:
    """A page that opens offline."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = (files("ssl_core.report") / "comparison.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        style=style(),
        title=title,
        tables=[*score_tables(comparison), cost_table(comparison)],
        verdicts=verdicts(comparison),
        notes=[*comparison.notes, *failures],
        legend=LEGEND,
        devices=comparison.devices,
        bars=_bars(comparison),
        curves=_progress_plots(comparison),
    )


def _bars(comparison: Comparison) -> list[tuple[str, Markup]]:
    from ssl_core.report import plots

    titled = []
    for column in comparison.columns:
        values = {
            row: (v.mean * column.scale, None if v.deviation is None else v.deviation * column.scale)
            for row in comparison.rows
            if (v := comparison.values.get((row, column))) is not None
        }
        spoken = ", ".join(f"{row} {value:.3g}" for row, (value, _) in values.items())
        feature_colours = dict(zip(FEATURES.values(), plots.SERIES, strict=False))
        colours = [feature_colours.get(row, plots.SERIES[0]) for row in values]
        full = column.scale if column.higher_is_better else 0.0
        titled.append((column.title, plots.bars(values, full, f"{column.title}: {spoken}", colours)))
    return titled


def _progress_plots(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Scores against steps and seconds, where the runs were probed during training."""
    import numpy as np

    from ssl_core.report import plots

    titled = []
    for column in comparison.columns:
        for unit in ("steps", "seconds"):
            lines = {}
            for method in comparison.methods:
                points = comparison.curves.get((method, column), ())
                if len(points) > 1:
                    x = np.array([point[0] if unit == "steps" else point[1] for point in points])
                    lines[method] = x, np.array([point[2] * column.scale for point in points])
            if lines:
                levels = {
                    row: comparison.values[row, column].mean * column.scale
                    for row in comparison.rows[len(comparison.methods) :]
                    if (row, column) in comparison.values
                }
                titled.append((f"{column.title}, over {unit}", plots.method_curves(lines, levels, unit)))
    return titled


def write_all(comparison: Comparison, folder: Path, title: str, failures: Sequence[str] = ()) -> list[Path]:
    """Write comparison.md, .csv, .tex, .html and .json, each atomically.

    Raises:
        SslxError: If one cannot be written.
    """
    texts = {
        "md": markdown(comparison, failures),
        "csv": csv_text(comparison),
        "tex": latex(comparison),
        "html": html(comparison, title, failures),
        "json": json.dumps({"scores": as_records(comparison), "failures": list(failures)}, indent=1) + "\n",
    }
    paths = []
    for ending, text in texts.items():
        path = folder / f"comparison.{ending}"
        save(path, text)
        paths.append(path)
    return paths
