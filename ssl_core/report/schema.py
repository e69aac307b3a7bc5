"""The schema of report.json. docs/report.md describes each key; a change of meaning raises the schema version."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssl_core.errors import CheckpointError, SslxError
from ssl_core.utils.files import write_text
from ssl_core.utils.old_versions import first_version_message

REPORT = "report.json"
SCHEMA_VERSION = 2
FeatureKind: TypeAlias = Literal["trained", "random_init", "raw_input", "classical", "initial"]


class Score(BaseModel):
    """The score of one probe, metric and kind of features."""

    model_config = ConfigDict(frozen=True)

    dataset: str = Field(description="modality/name of the data set")
    task: str = Field(description="title of the task")
    probe: str = Field(description="name of the probe")
    metric: str = Field(description="name of the metric")
    higher_is_better: bool = Field(True, description="whether a larger value is the better one")
    features: FeatureKind = Field(
        description="of the trained encoder, of a random initialisation, the input itself, or classical features; in "
        "init.scores initial"
    )
    value: float | None = Field(description="value of the metric, not in percent; null if undefined")
    n_train: int = Field(description="training samples of the probe; tokens for a per-token task")
    n_test: int = Field(description="samples, or tokens, of the scored split")
    seed: int = Field(description="seed of the run")
    standard_error: float | None = Field(None, description="of the value over the scored samples; null if unknown")
    readout: str = Field("last", description="read-out of the encoder: last, layers, layers+stats, tokens, layers 1, 2")
    postprocess: str = Field("none", description="post-processing of the features: none, standardise, whiten")
    details: dict[str, Any] = Field({}, description="of the probe: solver, converged, k, notes")


class LayoutRow(BaseModel):
    """One segment of the token layout."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="name of the segment")
    grid: tuple[int, ...] = Field(description="tokens along each axis")
    target: str = Field(description="continuous or discrete")
    size: int = Field(description="numbers in a patch, or entries of the vocabulary")


class Point(BaseModel):
    """Scores and health at one step of training."""

    model_config = ConfigDict(frozen=True)

    step: int = Field(description="optimiser steps done")
    seconds: float = Field(description="seconds of training until then, probes left out")
    scores: dict[str, float] = Field({}, description="of the trained features, by probe and metric: linear_accuracy")
    health: dict[str, float] = Field(
        {}, description="label-free figures: rankme, alpha_req, lidar, tokenizer_variance, encoder_variance"
    )


class ColumnRow(BaseModel):
    """One column, channel or band of the data."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="name in the data")
    role: str = Field(description="input, label, group, id, time, split, path or left out")
    kind: str = Field(description="kind of its values: number, category, text, image")
    categories: tuple[str, ...] = Field((), description="the first hundred different values of a category")
    n_categories: int = Field(0, description="number of different values of a category")
    why: str = Field("", description="why it has this role")


class DataReport(BaseModel):
    """What was read of the data."""

    model_config = ConfigDict(frozen=True)

    columns: tuple[ColumnRow, ...] = Field((), description="columns, channels or bands and their roles")
    files: dict[str, int] = Field({}, description="files read, by ending")
    ignored: dict[str, int] = Field({}, description="files found and not read, by ending")
    facts: dict[str, str] = Field({}, description="other facts in words, such as the encoding")
    ranges: dict[str, tuple[float, float]] = Field({}, description="smallest and largest value of each field")
    shares: dict[str, float] = Field({}, description="shares of unknown, cropped and padded input, where known")
    samples: dict[str, int] = Field({}, description="usable samples of each split")
    labelled: dict[str, int] = Field({}, description="samples of each split that have a label")
    skipped: dict[str, int] = Field({}, description="samples of each split that cannot be used")
    shared: dict[str, int] = Field({}, description="samples of each other split that equal a training sample")
    doubts: tuple[str, ...] = Field((), description="what may have been misread")
    seconds_per_step: float | None = Field(None, description="estimated before training, uncompiled; null if unknown")
    bytes_per_step: int | None = Field(None, description="estimated memory of activations; null if unknown")


class HistoryRow(BaseModel):
    """A run or encoder whose weights another started from."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="folder or file")
    kind: str = Field(description="run, encoder, timm or transformers")
    digest: str = Field(description="digest of the weights and constants of tokenizer and encoder")
    steps: int = Field(0, description="optimiser steps; 0 if unknown")
    objective: str | None = Field(None, description="name of the objective; null if unknown")
    trained_on: str = Field("", description="modality/name of the data set; empty if unknown")


class InitReport(HistoryRow):
    """The weights that the run started with."""

    constants: Literal["kept", "measured"] = Field(description="constants of the tokenizer")
    loaded: dict[str, tuple[int, int]] = Field({}, description="tensors loaded and tensors in all, of each part")
    lines: tuple[str, ...] = Field((), description="what the header says of it")
    history: tuple[HistoryRow, ...] = Field((), description="all sources, the earliest first, this one last")
    scores: tuple[Score, ...] = Field((), description="of features of the initial weights, before training")


