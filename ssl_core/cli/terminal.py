"""What the command line shows: progress bars, tables, a plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table

from ssl_core.cli.rich_terminal import Terminal as RichTerminal
from ssl_core.compare.grid import Cell
from ssl_core.config.auto import apply_auto
from ssl_core.config.benchmarks import benchmarks
from ssl_core.config.option_table import OptionRow, option_rows, option_rows_of
from ssl_core.config.resolve import ENGINE_SECTIONS, Plugins
from ssl_core.config.schema import RunConfig
from ssl_core.errors import ConfigError, SslxError, nearest
from ssl_core.options import Options, Preset
from ssl_core.plugins import KINDS, Catalogue
from ssl_core.report import Report, score_table
from ssl_core.report.comparison import compare
from ssl_core.report.comparison_tables import rich_tables, write_all
from ssl_core.report.finetune import FinetuneReport, finetune_table
from ssl_core.report.page import duration
from ssl_core.runs.build import build_learner
from ssl_core.runs.data import DataForm, open_splits
from ssl_core.runs.run_dir import find, summary
from ssl_core.training.options import FinetuneOptions
from ssl_core.training.replay import StepReport
from ssl_core.utils.console import Console, Progress

SECTIONS: dict[str, type[Options]] = {**ENGINE_SECTIONS, "finetune": FinetuneOptions}
"""Options of the engine that `sslx show` explains, by section."""
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
    def waiting(self, title: str) -> Iterator[None]:
        """A spinner; without a terminal, a line every ten seconds."""
        if self.console.is_terminal:
            with self.console.status(escape(title)):
                yield
            return
        done, start = threading.Event(), time.monotonic()

        def say() -> None:
            while not done.wait(LINE_SECONDS):
                self.info(f"{title}, {duration(time.monotonic() - start)} so far")

        thread = threading.Thread(target=say, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

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


def show_plan(console: RichTerminal, config: RunConfig, plugins: Plugins, form: DataForm | None = None) -> None:
    """The resolved configuration, the token layout and the number of parameters; form: that the data are read in."""
    opened = open_splits(config, plugins, form)
    config = apply_auto(config, plugins.objective, len(opened.splits["train"]))
    learner = build_learner(config, plugins, opened.fields)
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


def show_step(report: StepReport) -> None:
    """What a repeated step shows."""
    console = RichTerminal(highlight=False, soft_wrap=True)
    console.print(f"step {report.step + 1:,}: loss {', '.join(f'{loss:g}' for loss in report.losses)}, "
                  f"norm of the gradient {report.norm:g}")  # fmt: skip
    console.print(escape(f"first not finite: {report.part}{report.sample_text}"))
    for name, value in report.metrics.items():
        console.print(escape(f"{name} {value:g}"))
    if report.gradients:
        table = Table("parameter", "entries that are not finite", title="gradient", title_justify="left")
        for name, count in report.gradients.items():
            table.add_row(escape(name), f"{count:,}")
        console.print(table)


def show_finetuning(report: FinetuneReport | None) -> None:
    """The scores of a fine-tuning."""
    if report is not None:
        RichTerminal(highlight=False, soft_wrap=True).print(finetune_table(report))


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
                console.print(_options_table(option_rows_of(entry)))
    if deviations:
        console.print(f"[bold]deviations of preset {escape(name)} from its source[/bold]")
        for line in deviations:
            console.print(Padding(escape(f"- {line}"), (0, 0, 0, 2)))
    if name in SECTIONS:
        found = True
        console.print(_options_table(option_rows(name, SECTIONS[name])))
    if not found:
        known = {name for kind in KINDS for entry in catalogue.entries(kind) for name in entry.names}
        known |= set(SECTIONS)
        raise ConfigError(f"nothing is called '{name}'; {nearest(name, known)}")


def _options_table(rows: list[OptionRow]) -> Table:
    table = Table(Column("option", overflow="fold"), "type", "default", "meaning")
    for row in rows:
        table.add_row(*map(escape, row))
    if not rows:
        table.add_row("none", "", "", "")
    return table


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
