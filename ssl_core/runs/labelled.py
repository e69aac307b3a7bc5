"""Labelled data for fine-tuning: its splits, prepared for a trained encoder, and shares of its labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from ssl_core.config.resolve import validate
from ssl_core.contracts import Dataset
from ssl_core.data import Split, Task
from ssl_core.errors import ConfigError, DataError
from ssl_core.options import Options
from ssl_core.pipeline.cache import PreprocessedSplit, preprocess_dataset
from ssl_core.pipeline.measure import FieldStats, measure_fields
from ssl_core.plugins import Catalogue
from ssl_core.runs.data import data_doubts, data_warnings, far_values, refuse_doubts, scored_rows
from ssl_core.runs.embed import own_options
from ssl_core.runs.encoder import PretrainedEncoder
from ssl_core.runs.fields import adapt_fields
from ssl_core.runs.inspection.candidates import OF_ENCODER, OWN, naming_modality
from ssl_core.training.supervised import LabelledRows
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.console import Console, as_utf8

LABEL_OPTIONS = ("label", "label_pattern", "task")
NOTHING = "nothing to predict"  # in the warning of a data set whose samples all have one label


@dataclass(frozen=True)
class LabelledData:
    """Labelled samples of a data set, prepared for an encoder.

    splits: the open data sets. train, validation, test: the samples; without a test split `test` is the validation
    split. scored: name of the split that `test` is. held_out: where the validation split comes from, in words.
    options: those of the data set.
    """

    splits: Mapping[Split, Dataset]
    task: Task
    train: LabelledRows
    validation: LabelledRows
    test: LabelledRows
    scored: Split
    held_out: str
    options: Mapping[str, Any]
    stats: Mapping[str, FieldStats]
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def dataset(self) -> Dataset:
        """The training split."""
        return self.splits["train"]

    @property
    def label_options(self) -> dict[str, Any]:
        """The options that say what the labels of files are, for others of the same form."""
        if self.dataset.name != "files":
            return {}
        return {name: value for name in LABEL_OPTIONS if (value := self.options.get(name)) is not None}

    @property
    def counts(self) -> dict[str, int]:
        """Labelled samples by split."""
        counts = {"train": len(self.train), "validation": len(self.validation)}
        return counts if self.scored == "validation" else counts | {"test": len(self.test)}


@dataclass(frozen=True)
class DataRequest:
    """Which data: options of the data set by name, among them "name"; none for the encoder's own.

    validation_fraction: share of the training split that is held out if the data has no validation split. seed: of
    that choice, where the data set does not make it. strict: refuse doubts and samples that cannot be used.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    validation_fraction: float = 0.2
    seed: int = 0
    strict: bool = False


def open_labelled(
    encoder: PretrainedEncoder, request: DataRequest, catalogue: Catalogue, console: Console
) -> LabelledData:
    """Open a data set, hold out a validation split if it has none, and prepare its samples for an encoder.

    Raises:
        ConfigError: an unknown data set or option, or data without labels.
        DataError: the data cannot be read, does not fit the encoder, or has too few labels.
    """
    kind, options = dataset_options(encoder, request.options, catalogue)
    if root := getattr(options, "root", None):
        console.info(as_utf8(f"reading    {root}"))
    with naming_modality(root if kind.name == OWN else None, encoder.config.modality, catalogue, OF_ENCODER):
        splits, options, held_out, notes = _open_training(kind, options, request)
    first = splits["train"]
    if first.task is None:
        if nothing := next((line for line in first.warnings if NOTHING in line), None):
            raise ConfigError(f"there is nothing to learn: {_title(first, options)}: {nothing}; give other labels")
        known = encoder.config.dataset.options.get("label")
        name = "NAME" if known is None else f"{known}, as in the run"
        raise ConfigError(
            f"there is nothing to learn: {_title(first, options)} has no labels; name their column with "
            f"--set dataset.label={name}, give --label-pattern, or other data with --data or --dataset"
        )
    splits |= {split: kind(options, split) for split in splits["train"].splits if split not in splits}
    schema = {name: value for name, value in encoder.schema.items() if name != "classes"}
    for dataset in splits.values():
        dataset.conform(schema)
        notes += adapt_fields(encoder.fields, dataset, type(encoder.tokenizer))
    data = {
        split: preprocess_dataset(dataset, encoder.tokenizer, cache_dir(), console, request.strict)
        for split, dataset in splits.items()
    }
    return _labelled(encoder, request, splits, data, (held_out, options, notes))


