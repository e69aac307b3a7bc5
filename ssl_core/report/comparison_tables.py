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
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ssl_core.report.comparison import Column, Comparison, as_records
from ssl_core.report.page import style
from ssl_core.report.schema import save
from ssl_core.report.scores import FEATURES, METRICS, PERCENT

if TYPE_CHECKING:
    from markupsafe import Markup

LEGEND = (
    "Mean ± standard deviation over seeds. In brackets p of a paired t-test over seeds against the better of random "
    "init and raw input."
)


@dataclass(frozen=True)
class Sheet:
    """A table of text. bold: the cells to stress; rule: the row above which a line is drawn."""

    title: str
    header: list[str]
    body: list[list[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    rule: int | None = None

    def turned(self, corner: str) -> Sheet:
        """Columns as rows."""
        _, *names = self.header
        header = [corner, *(line[0] for line in self.body)]
        body = [[name, *(line[at] for line in self.body)] for at, name in enumerate(names, start=1)]
        return Sheet(self.title, header, body, frozenset((column - 1, row + 1) for row, column in self.bold))


def number(value: float, deviation: float | None, column: Column) -> str:
    """A mean and a deviation: percents with one digit, the rest with three."""
    digits = 1 if column.metric in PERCENT else 3
    text = f"{value * column.scale:.{digits}f}"
    return text if deviation is None else f"{text} ± {deviation * column.scale:.{digits}f}"


def score_sheets(comparison: Comparison) -> list[Sheet]:
    """One table for each probe: methods by data, then the untrained rows; data by methods where that is narrower."""
    sheets = []
    for probe in dict.fromkeys(column.probe for column in comparison.columns):
        columns = [column for column in comparison.columns if column.probe == probe]
        ranks = comparison.ranks(probe) if len(columns) > 1 else {}
        header = ["method", *(_head(column) for column in columns), *(["mean rank"] if ranks else [])]
        body, bold = [], set()
        for at, row in enumerate(comparison.rows):
            line = [row]
            for column in columns:
                if comparison.best(column) == row:
                    bold.add((at, len(line)))
                line.append(_cell(comparison, row, column))
            if ranks:
                line.append(f"{ranks[row]:.2f}" if row in ranks else "-")
            body.append(line)
        title = f"{'kNN' if probe == 'knn' else probe} probe"
        sheet = Sheet(title, header, body, frozenset(bold), len(comparison.methods))
        sheets.append(sheet.turned("data") if len(columns) > len(body) else sheet)
    return sheets


def _head(column: Column) -> str:
    unit = " %" if column.metric in PERCENT else ""
    return f"{column.data}: {column.task}, {METRICS.get(column.metric, column.metric)}{unit}"


def _cell(comparison: Comparison, row: str, column: Column) -> str:
    values = comparison.values.get((row, column))
    if values is None:
        return "-"
    text = number(values.mean, values.deviation, column)
    baseline = comparison.baseline(column)
    if baseline is None or row not in comparison.methods:
        return text
    _, p, _ = comparison.against(row, baseline, column)
    return text if p is None else f"{text} ({show_p(p)})"


def show_p(p: float) -> str:
    """ "p=0.03"."""
    return "p<0.001" if p < 0.001 else f"p={p:.2g}"


def cost_sheet(comparison: Comparison) -> Sheet:
    """What each method's runs cost on each data set."""
    header = ["method", "data", "runs", "steps", "training s", "in all s", "samples/s", "memory GiB"]
    body = [
        [
            method, data, str(cost.runs), f"{cost.steps:,.0f}",
            f"{cost.train_seconds:,.1f}", f"{cost.wall_seconds:,.1f}",
            f"{cost.samples_per_second:,.0f}", f"{cost.peak_memory_bytes / 2**30:.2f}",
        ]
        for (method, data), cost in comparison.costs.items()
    ]  # fmt: skip
    return Sheet("Cost of a run, mean over seeds", header, body)


def verdicts(comparison: Comparison) -> list[str]:
    """For each column the best method, by how much, and how sure that is."""
    lines = []
    for column in comparison.columns:
        leader, second, baseline = (
            comparison.leader(column), comparison.runner_up(column), comparison.baseline(column),
        )  # fmt: skip
        if leader is None:
            continue
        parts = []
        for name, other in (("", second), ("untrained: ", baseline)):
            if other is None:
                continue
            gain, p, seeds = comparison.against(leader, other, column)
            if math.isnan(gain):
                continue
            digits = 1 if column.metric in PERCENT else 3
            sure = f", paired t-test over {seeds} seeds {show_p(p)}" if p is not None else f", {seeds} common seeds"
            parts.append(f"{gain * column.scale:+.{digits}f} to {name}{other}{sure}")
        lines.append(f"{column.title}: best method {leader}" + (f" ({'; '.join(parts)})" if parts else ""))
    return lines


def rich_tables(comparison: Comparison) -> list[Table]:
    """For the terminal."""
    made = []
    sheets = [*score_sheets(comparison), cost_sheet(comparison)]
    for sheet in sheets:
        last = sheet is sheets[-1]
        remarks = [*verdicts(comparison), *comparison.notes, LEGEND] if last else []
        table = Table(title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
                      caption=escape("\n".join(remarks)) or None, caption_justify="left")  # fmt: skip
        for place, name in enumerate(sheet.header):
            table.add_column(escape(name), justify="left" if place == 0 else "right")
        for at, line in enumerate(sheet.body):
            table.add_row(*(Text(cell, "bold" if (at, i) in sheet.bold else "") for i, cell in enumerate(line)))
        made.append(table)
    return made


def markdown(comparison: Comparison, failures: Sequence[str] = ()) -> str:
    """GitHub's tables."""
    parts = []
    for sheet in (*score_sheets(comparison), cost_sheet(comparison)):
        lines = [f"**{sheet.title}**", "", _pipe(sheet.header), "|" + "---|" * len(sheet.header)]
        lines += [
            _pipe([f"**{cell}**" if (at, i) in sheet.bold else cell for i, cell in enumerate(line)])
            for at, line in enumerate(sheet.body)
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


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def csv_text(comparison: Comparison) -> str:
    """One line for each method, task and probe."""
    records = as_records(comparison)
    out = io.StringIO()
    keys = [key for key in records[0] if key != "continuous"] if records else ["data", "method"]
    writer = csv.DictWriter(out, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def latex(comparison: Comparison) -> str:
    """Tables with booktabs' rules."""
    parts = ["% needs \\usepackage{booktabs}"]
    for sheet in (*score_sheets(comparison), cost_sheet(comparison)):
        columns = "l" + "r" * (len(sheet.header) - 1)
        lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _ampersands(sheet.header), "\\midrule"]
        for at, line in enumerate(sheet.body):
            if at == sheet.rule:
                lines.append("\\midrule")
            lines.append(_ampersands(line, {i for i in range(len(line)) if (at, i) in sheet.bold}))
        parts.append("\n".join([f"% {sheet.title}", *lines, "\\bottomrule", "\\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


TEX = str.maketrans(
    {"\\": r"\textbackslash{}", "±": r"$\pm$", "<": "$<$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {c: f"\\{c}" for c in "%_&#${}"}
)


def _ampersands(cells: Sequence[str], bold: Iterable[int] = ()) -> str:
    kept = set(bold)
    made = [cell.translate(TEX) for cell in cells]
    return " & ".join(f"\\textbf{{{cell}}}" if i in kept else cell for i, cell in enumerate(made)) + r" \\"


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
        sheets=[*score_sheets(comparison), cost_sheet(comparison)],
        verdicts=verdicts(comparison),
        notes=[*comparison.notes, *failures],
        legend=LEGEND,
        devices=comparison.devices,
        bars=_bars(comparison),
        curves=_races(comparison),
    )


def _bars(comparison: Comparison) -> list[tuple[str, Markup]]:
    from ssl_core.report import plots

    made = []
    for column in comparison.columns:
        values = {
            row: (v.mean * column.scale, None if v.deviation is None else v.deviation * column.scale)
            for row in comparison.rows
            if (v := comparison.values.get((row, column))) is not None
        }
        spoken = ", ".join(f"{row} {value:.3g}" for row, (value, _) in values.items())
        own = dict(zip(FEATURES.values(), plots.SERIES, strict=False))
        colours = [own.get(row, plots.SERIES[0]) for row in values]
        made.append((column.title, plots.bars(values, column.scale, f"{column.title}: {spoken}", colours)))
    return made


def _races(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Scores against steps and seconds, where the runs were probed on the way."""
    import numpy as np

    from ssl_core.report import plots

    made = []
    for column in comparison.columns:
        for unit in ("steps", "seconds"):
            drawn = {}
            for method in comparison.methods:
                points = comparison.curves.get((method, column), ())
                if len(points) > 1:
                    x = np.array([point[0] if unit == "steps" else point[1] for point in points])
                    drawn[method] = x, np.array([point[2] * column.scale for point in points])
            if drawn:
                levels = {
                    row: comparison.values[row, column].mean * column.scale
                    for row in comparison.rows[len(comparison.methods) :]
                    if (row, column) in comparison.values
                }
                made.append((f"{column.title}, over {unit}", plots.race(drawn, levels, unit)))
    return made


def write_all(comparison: Comparison, folder: Path, title: str, failures: Sequence[str] = ()) -> list[Path]:
    """comparison.md, .csv, .tex, .html and .json, each atomically. Errors: SslxError if one cannot be written."""
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
