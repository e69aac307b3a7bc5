"""The promises of a tokenizer, kept on a few samples of its modality."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_core import plugins
from ssl_core.contracts import Inputs, Tokenizer
from ssl_core.data import Discrete, Fields
from ssl_core.errors import BadSample, ConfigError, PluginError
from ssl_core.testing.check import Check, CheckFailed, CheckSpec, expect, recorder, same
from ssl_core.testing.layouts import DIM
from ssl_core.testing.options import make_options
from ssl_core.tokens import ContinuousTarget, DiscreteTarget, Layout, Tokens

ROWS = 4
CHANGES = 24  # numbers of each input that are changed, one at a time

CHECKS: list[CheckSpec] = []
check = recorder(CHECKS)


@dataclass
class Setting:
    """A tokenizer class, the fields of its modality, and samples."""

    tokenizer: type[Tokenizer]
    values: Mapping[str, Any]
    fields: Fields | None
    samples: Sequence[Inputs] | None

    @cached_property
    def source(self) -> tuple[Fields, list[Inputs]]:
        """Fields and raw inputs: those given, else those of the modality's default data set."""
        if self.fields is not None and self.samples is not None:
            expect(len(self.samples) > 1, "the kit needs at least two samples")
            return self.fields, list(self.samples)[:ROWS]
        modality = self.tokenizer.name
        try:
            cls = plugins.load().default_dataset(modality)
            dataset = cls(make_options(cls, {}), "train")
        except (ConfigError, PluginError) as error:
            raise CheckFailed(f"no samples to try it on ({error}); hand the kit fields=... and samples=...") from None
        places = range(0, len(dataset), max(1, len(dataset) // ROWS))[:ROWS]
        return dataset.fields, [dataset[index]["inputs"] for index in places]

    def build(self, seed: int = 0) -> Tokenizer:
        """A freshly initialised tokenizer that has learned what it needs to prepare, and measured nothing."""
        tokenizer = self.unfitted(seed)
        tokenizer.fit(copy.deepcopy(self.source[1]))
        return tokenizer

    def unfitted(self, seed: int = 0) -> Tokenizer:
        """A freshly initialised tokenizer that has seen no sample."""
        torch.manual_seed(seed)
        return self.tokenizer(make_options(self.tokenizer, self.values), self.source[0], DIM)

    def prepared(self, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        """The samples prepared and stacked."""
        return stack([tokenizer.preprocess(copy.deepcopy(inputs)) for inputs in self.source[1]])

    def ready(self) -> tuple[Tokenizer, dict[str, Tensor]]:
        """A tokenizer that has measured the samples, and these as a batch."""
        tokenizer = self.build()
        arrays = self.prepared(tokenizer)
        tokenizer.fit_normalization(iter([arrays]))
        return tokenizer, batch(arrays)


def checks(
    tokenizer: type[Tokenizer], values: Mapping[str, Any], fields: Fields | None, samples: Sequence[Inputs] | None
) -> list[Check]:
    """All checks of a tokenizer class."""
    setting = Setting(tokenizer, values, fields, samples)
    return [
        Check(tokenizer, one, setting)
        for one in CHECKS
        if one.function is not to_image_inverts_patches or tokenizer.to_image is not Tokenizer.to_image
    ]


def stack(prepared: Sequence[Inputs]) -> dict[str, np.ndarray]:
    """Prepared samples along a first axis. Breaks the promise if they do not fit together."""
    first = prepared[0]
    for inputs in prepared[1:]:
        forms = [
            {name: (np.shape(x), np.asarray(x).dtype.name) for name, x in each.items()} for each in (first, inputs)
        ]
        expect(forms[0] == forms[1], f"prepare made {forms[0]} of one sample and {forms[1]} of another")
    return {name: np.stack([np.asarray(inputs[name]) for inputs in prepared]) for name in first}


def batch(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Prepared arrays as the engine hands them over."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def numbers(tokens: Tokens) -> list[Tensor]:
    """Content and the numbers of all targets but tables."""
    targets = [t.patches if isinstance(t, ContinuousTarget) else t.ids for t in tokens.targets]
    return [part.detach() for part in (tokens.embeddings, *targets)]


# --- the promises ----------------------------------------------------------------------------------------------------


@check("forward")
def embeddings_fit_the_layout(setting: Setting) -> None:
    """Content is (B, L, D), with L the layout's length and D the width asked for; the layout is set by __init__."""
    layout = setting.build().layout
    expect(isinstance(layout, Layout), f"self.layout is {type(layout).__name__}, not a Layout")
    tokenizer, inputs = setting.ready()
    tokens = tokenizer(inputs)
    wanted = (len(setting.source[1]), layout.length, DIM)
    expect(
        tuple(tokens.embeddings.shape) == wanted,
        f"embeddings are {tuple(tokens.embeddings.shape)}, not {wanted}: {wanted[0]} samples, "
        f"the layout's {layout.length} tokens, width {DIM}",
    )
    expect(tokens.layout == layout == tokenizer.layout, "the tokens' layout is not the tokenizer's")
    expect(tokens.embeddings.isfinite().all(), "embeddings are not finite")


@check("forward")
def targets_fit_the_layout(setting: Setting) -> None:
    """One target for each segment, of its kind: patches (B, Ls, size), or ids (B, Ls) with a table (size, D)."""
    tokenizer, inputs = setting.ready()
    tokens, rows = tokenizer(inputs), len(setting.source[1])
    segments = tokenizer.layout.segments
    expect(len(tokens.targets) == len(segments), f"{len(tokens.targets)} targets for {len(segments)} segments")
    for segment, target in zip(segments, tokens.targets, strict=True):
        kind = {"continuous": ContinuousTarget, "discrete": DiscreteTarget}[segment.target]
        expect(
            isinstance(target, kind), f"'{segment.name}': the target is {type(target).__name__}, not {kind.__name__}"
        )
        if isinstance(target, ContinuousTarget):
            shapes: list[tuple[Tensor, tuple[int, ...]]] = [(target.patches, (rows, segment.length, segment.size))]
            expect(target.patches.isfinite().all(), f"'{segment.name}': patches are not finite")
        else:
            shapes = [(target.ids, (rows, segment.length)), (target.table, (segment.size, DIM))]
            expect(target.ids.dtype == torch.long, f"'{segment.name}': ids are {target.ids.dtype}, not long")
            least, most = int(target.ids.min()), int(target.ids.max())
            expect(
                0 <= least <= most < segment.size, f"'{segment.name}': ids {least}..{most}, vocabulary {segment.size}"
            )
        for tensor, wanted in shapes:
            expect(tuple(tensor.shape) == wanted, f"'{segment.name}': shape {tuple(tensor.shape)}, not {wanted}")


@check("forward")
def tables_are_live_parameters(setting: Setting) -> None:
    """The table of an Ids target is a parameter of the tokenizer itself, no copy: it is trained through the loss."""
    tokenizer, inputs = setting.ready()
    own = {id(parameter) for parameter in tokenizer.parameters()}
    for segment, target in zip(tokenizer.layout.segments, tokenizer(inputs).targets, strict=True):
        if isinstance(target, DiscreteTarget):
            expect(id(target.table) in own, f"'{segment.name}': the table is not one of tokenizer.parameters()")


@check("forward")
def samples_are_independent(setting: Setting) -> None:
    """A sample's tokens depend on that sample only, not on the others of its batch."""
    tokenizer, inputs = setting.ready()
    alone = {
        name: x[:1].expand(x.shape).clone() for name, x in inputs.items()
    }  # the same size of batch: equal rounding
    for mode in (True, False):
        tokenizer.train(mode)
        first, second = (numbers(tokenizer(each)) for each in (inputs, alone))
        same([x[:1] for x in first], [x[:1] for x in second], "the first sample's tokens among other samples")


@check("forward")
def tokens_depend_on_their_own_place(setting: Setting) -> None:
    """One number of the preprocessed input changes at most one token, in training and evaluation mode, unless the class
    sets `mixes_tokens`: otherwise what an objective hides reaches the encoder through the other tokens.
    """
    tokenizer, inputs = setting.ready()
    if type(tokenizer).mixes_tokens:
        return
    generator = np.random.default_rng(0)
    for mode in (True, False):
        tokenizer.train(mode)
        before = numbers(tokenizer(inputs))
        for name, x in inputs.items():
            for place in generator.choice(x[0].numel(), min(CHANGES, x[0].numel()), replace=False).tolist():
                changed = x.clone()
                row, other = changed.view(len(x), -1)[0], x.view(len(x), -1)[-1]
                row[place] = row[place] + 1 if x.is_floating_point() else other[place]
                after = numbers(tokenizer({**inputs, name: changed}))
                count = len(_changed_tokens(before, after, [s.length for s in tokenizer.layout.segments]))
                expect(count <= 1, f"one number of '{name}' changed {count} tokens; set mixes_tokens = True if it must")


def _changed_tokens(before: Sequence[Tensor], after: Sequence[Tensor], lengths: Sequence[int]) -> set[int]:
    """The tokens of the first sample whose embedding or target differs. The first tensors are the embeddings."""
    starts = [0, *itertools.accumulate([0, *lengths[:-1]])]
    changed: set[int] = set()
    for start, one, other in zip(starts, before, after, strict=True):
        differs = (one[0] != other[0]).reshape(len(one[0]), -1).any(dim=1)
        changed |= {start + token for token in differs.nonzero().flatten().tolist()}
    return changed


@check("forward")
def gradient_reaches_every_parameter(setting: Setting) -> None:
    """The gradient of the content reaches every parameter that asks for one."""
    tokenizer, inputs = setting.ready()
    tokens = tokenizer(inputs)
    (tokens.embeddings * torch.randn(tokens.embeddings.shape)).sum().backward()
    missed = [
        name
        for name, parameter in tokenizer.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    expect(not missed, f"no gradient, or zero everywhere, or NaN: {', '.join(missed)}")


@check("forward")
def one_sample_is_enough(setting: Setting) -> None:
    """A batch of one gives the same tokens as a larger batch, up to rounding."""
    tokenizer, inputs = setting.ready()
    many, one = numbers(tokenizer(inputs)), numbers(tokenizer({name: x[:1] for name, x in inputs.items()}))
    for whole, single in zip(many, one, strict=True):
        expect(single.shape[0] == 1, f"a batch of one gave {tuple(single.shape)}")
        expect(torch.allclose(whole[:1], single, rtol=1e-4, atol=1e-5), "alone, a sample has other tokens")


@check("forward")
def bf16_autocast_is_finite(setting: Setting) -> None:
    """Under bfloat16 autocast the content is finite."""
    tokenizer, inputs = setting.ready()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expect(tokenizer(inputs).embeddings.isfinite().all(), "embeddings are not finite")


@check("preprocess")
def constant_input_is_finite(setting: Setting) -> None:
    """Constant input (silence, a blank image, one letter throughout) gives finite tokens, or raises BadSample."""
    fields, samples = setting.source
    for value in (0, 1):
        tokenizer = setting.build()
        blank = {name: np.full_like(array, value) for name, array in samples[0].items()}
        for name, field in fields.items():
            if isinstance(field, Discrete):
                blank[name] = np.full_like(samples[0][name], min(value, field.vocab - 1))
        try:
            arrays = stack([tokenizer.preprocess(copy.deepcopy(blank)) for _ in range(2)])
        except BadSample:
            continue
        tokenizer.fit_normalization(iter([arrays]))  # a constant has no deviation to divide by
        for part in numbers(tokenizer(batch(arrays))):
            expect(part.isfinite().all(), f"input of only {value} gives tokens that are not finite")


@check("preprocess")
def preprocess_is_pure(setting: Setting) -> None:
    """`prepare` gives the same each time, of arrays whose shapes do not differ from sample to sample, and leaves its
    input as it was.
    """
    inputs = setting.source[1]
    kept = copy.deepcopy(inputs)
    made = []
    for seed in (11, 12):
        tokenizer = setting.build(seed)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        made.append([tokenizer.preprocess(each) for each in inputs])
    same([dict(each) for each in kept], [dict(each) for each in inputs], "the input of prepare")
    for each in made[0]:
        wrong = [name for name, x in each.items() if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub"]
        expect(not wrong, f"prepare made something else than an array of numbers of {', '.join(wrong)}")
    same(made[0], made[1], "what a second call of prepare made")
    stack(made[0])


@check("fit")
def fit_state_is_in_the_state_dict(setting: Setting) -> None:
    """A state dict loaded into a tokenizer that has seen no data prepares the same: `fit` keeps what it learned there,
    and `learned` names it.
    """
    fitted, fresh = setting.build(), setting.unfitted(seed=5)
    fresh.load_state_dict(fitted.state_dict())
    same(fitted.fit_fingerprint(), fresh.fit_fingerprint(), "what was learned, after loading")
    made = [[tokenizer.preprocess(copy.deepcopy(x)) for x in setting.source[1]] for tokenizer in (fitted, fresh)]
    same(made[0], made[1], "what prepare makes after loading")


@check("fit_normalization")
def normalization_is_in_the_state_dict(setting: Setting) -> None:
    """A state dict loaded into a fresh tokenizer gives the same tokens: what was measured is kept in buffers."""
    tokenizer, inputs = setting.ready()
    fresh = setting.build(seed=5)
    fresh.load_state_dict(tokenizer.state_dict())
    same(numbers(tokenizer.eval()(inputs)), numbers(fresh.eval()(inputs)), "the tokens after loading")


@check("fit_normalization")
def fit_normalization_takes_chunks_of_any_size(setting: Setting) -> None:
    """`measure` walks its chunks once, changes none of them, and finds the same however the data is divided."""
    whole, inputs = setting.ready()
    parts = setting.build()
    arrays = setting.prepared(parts)
    for array in arrays.values():
        array.flags.writeable = False
    count = len(setting.source[1])

    def chunks() -> Iterable[Mapping[str, np.ndarray]]:
        for start, stop in ((0, 1), (1, count)):
            yield {name: array[start:stop] for name, array in arrays.items()}

    parts.fit_normalization(chunks())
    for one, other in zip(numbers(whole(inputs)), numbers(parts(inputs)), strict=True):
        expect(torch.allclose(one, other, rtol=1e-3, atol=1e-4), "the tokens depend on how the data is divided")


@check("to_image")
def to_image_inverts_patches(setting: Setting) -> None:
    """`depict` puts a segment's target patches together as (B, channels, *space), every number of them in its place:
    where the picture has the form of a prepared input, it is that input, perhaps turned over along some axes.
    """
    tokenizer, inputs = setting.ready()
    rows = len(setting.source[1])
    for i, target in enumerate(tokenizer(inputs).targets):
        if not isinstance(target, ContinuousTarget):
            continue
        picture = tokenizer.to_image(i, target.patches)
        if picture is None:
            continue
        expect(picture.shape[0] == rows and picture.ndim >= 3, f"a picture of shape {tuple(picture.shape)}")
        expect(picture.isfinite().all(), "the picture is not finite")
        alike = [x.float() for x in inputs.values() if x.shape == picture.shape]
        close = any(_alike(x, turned) for x in alike for turned in _turned(picture.float()))
        expect(close or not alike, "the picture has the form of a prepared input, but other values")
        changed = tokenizer.to_image(i, target.patches + 1.0)
        moved = (changed != picture).float().mean().item() if changed is not None else 0.0
        expect(moved > 0.5, "other patches give the same picture")


def _alike(x: Tensor, picture: Tensor) -> bool:
    return torch.allclose(x, picture, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def _turned(picture: Tensor) -> Iterator[Tensor]:
    """The picture, turned over along each choice of its axes of space."""
    space = range(2, picture.ndim)
    for count in range(len(space) + 1):
        for axes in itertools.combinations(space, count):
            yield picture.flip(axes)
