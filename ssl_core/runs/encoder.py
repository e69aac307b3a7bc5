"""A trained encoder with its tokenizer: raw samples to features, in a user's own code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Tokenizer
from ssl_core.data import Fields, send
from ssl_core.errors import BadSample, CheckpointError, ConfigError, DataError
from ssl_core.nn.encoder import Encoder
from ssl_core.nn.readout import read_out
from ssl_core.pipeline.measure import InputSpec
from ssl_core.pipeline.memory import SampleInputs, is_tensor_input
from ssl_core.pipeline.preprocess import prepare_sample
from ssl_core.report.schema import HistoryRow, InitReport, Report, read
from ssl_core.runs.export.request import Export, ExportRequest
from ssl_core.utils.console import Console

EMBED_BATCH = 256


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each part has its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@dataclass(frozen=True)
class Provenance:
    """Where an encoder comes from.

    folder: the run's folder. steps: its optimiser steps. versions: versions of libraries. origins: distributions of
    plugins, by kind and name. evaluation: hardware, time and scores from the run's report, empty if it has none.
    history: the runs and encoders whose weights it started from, the earliest first; empty for random numbers.
    """

    folder: Path
    steps: int
    versions: Mapping[str, str]
    origins: Mapping[str, Mapping[str, str]]
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[HistoryRow, ...] = ()


EVALUATION = {"modality", "dataset", "split", "seed", "steps", "pretrain_seconds", "samples_per_second"} | {
    "peak_memory_bytes", "parameters", "device", "precision", "layout", "scores",
}  # fmt: skip
"""Keys of a report that an encoder keeps: nothing that names a file."""


def evaluation_of(report: Report | None, steps: int) -> dict[str, Any]:
    """What an encoder of this number of steps keeps of a report; nothing of a report of another number."""
    if report is None or report.steps != steps:
        return {}
    return report.model_dump(mode="json", include=EVALUATION) | {
        "samples": {} if report.data is None else dict(report.data.samples)
    }


def evaluation_in(folder: Path, steps: int) -> dict[str, Any]:
    """What an encoder of this number of steps keeps of the report in a run's folder; nothing if there is none."""
    try:
        return evaluation_of(read(folder), steps)
    except CheckpointError:
        return {}


def history_of(state: Mapping[str, Any]) -> tuple[HistoryRow, ...]:
    """The sources of a checkpoint's weights, the earliest first; empty for random numbers."""
    return InitReport(**state["init"]).history if state.get("init") else ()


