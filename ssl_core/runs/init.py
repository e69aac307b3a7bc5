"""The weights that a run starts with, where they come from an earlier run or encoder: what fits, what is loaded."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.config.schema import Part, RunConfig
from ssl_core.contracts import Tokenizer
from ssl_core.data import Continuous, Fields
from ssl_core.errors import ConfigError
from ssl_core.nn.encoder import Encoder
from ssl_core.nn.positions import Positions
from ssl_core.report.schema import HistoryRow, InitReport
from ssl_core.runs.data import MAX_NAMES, DataForm
from ssl_core.runs.init_positions import load_positions
from ssl_core.tokenizers import GridTokenizer, JointTokenizer
from ssl_core.training.learner import Learner

INITIAL = "initial"
"""Folder in a run's folder for the checkpoint of step 0, so that a resume does not need the source."""
SourceKind = Literal["run", "encoder", "timm", "transformers"]
FREE = frozenset({"dropout", "drop_path", "attention", "init", "pool", "positions", "layer_scale", "act", "norm_eps"})
"""Options of an encoder that may differ from the source's; all others decide what the weights mean."""
GIVEN = ("normalise", "mean", "std")
"""Options of a tokenizer that set constants; where they differ from the source's, nothing is kept."""
SMALL = 0.01
"""A mean that differs by a smaller part of the deviation, or a deviation by a smaller part of itself, is not shown."""
EXTRA_STATE = "_extra_state"
CONSTANT_WORDS = {"std": "standard deviation"}


@dataclass(frozen=True)
class InitSource:
    """A trained encoder that a run starts from.

    Attributes:
        path: folder or file.
        kind: what it is.
        tokenizer: with its weights and constants.
        encoder: with its weights.
        tokenizer_part: name and options of the tokenizer.
        encoder_part: name and options of the encoder.
        fields: what a sample held.
        options: options by dotted path that a run from it takes unless they are set.
        objective: name of the objective that it was trained with; None if unknown.
        objective_tensors: weights of the objective by name.
        schema: `Dataset.schema` of the data that it was trained on.
        stats: statistics of its fields, as in checkpoints.
        steps: optimiser steps; 0 if unknown.
        trained_on: modality/data set; empty if unknown.
        history: the sources of the source, the earliest first.
        notes: lines for the header on what was assumed.
        assumed: options of the encoder that are not known, and may be set to other values.
        has_constants: whether the tokenizer has constants that can be kept.
    """

    path: Path
    kind: SourceKind
    tokenizer: Tokenizer
    encoder: Encoder
    tokenizer_part: Part
    encoder_part: Part
    fields: Fields
    options: Mapping[str, Any]
    objective: str | None = None
    objective_tensors: Mapping[str, Tensor] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    trained_on: str = ""
    history: tuple[HistoryRow, ...] = ()
    notes: tuple[str, ...] = ()
    assumed: frozenset[str] = frozenset()
    has_constants: bool = True

    @property
    def digest(self) -> str:
        """A digest of the weights and constants of tokenizer and encoder."""
        return weights_digest({"tokenizer": self.tokenizer, "encoder": self.encoder})

    @property
    def row(self) -> HistoryRow:
        """What a history says of it."""
        return HistoryRow(
            source=str(self.path), kind=self.kind, digest=self.digest, steps=self.steps, objective=self.objective,
            trained_on=self.trained_on,
        )  # fmt: skip

    def describe(self) -> str:
        """The source in words."""
        by = "" if self.objective is None else f"{self.objective} on {self.trained_on}, {self.steps:,} steps, "
        return f"{self.path} ({self.kind}; {by}weights {self.digest[:12]})"


def weights_digest(parts: Mapping[str, nn.Module]) -> str:
    """A digest of names, shapes and values of all tensors in the state dicts of modules."""
    digest = hashlib.blake2b(digest_size=16)
    for part, module in sorted(parts.items()):
        for name, value in sorted(module.state_dict().items()):
            array = value.detach().cpu().contiguous()
            digest.update(f"{part}.{name}:{array.dtype}:{tuple(array.shape)}\n".encode())
            digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- what fits -------------------------------------------------------------------------------------------------------


