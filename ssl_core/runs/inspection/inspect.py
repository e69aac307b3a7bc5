"""Inspect a path: recognise it, open it, look at samples, propose the command."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.config.auto import AUTO, auto_values
from ssl_core.config.resolve import Plugins, resolve
from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Dataset, Tokenizer
from ssl_core.data import Column, Discrete, Excerpt, Field, Split
from ssl_core.errors import BadSample, ConfigError, DataError, SslxError, nearest
from ssl_core.plugins import Catalogue
from ssl_core.runs.data import SHARED, fact_lines, open_splits
from ssl_core.runs.fields import describe_field
from ssl_core.runs.inspection.candidates import OWN, POSSIBLE, Candidate, choose, count_files, find_candidates, refusal
from ssl_core.runs.inspection.proposal import (
    base_options,
    command_of,
    quoted,
    settle_options,
    tokenizer_options,
)
from ssl_core.runs.inspection.samples import SplitLook, copies, look_at, shared_with
from ssl_core.runs.inspection.schema import InspectedColumn, Inspection
from ssl_core.utils.console import as_utf8

OBJECTIVE = "metamae"
"""The objective of a proposal, and of `sslx run --data` without `--objective`."""
EXAMPLES = 8
"""Categories of a column that are named."""
MOST_SEGMENTS = 4
"""More segments are counted, not named."""
RARE = 10
"""Fewer samples of a class are pointed out."""


@dataclass
class Opened:
    """Data of an inspection: the open splits, what was seen of them, and the tokenizer for them.

    prepared: preprocessed samples by field. rows: the numbers of these among `looks["train"].inputs`.
    """

    config: RunConfig
    plugins: Plugins
    splits: Mapping[Split, Dataset]
    looks: dict[Split, SplitLook]
    tokenizer: Tokenizer
    prepared: dict[str, np.ndarray] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    excerpt: Excerpt | None = None


def inspect_path(
    path: str,
    catalogue: Catalogue,
    *,
    modality: str | None = None,
    objective: str = OBJECTIVE,
) -> Inspection:
    """What a path holds, and the command that trains on it. Nothing is written.

    Raises:
        ConfigError: there is no such path or modality.
    """
    inspection, _ = inspect_and_open(path, catalogue, modality=modality, objective=objective)
    return inspection


def inspect_and_open(
    path: str, catalogue: Catalogue, *, modality: str | None = None, objective: str = OBJECTIVE
) -> tuple[Inspection, Opened | None]:
    """As `inspect_path`, with the open data, for pictures of samples; None if they cannot be opened.

    Raises:
        ConfigError: there is no such path or modality.
    """
    if modality is not None and modality not in catalogue.tokenizers:
        raise ConfigError(f"unknown modality '{modality}'; {nearest(modality, catalogue.tokenizers, 'modality')}")
    candidates, problems = find_candidates(path, catalogue)
    if not candidates and not Path(path).expanduser().exists():
        raise ConfigError(refusal(path, candidates))
    chosen = choose(candidates)
    is_sure = chosen is not None and modality in (None, chosen.modality)
    taken = _taken(candidates, modality)
    start = Inspection(path, tuple(candidates), is_sure=is_sure, warnings=tuple(map(as_utf8, problems)))
    if taken is None:
        problem = refusal(path, candidates, "--modality says what it is")
        found = {as_utf8(ending): count for ending, count in count_files(path).items()}
        return replace(start, problem=as_utf8(problem), ignored=found), None
    start = replace(start, modality=taken.modality, dataset=taken.dataset)
    with _temporary_folder() as folder:
        try:
            opened = _open(base_options(taken, path, objective), catalogue, folder)
        except SslxError as error:
            return replace(start, problem=as_utf8(str(error))), None
        return _described(start, taken, opened, objective), opened


def _taken(candidates: Sequence[Candidate], modality: str | None) -> Candidate | None:
    """The candidate to read: of the modality named, else the most likely one if it is possible."""
    if modality is None:
        return candidates[0] if candidates and candidates[0].confidence >= POSSIBLE else None
    own = next((one for one in candidates if one.modality == modality), None)
    return own or Candidate(modality, OWN, 0.0, "as named")


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sslx-inspect-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _open(options: Mapping[str, Any], catalogue: Catalogue, folder: Path) -> Opened:
    """Open the splits, or an excerpt of them, and look at their samples.

    Raises:
        SslxError: the data cannot be opened, or the tokenizer cannot be made for them.
    """
    config, plugins = resolve(catalogue, {**options, "preset": AUTO})
    dataset_options = plugins.dataset.Options(**config.dataset.options)
    excerpt = plugins.dataset.excerpt(dataset_options, folder)
    read = config
    if excerpt is not None:
        values = {**options, **{f"dataset.{name}": value for name, value in excerpt.options.items()}}
        read, _ = resolve(catalogue, {**values, "preset": AUTO})
    opened = open_splits(read, plugins)
    looks = {split: look_at(dataset) for split, dataset in opened.splits.items()}
    if not looks["train"].inputs:
        first = looks["train"].bad[0] if looks["train"].bad else "there is none"
        raise DataError(f"no sample of the training split can be used: {first}")
    tokenizer, prepared, rows = _tokenizer(config, plugins, opened.splits["train"], looks["train"])
    return Opened(config, plugins, opened.splits, looks, tokenizer, prepared, rows, excerpt)


def _tokenizer(
    config: RunConfig, plugins: Plugins, train: Dataset, look: SplitLook
) -> tuple[Tokenizer, dict[str, np.ndarray], list[int]]:
    """The tokenizer for the data, fitted to the samples that were looked at, and these, preprocessed, with their
    numbers in `look.inputs`."""
    with torch.random.fork_rng(devices=[]):
        options = plugins.tokenizer.Options(**config.tokenizer.options)
        tokenizer = plugins.tokenizer(options, train.fields, config.dim)
    tokenizer.fit(look.inputs)
    rows: list[Mapping[str, np.ndarray]] = []
    numbers: list[int] = []
    for number, inputs in enumerate(look.inputs):
        try:
            rows.append(tokenizer.preprocess(inputs))
            numbers.append(number)
        except BadSample as error:
            look.bad.append(f"{train.describe(look.usable[number])}: {error}")
    if not rows:
        raise DataError(f"no sample of the training split can be used: {look.bad[0]}")
    prepared = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    tokenizer.fit_normalization([prepared])
    return tokenizer.eval(), prepared, numbers


def _described(start: Inspection, taken: Candidate, opened: Opened, objective: str) -> Inspection:
    """The inspection with all that was seen, and the command."""
    train, looks, excerpt = opened.splits["train"], opened.looks, opened.excerpt
    tokenizer, facts = opened.tokenizer, dict(opened.tokenizer.facts(opened.prepared))
    options, tokens = _proposed(start, taken, opened, facts, objective)
    arguments = command_of(options)
    fact_doubts, notes = fact_lines(facts, tokenizer.fact_options)
    doubts = [line for dataset in opened.splits.values() for line in dataset.doubts]
    doubts += [*tokenizer.doubts, *fact_doubts, *_own_doubts(start, opened)]
    warnings = [line for dataset in opened.splits.values() for line in dataset.warnings]
    warnings += [*tokenizer.warnings, *notes]
    warnings += [line for split, look in looks.items() for line in _bad_lines(split, look)]
    columns = _columns(train.summary.columns, looks["train"], excerpt)
    summary, files = train.summary, train.summary.files
    if excerpt is not None and excerpt.files:
        files = Counter(os.path.splitext(name)[1] or "without ending" for name in excerpt.files.values())
        doubts, warnings = ([_of_whole(line, excerpt) for line in lines] for lines in (doubts, warnings))
    return replace(
        start,
        command=quoted(arguments),
        arguments=tuple(arguments),
        options=options,
        excerpt=None if excerpt is None else as_utf8(excerpt.note),
        samples={split: _total(look, excerpt) for split, look in looks.items()},
        looked_at={split: len(look.index) for split, look in looks.items()},
        fields={name: describe_field(kind) for name, kind in train.fields.items() if not _is_column(kind)},
        columns=columns,
        files={as_utf8(ending): count for ending, count in files.items()},
        ignored={as_utf8(ending): count for ending, count in summary.ignored.items()},
        facts={as_utf8(name): as_utf8(value) for name, value in summary.facts.items()},
        lengths={name: _extent(values) for name, values in looks["train"].lengths.items()},
        ranges=_ranges(looks["train"]),
        letters=_letter_shares(looks["train"]),
        constant=_constant(columns, excerpt),
        task=_task(train),
        classes=_classes(train, looks["train"]),
        labelled={split: look.labelled for split, look in looks.items()} if train.task is not None else {},
        shared={split: shared_with(looks["train"], look) for split, look in looks.items() if split != "train"},
        copies={split: copies(look) for split, look in looks.items()},
        skipped={split: len(look.bad) for split, look in looks.items() if look.bad},
        tokens=tokens,
        doubts=tuple(map(as_utf8, dict.fromkeys(doubts))),
        warnings=(*start.warnings, *map(as_utf8, dict.fromkeys(warnings))),
    )


def _of_whole(line: str, excerpt: Excerpt) -> str:
    """A line about a file of an excerpt as one about the file that it was taken from."""
    for part, whole in excerpt.files.items():
        line = line.replace(part, whole)
    return line


def _proposed(
    start: Inspection, taken: Candidate, opened: Opened, facts: Mapping[str, float], objective: str
) -> tuple[dict[str, Any], str]:
    """The options of the command, and what the tokenizer makes of a sample in words."""
    tokenizer, train = opened.tokenizer, opened.looks["train"]
    total = _total(train, opened.excerpt)
    with torch.no_grad():
        batch = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in opened.prepared.items()}
        valid = tokenizer.geometry(batch).valid
    counts = None if valid is None else valid.sum(dim=1).numpy()
    wanted = tokenizer_options(tokenizer, counts, facts.get("cropped", 0.0))
    layout, fields = tokenizer.layout, opened.splits["train"].fields
    kept = settle_options(type(tokenizer), fields, wanted, opened.config.dim, layout.length)
    options = base_options(taken, start.path, objective)
    options |= {"preset": AUTO, "train.steps": auto_values(total)["train.steps"]}
    options |= {f"tokenizer.{name}": value for name, value in kept.items()}
    grids = " + ".join(
        f"{segment.length} ({' x '.join(map(str, segment.grid))}, {segment.target} of {segment.size})"
        for segment in layout.segments
    )
    if len(layout.segments) > MOST_SEGMENTS:
        grids = f"{layout.length} of {len(layout.segments)} inputs"
    padded = "" if counts is None else f"; {counts.mean():.3g} of {layout.length} hold data in the mean"
    return options, f"{grids}{padded}"


def _is_column(kind: Field) -> bool:
    """Whether a field is a single category or mark of missing values, which the columns name."""
    return isinstance(kind, Discrete)


def _total(look: SplitLook, excerpt: Excerpt | None) -> int:
    """Samples of a split of the whole data."""
    return look.total if excerpt is None else round(look.total / excerpt.share)


def _own_doubts(start: Inspection, opened: Opened) -> Iterator[str]:
    """Doubts about the modality, copies across splits, and rare classes."""
    chosen = next((one for one in start.candidates if one.modality == start.modality), None)
    for one in start.candidates:
        if chosen is not None and one.modality != chosen.modality and one.confidence >= POSSIBLE:
            why = f"{one.confidence:.0%}: {one.why}"
            yield f"it may be {one.modality} as well ({why}); --modality {one.modality} says so"
    if chosen is None or chosen.confidence < 0.5:
        why = "nothing speaks for it" if chosen is None else chosen.why
        yield f"that this is {start.modality} is not sure: {why}"
    train = opened.looks["train"]
    for split, look in opened.looks.items():
        if split != "train" and look.digests and shared_with(train, look) / len(look.digests) > SHARED:
            yield (
                f"{shared_with(train, look):,} of {len(look.digests):,} samples of the {split} split that were looked "
                f"at equal a training sample, so that its scores are too good; remove copies, name groups in the "
                f"data, or set evaluate.shared=drop"
            )
    names = _classes(opened.splits["train"], train)
    rare = [f"{name} ({count})" for name, count in names.items() if count < RARE]
    if rare and train.is_whole and opened.excerpt is None:
        yield f"{len(rare)} of {len(names)} classes have less than {RARE} training samples: {', '.join(rare[:8])}"


def _bad_lines(split: Split, look: SplitLook) -> Iterator[str]:
    if look.bad:
        yield f"{len(look.bad)} of {len(look.index)} samples of the {split} split cannot be used: {look.bad[0]}"


def _columns(columns: Sequence[Column], look: SplitLook, excerpt: Excerpt | None) -> tuple[InspectedColumn, ...]:
    """The columns, with shares of missing values and ranges from the whole data or from the samples."""
    stats = next((one for one in look.stats.values()), None)
    kinds = [column for column in columns if column.role == "input" and column.kind != "category"]
    place = {column.name: number for number, column in enumerate(kinds)}
    fits = stats is not None and len(stats.low) == len(kinds) > 0
    out = []
    for column in columns:
        missing, extent = column.missing, column.range
        if fits and stats is not None and column.name in place:
            number = place[column.name]
            missing = float(stats.shares[number]) if missing is None else missing
            if extent is None and np.isfinite(stats.low[number]):
                extent = (float(stats.low[number]), float(stats.high[number]))
        if excerpt is not None:
            missing = excerpt.missing.get(column.name, missing)
            extent = excerpt.ranges.get(column.name, extent)
        out.append(
            InspectedColumn(
                as_utf8(column.name), column.role, column.kind, len(column.categories),
                tuple(as_utf8(name) for name in column.categories[:EXAMPLES]), as_utf8(column.why), missing,
                None if extent is None else extent[0], None if extent is None else extent[1],
            )
        )  # fmt: skip
    return tuple(out)


def _constant(columns: Sequence[InspectedColumn], excerpt: Excerpt | None) -> tuple[str, ...]:
    """Input columns with one value only."""
    if excerpt is not None:
        return tuple(map(as_utf8, excerpt.constant))
    inputs = [column for column in columns if column.role == "input" and not column.missing]
    return tuple(
        column.name
        for column in inputs
        if (column.low is not None and column.low == column.high)
        or (column.kind == "category" and column.categories == 1)
    )


def _ranges(look: SplitLook) -> dict[str, tuple[float, float]]:
    out = {}
    for name, stats in look.stats.items():
        low, high = float(stats.low.min()), float(stats.high.max())
        if np.isfinite(low):
            out[name] = (low, high)
    return out


def _extent(values: Sequence[int]) -> tuple[float, float, float]:
    return float(min(values)), float(np.median(values)), float(max(values))


def _letter_shares(look: SplitLook) -> dict[str, dict[str, float]]:
    """Shares of letters of each field of text, rounded."""
    return {
        name: {as_utf8(letter): round(count / counts.total(), 6) for letter, count in counts.most_common(200)}
        for name, counts in look.letters.items()
        if counts
    }


def _task(train: Dataset) -> str | None:
    task = train.task
    if task is None:
        return None
    words = {
        "classes": f"one of {task.size} classes",
        "labels": f"{task.size} labels of yes or no",
        "number": "a number",
    }
    return as_utf8(f"{task.title}: {words[task.kind]}" + (" a token" if task.per_token else ""))


def _classes(train: Dataset, look: SplitLook) -> dict[str, int]:
    """Number of samples of each class, the most frequent first."""
    names = train.task.names if train.task is not None else ()
    return {
        as_utf8(names[label] if label < len(names) else str(label)): count
        for label, count in look.labels.most_common()
    }  # fmt: skip
