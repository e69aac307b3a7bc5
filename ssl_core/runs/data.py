"""The data of a run: open the splits, compare them with the data trained on, say what was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_core.config.resolve import Plugins
from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Dataset
from ssl_core.data import Column, DataSummary, Fields, Split
from ssl_core.errors import ConfigError, DataError
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.measure import FieldStats, far_channel, measure_inputs, shared_samples
from ssl_core.report.schema import ColumnRow, DataReport
from ssl_core.runs.fields import adapt_fields, fields_from_json
from ssl_core.training.checkpoint import Checkpoint
from ssl_core.utils.console import as_utf8

Splits = Mapping[Split, Dataset]
Data = Mapping[Split, PreprocessedSplit]
MAX_NAMES = 8
"""Names of columns to show in a line."""
MAX_CATEGORIES = 100
"""Categories of a column that a report names."""
SHARED = 0.01
"""Share of a split's samples that may equal training samples without a doubt."""
UNKNOWN = 0.05
"""Share of tokens that may be unknown without a doubt."""
CROPPED = 0.2
"""Share of the input that may be cropped without a note."""
CONSTANT = 0.05
"""Share of samples that may hold one value only without a doubt."""


@dataclass(frozen=True)
class OpenData:
    """The open splits of a run. fields: what the tokenizer is built for; notes: what was adapted to it."""

    splits: dict[Split, Dataset]
    fields: Fields
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataForm:
    """The form of the data that an encoder was trained on. cure: what an error adds for data that do not take it."""

    schema: Mapping[str, Any]
    fields: Fields
    cure: str = ""

    @classmethod
    def of(cls, start: Checkpoint | None) -> DataForm | None:
        """That of a checkpoint's data."""
        if start is None:
            return None
        return cls(start.state.get("data", {}).get("schema", {}), fields_from_json(start.state["fields"]))


def open_splits(
    config: RunConfig, plugins: Plugins, form: DataForm | None = None, *, for_training: bool = True
) -> OpenData:
    """The training split, the split that is scored and, for training, the validation split if there is one.

    The test split is opened only if it is scored. With a `form`, the data are presented in it.

    Raises:
        ConfigError: the data has no validation split, but it is to be scored.
        DataError: the splits do not offer the same fields, or not those of the form.
    """
    options = plugins.dataset.Options(**config.dataset.options)
    splits: dict[Split, Dataset] = {"train": plugins.dataset(options, "train")}
    provided, scored = splits["train"].splits, config.evaluate.split
    if scored not in provided and scored == "validation":
        raise ConfigError(
            f"evaluate.split={scored}: data set '{config.dataset.name}' has no {scored} split; set "
            f"dataset.validation_fraction, e.g. to 0.1, if it has this option, or use evaluate.split=test"
        )
    for split in provided:
        if split != "train" and (split == scored or (split == "validation" and for_training)):
            splits[split] = plugins.dataset(options, split)
    fields, notes = splits["train"].fields, []
    if form is not None:
        fields = form.fields
        try:
            for dataset in splits.values():
                dataset.conform(form.schema)
            notes = adapt_fields(fields, splits["train"], plugins.tokenizer)
        except DataError as error:
            raise type(error)(f"{error}{form.cure}") from None
    for dataset in list(splits.values())[1:]:
        notes += adapt_fields(fields, dataset, plugins.tokenizer, first=splits["train"])
    return OpenData(splits, fields, list(dict.fromkeys(notes)))


def data_state(splits: Splits, data: Data, stats: Mapping[str, FieldStats]) -> dict[str, Any]:
    """What a checkpoint keeps of the data: schema, statistics, number of samples and digest of each split."""
    return {
        "schema": splits["train"].schema(),
        "task": _task_words(splits),
        "stats": {name: one.to_json() for name, one in stats.items()},
        "inputs": {name: one.to_json() for name, one in measure_inputs(data["train"]).items()},
        "samples": {split: len(part) for split, part in data.items()},
        "digests": {split: part.content_digest() for split, part in data.items()},
    }


def _task_words(splits: Splits) -> str:
    """The task of the labels in words: its kind and, if they have names, the classes."""
    task = splits["train"].task
    return "no labels" if task is None else f"{task.kind} {', '.join(task.names) or task.size}"


