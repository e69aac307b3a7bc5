"""report.html: one file that opens offline, with everything in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.report.schema import FeatureKind, InitReport, Report, save
from ssl_core.report.scores import (
    ALWAYS,
    FEATURES,
    LEGEND,
    PERCENT,
    ScoreRow,
    ScoreValue,
    feature_kinds,
    features_title,
    format_score,
    metric_title,
    score_rows,
    task_title,
    verdict,
)

if TYPE_CHECKING:
    from markupsafe import Markup

    from ssl_core.report.figures import Figures
    from ssl_core.report.reconstruction import Reconstruction

HTML = "report.html"
SECONDARY_METRICS = ("train/lr", "train/grad_norm", "train/samples_per_second")


def write_html(
    report: Report, folder: Path, pictures: Sequence[Reconstruction], metrics: Sequence[Mapping[str, float]],
    figures: Figures | None = None,
) -> None:  # fmt: skip
    """Write report.html atomically. It loads nothing, runs no script and follows the reader's light or dark setting.

    Args:
        report: Report of the run.
        folder: Folder of the file.
        pictures: Reconstructions by segment; may be empty.
        metrics: The lines of metrics.jsonl.
        figures: Maps, predictions and neighbours; None to leave them out.

    Raises:
        SslxError: If the file cannot be written.
    """
    save(folder / HTML, page(report, pictures, metrics, figures))


def page(
    report: Report, pictures: Sequence[Reconstruction], metrics: Sequence[Mapping[str, float]],
    figures: Figures | None = None,
) -> str:  # fmt: skip
    """The web page as text."""
    import jinja2  # with matplotlib half a second, needed only here

    from ssl_core.report import views
    from ssl_core.report.audio import Player
    from ssl_core.report.pictures import COLUMNS, groups, panels

    player = Player()
    drawn = panels(pictures, player)
    maps = None if figures is None else figures.maps
    neighbours = None if figures is None else figures.neighbours
    rows = score_rows(report.scores)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = (files("ssl_core.report") / "page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        style=style(),
        report=report,
        title=f"{report.objective} on {report.modality}/{report.dataset}",
        facts=facts(report),
        data_facts=data_facts(report),
        headline=headline(rows, report),
        features=feature_kinds(rows),
        legend=LEGEND,
        lower_is_better=any(not row.higher_is_better for row in rows),
        rows=[row_content(row, report, feature_kinds(rows)) for row in rows],
        remarks=[remark for row in rows for remark in row.remarks],
        curves=list(curves(metrics)),
        progress=list(progress(report)),
        columns=COLUMNS,
        panels=drawn,
        map=None if maps is None else views.map_view(maps, report.split),
        predictions=views.prediction_view(report, figures),
        neighbours=neighbours,
        groups=[] if neighbours is None else groups(neighbours, player),
        silent=player.left_out,
        used_plugins=used_plugins(report),
        settings=list(flatten(report.config)),
    )


def style() -> Markup:
    """The style sheet of every page."""
    from markupsafe import Markup

    return Markup((files("ssl_core.report") / "style.css").read_text(encoding="utf-8"))


def facts(report: Report) -> list[tuple[str, str]]:
    """Names and values of the run's main figures."""
    loss = "-"
    if report.loss_first is not None and report.loss_last is not None:
        loss = f"{report.loss_first:.4g} to {report.loss_last:.4g}"
    layout = " + ".join(f"{math.prod(row.grid)} {row.name} ({row.target} of {row.size})" for row in report.layout)
    return [
        ("Steps", f"{report.steps:,}"),
        ("Effective rank (RankMe)", _ranks(report)),
        ("Loss", loss),
        ("Total time", duration(report.wall_seconds)),
        ("Training time", duration(report.pretrain_seconds)),
        ("Speed", f"{report.samples_per_second:,.0f} samples/s"),
        ("Peak memory", f"{report.peak_memory_bytes / 2**30:.2f} GiB"),
        ("Trainable parameters", ", ".join(f"{part} {count:,}" for part, count in report.parameters.items())),
        ("Tokens", layout),
        ("Masking", report.masking or "none"),
        ("Seed", str(report.seed)),
        ("Precision, attention", ", ".join(part for part in (report.precision, report.attention) if part)),
        ("Device", report.device),
        *([] if report.init is None else initial_facts(report.init)),
    ]