class FiguresReport(BaseModel):
    """Numbers behind the maps, predictions and neighbours of report.html."""

    model_config = ConfigDict(frozen=True)

    seconds: float = Field(description="seconds that it took to compute them")
    map_method: Literal["PCA", "UMAP"] | None = Field(None, description="how the maps were made; null without a map")
    map_samples: int = Field(0, description="samples of the scored split in the maps")
    explained: dict[str, tuple[float, float]] = Field(
        {}, description="by features: share of the variance along the two axes of a PCA map"
    )
    probe: str | None = Field(None, description="probe whose predictions are shown; null without labels")
    classes: tuple[str, ...] = Field((), description="names of the classes or labels, in the order of the next two")
    confusion: tuple[tuple[int, ...], ...] = Field(
        (), description="rows of each true class that were predicted as each class; empty for more than 200 classes"
    )
    label_auroc: tuple[float | None, ...] = Field((), description="of each of several labels; null where undefined")
    neighbours: int = Field(0, description="training samples that were searched for neighbours")


class Report(BaseModel):
    """The report of a finished run."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[2] = Field(2, description="version of this schema")
    run: str = Field(description="folder of the run")
    created: datetime = Field(description="time of the report, ISO 8601 with time zone")
    command: str = Field("", description="the command line")
    objective: str = Field(description="name of the objective")
    modality: str = Field(description="name of the modality")
    dataset: str = Field(description="name of the data set of the evaluation")
    tokenizer: str = Field(description="name of the tokenizer")
    masking: str | None = Field(None, description="name of the masking; null if the objective masks nothing")
    preset_sources: tuple[str, ...] = Field((), description="presets that applied, each with the source of its numbers")
    split: Literal["test", "validation"] = Field("test", description="split that the scores are computed on")
    seed: int = Field(description="seed of all random numbers")
    steps: int = Field(description="optimiser steps of the encoder")
    wall_seconds: float = Field(description="seconds of the command, from start to report")
    pretrain_seconds: float = Field(description="seconds of the training loop, those before a resume included")
    samples_per_second: float = Field(description="training samples per second of pretrain_seconds")
    peak_memory_bytes: int = Field(description="peak memory: of the device on CUDA, of the process on the CPU")
    parameters: dict[str, int] = Field(description="trainable parameters of each part")
    device: str = Field(description="the hardware in words")
    precision: str = Field(description="number format of training: fp32 or bf16")
    attention: str | None = Field(None, description="attention kernel of the encoder")
    layout: tuple[LayoutRow, ...] = Field(description="the token layout, one entry for each segment")
    scores: tuple[Score, ...] = Field((), description="one entry for each probe, metric and kind of features")
    loss_first: float | None = Field(None, description="loss in the first line of metrics.jsonl")
    loss_last: float | None = Field(None, description="loss in its last line")
    curve: tuple[Point, ...] = Field(
        (), description="one entry for each evaluation during training, the last at its end"
    )
    health: dict[str, dict[str, float]] = Field(
        {}, description="label-free figures of the encoder: trained and random_init, each with the keys of Point.health"
    )
    data: DataReport | None = Field(None, description="what was read of the data")
    init: InitReport | None = Field(None, description="weights that the run started with; null for random numbers")
    figures: FiguresReport | None = Field(None, description="numbers behind the pictures; null if switched off")
    notes: tuple[str, ...] = Field((), description="notes for the reader, e.g. skipped files")
    config: dict[str, Any] = Field(description="the resolved configuration")
    versions: dict[str, str] = Field(description="versions of Python, sslx and the libraries that compute")
    origins: dict[str, dict[str, str]] = Field(description="by kind and name: distribution, entry point and version")


def write_json(report: Report, folder: Path) -> None:
    """Write report.json atomically; numbers that are not finite become null.

    Raises:
        SslxError: If it cannot be written.
    """
    save(folder / REPORT, report.model_dump_json(indent=2) + "\n")


def save(path: Path, text: str) -> None:
    """Write a file atomically.

    Raises:
        SslxError: If it cannot be written; the message names it.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise SslxError(f"cannot write {path}: {error.strerror}; free space or name another folder") from None


def read(folder: Path) -> Report:
    """The report of a run folder.

    Raises:
        CheckpointError: If there is none, if it is damaged, or if it has another schema version.
    """
    path = folder / REPORT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{folder} has no {REPORT}; finish the run with sslx run --resume, or sslx eval"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path} is damaged; make it again with sslx eval {folder}") from None
    if version == 1:
        raise CheckpointError(first_version_message(path))
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema version {version}, this sslx reads {SCHEMA_VERSION}; use the sslx that wrote it, "
            f"or make it again with sslx eval {folder}"
        )
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path} is damaged at '{where}' ({first['msg']}); make it again with sslx eval {folder}"
        ) from None