def _labelled(
    encoder: PretrainedEncoder,
    request: DataRequest,
    splits: Mapping[Split, Dataset],
    data: Mapping[Split, PreprocessedSplit],
    about: tuple[str, Options, list[str]],
) -> LabelledData:
    held_out, options, notes = about
    task = cast(Task, splits["train"].task)
    if data["train"].labels is None:
        raise DataError("no sample of the training split has a label; label some, or change the split")
    stats = measure_fields(data["train"], splits["train"].fields)
    before = {name: FieldStats.from_json(entry) for name, entry in encoder.stats.items()}
    doubts = data_doubts(splits, data, stats) + far_values(before, stats, encoder.schema)
    if request.strict:
        refuse_doubts(doubts)
    train = LabelledRows(data["train"], data["train"].labelled_rows)
    if "validation" in data:
        validation = LabelledRows(data["validation"], data["validation"].labelled_rows)
    else:
        held = hold_out_rows(task, train.labels, request.validation_fraction, request.seed)
        validation, train = train.subset(np.flatnonzero(held)), train.subset(np.flatnonzero(~held))
        held_out = f"{request.validation_fraction:.0%} of the training samples, drawn by seed {request.seed}"
    scored: Split = "test" if "test" in data else "validation"
    test = validation
    if scored == "test":
        drop = encoder.config.evaluate.shared == "drop"
        test = LabelledRows(data["test"], scored_rows(data, "test", drop))
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if not len(part) or part.split.labels is None:
            raise DataError(f"no sample of the {name} split has a label; label some, or change the split")
    notes += [note for note in data_warnings(splits, data) if "so nothing is probed" not in note]
    return LabelledData(
        splits, task, train, validation, test, scored, held_out, options.model_dump(mode="json"), stats,
        list(dict.fromkeys(notes)), doubts,
    )  # fmt: skip


def _title(dataset: Dataset, options: Options) -> str:
    return as_utf8(str(getattr(options, "root", None) or f"{dataset.modality}/{dataset.name}"))


def dataset_options(
    encoder: PretrainedEncoder, values: Mapping[str, Any], catalogue: Catalogue
) -> tuple[type[Dataset], Options]:
    """The class of a data set and its options: the encoder's own with changes, or another one's.

    Options of files that the encoder was trained on, such as names of channels, hold for other files as well, except
    those that say where the data lie, what the labels are and how they are split.

    Raises:
        ConfigError: an unknown data set or option, or data in memory that are no longer there.
    """
    own, modality = encoder.config.dataset, encoder.config.modality
    name = str(values.get("name", own.name))
    if name == "memory" and catalogue.find("dataset", name, modality) is None:
        raise ConfigError("the encoder was trained on data in memory, which are not in its folder; give x and y")
    kind = catalogue.dataset(name, modality)
    changes = {key: value for key, value in values.items() if key != "name"}
    if kind.name != own.name:
        base: dict[str, Any] = {}
    elif "root" in changes:
        base = own_options(encoder.config)
    else:
        base = dict(own.options)
    known = kind.Options.model_fields
    return kind, validate("dataset", kind.Options, {k: v for k, v in base.items() if k in known} | changes)


def _open_training(
    kind: type[Dataset], options: Options, request: DataRequest
) -> tuple[dict[Split, Dataset], Options, str, list[str]]:
    """The training split, and the validation split if the data set cuts it off; the options, where it is from, notes.

    The data set is opened with a validation split at once, since opening reads the files; only if it refuses, because
    it names such a split itself or cannot cut whole groups, it is opened as it is. Without a split samples are drawn
    later.
    """
    own = "the data's own"
    fraction = float(getattr(options, "validation_fraction", 1.0))  # 1: it cuts none
    if kind.name == "memory" or fraction:
        first = kind(options, "train")
        return {"train": first}, options, own if "validation" in first.splits else "", []
    share = request.validation_fraction
    try:
        changed = options.model_copy(update={"validation_fraction": share})
        splits: dict[Split, Dataset] = {split: kind(changed, split) for split in ("train", "validation")}
    except (ConfigError, DataError) as error:
        first, problem = kind(options, "train"), error
    else:
        words = f"finetune.validation_fraction={share:g} of the training split, whole groups where the data name groups"
        return splits, changed, words, []
    if "validation" in first.splits:
        return {"train": first}, options, own, []
    return (
        {"train": first},
        options,
        "",
        [f"the validation samples are drawn at random, and not by the data set: {problem}"],
    )


def hold_out_rows(task: Task, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """(n,) bool: a random share of the samples, of each class if they have one each; at least one, and not all.

    Raises:
        DataError: there are fewer than two samples.
    """
    if len(labels) < 2:
        raise DataError("one labelled sample is too few to train and validate on; label more")
    held = np.zeros(len(labels), bool)
    for rows in _strata(task, labels):
        order = np.random.default_rng([seed, 1, int(rows[0])]).permutation(rows)
        held[order[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    if not held.any():
        held[np.random.default_rng([seed, 1]).integers(len(held))] = True
    return held


def share_of_labels(task: Task, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Numbers of the samples that stay, in order: a share of each class, at least one of each.

    Samples without one class each (several labels, numbers, tokens) are drawn from all. For one seed the samples of a
    smaller share are among those of a larger one.
    """
    if fraction >= 1:
        return np.arange(len(labels))
    kept = []
    for rows in _strata(task, labels):
        order = np.random.default_rng([seed, 0, int(rows[0])]).permutation(rows)
        kept.append(order[: max(1, round(fraction * len(rows)))])
    return np.sort(np.concatenate(kept))


def _strata(task: Task, labels: np.ndarray) -> list[np.ndarray]:
    """Numbers of the samples of each class, or of all samples."""
    if task.kind != "classes" or task.per_token:
        return [np.arange(len(labels))]
    flat = labels.reshape(-1)
    return [np.flatnonzero(flat == value) for value in np.unique(flat)]