def initial_facts(init: InitReport) -> list[tuple[str, str]]:
    """Names and values of the weights that the run started with."""
    scores = ", ".join(
        f"{score.probe} {metric_title(score.metric, score.higher_is_better)} "
        f"{format_score(score.metric, ScoreValue(score.value, score.standard_error))}"
        for score in init.scores
    )
    earlier = " <- ".join(row.source for row in reversed(init.history[:-1]))
    by = "" if init.objective is None else f", {init.steps:,} steps of {init.objective} on {init.trained_on}"
    rows = [
        ("Started from", f"{init.source} ({init.kind}{by}; weights {init.digest[:12]})"),
        ("which started from", earlier),
        ("Constants of the tokenizer", init.constants),
        ("Scores of the initial weights", scores),
    ]
    return [(name, value) for name, value in rows if value]


def data_facts(report: Report) -> list[tuple[str, str]]:
    """Names and values of what was read of the data."""
    data = report.data
    if data is None:
        return []

    def counts(numbers: Mapping[str, int]) -> str:
        return ", ".join(f"{name or 'without ending'} {count:,}" for name, count in numbers.items())

    ranges = [(f"Values of {name}", f"{low:g} to {high:g}") for name, (low, high) in data.ranges.items()]
    shared = {split: count for split, count in data.shared.items() if count}
    rows = [
        ("Samples", counts(data.samples)),
        ("With a label", counts(data.labelled) if data.labelled != data.samples else ""),
        ("Skipped", counts({split: count for split, count in data.skipped.items() if count})),
        ("Equal to a training sample", counts(shared)),
        ("Files", counts(data.files)),
        ("Files ignored", counts(data.ignored)),
        *data.facts.items(),
        *ranges,
    ]
    return [(name, value) for name, value in rows if value]


def _ranks(report: Report) -> str:
    trained, untrained = (report.health.get(kind, {}).get("rankme") for kind in ("trained", "random_init"))
    return "-" if trained is None else f"{trained:.1f}" + ("" if untrained is None else f", untrained {untrained:.1f}")


