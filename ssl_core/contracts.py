"""The contracts: what an objective, a tokenizer, a data set and a masking must be. The page that a plugin author reads.

Every plugin class has the same form: a `name`, a nested pydantic `Options`, `__init__(options, ...)` and one method
that does the work. The first line of its docstring is its line in `sslx list`.

Shapes: B samples, L tokens of a row, Ls tokens of a segment, D encoder width, V visible, H hidden tokens (V + H = L).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core import options as _options
from ssl_core.data import DataSummary, Excerpt, Fields, Recognition, Sample, Split, Task
from ssl_core.nn.encoder import Encoder
from ssl_core.options import Choice
from ssl_core.public_data.source import Source
from ssl_core.tokens import Geometry, Layout, Outcome, Tokens

Inputs: TypeAlias = dict[str, np.ndarray]
Draws: TypeAlias = Mapping[str, Tensor]
PROGRESS = "progress"
"""The draw that the engine adds to those of an objective: a 0-dim float, the share of the run that is done."""


@dataclass(frozen=True)
class Mask:
    """Which tokens of each row an encoder may see.

    visible: (B, V) long, ascending position ids; V is the same in every step. hidden: (B, L) bool, True where a token
    is hidden. The two are complementary.
    """

    visible: Tensor
    hidden: Tensor

    @classmethod
    def from_order(
        cls, order: Tensor, hidden: int, geometry: Geometry | None = None, ratio: float | None = None
    ) -> Mask:
        """Hide the first tokens of an order, a share of the valid tokens of each row.

        A row without padding hides `hidden` tokens. A row with n < L valid tokens hides ceil(n ratio) of them, but not
        all; padding fills up the V = L - hidden visible places. So every batch has the same shapes.

        Args:
            order: (B, L) long, the position ids of each row in the order in which they are hidden.
            hidden: Number of tokens that are hidden in a row without padding.
            geometry: Its `valid` says which tokens count.
            ratio: Share of hidden tokens; by default hidden / L.
        """
        rows, length = order.shape
        valid = None if geometry is None else geometry.valid
        if valid is not None:
            order = _visible_last(order, valid, hidden, hidden / length if ratio is None else ratio)
        mask = torch.zeros(rows, length, dtype=torch.bool).scatter(1, order[:, :hidden], True)
        return cls(order[:, hidden:].sort(dim=1).values, mask)

    @property
    def hidden_position_ids(self) -> Tensor:
        """(B, H) long, ascending position ids of the hidden tokens."""
        return torch.argsort(self.hidden.to(torch.uint8), dim=1, stable=True)[:, self.visible.shape[1] :]


def _visible_last(order: Tensor, valid: Tensor, hidden: int, ratio: float) -> Tensor:
    """The order rearranged: hidden valid tokens first, then padding, then visible valid tokens."""
    holds_data = valid.gather(1, order)
    count = holds_data.sum(dim=1, keepdim=True)
    target = torch.where(count == order.shape[1], hidden, torch.ceil(count.double() * ratio - 1e-9).long())
    target = torch.minimum(target, (count - 1).clamp(min=0))
    is_hidden = holds_data & (holds_data.cumsum(dim=1) <= target)
    group = torch.where(is_hidden, 0, torch.where(holds_data, 2, 1))
    return order.gather(1, group.argsort(dim=1, stable=True))


class Masking:
    """Chooses what to hide. Knows the layout and which tokens are valid, never the embeddings."""

    name: ClassVar[str]

    class Options(_options.Options):
        """No options."""

    def __init__(self, options: Any, layout: Layout) -> None:
        self.options = options
        self.layout = layout

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """A mask for `batch` rows, on the CPU. All randomness comes from `generator`.

        Shares are of the valid tokens of each row, as `geometry.valid` (batch, L) says; `Mask.from_order` does that.
        """
        raise NotImplementedError


Maskings: TypeAlias = Mapping[str, Masking]
"""The maskings of an objective, by name."""


@dataclass(frozen=True)
class Ema:
    """An exponential moving average of parts of the model, the teacher: copied, updated and saved by the engine.

    It is updated once per optimiser step: teacher = m teacher + (1 - m) student, with the momentum m going from `start`
    to `end` over the run. Buffers are copied. The teacher is in eval mode and has no gradient.

    Args:
        start: Momentum at the first step.
        end: Momentum at the end of the run.
        of: Parts that are averaged: "tokenizer", "encoder", and "objective.NAME" for a submodule of the objective.
        evaluate: Whether features are computed by the teacher instead of the student.
        schedule: How the momentum changes: "linear" (I-JEPA) or "cosine" (BYOL).
    """

    start: float = 0.996
    end: float = 1.0
    of: tuple[str, ...] = ("tokenizer", "encoder")
    evaluate: bool = True
    schedule: Literal["linear", "cosine"] = "linear"

    def momentum(self, progress: Tensor) -> Tensor:
        """The momentum at a 0-dim `progress` in [0, 1]."""
        share = progress if self.schedule == "linear" else (1 - torch.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class Teacher:
    """What an objective gets of its teacher. Nothing in it has a gradient.

    Args:
        tokens: The same batch through the teacher's tokenizer, or the student's tokens if it has none.
        encoder: The teacher's encoder, or the student's if it has none.
        modules: Copies of the objective's own submodules, by name.
    """

    tokens: Tokens
    encoder: Encoder
    modules: Mapping[str, nn.Module] = field(default_factory=dict)


class Predictor(Protocol):
    """A fitted probe.

    It may have two attributes more: `details`, a mapping of JSON values for the report, and `n_train`, the number of
    rows that it was fitted on, if these are fewer than it was given.
    """

    def predict_scores(self, features: np.ndarray) -> np.ndarray:
        """Scores of features in the form in which `Probe.fit` got them.

        Returns:
            For n rows, by kind of task: "classes" (n, size), the largest is the prediction; "labels" (n, size), a
            label is predicted where its score is above zero; "number" (n,), the prediction itself.
        """
        ...


class Probe:
    """Predicts labels from frozen features. Fitted on the training split, scored on another by the task's metric."""

    name: ClassVar[str]
    per_token: bool = False
    """Whether it reads token features (n, L, D) where others read pooled ones (n, D)."""
    layers: tuple[int, ...] | None = None
    """Encoder blocks, counted from 1, whose outputs it reads side by side (D times their number); None for the
    encoder's output. The raw input, as a baseline, has no layers."""
    max_test_rows: int | None = None
    """Most test rows that it predicts, drawn at random; None for all."""
    evaluate_options: ClassVar[tuple[str, ...]] = ()
    """Options that take their value from the option of this name in the section evaluate, such as "seed", unless
    `evaluate.probe_options` sets them."""

    class Options(_options.Options):
        """No options."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def fit(self, features: np.ndarray, labels: np.ndarray, task: Task) -> Predictor:
        """A predictor fitted to all training rows.

        Args:
            features: (n, D), or (n, L, D) with `per_token`, where tokens that hold no data (padding) are zero. In a
                per-token task each token is a row (n, D), for every probe.
            labels: (n,) int64 classes, (n, size) int64 of 0 and 1, or (n,) float64 numbers.
            task: What the labels mean.
        """
        raise NotImplementedError

    def fit_groups(self, features: np.ndarray, labels: np.ndarray, task: Task, groups: np.ndarray) -> Predictor:
        """As `fit`, with the sample that each row belongs to, (n,) int; override it if that matters to the fit."""
        return self.fit(features, labels, task)


class Objective(nn.Module):
    """Turns tokens into a loss. Knows no modality: of a layout it may use lengths, grids and kinds, never names."""

    name: ClassVar[str]
    default_masking: ClassVar[Choice | None] = None
    """The masking unless the run names another; None for an objective that masks nothing, or has several."""
    default_maskings: ClassVar[Mapping[str, Choice]] = {}
    """Several maskings, by name, for an objective that needs more than one; the run can replace each."""
    min_batch_size: int = 1
    """The smallest batch that the loss is defined for."""
    cross_sample_loss: bool = False
    """Whether a sample's loss depends on the other samples, so that micro-batches of a step must be computed together.
    An objective for which that depends on an option sets it in `__init__`."""
    views: int = 1
    """Number of augmented views of each sample. With 2, rows B..2B-1 are the second view of rows 0..B-1."""
    layers: tuple[int, ...] = ()
    """Encoder layers, counted from 1, that `forward` asks for; the run refuses an encoder that has fewer."""
    teacher: Ema | None = None
    """A moving average that the engine keeps; set it here or in `__init__`. `forward` then gets a `Teacher`."""

    class Options(_options.Options):
        """No options."""

    def __init__(self, options: Any, layout: Layout, dim: int, maskings: Maskings) -> None:
        """Args:
        options: The class's own `Options`.
        layout: The layout of whole rows.
        dim: Width D of the encoder.
        maskings: Maskings by name; `self.masking` is the only one if `default_masking` is used.
        """
        super().__init__()
        self.options = options
        self.layout = layout
        self.dim = dim
        self.maskings = dict(maskings)

    @classmethod
    def masking_choices(cls) -> dict[str, Choice]:
        """The default maskings by name; `default_masking` is called "mask"."""
        return {"mask": cls.default_masking} if cls.default_masking is not None else dict(cls.default_maskings)

    @property
    def masking(self) -> Masking | None:
        """The masking of an objective that has exactly one."""
        return next(iter(self.maskings.values())) if len(self.maskings) == 1 else None

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """All randomness of one step as named CPU tensors of fixed shape, a pure function of the arguments.

        By default the mask: "visible" (B, V) long and "hidden" (B, L) bool; with several maskings "NAME.visible" and
        "NAME.hidden"; nothing without a masking. The engine adds "progress", a 0-dim float in [0, 1]: the share of the
        run that is done, by the clock if the run has a time limit.

        Args:
            batch: Number of rows B, all views counted.
            generator: Source of all randomness.
            geometry: That of the batch, on the CPU.
        """
        draws: dict[str, Tensor] = {}
        for name, masking in self.maskings.items():
            mask = masking(batch, generator, geometry)
            prefix = "" if len(self.maskings) == 1 else f"{name}."
            draws |= {f"{prefix}visible": mask.visible, f"{prefix}hidden": mask.hidden}
        return draws

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """The loss of one batch. `draws` is what `draw` returned, moved to the tokens' device.

        An objective with a `teacher` takes a fourth argument, `teacher: Teacher | None = None`.

        What is decided in Python is decided once: a compiled step, or one recorded as a CUDA graph, does not call this
        method again. So it keeps no count of steps, reads no number of a tensor (`item`), and draws from torch alone,
        on the tokens' device.
        """
        raise NotImplementedError

    def reconstruct(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> list[Tensor] | None:
        """Predictions for whole rows, for the report's pictures: one (B, Ls, size) per segment, or None.

        Predicted patches for continuous segments, logits for discrete ones.
        """
        return None


@dataclass(frozen=True)
class Preprocessing:
    """What a tokenizer does to raw samples, in words and numbers, for programs that do it without sslx.

    Args:
        steps: what `Tokenizer.preprocess` does, in order: {"do": a sentence, and the numbers that it names}.
        inside: what `Tokenizer.forward` does to preprocessed inputs before the encoder, in the same form.
        files: files that a step names, such as a vocabulary, by name.
    """

    steps: Sequence[Mapping[str, Any]] = ()
    inside: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class PictureStyle:
    """How the report draws a segment of a tokenizer. The defaults fit any segment.

    Args:
        axes: What the axes of space of `Tokenizer.to_image` are, with units, such as ("mel band", "time (s)").
        spacing: Units of the last axis from one value to the next, such as seconds.
        rgb: Channels of an image that are shown as red, green and blue, each stretched to its own range. By default
            three channels are shown as they are, and of any other number the first one in false colours.
        channels: Names of the channels, if they have any.
        names: Name of each token, where each token is a thing of its own, such as a column of a table. Segments with
            names are shown as a table.
        drawn: Whether the segment is shown at all.
    """

    axes: tuple[str, ...] = ()
    spacing: float = 1.0
    rgb: tuple[int, int, int] | None = None
    channels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    drawn: bool = True


class Tokenizer(nn.Module):
    """Turns a batch of one modality's inputs into tokens. Knows no objective. Its name is the modality's name."""

    name: ClassVar[str]
    mixes_tokens: ClassVar[bool] = False
    """Whether a token's embedding or target depends on the input of other tokens, as after message passing. What an
    objective hides may then reach the encoder."""
    fits_sizes: ClassVar[bool] = False
    """Whether `preprocess` takes samples of any size or length, and resizes, crops or pads them. Data of another size
    than that trained on is then used, else refused."""
    fact_options: Mapping[str, str] = MappingProxyType({})
    """What changes each of the `facts`, such as {"cropped": "tokenizer.length"}: the cure in warnings."""
    file_options: ClassVar[tuple[str, ...]] = ()
    """Options that name files which `__init__` reads. A saved encoder holds copies of these files."""
    augments: bool = False
    """Whether training sees an augmented view of each sample also if the objective asks for one view, as MAE's crops.
    `__init__` sets it where an option decides."""
    layout: Layout
    """Set by `__init__`; fixed from then on."""
    warnings: tuple[str, ...] = ()
    """Lines for the run's header on what `preprocess` does to the samples, e.g. to what size they are resized."""
    doubts: tuple[str, ...] = ()
    """Lines on defaults that may not fit the data, each with the option that decides it; see `Dataset.doubts`."""

    class Options(_options.Options):
        """No options."""

    def __init__(self, options: Any, fields: Fields, dim: int) -> None:
        super().__init__()
        self.options = options
        self.fields = fields
        self.dim = dim

    def fit(self, samples: Iterable[Inputs]) -> None:
        """Learn what `preprocess` needs, such as a vocabulary, from raw training samples. Most need nothing.

        Called once before preprocessing. The samples come in a fixed random order and are read lazily; each iteration
        starts again. The result is part of the state dict (torch's `get_extra_state` and `set_extra_state`, as a
        tensor), so that a saved run needs no training data.
        """

    def fit_fingerprint(self) -> str:
        """The result of `fit` as text: part of the key of the cache of preprocessed data."""
        return ""

    def entry_names(self) -> Mapping[str, Sequence[str]]:
        """What the rows of parameters stand for, by name of the parameter: {"table": the words of a vocabulary}.

        A run that starts from the weights of another tokenizer of this class matches rows by these names. Rows without
        a name are matched by their number. By default none has names.
        """
        return {}

    def preprocess(self, inputs: Inputs) -> Inputs:
        """One sample's inputs in fixed shapes, computed without parameters or randomness, once, and cached.

        Raises:
            BadSample: For a sample that cannot be used.
        """
        return inputs

    def describe_preprocessing(self) -> Preprocessing:
        """What `preprocess` and `forward` do, for the preprocessing.json beside an exported encoder.

        By default nothing is described.
        """
        return Preprocessing()

    def facts(self, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """What preprocessing did to samples, as shares in [0, 1], for the run's header. By default nothing.

        "unknown": tokens of an input that the vocabulary lacks. "cropped": input beyond the layout's length, which is
        left out. "padded": tokens that hold no data.

        Args:
            inputs: What `preprocess` returned for a sample, or for several, stacked along a first axis.
        """
        return {}

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Compute constants such as mean and scale from the preprocessed training data; keep them in buffers.

        Called once before training, with chunks of preprocessed samples stacked along a first axis. A chunk may be a
        memory-mapped view. The iterable can be consumed once.
        """

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """What differs from row to row: padding, coordinates, neighbours, attention bias. By default nothing.

        A function of preprocessed inputs alone, without parameters. The engine calls it on the CPU before masks are
        drawn; `forward` calls it for the tokens it returns.
        """
        return Geometry()

    def draw_crop(self, batch: int, generator: torch.Generator) -> Draws:
        """All randomness of the crops of `batch` rows, as named CPU tensors of fixed shape. By default none."""
        return {}

    def crop(self, inputs: Mapping[str, Tensor], draws: Draws) -> Mapping[str, Tensor]:
        """The part of preprocessed inputs that one training step uses, for samples kept longer. By default all of them.

        The engine calls it on the CPU for each training batch, before `geometry`, `view` and `forward`. `draws` is what
        `draw_crop` returned, and must be all the randomness. `forward` also takes whole inputs, and uses a fixed part.
        """
        return inputs

    def draw_view(self, batch: int, generator: torch.Generator) -> Draws:
        """All randomness of the augmentations of `batch` rows, as named CPU tensors of fixed shape. By default none."""
        return {}

    def view(self, inputs: Mapping[str, Tensor], draws: Draws) -> Mapping[str, Tensor]:
        """An augmented view of preprocessed inputs, in training only. By default the inputs.

        Called for objectives with several views, and for one view if the tokenizer `augments`. It must not change the
        geometry. `draws` is what `draw_view` returned, on the inputs' device.
        """
        return inputs

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Preprocessed inputs, stacked along B, to tokens. As for `Objective.forward`, Python decides once."""
        raise NotImplementedError

    def raw(self, inputs: Mapping[str, Tensor], per_token: bool = False) -> Tensor | None:
        """The preprocessed input itself as features, (B, n), or (B, L, n) with `per_token`: the baseline of a probe.

        By default None, and the targets serve as raw features.
        """
        return None

    def handmade(self, inputs: Inputs) -> np.ndarray | None:
        """Classical hand-made features of one sample, (F,), as a baseline without learning; by default None, and there
        is no such baseline.

        For example statistics and a spectrum of a series, counts of words. `inputs` are a sample's raw inputs, as
        `preprocess` gets them, of a sample that it takes. All samples have the same F, and the features are finite.
        Called only with `evaluate.classical`.

        Raises:
            ConfigError: If a library is missing; the message has the cure.
        """
        return None

    def to_image(self, segment: int, patches: Tensor) -> Tensor | None:
        """Patches (B, Ls, size) of a continuous segment put together as (B, channels, *space), for pictures."""
        return None

    def to_text(self, segment: int, ids: Tensor) -> list[list[str]] | None:
        """Ids (B, Ls) of a discrete segment as text, for the report: B lists of Ls strings.

        Joined without blanks the strings of a sample read as its text, so they hold their own blanks. By default None,
        and ids are shown as numbers.
        """
        return None

    def to_audio(self, segment: int, patches: Tensor) -> tuple[np.ndarray, float] | None:
        """Patches (B, Ls, size) of a continuous segment as sound, for the report. By default None.

        Returns:
            (B, samples) float, of any loudness, and the sampling rate in Hz.
        """
        return None

    def recording(self, inputs: Inputs) -> tuple[np.ndarray, float] | None:
        """The recording in the raw inputs of one sample, for the report to play. By default None.

        Returns:
            (samples,) float, of any loudness, and the sampling rate in Hz.
        """
        return None

    def picture_style(self, segment: int) -> PictureStyle:
        """How the report draws a segment."""
        return PictureStyle()


class Dataset(torch.utils.data.Dataset[Sample]):
    """Raw samples of one split. A data set is known by its modality and its name together."""

    name: ClassVar[str]
    modality: ClassVar[str]
    is_default: ClassVar[bool] = False
    """Whether `--modality` alone picks it."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names that it goes by, e.g. in a paper's code; unique within the modality like `name`."""
    source: ClassVar[Source | None] = None
    """Where a public data set comes from; see `PublicDataset`."""
    fields: Fields
    """Set by `__init__`: what each sample's inputs hold."""
    task: Task | None = None
    """What its labels mean; None if there are none."""
    warnings: tuple[str, ...] = ()
    """Lines for the run's header, e.g. what was skipped."""
    doubts: tuple[str, ...] = ()
    """Lines on what may have been misread, each with the option that decides it. The run's header shows them, and
    `strict` refuses the data."""
    summary: DataSummary = DataSummary()
    """What was read: columns and their roles, files, facts. `__init__` sets it."""
    splits: tuple[Split, ...] = ("train", "test")
    """The splits that the options and the data provide. `__init__` sets it where they decide; a run opens only these.
    Choices are made on "validation"; "test" is for the final scores alone."""

    class Options(_options.Options):
        """No options."""

    def __init__(self, options: Any, split: Split) -> None:
        self.options = options
        self.split = split

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, the same each time.

        Raises:
            BadSample: If it cannot be read.
        """
        raise NotImplementedError

    @classmethod
    def recognise(cls, root: str) -> Recognition | None:
        """Whether a path of the user's holds data that this class reads, for `sslx inspect` and `sslx run --data`.

        It looks at names, endings and the beginning of some files, and raises nothing. The class must have an option
        `root`, which takes the path. By default None.

        Args:
            root: a file, a folder, a pattern such as data/*.csv, or several files with commas between them.

        Returns:
            How well the path fits and how to read it; None if it does not fit.
        """
        return None

    @classmethod
    def excerpt(cls, options: Any, folder: Path) -> Excerpt | None:
        """A part of the data that `options` name, if the whole is too large to be opened for an inspection.

        Args:
            options: the class's own `Options`.
            folder: an empty folder for the part, deleted after the inspection.

        Returns:
            The part; None (the default) if the whole can be opened.

        Raises:
            DataError: the data cannot be read.
        """
        return None

    def schema(self) -> dict[str, Any]:
        """What data for the trained encoder must have in common with this, as JSON: names, order, kinds and
        vocabularies of columns or channels, and the classes. It is saved in checkpoints. By default empty."""
        return {}

    def conform(self, schema: Mapping[str, Any]) -> None:
        """Present the samples in the form of the data set that the encoder was trained on.

        Called after `__init__` and before a sample is read, if the encoder is a trained one. Columns are matched by
        name, unknown categories become unknown, missing optional columns become missing values. What was adapted goes
        to `warnings`; `fields` and `fingerprint` change with it.

        Args:
            schema: what `schema` returned for the data that the encoder was trained on; it may be empty.

        Raises:
            DataError: The data lacks something that cannot be left out.
        """

    def describe(self, index: int) -> str:
        """The name of a sample in messages: a path, a row."""
        return f"sample {index} of the {self.split} split"

    def identify(self, index: int) -> str:
        """The id of a sample in tables of features and predictions. By default as `describe`."""
        return self.describe(index)

    def fingerprint(self) -> str:
        """Changes whenever the samples do; part of the key of the cache of preprocessed data."""
        return f"{self.modality}/{self.name}:{self.split}:{self.options.model_dump_json()}"
