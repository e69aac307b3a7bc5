"""report.html: one file that opens offline, with everything in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.report.schema import Report, save
from ssl_core.report.scores import FEATURES, LEGEND, PERCENT, Line, lines, show, task_title, verdict

if TYPE_CHECKING:
    from markupsafe import Markup

    from ssl_core.report.reconstruction import Rebuilt

HTML = "report.html"
ASIDE = ("train/lr", "train/grad_norm", "train/samples_per_second")


def write_html(
    report: Report, folder: Path, pictures: Sequence[Rebuilt], metrics: Sequence[Mapping[str, float]]
) -> None:
    """Write report.html atomically. It loads nothing from anywhere, runs no script and follows the reader's colours.

    pictures: what the objective rebuilt, by segment; may be empty. metrics: the lines of metrics.jsonl.
    Errors: SslxError if it cannot be written.
    """
    save(folder / HTML, page(report, pictures, metrics))


def page(report: Report, pictures: Sequence[Rebuilt], metrics: Sequence[Mapping[str, float]]) -> str:
    """The web page as text."""
    import jinja2  # with matplotlib half a second, needed only here

    from ssl_core.report.pictures import COLUMNS, panel

    made = [panel(rebuilt) for rebuilt in pictures]
    gathered = lines(report.scores)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = (files("ssl_core.report") / "page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        style=style(),
        report=report,
        title=f"{report.objective} on {report.modality}/{report.dataset}",
        facts=facts(report),
        headline=headline(gathered, report),
        features=FEATURES,
        legend=LEGEND,
        rows=[score_row(line, report) for line in gathered],
        remarks=[remark for line in gathered for remark in line.remarks],
        curves=list(curves(metrics)),
        progress=list(progress(report)),
        columns=COLUMNS,
        panels=[one for one in made if one is not None],
        used=used(report),
        settings=list(flat(report.config)),
    )


def style() -> Markup:
    """The style sheet of every page."""
    from markupsafe import Markup

    return Markup((files("ssl_core.report") / "style.css").read_text(encoding="utf-8"))


def facts(report: Report) -> list[tuple[str, str]]:
    """The run in a few figures."""
    loss = "-"
    if report.loss_first is not None and report.loss_last is not None:
        loss = f"{report.loss_first:.4g} to {report.loss_last:.4g}"
    layout = " + ".join(f"{math.prod(row.grid)} {row.name} ({row.target} of {row.size})" for row in report.layout)
    return [
        ("Steps", f"{report.steps:,}"),
        ("Effective rank (RankMe)", _ranks(report)),
        ("Loss", loss),
        ("Time in all", duration(report.wall_seconds)),
        ("Training time", duration(report.pretrain_seconds)),
        ("Speed", f"{report.samples_per_second:,.0f} samples/s"),
        ("Peak memory", f"{report.peak_memory_bytes / 2**30:.2f} GiB"),
        ("Trainable parameters", ", ".join(f"{part} {count:,}" for part, count in report.parameters.items())),
        ("Tokens", layout),
        ("Masking", report.masking or "none"),
        ("Seed", str(report.seed)),
        ("Precision, attention", ", ".join(part for part in (report.precision, report.attention) if part)),
        ("Device", report.device),
    ]


def _ranks(report: Report) -> str:
    trained, fresh = (report.health.get(kind, {}).get("rankme") for kind in ("trained", "random_init"))
    return "-" if trained is None else f"{trained:.1f}" + ("" if fresh is None else f", untrained {fresh:.1f}")


def duration(seconds: float) -> str:
    """Seconds as people say them: "45 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def headline(gathered: Sequence[Line], report: Report) -> list[str]:
    """The result of the first probe of each task in one sentence."""
    first: dict[tuple[str, str], Line] = {}
    for line in gathered:
        first.setdefault((line.dataset, line.task), line)
    return [sentence(line, task_title(line, report)) for line in first.values() if line.gain is not None]