def duration(seconds: float) -> str:
    """Seconds as text: "45 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def headline(rows: Sequence[ScoreRow], report: Report) -> list[str]:
    """The result of the first probe of each task in one sentence."""
    first: dict[tuple[str, str], ScoreRow] = {}
    for row in rows:
        first.setdefault((row.dataset, row.task), row)
    return [sentence(row, task_title(row, report)) for row in first.values() if row.gain is not None]


def sentence(row: ScoreRow, title: str | None = None) -> str:
    """A row of scores in words, with another title of the task if one is given."""
    unit = " %" if row.metric in PERCENT else ""
    metric = row.metric_title.replace(" %", "")
    trained, *others = (format_score(row.metric, row.values.get(kind)).split()[0] for kind in FEATURES)
    sources = ("a random encoder's", "the raw input", "classical features")
    parts = [
        f"{value}{unit} from {source}"
        for kind, value, source in zip(list(FEATURES)[1:], others, sources, strict=True)
        if kind in row.values
    ]
    baselines = " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)
    other = "better of the two" if len(parts) == 2 else "best of these" if len(parts) > 2 else "other"
    own = features_title(row.readout, row.postprocess)
    reads = "" if own == "last" else f" (read-out {own})"
    ahead = f": the {FEATURES[row.baseline]} is ahead" if row.baseline else ""
    meaning = {"better": "", "worse": ahead, "": ": no clear difference"}[verdict(row)]
    gain = format_score(row.metric, row.gain, sign=True)
    return (
        f"{title or row.task}, {row.probe_title} probe{reads}: {metric} {trained}{unit} from the trained features, "
        f"{baselines}. "
        f"Gain over the {other}: {gain}{' points' if unit else ''}{meaning}."
    )


def row_content(row: ScoreRow, report: Report, kinds: Iterable[FeatureKind] = ALWAYS) -> dict[str, Any]:
    """A row of the score table as text, with a cell for each of the kinds of features, and its bars."""
    from ssl_core.report import plots

    scale = 100 if row.metric in PERCENT else 1
    bars = {
        FEATURES[kind]: (score.value * scale, None if score.standard_error is None else score.standard_error * scale)
        for kind in FEATURES
        if (score := row.values.get(kind)) is not None and score.value is not None
    }
    task = task_title(row, report)
    spoken = ", ".join(
        f"{name} {format_score(row.metric, row.values[kind])}" for kind, name in FEATURES.items() if name in bars
    )
    label = f"{task}, {row.probe_title} probe, {row.metric_title}: {spoken}"
    return {
        "scores": row,
        "task": task,
        "texts": [format_score(row.metric, row.values.get(kind)) for kind in kinds],
        "gain": format_score(row.metric, row.gain, sign=True),
        "verdict": verdict(row),
        "bars": plots.bars(bars, float(scale) if row.higher_is_better else 0.0, label) if bars else None,
    }


def curves(metrics: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, bool, Markup]]:
    """Name, whether it is the loss, and plot of each training metric: the loss, its parts, the others."""
    import numpy as np

    from ssl_core.report import plots

    names = dict.fromkeys(
        name for line in metrics for name in line if name.startswith("train/") and name != "train/seconds"
    )
    for name in sorted(names, key=lambda name: (name != "train/loss", name in SECONDARY_METRICS)):
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
    own_dataset = f"{report.modality}/{report.dataset}"
    rows = {f"{row.probe}_{row.metric}": row for row in score_rows(report.scores) if row.dataset == own_dataset}
    for name in dict.fromkeys(name for point in report.curve for name in point.scores):
        row = rows.get(name)
        if row is None:
            continue
        scale = 100 if row.metric in PERCENT else 1
        levels = {
            FEATURES[kind]: score.value * scale
            for kind, score in row.values.items()
            if kind != "trained" and score.value is not None
        }
        points = [point for point in report.curve if name in point.scores]
        values = np.array([point.scores[name] * scale for point in points])
        for unit, x in (("steps", [p.step for p in points]), ("seconds", [p.seconds for p in points])):
            title = f"{row.probe_title} probe, {row.metric_title}, over {unit} of training"
            yield title, plots.progress(title, np.array(x, dtype=float), values, levels, unit, row.higher_is_better)
    steps = np.array([point.step for point in report.curve], dtype=float)
    for name in report.curve[-1].health:
        values = np.array([point.health.get(name, math.nan) for point in report.curve])
        titles = {
            "rankme": "RankMe (effective rank of the features)",
            "alpha_req": "alpha-ReQ (decay of the spectrum)",
            "lidar": "LiDAR (LDA rank of the features)",
        }
        title = titles.get(name, name.replace("_", " "))
        before = report.health.get("random_init", {}).get(name)
        yield title, plots.progress(title, steps, values, {} if before is None else {"random init": before}, "steps")


def used_plugins(report: Report) -> list[tuple[str, str, str]]:
    """Kind, name and origin of each plugin that the run used."""
    names = [
        ("objectives", report.objective),
        ("tokenizers", report.tokenizer),
        ("datasets", f"{report.modality}/{report.dataset}"),
        ("maskings", report.masking),
        *(("probes", probe) for probe in dict.fromkeys(score.probe for score in report.scores)),
    ]
    return [
        (kind.removesuffix("s"), name, report.origins[kind][name])
        for kind, name in names
        if name is not None and name in report.origins.get(kind, {})
    ]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and value of each leaf of a configuration."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)
