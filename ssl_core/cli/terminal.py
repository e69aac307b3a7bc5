"""What the command line shows: progress bars, tables, a plan."""

from __future__ import annotations

import time
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from rich.console import Console as RichTerminal
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table

from ssl_core.compare.grid import Cell
from ssl_core.config.benchmarks import benchmarks
from ssl_core.config.resolve import ENGINE_SECTIONS, Plugins
from ssl_core.config.schema import RunConfig
from ssl_core.errors import ConfigError, SslxError, nearest
from ssl_core.options import Options, Preset
from ssl_core.plugins import KINDS, Catalogue
from ssl_core.report import Report, score_table
from ssl_core.report.comparison import compare
from ssl_core.report.comparison_tables import rich_tables, write_all
from ssl_core.report.page import duration
from ssl_core.runs.build import build_learner
from ssl_core.runs.data import open_splits
from ssl_core.runs.run_dir import find, summary
from ssl_core.utils.console import Console, Progress

LINE_SECONDS = 10.0
"""Seconds between two lines of progress where there is no terminal."""


class _Bar(Progress):
    def __init__(self, bars: Bars, task: Any) -> None:
        self.bars, self.task = bars, task

    def advance(self, by: int = 1, **figures: float) -> None:
        if figures:
            self.bars.update(self.task, advance=by, figures=_figures_text(figures))
        else:
            self.bars.update(self.task, advance=by)


class _Lines(Progress):
    """A line every `LINE_SECONDS`, and one at the end."""

    def __init__(self, console: Console, title: str, total: int, done: int) -> None:
        self.console, self.title, self.total, self.done, self.first = console, title, total, done, done
        self.start = self.last = time.monotonic()
        self.figures = ""

    def advance(self, by: int = 1, **figures: float) -> None:
        self.done += by
        self.figures = _figures_text(figures) if figures else self.figures
        now = time.monotonic()
        if now - self.last >= LINE_SECONDS and self.done < self.total:
            self.last = now
            left = (now - self.start) / max(1, self.done - self.first) * (self.total - self.done)
            self.show(f"about {duration(left)} left")

    def show(self, about: str) -> None:
        """Print a line."""
        figures = f"  {self.figures}" if self.figures else ""
        self.console.info(f"{self.title} {self.done:,} of {self.total:,}, {about}{figures}")


def _figures_text(figures: Mapping[str, float]) -> str:
    short = {name.removeprefix("train/").replace("samples_per_second", "samples/s"): v for name, v in figures.items()}
    return "  ".join(f"{name} {value:.4g}" for name, value in short.items())


class RichConsole(Console):
    """Lines and bars on a terminal; without one, lines only."""

    def __init__(self) -> None:
        self.console = RichTerminal(stderr=True, highlight=False, soft_wrap=True)

    def info(self, text: str) -> None:
        """Print a line."""
        self.console.print(escape(text))

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Progress]:
        """A bar with the time left; without a terminal, a line every ten seconds."""
        if not self.console.is_terminal:
            lines = _Lines(self, title, total, done)
            yield lines
            lines.show(f"{duration(time.monotonic() - lines.start)}")
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
        )  # fmt: skip
        with Bars(*columns, console=self.console) as bars:
            yield _Bar(bars, bars.add_task(title, total=total, completed=done, figures=""))


def show_plan(console: RichTerminal, config: RunConfig, plugins: Plugins) -> None:
    """The resolved configuration, the token layout and the number of parameters."""
    learner = build_learner(config, plugins, open_splits(config, plugins).fields)
    out = RichTerminal(highlight=False, soft_wrap=True)
    out.print_json(config.model_dump_json(), highlight=False)
    table = Table("segment", "grid", "tokens", "target", "size", title="token layout")
    for segment in learner.tokenizer.layout.segments:
        grid = " x ".join(map(str, segment.grid))
        table.add_row(segment.name, grid, str(segment.length), segment.target, str(segment.size))
    out.print(table)
    table = Table("part", "parameters", title="trainable parameters")
    for name, count in learner.parameter_counts().items():
        table.add_row(name, f"{count:,}")
    out.print(table)


def show_report(report: Report, folder: Path) -> None:
    """The scores, and where everything was written."""
    console = RichTerminal(highlight=False, soft_wrap=True)
    if report.scores:
        console.print(score_table(report))
    console.print(
        f"{report.steps:,} steps, {report.samples_per_second:.0f} samples/s, {report.wall_seconds:.0f} s in all, "
        f"{report.peak_memory_bytes / 2**30:.1f} GiB at most"
    )
    console.print(escape(f"report: {folder / 'report.html'}"))