def check_same_data(start: Checkpoint, splits: Splits, data: Data) -> None:
    """Check that the data are those that the run was begun with.

    Raises:
        DataError: a split has other samples or labels.
    """
    before = start.state.get("data", {})
    if "task" in before and before["task"] != _task_words(splits):
        raise DataError(
            f"the labels were {before['task']:.200} when the run was begun and are {_task_words(splits):.200} now; put "
            f"the data back to go on, or start anew"
        )
    for split, part in data.items():
        count, digest = before.get("samples", {}).get(split), before.get("digests", {}).get(split)
        if count is not None and count != len(part):
            raise DataError(
                f"the {split} split had {count:,} samples when the run was begun and has {len(part):,} now; put the "
                f"data back to go on, or start anew"
            )
        if digest is not None and digest != part.content_digest():
            raise DataError(
                f"the {split} split has as many samples as when the run was begun, but not the same: values, labels "
                f"or their order have changed; put the data back to go on, or start anew"
            )


def unlike_trained(start: Checkpoint, stats: Mapping[str, FieldStats]) -> list[str]:
    """Doubts about data whose values are far from those that the encoder was trained on."""
    trained = start.state.get("data", {})
    before = {name: FieldStats.from_json(entry) for name, entry in trained.get("stats", {}).items()}
    return far_values(before, stats, trained.get("schema", {}))


def far_values(
    trained: Mapping[str, FieldStats], now: Mapping[str, FieldStats], schema: Mapping[str, Any]
) -> list[str]:  # fmt: skip
    """A line for each field with a channel whose values are far from those in training, with both ranges."""
    kinds = ("number", "channel")
    columns = [column["name"] for column in schema.get("columns", []) if column.get("kind", "number") in kinds]
    lines = []
    for name, before in trained.items():
        channel = far_channel(before, now[name]) if name in now else None
        if channel is None:
            continue
        many = len(before.low) > 1
        is_named = many and len(columns) == len(before.low)
        what = f"'{columns[channel]}'" if is_named else f"channel {channel} of '{name}'" if many else f"'{name}'"
        lines.append(
            f"{what} ranges from {now[name].low[channel]:g} to {now[name].high[channel]:g} here and from "
            f"{before.low[channel]:g} to {before.high[channel]:g} in the data that the encoder was trained on; "
            f"convert it to the same unit"
        )
    return lines


def data_doubts(splits: Splits, data: Data, stats: Mapping[str, FieldStats]) -> list[str]:
    """Lines on what may have been misread: those of the data sets, and what the samples show."""
    doubts = [doubt for dataset in splits.values() for doubt in dataset.doubts]
    for split, part in data.items():
        if split != "train" and len(part) and (share := float(shared_samples(data["train"], part).mean())) > SHARED:
            doubts.append(
                f"{round(share * len(part)):,} of {len(part):,} samples of the {split} split equal a training sample, "
                f"so that its scores are too good; remove copies, name groups in the data (docs/own-data.md), or set "
                f"evaluate.shared=drop to leave them out of the scores"
            )
    for name, one in stats.items():
        if one.constant > CONSTANT:
            doubts.append(f"{one.constant:.0%} of the training samples hold a single value in '{name}'")
    return [as_utf8(doubt) for doubt in dict.fromkeys(doubts)]


def refuse_doubts(doubts: Sequence[str]) -> None:
    """Raises:
    DataError: there is a doubt.
    """
    if doubts:
        more = f" (and {len(doubts) - 1} more)" if len(doubts) > 1 else ""
        raise DataError(f"{doubts[0]}{more} (strict: data with doubts are refused)")