def loads_tokenizer(config: RunConfig, source: InitSource) -> bool:
    """Whether the run takes the weights of the source's tokenizer."""
    choice = config.init.tokenizer
    return choice == "load" or (choice == "auto" and config.tokenizer.name == source.tokenizer_part.name)


def keeps_constants(config: RunConfig, source: InitSource) -> bool:
    """Whether the run takes what the source's tokenizer computed from its data."""
    return config.init.constants == "keep" and source.has_constants and loads_tokenizer(config, source)


def form_of(config: RunConfig, source: InitSource | None) -> DataForm | None:
    """The form in which the data are read: that of the source's data where its constants are kept; else their own."""
    if source is None or source.kind not in ("run", "encoder") or not keeps_constants(config, source):
        return None
    if config.tokenizer.name != source.tokenizer_part.name:
        return None
    return DataForm(source.schema, source.fields, "; or set init.constants=measure to take the data as they are")


def check_encoder(config: RunConfig, source: InitSource) -> None:
    """Raises:
    ConfigError: an option of the encoder that decides what its weights mean differs from the source's.
    """
    own, trained = config.encoder, source.encoder_part
    if own.name != trained.name:
        raise ConfigError(_unfit("encoder.name", own.name, trained.name, source))
    for name, before in trained.options.items():
        now = own.options.get(name)
        if name not in FREE | source.assumed and now != before:
            raise ConfigError(_unfit(f"encoder.{name}", now, before, source))
    before, now = trained.options.get("layer_scale"), own.options.get("layer_scale")
    if (before is None) != (now is None):
        raise ConfigError(_unfit("encoder.layer_scale", now, before, source))
    if trained.options.get("positions") == "learned" and own.options.get("positions") == "sincos":
        raise ConfigError(_unfit("encoder.positions", "sincos", "learned", source))


def _unfit(path: str, now: Any, before: Any, source: InitSource) -> str:
    was = as_option(before)
    return f"{path} is {as_option(now)} here and {was} in {source.path}, whose weights do not fit; set {path}={was}"


# --- loading ---------------------------------------------------------------------------------------------------------


