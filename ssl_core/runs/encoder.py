"""A trained encoder with its tokenizer: raw samples to features, in a user's own code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Inputs, Tokenizer
from ssl_core.data import Fields, send
from ssl_core.errors import BadSample, ConfigError, DataError
from ssl_core.nn.encoder import Encoder
from ssl_core.pipeline.memory import SampleInputs, is_tensor_input

EMBED_BATCH = 256


@dataclass(frozen=True)
class Provenance:
    """Where an encoder comes from: the run's folder, the optimiser steps, library versions and plugin origins."""

    folder: Path
    steps: int
    versions: Mapping[str, str]
    origins: Mapping[str, Mapping[str, str]]


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
    """

    stats: Mapping[str, Any]

    def __init__(
        self, tokenizer: Tokenizer, encoder: Encoder, fields: Fields, config: RunConfig, provenance: Provenance,
        schema: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.schema, self.stats = dict(schema or {}), {}
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
        self, inputs: Mapping[str, Tensor], per_token: bool = False, layers: Sequence[int] | None = None
    ) -> Tensor:  # fmt: skip
        """Features of preprocessed inputs, with gradients.

        Args:
            inputs: what `preprocess` returns, each tensor with a first axis B.
            per_token: return one feature vector for each token instead of one for each sample.
            layers: numbers of encoder layers from 1, whose outputs are returned side by side in place of the encoder's
                output.

        Returns:
            (B, D), or (B, L, D) with `per_token`; D is multiplied by the number of `layers`.

        Raises:
            ConfigError: the encoder does not have one of the layers.
        """
        tokens = self.tokenizer(inputs)
        if layers is None:
            outputs = [self.encoder(tokens.embeddings, geometry=tokens.geometry)]
        else:
            try:
                outputs = self.encoder(tokens.embeddings, geometry=tokens.geometry, layers=layers)
            except ValueError as error:
                raise ConfigError(f"layers={tuple(layers)}: {error}") from error
        parts = [part[:, 1:] if per_token else self.encoder.pool(part, tokens.valid) for part in outputs]
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def features(
        self, inputs: Sequence[Mapping[str, np.ndarray]], per_token: bool = False, layers: Sequence[int] | None = None
    ) -> np.ndarray:
        """float32 features of single preprocessed samples, in the module's mode and without gradients."""
        batch = {name: np.stack([np.asarray(one[name]) for one in inputs]) for name in inputs[0]}
        tensors = {name: send(torch.from_numpy(value), self.device) for name, value in batch.items()}
        out: np.ndarray = self(tensors, per_token, layers).float().cpu().numpy()
        return out

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
                prepared: Inputs = self.tokenizer.preprocess(samples[index])
            except BadSample as error:
                raise DataError(f"sample {index}: {error}") from None
            for name, value in prepared.items():
                rows.setdefault(name, []).append(np.asarray(value))
        return {name: send(torch.from_numpy(np.stack(values)), self.device) for name, values in rows.items()}

    def batches(self, samples: SampleInputs, size: int) -> Iterator[dict[str, Tensor]]:
        """Preprocessed inputs of `size` samples at a time."""
        for start in range(0, len(samples), size):
            yield self._batch(samples, start, min(start + size, len(samples)))

    @torch.no_grad()
    def embed(
        self, x: Any, *, per_token: bool = False, layers: Sequence[int] | None = None, batch_size: int = EMBED_BATCH
    ) -> Any:
        """Features of raw samples, in evaluation mode and without gradients.

        Memory holds the features and one batch. The module's training mode is as before afterwards.

        Args:
            x: an array or tensor of n samples (n, ...), a dict of such by field, a sequence of samples, or a torch or
                Hugging Face data set. The samples have the form of the encoder's `fields`.
            per_token: return one feature vector for each token instead of one for each sample.
            layers: numbers of encoder layers from 1, whose outputs are returned side by side.
            batch_size: samples in a forward pass.

        Returns:
            float32 features (n, D), or (n, L, D) with `per_token`: a numpy array, or a tensor on the device of `x` if
            `x` is a tensor or a dict of tensors.

        Raises:
            ConfigError: `x` does not fit the encoder's fields.
            DataError: there is no sample, or one cannot be used; the message names it.
        """
        samples = SampleInputs(x, self.fields)
        out: np.ndarray | None = None
        training, done = self.training, 0
        self.eval()
        try:
            for inputs in self.batches(samples, batch_size):
                part = self(inputs, per_token, layers).float().cpu().numpy()
                if out is None:
                    out = np.empty((len(samples), *part.shape[1:]), dtype=np.float32)
                out[done : done + len(part)] = part
                done += len(part)
        finally:
            self.train(training)
        if out is None:
            raise DataError("there is nothing to embed: x holds no sample")
        device = is_tensor_input(x)
        return out if device is None else torch.from_numpy(out).to(device)