def fact_lines(facts: Mapping[str, float], options: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Doubts and notes about shares of the input that the tokenizer does not know or does not use.

    Args:
        facts: `Tokenizer.facts` of training samples.
        options: `Tokenizer.fact_options`.
    """
    doubts, notes = [], []

    def cure(name: str) -> str:
        return f"; {options[name]} changes this" if name in options else ""

    if (share := facts.get("unknown", 0)) > UNKNOWN:
        doubts.append(f"{share:.1%} of the tokens are unknown to the vocabulary{cure('unknown')}")
    if (share := facts.get("cropped", 0)) > CROPPED:
        notes.append(f"{share:.0%} of the input lies beyond the length of a sample and is not used{cure('cropped')}")
    return doubts, notes


def data_warnings(splits: Splits, data: Data) -> list[str]:
    """Warnings of the data sets and of their preprocessing, one line each."""
    notes = list(dict.fromkeys(note for split in splits.values() for note in split.warnings))
    for split, prepared in data.items():
        if prepared.bad:
            shown = "; ".join(prepared.skipped[:3])
            more = f" and {prepared.bad - 3} more" if prepared.bad > 3 else ""
            notes.append(f"{prepared.bad} bad samples of the {split} split skipped: {shown}{more}")
        if prepared.labelled is not None:
            count = int(prepared.labelled.sum())
            notes.append(
                f"{count:,} of {len(prepared):,} samples of the {split} split have a label; probes use these, "
                f"pretraining uses all"
            )
    if splits["train"].task is None:
        notes.append("the data has no labels, so nothing is probed")
    elif len(splits) == 1:
        notes.append("the data has no test split, so nothing is probed")
    return [as_utf8(note) for note in notes]


def summary_lines(
    summary: DataSummary, stats: Mapping[str, FieldStats], shares: Mapping[str, float] | None = None
) -> list[str]:  # fmt: skip
    """Lines of the header: columns by role, files by ending, facts, and ranges of values."""
    lines = []
    if columns := "; ".join(_columns_text(summary.columns)):
        lines.append(f"columns    {columns}")
    if summary.ignored or len(summary.files) > 1:
        ignored = f"; ignored: {_counts(summary.ignored)}" if summary.ignored else ""
        lines.append(f"files      {_counts(summary.files)}{ignored}")
    values = [f"{name} {low:g} to {high:g}" for name, (low, high) in ((n, s.range) for n, s in stats.items())]
    facts = [f"{name} {value}" for name, value in summary.facts.items()]
    facts += [f"{name} {share:.1%}" for name, share in (shares or {}).items() if share]
    if facts or values:
        lines.append(f"values     {', '.join([*values[:MAX_NAMES], *facts])}")
    return [as_utf8(line) for line in lines]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in counts.items())


def _columns_text(columns: Sequence[Column]) -> Iterable[str]:
    """Columns of each kind and role, with the reasons of those left out."""
    inputs = [column for column in columns if column.role == "input"]
    for kind, count in Counter(column.kind for column in inputs).items():
        names = [
            f"{column.name} ({len(column.categories)})" if column.categories else column.name
            for column in inputs
            if column.kind == kind
        ]
        yield f"{count} {kind}{'s' if count > 1 and kind != 'category' else ''} {_listed(names)}".replace(
            "category ", "categories " if count > 1 else "category "
        )
    for role in ("label", "group", "id", "time", "split", "path", "left out"):
        names = [
            f"{column.name} ({column.why})" if column.why else column.name for column in columns if column.role == role
        ]
        if names:
            yield f"{role} {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def data_report(
    splits: Splits, data: Data, stats: Mapping[str, FieldStats], doubts: Sequence[str], shares: Mapping[str, float]
) -> DataReport:
    """What was read, for report.json. shares: `Tokenizer.facts` of training samples."""
    summary = splits["train"].summary
    return DataReport(
        columns=tuple(
            ColumnRow(
                name=as_utf8(column.name),
                role=column.role,
                kind=column.kind,
                categories=tuple(as_utf8(name) for name in column.categories[:MAX_CATEGORIES]),
                n_categories=len(column.categories),
                why=as_utf8(column.why),
            )
            for column in summary.columns
        ),
        files={as_utf8(ending): count for ending, count in summary.files.items()},
        ignored={as_utf8(ending): count for ending, count in summary.ignored.items()},
        facts={as_utf8(name): as_utf8(value) for name, value in summary.facts.items()},
        ranges={name: one.range for name, one in stats.items()},
        samples={split: len(part) for split, part in data.items()},
        labelled={split: 0 if part.labels is None else len(part.labelled_rows) for split, part in data.items()},
        skipped={split: part.bad for split, part in data.items()},
        shared={
            split: int(shared_samples(data["train"], part).sum()) for split, part in data.items() if split != "train"
        },
        shares=dict(shares),
        doubts=tuple(doubts),
    )


def scored_rows(data: Data, scored: Split, drop_shared: bool) -> np.ndarray:
    """Indices of the samples of the scored split that count: those with a label and, on wish, not in training."""
    part = data[scored]
    rows = part.labelled_rows
    if drop_shared:
        rows = rows[~shared_samples(data["train"], part)[rows]]
        if not len(rows):
            raise DataError(
                f"every labelled sample of the {scored} split equals a training sample; leave evaluate.shared=drop out"
            )
    return rows