class Initialisation:
    """Puts the weights of a source into a fresh learner, and says what was done.

    Args:
        config: the configuration of the run.
        source: the source.
    """

    def __init__(self, config: RunConfig, source: InitSource) -> None:
        check_encoder(config, source)
        self.config, self.source = config, source
        self.keeps = keeps_constants(config, source)
        self.lines: list[str] = []
        self.loaded: dict[str, tuple[int, int]] = {}

    def fit(self, tokenizer: Tokenizer, samples: Iterable[Any]) -> None:
        """Give the tokenizer its vocabulary before data are preprocessed: the source's, or one of these samples."""
        before = self.source.tokenizer
        if not self.keeps or not before.fit_fingerprint() or tokenizer.fit_fingerprint():
            tokenizer.fit(samples)  # a vocabulary from a file stays
            return
        learned = {name: value for name, value in before.state_dict().items() if name.endswith(EXTRA_STATE)}
        tokenizer.load_state_dict(learned, strict=False)
        rows = dict(_parameters(before))
        for name, parameter in _parameters(tokenizer):
            if name in rows and rows[name].names and len(parameter.tensor) < len(rows[name].tensor):
                raise ConfigError(self._tokenizer_unfit(tokenizer, "the vocabulary of the source is larger"))
        self.lines.append("constants  vocabulary kept")

    @torch.no_grad()
    def load(self, learner: Learner, chunks: Iterable[Mapping[str, np.ndarray]], columns: Sequence[str]) -> None:
        """Load weights and constants.

        Args:
            learner: freshly initialised, its tokenizer fitted.
            chunks: the preprocessed training data.
            columns: names of the channels or columns of numbers.

        Raises:
            ConfigError: weights do not fit; the message names the option to change.
        """
        if loads_tokenizer(self.config, self.source):
            self._load_tokenizer(learner.tokenizer)
        else:
            self.loaded["tokenizer"] = (0, len(list(learner.tokenizer.parameters())))
        self._load_encoder(learner.encoder)
        self._load_objective(learner.objective)
        self._set_constants(learner.tokenizer, chunks, columns)

    # -- tokenizer

    def _load_tokenizer(self, tokenizer: Tokenizer) -> None:
        self._check_vocabulary(tokenizer)
        before, now = dict(_parameters(self.source.tokenizer)), dict(_parameters(tokenizer))
        joint = isinstance(tokenizer, JointTokenizer)
        count = 0
        for name, new in now.items():
            old = before.get(name)
            if old is None and joint:
                self.lines.append(f"init       '{new.part}' is not in the source, and starts anew")
                continue
            if old is None:
                raise ConfigError(self._tokenizer_unfit(tokenizer, f"{name} is not in"))
            count += 1
            named = bool(old.names and new.names)
            if named and (tuple(old.names) != tuple(new.names) or old.tensor.shape != new.tensor.shape):
                self._match_rows(name, new, old, tokenizer)
            elif old.tensor.shape == new.tensor.shape:
                new.tensor.copy_(old.tensor)
            else:
                shapes = f"{name} is {tuple(old.tensor.shape)} in {self.source.path} and {tuple(new.tensor.shape)} here"
                raise ConfigError(self._tokenizer_unfit(tokenizer, shapes))
        absent = dict.fromkeys(old.part for name, old in before.items() if name not in now)
        if absent and not joint:
            raise ConfigError(self._tokenizer_unfit(tokenizer, f"it has no '{next(iter(before.keys() - now.keys()))}'"))
        self.lines += [f"init       '{part}' of the source is not in this data" for part in absent]
        self.loaded["tokenizer"] = (count, len(now))
        self._check_order(tokenizer)

    def _check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Raises:
        ConfigError: another vocabulary whose entries have no names.
        """
        before, now = self.source.tokenizer.fit_fingerprint(), tokenizer.fit_fingerprint()
        if before != now and not tokenizer.entry_names():
            raise ConfigError(
                f"tokenizer '{self.config.tokenizer.name}' learned another vocabulary than that of {self.source.path} "
                f"and does not name its entries, so that they cannot be matched; set init.constants=keep, or "
                f"init.tokenizer=fresh"
            )

    def _match_rows(self, name: str, new: NamedTensor, old: NamedTensor, tokenizer: Tokenizer) -> None:
        """Copy the rows of a table that both have, by name."""
        if old.tensor.shape[1:] != new.tensor.shape[1:]:
            shapes = f"{name} is {tuple(old.tensor.shape)} in {self.source.path} and {tuple(new.tensor.shape)} here"
            raise ConfigError(self._tokenizer_unfit(tokenizer, shapes))
        rows: dict[str, int] = {}
        for index, entry in enumerate(old.names):
            if entry or index == 0:  # an empty name at the front is that of missing values, elsewhere there is none
                rows.setdefault(entry, index)
        pairs = [(i, rows[entry]) for i, entry in enumerate(new.names) if entry in rows and (entry or i == 0)]
        if pairs:
            target, origin = torch.tensor(pairs, device=new.tensor.device).unbind(1)
            new.tensor[target] = old.tensor.to(new.tensor.device)[origin.to(new.tensor.device)]
        count = len(new.names)
        self.lines.append(
            f"constants  '{new.part}': {len(pairs):,} of {count:,} entries matched by name, {count - len(pairs):,} "
            f"new; {len(rows.keys() - set(new.names)):,} of the source left out"
        )

    def _check_order(self, tokenizer: Tokenizer) -> None:
        """Say if columns lie at other positions than in the source: positions are all that tells columns apart."""
        for segment in tokenizer.layout.segments:
            now, before = (_names(fields, segment.name) for fields in (tokenizer.fields, self.source.fields))
            moved = [name for name in now if name in before and now.index(name) != before.index(name)]
            if moved and len(now) == segment.length:
                more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
                self.lines.append(
                    f"warning: column '{moved[0]}'{more} has another number than in the source, and numbers tell "
                    f"columns apart; init.constants=keep puts the columns in the order of the source"
                )

    def _tokenizer_unfit(self, tokenizer: Tokenizer, what: str) -> str:
        """Why the tokenizer's weights do not fit, and which option to change."""
        return (
            f"the weights of tokenizer '{self.config.tokenizer.name}' do not fit: {what}; "
            f"{self._tokenizer_cure(tokenizer)}init.tokenizer=fresh starts them anew"
        )

    def _tokenizer_cure(self, tokenizer: Tokenizer) -> str:
        """ "set tokenizer.patch=4, or " or another option that differs; empty if none is known."""
        before, known = self.source.tokenizer, type(tokenizer.options).model_fields
        if isinstance(before, GridTokenizer) and isinstance(tokenizer, GridTokenizer):
            if before.patch != tokenizer.patch and "patch" in known:
                size = before.patch[:1] if len(set(before.patch)) == 1 else before.patch
                return f"set tokenizer.patch={as_option(size)}; "
            takes_number = "channels" in known and known["channels"].annotation == (int | None)
            if before.channels != tokenizer.channels and takes_number:
                return f"set tokenizer.channels={before.channels}; "
        own, trained = self.config.tokenizer.options, self.source.tokenizer_part.options
        if self.config.tokenizer.name == self.source.tokenizer_part.name:
            for name, value in trained.items():
                if own.get(name) != value and value is not None and name not in GIVEN:
                    return f"set tokenizer.{name}={as_option(value)}; "
        return ""

    # -- encoder and objective

    def _load_encoder(self, encoder: Encoder) -> None:
        now, before = encoder.state_dict(keep_vars=True), self.source.encoder.state_dict()
        positions = {name: module for name, module in encoder.named_modules() if isinstance(module, Positions)}
        trained = dict(self.source.encoder.named_modules())
        for name, module in positions.items():
            old = trained.get(name)
            if not isinstance(old, Positions):
                raise ConfigError(f"the weights of {self.source.path} do not fit: its encoder has no module '{name}'")
            layouts = encoder.layout, self.source.encoder.layout
            lines = load_positions(module, old, *layouts, self.config.init.positions)
            self.lines += [f"init       {line}" for line in lines]
        rest = [name for name in {**before, **now} if name.rpartition(".")[0] not in positions]
        for name in rest:
            if name not in now or name not in before or now[name].shape != before[name].shape:
                shapes = " and ".join(
                    f"{tuple(state[name].shape)} {where}" if name in state else f"absent {where}"
                    for state, where in ((before, f"in {self.source.path}"), (now, "here"))
                )
                raise ConfigError(
                    f"the weights of the encoder do not fit: {name} is {shapes}; start from another run, or use data "
                    f"and options of the tokenizer that give the same tokens"
                )
            now[name].copy_(before[name])
        self.loaded["encoder"] = (len(rest) + len(positions), len(rest) + len(positions))
        for name in ("act", "norm_eps"):
            old_value, value = (part.options.get(name) for part in (self.source.encoder_part, self.config.encoder))
            if old_value != value:
                self.lines.append(f"init       encoder.{name} {old_value} -> {value}: other features than the source's")

    def _load_objective(self, objective: nn.Module) -> None:
        """Load the tensors of the same name and shape, if the objective is the same."""
        state = objective.state_dict(keep_vars=True)
        fits = []
        if self.config.init.objective == "auto" and self.source.objective == self.config.objective.name:
            before = self.source.objective_tensors
            fits = [name for name, value in state.items() if name in before and before[name].shape == value.shape]
            for name in fits:
                state[name].copy_(before[name])
        self.loaded["objective"] = (len(fits), len(state))

    # -- constants

    def _set_constants(
        self, tokenizer: Tokenizer, chunks: Iterable[Mapping[str, np.ndarray]], columns: Sequence[str]
    ) -> None:
        """Measure the constants on the data, put the source's in their place where these are kept, and compare."""
        own, trained = self.config.tokenizer.options, self.source.tokenizer_part.options
        given = [name for name in GIVEN if own.get(name) != trained.get(name)]
        measured = copy.deepcopy(tokenizer)
        measured.fit_normalization(chunks)
        before = dict(_buffers(self.source.tokenizer))
        keeps = self.keeps and not given
        shown: list[tuple[float, str]] = []
        pairs = dict(_buffers(measured))
        for name, buffer in _buffers(tokenizer):
            new, old = pairs[name], before.get(name)
            if old is None or old.shape != new.shape or not loads_tokenizer(self.config, self.source):
                buffer.copy_(new)
                continue
            buffer.copy_(old if keeps else new)
            deviation = pairs.get(f"{name[: -len('mean')]}std") if name.endswith("mean") else None
            shown += _differences(name, old, new, new.abs() if deviation is None else deviation, columns, keeps)
        shown.sort(key=lambda item: -item[0])
        self.lines += [f"constants  {text}" for _, text in shown[:MAX_NAMES]]
        if len(shown) > MAX_NAMES:
            self.lines.append(f"constants  and {len(shown) - MAX_NAMES} more that differ")
        if keeps and pairs and not shown:
            self.lines.append("constants  kept; on this data they are the same to one percent")

    # -- records

    def report(self) -> InitReport:
        """What the run's report and checkpoints say of its initial weights."""
        source = self.source
        counts = ", ".join(f"{part} {count} of {total}" for part, (count, total) in self.loaded.items())
        first = [f"init       from {source.describe()}", f"init       tensors loaded: {counts}"]
        row = source.row
        return InitReport(
            source=row.source, kind=row.kind, digest=row.digest, steps=row.steps, objective=row.objective,
            trained_on=row.trained_on, constants="kept" if self.keeps else "measured",
            loaded={part: list(pair) for part, pair in self.loaded.items()},
            lines=(*first, *(f"init       {note}" for note in source.notes), *dict.fromkeys(self.lines)),
            history=(*source.history, row),
        )  # fmt: skip