def sentence(line: Line, title: str | None = None) -> str:
    """One line of the table in words. title: of the task, if not its own."""
    unit = " %" if line.metric in PERCENT else ""
    metric = line.metric_title.removesuffix(" %")
    trained, *others = (show(line.metric, line.cells.get(kind)).split()[0] for kind in FEATURES)
    against = " and ".join(
        f"{value}{unit} from {what}"
        for kind, value, what in zip(list(FEATURES)[1:], others, ("a random encoder's", "the raw input"), strict=True)
        if kind in line.cells
    )
    ahead = f": the {FEATURES[line.baseline]} is ahead" if line.baseline else ""
    meaning = {"better": "", "worse": ahead, "": ": no clear difference"}[verdict(line)]
    gain = show(line.metric, line.gain, sign=True)
    return (
        f"{title or line.task}, {line.probe_title} probe: {metric} {trained}{unit} from the trained features, "
        f"{against}. "
        f"Gain over the better of the two: {gain}{' points' if unit else ''}{meaning}."
    )


def score_row(line: Line, report: Report) -> dict[str, Any]:
    """One line of the score table, and its bars."""
    from ssl_core.report import plots

    scale = 100 if line.metric in PERCENT else 1
    values = {
        FEATURES[kind]: (cell.value * scale, None if cell.standard_error is None else cell.standard_error * scale)
        for kind in FEATURES
        if (cell := line.cells.get(kind)) is not None and cell.value is not None
    }
    task = task_title(line, report)
    spoken = ", ".join(
        f"{name} {show(line.metric, line.cells[kind])}" for kind, name in FEATURES.items() if name in values
    )
    label = f"{task}, {line.probe_title} probe, {line.metric_title}: {spoken}"
    return {
        "line": line,
        "task": task,
        "cells": [show(line.metric, line.cells.get(kind)) for kind in FEATURES],
        "gain": show(line.metric, line.gain, sign=True),
        "verdict": verdict(line),
        "bars": plots.bars(values, float(scale), label) if values else None,
    }


def curves(metrics: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, bool, Markup]]:
    """Name, whether it is the loss itself, and plot of each training metric: loss, its parts, the rest."""
    import numpy as np

    from ssl_core.report import plots

    names = dict.fromkeys(
        name for line in metrics for name in line if name.startswith("train/") and name != "train/seconds"
    )
    for name in sorted(names, key=lambda name: (name != "train/loss", name in ASIDE)):
        known = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
        points = np.array([point for point in known if math.isfinite(point[1])], dtype=float)
        if len(points):
            short = name.removeprefix("train/")
            yield short, name == "train/loss", plots.curve(short, points[:, 0], points[:, 1], name == "train/loss")


def progress(report: Report) -> Iterator[tuple[str, Markup]]:
    """Title and plot of each score against steps and against seconds, then of each label-free figure."""
    import numpy as np

    from ssl_core.report import plots

    if len(report.curve) < 2:
        return
    trained_on = f"{report.modality}/{report.dataset}"
    lines_ = {f"{line.probe}_{line.metric}": line for line in lines(report.scores) if line.dataset == trained_on}
    for name in dict.fromkeys(name for point in report.curve for name in point.scores):
        line = lines_.get(name)
        if line is None:
            continue
        scale = 100 if line.metric in PERCENT else 1
        levels = {
            FEATURES[kind]: cell.value * scale
            for kind, cell in line.cells.items()
            if kind != "trained" and cell.value is not None
        }
        points = [point for point in report.curve if name in point.scores]
        values = np.array([point.scores[name] * scale for point in points])
        for unit, x in (("steps", [p.step for p in points]), ("seconds", [p.seconds for p in points])):
            title = f"{line.probe_title} probe, {line.metric_title}, over {unit} of training"
            yield title, plots.progress(title, np.array(x, dtype=float), values, levels, unit)
    steps = np.array([point.step for point in report.curve], dtype=float)
    for name in report.curve[-1].health:
        values = np.array([point.health.get(name, math.nan) for point in report.curve])
        title = {"rankme": "RankMe (effective rank of the features)"}.get(name, name.replace("_", " "))
        before = report.health.get("random_init", {}).get(name)
        yield title, plots.progress(title, steps, values, {} if before is None else {"random init": before}, "steps")


def used(report: Report) -> list[tuple[str, str, str]]:
    """Kind, name and origin of each plugin that the run used."""
    wanted = {
        "objectives": report.objective,
        "tokenizers": report.tokenizer,
        "datasets": f"{report.modality}/{report.dataset}",
        "maskings": report.masking,
    }
    return [
        (kind.removesuffix("s"), name, report.origins[kind][name])
        for kind, name in wanted.items()
        if name is not None and name in report.origins.get(kind, {})
    ]


def flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and value of each leaf of a configuration."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", "none" if value is None else str(value)
