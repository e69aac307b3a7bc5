"""A fine-tuned model: encoder and head as one module, which predicts labels of raw samples and has a folder format.

FOLDER/
  sslx.json            task, names of the classes, layers that the head reads
  head.safetensors     weights of the head
  encoder/             the encoder, as `PretrainedEncoder.save` writes it
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ssl_core.errors import CheckpointError, ConfigError, DataError
from ssl_core.nn.task_head import TaskHead, probabilities, task_from_json, task_to_json
from ssl_core.pipeline.memory import SampleInputs
from ssl_core.plugins import Catalogue
from ssl_core.runs.encoder import EMBED_BATCH, PretrainedEncoder, evaluating
from ssl_core.runs.memory_data import as_frame, as_root, file_batches, frame_batches
from ssl_core.runs.saved import (
    DIGESTS,
    ENTRIES,
    FORMAT,
    check_digests,
    digests_of,
    is_saved,
    load_encoder,
    read_entries,
    read_tensors,
    write_encoder,
    write_tensors,
)
from ssl_core.training.supervised import TaskModel
from ssl_core.utils.files import new_folder, write_json

if TYPE_CHECKING:
    from ssl_core.report.finetune import FinetuneReport

KIND = "fine-tuned model"
HEAD, ENCODER, MODEL = "head.safetensors", "encoder", "model"
LABEL_TYPES: Mapping[str, Any] = {"i": int, "u": int, "f": float, "b": lambda name: name.lower() in ("true", "1")}
"""Types of class labels given in memory, by numpy's kind; any other label is a text."""