@dataclass(frozen=True)
class NamedTensor:
    """A parameter, the part of the data that it belongs to, and the names of its rows."""

    tensor: Tensor
    part: str
    names: Sequence[str] = ()


def _parameters(tokenizer: Tokenizer) -> Iterator[tuple[str, NamedTensor]]:
    """The parameters of a tokenizer; those of a joint one by the names of its segments instead of numbers."""
    names = tokenizer.entry_names()
    for name, parameter in tokenizer.named_parameters():
        part, key = _segments(tokenizer, name)
        yield key, NamedTensor(parameter.detach(), part, names.get(name, ()))


def _buffers(tokenizer: Tokenizer) -> Iterator[tuple[str, Tensor]]:
    """The persistent buffers of a tokenizer, named as by `_parameters`."""
    persistent = tokenizer.state_dict()
    for name, buffer in tokenizer.named_buffers():
        if name in persistent:
            yield _segments(tokenizer, name)[1], buffer


def _segments(tokenizer: Tokenizer, name: str) -> tuple[str, str]:
    """The segments that a parameter or buffer belongs to, and its name with these in place of a part's number."""
    if isinstance(tokenizer, JointTokenizer) and name.startswith("parts."):
        number, _, rest = name.removeprefix("parts.").partition(".")
        part = "+".join(segment.name for segment in tokenizer.parts[int(number)].layout.segments)  # type: ignore[union-attr]
        return part, f"{part}.{rest}"
    return "+".join(segment.name for segment in tokenizer.layout.segments), name