class PretrainedEncoder(nn.Module):
    """Tokenizer and encoder of a run, with the constants that the tokenizer measured.

    A plain `nn.Module`: it trains, moves between devices and nests in other modules as any other. It needs neither the
    training data nor the objective.

    Attributes:
        tokenizer: raw samples to tokens.
        encoder: tokens to features of width `dim`.
        fields: what a sample must hold, by name.
        config: the run's configuration.
        provenance: the run that it comes from.
        schema: `Dataset.schema` of the data that it was trained on.
        stats: statistics of its fields, as in checkpoints.
        inputs: what `preprocess` returns of a sample, by name, as in checkpoints.
    """

    stats: Mapping[str, Any]
    inputs: Mapping[str, InputSpec]

    def __init__(
        self, tokenizer: Tokenizer, encoder: Encoder, fields: Fields, config: RunConfig, provenance: Provenance,
        schema: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.schema, self.stats, self.inputs = dict(schema or {}), {}, {}
        self.tokenizer, self.encoder = tokenizer, encoder
        self.fields, self.config, self.provenance = fields, config, provenance

    @property
    def dim(self) -> int:
        """Width D of the features."""
        return self.config.dim

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        per_token: bool = False,
        layers: Sequence[int] | None = None,
        readout: str | None = None,
    ) -> Tensor:
        """Features of preprocessed inputs, with gradients.

        Args:
            inputs: what `preprocess` returns, each tensor with a first axis B.
            per_token: return one feature vector for each token instead of one for each sample.
            layers: numbers of encoder layers from 1, whose outputs are returned side by side in place of the encoder's
                output.
            readout: how the features are read out, without `layers`: "last" (the default, mean over tokens of the last
                layer), "layers" (means of all layers), or "layers+stats" (also deviation and maximum of the last).

        Returns:
            (B, D), or (B, L, D) with `per_token`; D is multiplied by the number of layers read, and for "layers+stats"
            by two more.

        Raises:
            ConfigError: the encoder does not have one of the layers, or the read-out cannot be used.
        """
        tokens = self.tokenizer(inputs)
        if layers is None:
            try:
                return read_out(readout or "last", self.encoder, tokens, per_token)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        if readout is not None:
            raise ConfigError(f"give layers={tuple(layers)} or readout={readout}, not both")
        try:
            outputs = self.encoder(tokens.embeddings, geometry=tokens.geometry, layers=layers)
        except ValueError as error:
            raise ConfigError(f"layers={tuple(layers)}: {error}") from error
        parts = [part[:, 1:] if per_token else self.encoder.pool(part, tokens.valid) for part in outputs]
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def features(
        self,
        inputs: Sequence[Mapping[str, np.ndarray]],
        per_token: bool = False,
        layers: Sequence[int] | None = None,
        readout: str | None = None,
    ) -> np.ndarray:
        """float32 features of single preprocessed samples, in the module's mode and without gradients."""
        out: np.ndarray = self(self.stack(inputs), per_token, layers, readout).float().cpu().numpy()
        return out

    def stack(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
        """Single preprocessed samples as the inputs of `forward`, on the encoder's device."""
        batch = {name: np.stack([np.asarray(one[name]) for one in inputs]) for name in inputs[0]}
        return {name: send(torch.from_numpy(value), self.device) for name, value in batch.items()}

    def preprocess(self, x: Any) -> dict[str, Tensor]:
        """Raw samples to the inputs of `forward`, on the encoder's device.

        Args:
            x: n samples, in any form that `embed` takes.

        Returns:
            Tensors by name, each with a first axis of n.

        Raises:
            ConfigError: `x` does not fit the encoder's fields.
            DataError: a sample cannot be used; the message names it.
        """
        samples = SampleInputs(x, self.fields)
        return self._batch(samples, 0, len(samples))

    def _batch(self, samples: SampleInputs, start: int, stop: int) -> dict[str, Tensor]:
        rows: dict[str, list[np.ndarray]] = {}
        for index in range(start, stop):
            try:
                prepared = prepare_sample(self.tokenizer, samples[index])
            except BadSample as error:
                raise DataError(f"sample {index}: {error}") from None
            for name, value in prepared.items():
                rows.setdefault(name, []).append(np.asarray(value))
        return {name: send(torch.from_numpy(np.stack(values)), self.device) for name, values in rows.items()}

    def batches(self, samples: SampleInputs, size: int) -> Iterator[dict[str, Tensor]]:
        """Preprocessed inputs of `size` samples at a time.

        Raises:
            ConfigError: `size` is no positive number.
        """
        if size < 1:
            raise ConfigError(f"batch_size={size}: give at least 1")
        for start in range(0, len(samples), size):
            yield self._batch(samples, start, min(start + size, len(samples)))

    @torch.no_grad()
    def embed(
        self, x: Any, *, per_token: bool = False, layers: Sequence[int] | None = None, batch_size: int = EMBED_BATCH,
        console: Console | None = None, readout: str | None = None,
    ) -> Any:  # fmt: skip
        """Features of raw samples, in evaluation mode and without gradients.

        Memory holds the features and one batch. The module's training mode is as before afterwards.

        Args:
            x: an array or tensor of n samples (n, ...), a dict of such by field, a sequence of samples, or a torch or
                Hugging Face data set. The samples have the form of the encoder's `fields`.
            per_token: return one feature vector for each token instead of one for each sample.
            layers: numbers of encoder layers from 1, whose outputs are returned side by side.
            batch_size: samples in a forward pass.
            console: shows the progress; silent by default.
            readout: how features are read out of the layers, as in `forward`.

        Returns:
            float32 features (n, D), or (n, L, D) with `per_token`: a numpy array, or a tensor on the device of `x` if
            `x` is a tensor or a dict of tensors.

        Raises:
            ConfigError: `x` does not fit the encoder's fields.
            DataError: there is no sample, or one cannot be used; the message names it.
        """
        samples = SampleInputs(x, self.fields)
        out: np.ndarray | None = None
        done = 0
        with evaluating(self), (console or Console()).progress("embedding", len(samples)) as progress:
            for inputs in self.batches(samples, batch_size):
                part = self(inputs, per_token, layers, readout).float().cpu().numpy()
                if out is None:
                    out = np.empty((len(samples), *part.shape[1:]), dtype=np.float32)
                out[done : done + len(part)] = part
                done += len(part)
                progress.advance(len(part))
        if out is None:
            raise DataError("there is nothing to embed: x holds no sample")
        device = is_tensor_input(x)
        return out if device is None else torch.from_numpy(out).to(device)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the encoder to a folder of its own, completely or not at all.

        `sslx.load(folder)` reads it. It needs neither the run's folder nor the training data nor the objective. It
        holds no pickle, and no path of this machine.

        Args:
            folder: a new or empty folder.
            overwrite: replace a folder that an earlier save wrote.

        Returns:
            The folder.

        Raises:
            ConfigError: the folder holds something else, or cannot be written.
        """
        from ssl_core.runs.saved import save_encoder  # saved.py imports this module

        return save_encoder(self, folder, overwrite=overwrite)

    def export(
        self, format: str, folder: str | os.PathLike[str], *, per_token: bool = False,
        layers: Sequence[int] | None = None, readout: str | None = None, example: Any = None, overwrite: bool = False,
    ) -> Export:  # fmt: skip
        """Write the encoder for other programs, completely or not at all, and check what was written.

        "torch" and "onnx" write a program from preprocessed inputs by name to features, for batches of any size, with a
        preprocessing.json that says how to make the inputs of raw samples; `preprocess` makes them, too.

        Args:
            format: "safetensors" (as `save`), "torch" (a torch.export program, encoder.pt2), "onnx" (encoder.onnx) or
                "hf" (a folder for the Hugging Face hub, with a model card).
            folder: a new or empty folder.
            per_token: the program also returns the features of the tokens.
            layers: numbers of encoder layers from 1, whose features the program returns side by side.
            readout: how the program reads the features out, as in `forward`.
            example: a few raw samples in any form that `embed` takes, to trace and check the program with; by default
                random arrays in the range of the training data.
            overwrite: replace an earlier export in the folder.

        Returns:
            The folder, its files and, of a program, the largest difference from the encoder.

        Raises:
            ConfigError: an unknown format, a library that is missing, a folder that cannot be used, or an encoder that
                cannot be traced.
            SslxError: the written program differs from the encoder by more than rounding.
        """
        from ssl_core.runs.export.export import export_encoder  # it imports this module

        chosen = None if layers is None else tuple(layers)
        return export_encoder(self, ExportRequest(format, Path(folder), per_token, chosen, example, overwrite, readout))