def show_cells(cells: Iterable[Cell], done: set[str], folder: Path) -> None:
    """The runs of a grid and which of them are finished."""
    table = Table("method", "data", "seed", "state", title=f"runs in {folder}", title_justify="left")
    for cell in cells:
        table.add_row(escape(cell.method), escape(cell.data), str(cell.seed), "done" if cell.name in done else "to do")
    RichTerminal(highlight=False).print(table)


def show_comparison(reports: list[Report], failures: list[str], folder: Path, title: str) -> None:
    """The tables of a comparison, and where they were written."""
    console = RichTerminal(highlight=False, soft_wrap=True)
    made = compare(reports)
    for table in rich_tables(made):
        console.print(table)
    for failure in failures:
        console.print(escape(failure))
    folder.mkdir(parents=True, exist_ok=True)
    paths = write_all(made, folder, title, failures)
    console.print(escape(f"written: {', '.join(str(path) for path in paths)}"))


def show_runs(root: Path) -> None:
    """The run folders below a folder."""
    rows = []
    for folder in find(root):
        try:
            rows.append(summary(folder))
        except SslxError as error:
            rows.append({"run": str(folder), "state": str(error)})
    if not rows:
        raise ConfigError(f"no runs in {root}; name another folder with --root")
    table = Table("run", "objective", "data", "seed", "steps", "state", title="runs", title_justify="left")
    for row in rows:
        table.add_row(*(escape(row.get(str(column.header), "")) for column in table.columns))
    RichTerminal(highlight=False).print(table)


def show_options(catalogue: Catalogue, name: str) -> None:
    """Every option of each thing called `name`: type, default, meaning."""
    console = RichTerminal(highlight=False)
    domains = benchmarks(entry.value for entry in catalogue.presets).get(name, {})
    if domains:
        console.print(_domains_table(name, domains.values()))
    found = False
    deviations: dict[str, None] = {}
    for kind in KINDS:
        for entry in catalogue.entries(kind):
            if not entry.called(name):
                continue
            found = True
            if kind == "preset":
                console.print(_preset_table(entry.value))
                deviations |= dict.fromkeys(entry.value.deviations)
            else:
                console.print(f"[bold]{kind} {escape(entry.full_name)}[/bold]  {escape(entry.summary)}")
                console.print(f"from {escape(str(entry.origin))}")
                section = f"evaluate.probe_options.{entry.name}" if kind == "probe" else kind
                console.print(_options_table(section, entry.value.Options))
    if deviations:
        console.print(f"[bold]deviations of preset {escape(name)} from its source[/bold]")
        for line in deviations:
            console.print(Padding(escape(f"- {line}"), (0, 0, 0, 2)))
    if name in ENGINE_SECTIONS:
        found = True
        console.print(_options_table(name, ENGINE_SECTIONS[name]))
    if not found:
        known = {name for kind in KINDS for entry in catalogue.entries(kind) for name in entry.names}
        known |= set(ENGINE_SECTIONS)
        raise ConfigError(f"nothing is called '{name}'; {nearest(name, known)}")


def _options_table(section: str, options: type[Options]) -> Table:
    table = Table(Column("option", overflow="fold"), "type", "default", "meaning")
    for key, info in options.model_fields.items():
        default = "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
        kind = type_name(info.annotation) + "".join(f", {limit}" for limit in _limits(info.metadata))
        table.add_row(escape(f"{section}.{key}"), escape(kind), escape(default), escape(info.description or ""))
    if not options.model_fields:
        table.add_row("none", "", "", "")
    return table


def _limits(metadata: list[Any]) -> Iterator[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    for part in metadata:
        for attribute, sign in signs.items():
            if getattr(part, attribute, None) is not None:
                yield f"{sign} {getattr(part, attribute)}"


def type_name(annotation: Any) -> str:
    """A type as a user would write it: `int`, `near | hidden`, `int or none`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else type_name(part) for part in arguments)
    if origin is tuple:
        inner = [type_name(part) for part in arguments if part is not ...]
        return f"list of {inner[0]}" if ... in arguments else f"[{', '.join(inner)}]"
    return getattr(annotation, "__name__", str(annotation))


def _domains_table(benchmark: str, domains: Iterable[Preset]) -> Table:
    table = Table("domain", "pretraining", "transfer", title=f"benchmark {benchmark}", title_justify="left")
    for one in domains:
        table.add_row(*map(escape, (str(one.domain), f"{one.modality}/{one.dataset}", ", ".join(one.transfer))))
    return table


def _preset_table(preset: Any) -> Table:
    parts = (preset.objective, preset.modality, preset.dataset)
    scope = ", ".join(part for part in parts if part) or "any run"
    table = Table("option", "value", title=f"preset {preset.name} for {scope}: {preset.source}", title_justify="left")
    for path, value in preset.values.items():
        table.add_row(escape(path), escape(repr(value)))
    return table