def _differences(
    name: str, old: Tensor, new: Tensor, scale: Tensor, columns: Sequence[str], keeps: bool
) -> list[tuple[float, str]]:
    """Lines on the numbers of a constant that differ, each with the size of the difference."""
    word = CONSTANT_WORDS.get(name.rpartition(".")[2], name.rpartition(".")[2])
    old, new, scale = (value.detach().cpu().double().flatten() for value in (old, new, scale))
    sizes = ((old - new).abs() / scale.clamp(min=torch.finfo(torch.float32).tiny)).tolist()
    out = []
    for index, size in enumerate(sizes):
        if size > SMALL:
            element = columns[index] if len(columns) == len(sizes) else str(index)
            what = f"{word} of channel {element}" if len(sizes) > 1 else word
            kept = f"kept: {old[index]:.4g}" if keeps else f"measured: {new[index]:.4g}"
            out.append((size, f"{what} {old[index]:.4g} -> {new[index]:.4g} ({kept})"))
    return out


def as_option(value: Any) -> str:
    """A value as `--set` reads it."""
    if isinstance(value, list | tuple):
        return ",".join(map(as_option, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _names(fields: Fields, name: str) -> tuple[str, ...]:
    """The names of the numbers of a field; none if it is not there or has none."""
    field = fields.get(name)
    return field.names if isinstance(field, Continuous) else ()


def number_columns(schema: Mapping[str, Any], fields: Fields) -> list[str]:
    """Names of the channels or columns of numbers of a data set, where they have names."""
    named = [field.names for field in fields.values() if isinstance(field, Continuous) and field.names]
    if named:
        return list(named[0])
    kinds = ("number", "channel")
    return [column["name"] for column in schema.get("columns", []) if column.get("kind", "number") in kinds]
