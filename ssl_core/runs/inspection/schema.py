"""What an inspection returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ssl_core.runs.inspection.candidates import Candidate

FORMAT = 1
"""The number of the form of `Inspection.to_dict`."""
MAX_NAMES = 8


@dataclass(frozen=True)
class InspectedColumn:
    """A column, channel or band.

    Args:
        name: its name in the data.
        role: what it is used for: input, label, group, id, time, split, path or left out.
        kind: kind of its values.
        categories: number of different values of a category.
        examples: the first of them.
        why: why it has this role.
        missing: share of missing values, if it is known.
        low, high: smallest and largest number, if they are known.
    """

    name: str
    role: str
    kind: str
    categories: int = 0
    examples: tuple[str, ...] = ()
    why: str = ""
    missing: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Inspection:
    """What a path holds, and the command that trains on it. `to_dict` gives it as JSON, `str` as lines.

    Args:
        path: the path as it was given.
        candidates: the modalities that it may be, the most likely first.
        modality: the modality that it was read as; None if it was not read.
        dataset: name of the data set that read it.
        is_sure: whether `sslx run --data` without `--modality` reads it so.
        command: the `sslx run` line; None if the data cannot be read as they are.
        arguments: the same as a list of arguments, without "sslx".
        options: the same as options by path, for `sslx.pretrain(path, modality=..., set=options)`.
        problem: why there is no command.
        excerpt: what part was looked at, of data that are too large.
        samples: number of samples by split. looked_at: number of those that were looked at.
        fields: each input in words, with its shape and rate.
        columns: columns, channels or bands.
        files, ignored: number of files by ending, read and not read.
        facts: other facts by name.
        lengths: smallest, median and largest length by field.
        ranges: smallest and largest number by field.
        letters: share of each letter by field of text, the most frequent first.
        constant: columns that hold one value only.
        task: what the labels are; None without labels.
        classes: number of the samples with each label, among those looked at in the training split.
        labelled: number of samples with a label by split, among those looked at.
        shared: by split, number of samples that equal a training sample. copies: that equal one of their own split.
        skipped: by split, number of samples that cannot be used.
        tokens: what the tokenizer makes of a sample.
        doubts: choices that may be wrong, with the options that decide them.
        warnings: other lines.
    """

    path: str
    candidates: tuple[Candidate, ...]
    modality: str | None = None
    dataset: str | None = None
    is_sure: bool = False
    command: str | None = None
    arguments: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    excerpt: str | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    looked_at: Mapping[str, int] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[InspectedColumn, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    letters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    constant: tuple[str, ...] = ()
    task: str | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    labelled: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, int] = field(default_factory=dict)
    copies: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    tokens: str | None = None
    doubts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values, with the number of the form as "format"."""
        return {"format": FORMAT, **_plain(asdict(self))}

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """What was found, in lines as those of a run's header; the last is the command."""
        for number, one in enumerate(self.candidates):
            if number == 0 or one.confidence >= 0.1:
                yield f"{'modality' if not number else '':10} {one.modality} {one.confidence:.0%}: {one.why}"
        if self.excerpt:
            yield f"excerpt    {self.excerpt}"
        if self.samples:
            counts = ", ".join(f"{split} {count:,}" for split, count in self.samples.items())
            seen = ", ".join(f"{split} {count:,}" for split, count in self.looked_at.items())
            yield f"samples    {counts}" + ("" if dict(self.samples) == dict(self.looked_at) else f"; looked at {seen}")
        for name, words in self.fields.items():
            yield f"input      {name}: {words}{self._length(name)}{self._range(name)}{self._letters(name)}"
        yield from self._column_lines()
        if self.files or self.ignored:
            ignored = f"; ignored: {_counts(self.ignored)}" if self.ignored else ""
            yield f"files      {_counts(self.files)}{ignored}"
        if self.facts:
            yield f"facts      {', '.join(f'{name} {value}' for name, value in self.facts.items())}"
        yield from self._label_lines()
        for split, count in self.shared.items():
            if count:
                yield f"shared     {count:,} of {self.looked_at[split]:,} {split} samples equal a training sample"
        for split, count in self.copies.items():
            if count:
                yield f"copies     {count:,} of {self.looked_at[split]:,} {split} samples equal another of their split"
        for split, count in self.skipped.items():
            if count:
                yield f"skipped    {count:,} of {self.looked_at[split]:,} {split} samples cannot be used"
        if self.tokens:
            yield f"tokens     {self.tokens}"
        yield from (f"note       {line}" for line in self.warnings)
        yield from (f"doubt      {line}" for line in self.doubts)
        if self.problem:
            yield f"problem    {self.problem}"
        if self.command:
            yield f"run        {self.command}"

    def _length(self, name: str) -> str:
        if name not in self.lengths:
            return ""
        low, median, high = self.lengths[name]
        return f", length {low:g}" if low == high else f", length {low:g} to {high:g}, median {median:g}"

    def _range(self, name: str) -> str:
        return f", values {self.ranges[name][0]:g} to {self.ranges[name][1]:g}" if name in self.ranges else ""

    def _letters(self, name: str) -> str:
        letters = self.letters.get(name, {})
        if not letters:
            return ""
        if len(letters) > 40:
            return f", {len(letters)} different letters"
        return f", letters {''.join(sorted(letters))!r}"

    def _column_lines(self) -> Iterator[str]:
        groups: dict[tuple[str, str], list[str]] = {}
        for column in self.columns:
            detail = f" ({column.categories})" if column.categories else ""
            if column.low is not None and column.high is not None and column.role == "input":
                detail += f" [{column.low:g}, {column.high:g}]"
            detail += f" ({column.why})" if column.why and column.role != "input" else ""
            kind = column.kind if column.role == "input" else ""
            groups.setdefault((column.role, kind), []).append(column.name + detail)
        for (role, kind), names in groups.items():
            title = f"{len(names)} of kind {kind}" if role == "input" else role
            yield f"columns    {title}: {_listed(names)}"
        missing = [f"{column.name} {column.missing:.1%}" for column in self.columns if column.missing]
        if missing:
            yield f"missing    {_listed(missing)}"
        if self.constant:
            yield f"constant   {_listed(list(self.constant))}"

    def _label_lines(self) -> Iterator[str]:
        if self.task is None:
            if self.samples:
                yield "labels     none: the encoder is trained, and nothing is probed"
            return
        total = sum(self.classes.values())
        shares = [f"{name} {count / total:.1%}" for name, count in self.classes.items()]
        unlabelled = sum(self.looked_at.values()) - sum(self.labelled.values()) - sum(self.skipped.values())
        some = f"; {unlabelled:,} without a label" if unlabelled > 0 else ""
        yield f"labels     {self.task}{': ' + _listed(shares) if shares else ''}{some}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {ending}" for ending, count in counts.items()) or "none"


def _plain(value: Any) -> Any:
    """A value of JSON: no tuples, no numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