class FineTuned(TaskModel):
    """A trained encoder with a head that predicts labels.

    Attributes:
        encoder: tokenizer and encoder.
        head: features to scores; `task` says what is predicted.
        report: scores and curves of the fine-tuning; None after loading.
    """

    encoder: PretrainedEncoder
    report: FinetuneReport | None = None

    def __init__(
        self,
        encoder: PretrainedEncoder,
        head: TaskHead,
        layers: tuple[int, ...] = (),
        label_kind: str = "U",
        label_options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Args:
        encoder: tokenizer and encoder.
        head: a head for features of their width.
        layers: encoder layers from 1 whose outputs the head reads side by side; none for the encoder's output.
        label_kind: numpy's kind of the class labels that were given in memory.
        label_options: options of the data set that say what the labels of files are.
        """
        super().__init__()
        self.encoder, self.head = encoder, head
        self.layers, self.label_kind, self.label_options = tuple(layers), label_kind, dict(label_options)

    @property
    def classes(self) -> np.ndarray | None:
        """(size,) labels of the classes, or names of the labels, in the order of the columns; None for a number."""
        task = self.task
        if task.kind == "number":
            return None
        if not task.names:
            return np.arange(task.size)
        convert = LABEL_TYPES.get(self.label_kind, str) if task.kind == "classes" else str
        return np.array([convert(name) for name in task.names])

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scores of preprocessed inputs (`encoder.preprocess`), with gradients.

        Returns:
            Logits (B, size) of classes or labels, or numbers (B,); with a token axis (B, L, ...) for a per-token task.
        """
        features = self.encoder(inputs, per_token=self.task.per_token, layers=self.layers or None)
        scores: Tensor = self.head(features)
        return scores

    @torch.no_grad()
    def scores(self, inputs: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray | None]:
        """float32 scores of preprocessed inputs in the module's mode, and which tokens hold data (B, L).

        The second is None if all tokens do, or the task has one label a sample.
        """
        out: np.ndarray = self(inputs).float().cpu().numpy()
        valid = self.encoder.tokenizer.geometry(inputs).valid if self.task.per_token else None
        return out, None if valid is None else valid.cpu().numpy()

    def predict_scores(self, x: Any, *, batch_size: int = EMBED_BATCH) -> np.ndarray:
        """float32 scores of raw samples: logits of classes or labels, or the number itself.

        Memory holds the scores and one batch. The module's training mode is as before afterwards.

        Args:
            x: n samples, in any form that `PretrainedEncoder.embed` takes, or a DataFrame of n rows, whose columns are
                matched by name with those trained on.
            batch_size: samples in a forward pass.

        Returns:
            (n, size), or (n,) for a number; (n, L, ...) for a per-token task.

        Raises:
            ConfigError: `x` does not fit the encoder's fields.
            DataError: there is no sample, or one cannot be used; the message names it.
        """
        return np.concatenate([scores for scores, _ in self._batches(x, batch_size)])

    def predict_proba(self, x: Any, *, batch_size: int = EMBED_BATCH) -> np.ndarray:
        """Probabilities of classes, which sum to 1, or of each label; columns are in the order of `classes`.

        Args and exceptions are those of `predict_scores`. With balanced class weights they are those of data with as
        many samples of each class.

        Returns:
            float64 (n, size); (n, L, size) for a per-token task, NaN for tokens that hold no data.

        Raises:
            ConfigError: the model predicts a number.
        """
        if self.task.kind == "number":
            raise ConfigError("the model predicts a number, which has no probability; use predict")
        return np.concatenate(
            [blank(probabilities(self.task, scores), valid, np.nan) for scores, valid in self._batches(x, batch_size)]
        )

    def predict(self, x: Any, *, batch_size: int = EMBED_BATCH) -> np.ndarray:
        """Predictions of raw samples. Args and exceptions are those of `predict_scores`.

        Returns:
            Classes: (n,) of `classes`, which has the type of the labels that were given. Labels: (n, size) of 0 and 1.
            A number: (n,) float32. A per-token task: (n, L), for tokens that hold no data an empty text, -1 or NaN.
        """
        return np.concatenate([self.decide(scores, valid) for scores, valid in self._batches(x, batch_size)])

    def decide(self, scores: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Predictions of scores. valid: (B, L), the tokens that hold data; all by default."""
        task = self.task
        if task.kind == "number":
            return blank(scores, valid, np.nan)
        if task.kind == "labels":
            return blank((scores > 0).astype(np.int64), valid, -1)
        classes = self.classes
        assert classes is not None
        chosen = classes[scores.argmax(axis=-1)]
        kind = chosen.dtype.kind
        return blank(chosen, valid, "" if kind == "U" else np.nan if kind == "f" else -1)

    def _batches(self, x: Any, size: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        x = as_root(x)
        if isinstance(x, str | os.PathLike):
            with evaluating(self):
                for prepared in file_batches(self.encoder, x, size, self.label_options):
                    yield self.scores(self.encoder.stack(prepared))
            return
        frame = as_frame(x, self.encoder.config.modality)
        samples = SampleInputs(x, self.encoder.fields) if frame is None else frame
        if not len(samples):
            raise DataError("there is nothing to predict: x holds no sample")
        with evaluating(self):
            if frame is not None:
                frame = frame.drop(columns=[self.label_options.get("label")], errors="ignore")
                for prepared in frame_batches(self.encoder, frame, size):
                    yield self.scores(self.encoder.stack(prepared))
                return
            for inputs in self.encoder.batches(samples, size):
                yield self.scores(inputs)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the model to a folder of its own, completely or not at all; `sslx.load_model` reads it.

        It holds tensors (safetensors) and JSON, no pickle, and needs no training data.

        Args:
            folder: a new or empty folder.
            overwrite: replace a folder that an earlier save wrote.

        Raises:
            ConfigError: the folder holds something else, or cannot be written.
        """
        path = Path(folder)
        with new_folder(path, overwrite=overwrite, marker=ENTRIES, known={HEAD, ENCODER}) as work:
            write_finetuned(self, work)
        return path


def blank(values: np.ndarray, valid: np.ndarray | None, empty: Any) -> np.ndarray:
    """Values (B, L, ...) with `empty` for tokens that hold no data."""
    if valid is None or valid.all():
        return values
    keep = valid.reshape(*valid.shape, *(1,) * (values.ndim - 2))
    return np.where(keep, values, np.asarray(empty, values.dtype if values.dtype.kind != "b" else np.int64))


def write_finetuned(model: FineTuned, folder: Path) -> None:
    """Write the files of a model into an existing folder.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / ENCODER).mkdir()
    write_encoder(model.encoder, folder / ENCODER)
    write_tensors(folder / HEAD, model.head.state_dict())
    write_json(
        folder / ENTRIES,
        {
            "format": FORMAT, "kind": KIND, "modality": model.encoder.config.modality, "task": task_to_json(model.task),
            "layers": list(model.layers), "label_kind": model.label_kind, "label_options": model.label_options,
            "head": {"width": model.head.linear.in_features}, DIGESTS: digests_of(folder, [HEAD]),
        },
    )  # fmt: skip


def model_folder(folder: Path) -> Path:
    """The folder of a model, given it or the folder of its fine-tuning."""
    return folder / MODEL if not is_saved(folder) and is_saved(folder / MODEL) else folder


def load_finetuned(folder: Path, catalogue: Catalogue) -> FineTuned:
    """The model that `FineTuned.save` wrote, on the CPU and in evaluation mode.

    Raises:
        CheckpointError: the folder holds no model, or it is damaged.
        ConfigError: the plugin of the tokenizer or of the encoder is not installed.
    """
    path = model_folder(folder)
    if not is_saved(path):
        made = sorted(place.parent for place in folder.glob(f"finetune/*/{MODEL}"))
        cure = f"name one of its own: {', '.join(map(str, made))}" if made else "make one with sslx finetune RUN"
        raise CheckpointError(f"{folder} holds no fine-tuned model; {cure}")
    entries = read_entries(path, KIND)
    check_digests(path, entries)
    encoder = load_encoder(path / ENCODER, catalogue)
    try:
        task, width = task_from_json(entries["task"]), int(entries["head"]["width"])
        layers, kind = tuple(map(int, entries["layers"])), str(entries["label_kind"])
        label_options = dict(entries.get("label_options", {}))  # earlier versions did not write them
        with torch.random.fork_rng(devices=[]):
            head = TaskHead(width, task)
        head.load_state_dict(read_tensors(path / HEAD), strict=True)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(f"{path} is damaged ({reason}); fine-tune anew") from None
    return FineTuned(encoder, head, layers, kind, label_options).eval()
