"""Checks of a tokenizer, on a few samples of its modality."""

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
from ssl_core.testing.check import Check, CheckFailed, CheckSpec, expect, expect_equal, join_names, registrar
from ssl_core.testing.layouts import DIM
from ssl_core.testing.options import make_options
from ssl_core.tokens import ContinuousTarget, DiscreteTarget, Layout, Tokens

SAMPLES = 4
CHANGES = 24  # numbers of each input that a check changes, one at a time

CHECKS: list[CheckSpec] = []
check = registrar(CHECKS)


@dataclass
class Setting:
    """A tokenizer class, the fields of its modality, and samples."""

    tokenizer: type[Tokenizer]
    values: Mapping[str, Any]
    fields: Fields | None
    samples: Sequence[Inputs] | None

    @cached_property
    def source(self) -> tuple[Fields, list[Inputs]]:
        """Fields and raw inputs: the arguments, else those of the modality's default data set."""
        if self.fields is not None and self.samples is not None:
            expect(len(self.samples) > 1, "the kit needs at least two samples")
            return self.fields, list(self.samples)[:SAMPLES]
        modality = self.tokenizer.name
        try:
            cls = plugins.load().default_dataset(modality)
            dataset = cls(make_options(cls, {}), "train")
        except (ConfigError, PluginError) as error:
            raise CheckFailed(f"no samples to test on ({error}); pass fields=... and samples=... to the kit") from None
        indices = range(0, len(dataset), max(1, len(dataset) // SAMPLES))[:SAMPLES]
        return dataset.fields, [dataset[index]["inputs"] for index in indices]

    def build(self, seed: int = 0) -> Tokenizer:
        """A freshly initialised tokenizer after `fit`, without normalisation constants."""
        tokenizer = self.unfitted(seed)
        tokenizer.fit(copy.deepcopy(self.source[1]))
        return tokenizer

    def unfitted(self, seed: int = 0) -> Tokenizer:
        """A freshly initialised tokenizer before `fit`."""
        torch.manual_seed(seed)
        return self.tokenizer(make_options(self.tokenizer, self.values), self.source[0], DIM)

    def preprocessed(self, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        """The samples, preprocessed and stacked."""
        return stack([tokenizer.preprocess(copy.deepcopy(inputs)) for inputs in self.source[1]])

    def ready(self) -> tuple[Tokenizer, dict[str, Tensor]]:
        """A tokenizer after `fit` and `fit_normalization`, and the samples as a batch."""
        tokenizer = self.build()
        arrays = self.preprocessed(tokenizer)
        tokenizer.fit_normalization(iter([arrays]))
        return tokenizer, batch(arrays)


def checks(
    tokenizer: type[Tokenizer], values: Mapping[str, Any], fields: Fields | None, samples: Sequence[Inputs] | None
) -> list[Check]:
    """All checks of a tokenizer class."""
    setting = Setting(tokenizer, values, fields, samples)
    return [
        Check(tokenizer, spec, setting)
        for spec in CHECKS
        if spec.function is not to_image_inverts_patches or tokenizer.to_image is not Tokenizer.to_image
    ]


def stack(samples: Sequence[Inputs]) -> dict[str, np.ndarray]:
    """Preprocessed samples along a first axis.

    Raises:
        CheckFailed: If their shapes or dtypes differ.
    """
    first = samples[0]
    for inputs in samples[1:]:
        one, other = (
            {name: (np.shape(x), np.asarray(x).dtype.name) for name, x in each.items()} for each in (first, inputs)
        )
        expect(one == other, f"preprocess returned {one} for one sample and {other} for another")
    return {name: np.stack([np.asarray(inputs[name]) for inputs in samples]) for name in first}


def batch(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Preprocessed arrays as tensors, as the engine passes them to `forward`."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def token_tensors(tokens: Tokens) -> list[Tensor]:
    """The embeddings, then the patches or ids of each target."""
    targets = [t.patches if isinstance(t, ContinuousTarget) else t.ids for t in tokens.targets]
    return [part.detach() for part in (tokens.embeddings, *targets)]


SHAPES = {"valid": "(B, L)", "coords": "(B, L, k)", "neighbours": "(B, L, K)", "bias": "(B, L, L)"}


# --- checks ----------------------------------------------------------------------------------------------------------


@check("forward")
def embeddings_fit_the_layout(setting: Setting) -> None:
    """Embeddings are (B, L, D): L is the length of the layout, which `__init__` sets, and D the argument `dim`."""
    layout = setting.build().layout
    expect(isinstance(layout, Layout), f"self.layout is {type(layout).__name__}, not a Layout")
    tokenizer, inputs = setting.ready()
    tokens = tokenizer(inputs)
    shape = (len(setting.source[1]), layout.length, DIM)
    expect(
        tuple(tokens.embeddings.shape) == shape,
        f"embeddings are {tuple(tokens.embeddings.shape)}, not {shape}: {shape[0]} samples, "
        f"the layout's {layout.length} tokens, width {DIM}",
    )
    expect(tokens.layout == layout == tokenizer.layout, "the layout of the tokens is not that of the tokenizer")
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
        for tensor, shape in shapes:
            expect(tuple(tensor.shape) == shape, f"'{segment.name}': shape {tuple(tensor.shape)}, not {shape}")


@check("forward")
def geometry_fits_the_layout(setting: Setting) -> None:
    """Each field of `geometry` that is set has its shape and type, finite coordinates, neighbours that are tokens, no
    NaN in the bias, and no gradient.
    """
    tokenizer, inputs = setting.ready()
    rows, length = len(setting.source[1]), tokenizer.layout.length
    fields = tokenizer(inputs).geometry.tensors()
    for name, value in fields.items():
        last = {"valid": [], "bias": [length]}.get(name, [value.shape[-1]])
        expect(
            list(value.shape) == [rows, length, *last], f"geometry.{name} is {tuple(value.shape)}, not {SHAPES[name]}"
        )
        kind = {"valid": torch.bool, "neighbours": torch.long}.get(name)
        fits = value.is_floating_point() if kind is None else value.dtype == kind
        expect(fits, f"geometry.{name} is {value.dtype}, not {kind or 'a floating-point type'}")
        expect(not value.requires_grad, f"geometry.{name} has a gradient; compute it from the inputs alone")
    if "coords" in fields:
        expect(fields["coords"].isfinite().all(), "geometry.coords are not finite")
    if "bias" in fields:
        expect(not fields["bias"].isnan().any(), "geometry.bias has NaN")
    if "neighbours" in fields:
        least, most = int(fields["neighbours"].min()), int(fields["neighbours"].max())
        expect(0 <= least <= most < length, f"geometry.neighbours are {least}..{most}, and there are {length} tokens")


@check("forward")
def tables_are_live_parameters(setting: Setting) -> None:
    """The table of a discrete target is a parameter of the tokenizer and no copy, so that the loss trains it."""
    tokenizer, inputs = setting.ready()
    own = {id(parameter) for parameter in tokenizer.parameters()}
    for segment, target in zip(tokenizer.layout.segments, tokenizer(inputs).targets, strict=True):
        if isinstance(target, DiscreteTarget):
            expect(id(target.table) in own, f"'{segment.name}': the table is not one of tokenizer.parameters()")


@check("forward")
def samples_are_independent(setting: Setting) -> None:
    """The tokens of a sample do not depend on the other samples of the batch."""
    tokenizer, inputs = setting.ready()
    repeated = {name: x[:1].expand(x.shape).clone() for name, x in inputs.items()}  # equal batch size, equal rounding
    for mode in (True, False):
        tokenizer.train(mode)
        first, second = (token_tensors(tokenizer(each)) for each in (inputs, repeated))
        expect_equal([x[:1] for x in first], [x[:1] for x in second], "the first sample's tokens among other samples")


@check("forward")
def tokens_depend_on_their_own_place(setting: Setting) -> None:
    """One number of the preprocessed input changes at most one token, in train and eval mode, unless the class sets
    `mixes_tokens`: otherwise hidden input reaches the encoder through visible tokens.
    """
    tokenizer, inputs = setting.ready()
    if type(tokenizer).mixes_tokens:
        return
    generator = np.random.default_rng(0)
    for mode in (True, False):
        tokenizer.train(mode)
        before = token_tensors(tokenizer(inputs))
        for name, x in inputs.items():
            for index in generator.choice(x[0].numel(), min(CHANGES, x[0].numel()), replace=False).tolist():
                changed = x.clone()
                row, other = changed.view(len(x), -1)[0], x.view(len(x), -1)[-1]
                row[index] = row[index] + 1 if x.is_floating_point() else other[index]
                after = token_tensors(tokenizer({**inputs, name: changed}))
                count = len(_changed_tokens(before, after, [s.length for s in tokenizer.layout.segments]))
                expect(
                    count <= 1,
                    f"one number of '{name}' changed {count} tokens; set mixes_tokens = True if that is intended",
                )


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
    """The gradient of the embeddings reaches every parameter that requires one."""
    tokenizer, inputs = setting.ready()
    tokens = tokenizer(inputs)
    (tokens.embeddings * torch.randn(tokens.embeddings.shape)).sum().backward()
    missed = [
        name
        for name, parameter in tokenizer.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    expect(not missed, f"no gradient, or zero everywhere, or NaN: {join_names(missed)}")


@check("forward")
def one_sample_is_enough(setting: Setting) -> None:
    """A batch of one sample gives the same tokens as a larger batch, up to rounding."""
    tokenizer, inputs = setting.ready()
    batch_of_all, batch_of_one = (
        token_tensors(tokenizer(inputs)),
        token_tensors(tokenizer({name: x[:1] for name, x in inputs.items()})),
    )
    for whole, single in zip(batch_of_all, batch_of_one, strict=True):
        expect(single.shape[0] == 1, f"a batch of one gave {tuple(single.shape)}")
        expect(torch.allclose(whole[:1], single, rtol=1e-4, atol=1e-5), "a sample has other tokens in a batch of one")


@check("forward")
def bf16_autocast_is_finite(setting: Setting) -> None:
    """Embeddings are finite under bfloat16 autocast."""
    tokenizer, inputs = setting.ready()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expect(tokenizer(inputs).embeddings.isfinite().all(), "embeddings are not finite")


@check("preprocess")
def constant_input_is_finite(setting: Setting) -> None:
    """Constant input (silence, a blank image, one repeated letter) gives finite tokens or raises `BadSample`."""
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
        tokenizer.fit_normalization(iter([arrays]))  # the standard deviation of a constant is zero
        for part in token_tensors(tokenizer(batch(arrays))):
            expect(part.isfinite().all(), f"input of only {value} gives tokens that are not finite")


@check("preprocess")
def preprocess_is_pure(setting: Setting) -> None:
    """`preprocess` returns the same arrays each time, with equal shapes for all samples, and modifies no input."""
    inputs = setting.source[1]
    copies = copy.deepcopy(inputs)
    outputs = []
    for seed in (11, 12):
        tokenizer = setting.build(seed)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        outputs.append([tokenizer.preprocess(each) for each in inputs])
    expect_equal([dict(each) for each in copies], [dict(each) for each in inputs], "the input of preprocess")
    for each in outputs[0]:
        names = [name for name, x in each.items() if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub"]
        expect(not names, f"preprocess returned no array of numbers for {', '.join(names)}")
    expect_equal(outputs[0], outputs[1], "the output of a second call of preprocess")
    stack(outputs[0])


@check("fit")
def fit_state_is_in_the_state_dict(setting: Setting) -> None:
    """A state dict loaded into a tokenizer before `fit` gives the same preprocessing and the same `fit_fingerprint`."""
    fitted, fresh = setting.build(), setting.unfitted(seed=5)
    fresh.load_state_dict(fitted.state_dict())
    expect_equal(fitted.fit_fingerprint(), fresh.fit_fingerprint(), "fit_fingerprint after loading")
    one, other = ([each.preprocess(copy.deepcopy(x)) for x in setting.source[1]] for each in (fitted, fresh))
    expect_equal(one, other, "the output of preprocess after loading")


@check("fit_normalization")
def normalization_is_in_the_state_dict(setting: Setting) -> None:
    """A state dict loaded into a fresh tokenizer gives the same tokens: normalisation constants are in buffers."""
    tokenizer, inputs = setting.ready()
    fresh = setting.build(seed=5)
    fresh.load_state_dict(tokenizer.state_dict())
    expect_equal(
        token_tensors(tokenizer.eval()(inputs)), token_tensors(fresh.eval()(inputs)), "the tokens after loading"
    )


@check("fit_normalization")
def fit_normalization_takes_chunks_of_any_size(setting: Setting) -> None:
    """`fit_normalization` iterates over its chunks once, modifies none, and does not depend on their sizes."""
    whole, inputs = setting.ready()
    parts = setting.build()
    arrays = setting.preprocessed(parts)
    for array in arrays.values():
        array.flags.writeable = False
    count = len(setting.source[1])

    def chunks() -> Iterable[Mapping[str, np.ndarray]]:
        for start, stop in ((0, 1), (1, count)):
            yield {name: array[start:stop] for name, array in arrays.items()}

    parts.fit_normalization(chunks())
    for one, other in zip(token_tensors(whole(inputs)), token_tensors(parts(inputs)), strict=True):
        expect(torch.allclose(one, other, rtol=1e-3, atol=1e-4), "the tokens depend on the sizes of the chunks")


@check("crop")
def crop_draws_its_randomness_before(setting: Setting) -> None:
    """`draw_crop` is a function of its generator; `crop` draws nothing and modifies none of its inputs, and `forward`
    makes as many tokens of what it returns as of whole inputs.
    """
    tokenizer, inputs = setting.ready()
    rows = len(setting.source[1])
    copies = {name: value.clone() for name, value in inputs.items()}
    draws = [dict(tokenizer.draw_crop(rows, torch.Generator().manual_seed(3))) for _ in range(2)]
    expect_equal(draws[0], draws[1], "draw_crop with the same generator")
    crops = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        crops.append(dict(tokenizer.crop(inputs, draws[0])))
    expect_equal(copies, dict(inputs), "the input of crop")
    expect_equal(crops[0], crops[1], "a second crop with the same draws")
    names = [sorted(each) for each in (inputs, crops[0])]
    expect(names[0] == names[1], f"crop turned the inputs {names[0]} into {names[1]}")
    whole, part = (tuple(tokenizer(each).embeddings.shape) for each in (inputs, crops[0]))
    expect(whole == part, f"embeddings of cropped inputs are {part}, and {whole} of whole ones")


@check("view")
def view_draws_its_randomness_before(setting: Setting) -> None:
    """`draw_view` is a function of its generator; `view` draws nothing, keeps shapes, types and geometry of the inputs,
    and modifies none.
    """
    tokenizer, inputs = setting.ready()
    rows = len(setting.source[1])
    copies = {name: value.clone() for name, value in inputs.items()}
    draws = [dict(tokenizer.draw_view(rows, torch.Generator().manual_seed(3))) for _ in range(2)]
    expect_equal(draws[0], draws[1], "draw_view with the same generator")
    views = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        views.append(dict(tokenizer.view(inputs, draws[0])))
    expect_equal(copies, dict(inputs), "the input of view")
    expect_equal(views[0], views[1], "a second view with the same draws")
    shapes = [{name: (tuple(x.shape), x.dtype) for name, x in each.items()} for each in (inputs, views[0])]
    expect(shapes[0] == shapes[1], f"view turned {shapes[0]} into {shapes[1]}")
    before, after = (tokenizer.geometry(each).tensors() for each in (inputs, views[0]))
    expect_equal(before, after, "the geometry of a view")


@check("to_image")
def to_image_inverts_patches(setting: Setting) -> None:
    """`to_image` puts the target patches of a segment together as (B, channels, *space). An image of the shape of a
    preprocessed input equals that input, possibly flipped along some axes.
    """
    tokenizer, inputs = setting.ready()
    rows = len(setting.source[1])
    for i, target in enumerate(tokenizer(inputs).targets):
        if not isinstance(target, ContinuousTarget):
            continue
        image = tokenizer.to_image(i, target.patches)
        if image is None:
            continue
        expect(image.shape[0] == rows and image.ndim >= 3, f"an image of shape {tuple(image.shape)}")
        expect(image.isfinite().all(), "the image is not finite")
        candidates = [x.float() for x in inputs.values() if x.shape == image.shape]
        close = any(_is_close(x, flipped) for x in candidates for flipped in _flips(image.float()))
        expect(close or not candidates, "the image has the shape of a preprocessed input, but other values")
        changed = tokenizer.to_image(i, target.patches + 1.0)
        share = (changed != image).float().mean().item() if changed is not None else 0.0
        expect(share > 0.5, "other patches give the same image")


@check("picture_style")
def pictures_fit_the_layout(setting: Setting) -> None:
    """What a tokenizer gives the report fits the layout: `picture_style` names each token and channels that exist,
    `to_text` gives a string for each token that depends on its id, `to_audio` and `recording` finite sound with a rate.
    """
    tokenizer, inputs = setting.ready()
    rows = len(setting.source[1])
    with torch.no_grad():
        targets = tokenizer.eval()(inputs).targets
    for number, (segment, target) in enumerate(zip(tokenizer.layout.segments, targets, strict=True)):
        style, where = tokenizer.picture_style(number), f"'{segment.name}'"
        expect(
            len(style.names) in (0, segment.length), f"{where}: {len(style.names)} names for {segment.length} tokens"
        )
        if isinstance(target, ContinuousTarget):
            image = tokenizer.to_image(number, target.patches)
            channels = 0 if image is None else image.shape[1]
            expect(
                max(style.rgb or (-1,)) < channels, f"{where}: rgb is {style.rgb}, and there are {channels} channels"
            )
            _expect_sound(tokenizer.to_audio(number, target.patches), (rows,), f"{where}: to_audio")
        else:
            texts = tokenizer.to_text(number, target.ids)
            if texts is None:
                continue
            shape = [len(row) for row in texts]
            expect(
                shape == [segment.length] * rows, f"{where}: to_text gave rows of {shape}, not {segment.length} each"
            )
            expect(all(isinstance(text, str) for row in texts for text in row), f"{where}: to_text gave no strings")
            changed = tokenizer.to_text(number, (target.ids + 1) % segment.size)
            expect(segment.size == 1 or changed != texts, f"{where}: other ids give the same text")
    _expect_sound(tokenizer.recording(copy.deepcopy(setting.source[1][0])), (), "recording")


def _expect_sound(sound: Any, lead: tuple[int, ...], where: str) -> None:
    """Check that a sound, if there is one, is finite, (*lead, samples), and has a rate."""
    if sound is None:
        return
    wave, rate = np.asarray(sound[0]), sound[1]
    expect(wave.ndim == len(lead) + 1 and wave.shape[:-1] == lead, f"{where} gave the shape {wave.shape}")
    expect(bool(np.isfinite(wave).all()) and rate > 0, f"{where} is not finite, or its rate {rate} is not positive")


def _is_close(x: Tensor, image: Tensor) -> bool:
    return torch.allclose(x, image, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def _flips(image: Tensor) -> Iterator[Tensor]:
    """The image, flipped along every subset of its axes of space."""
    space = range(2, image.ndim)
    for count in range(len(space) + 1):
        for axes in itertools.combinations(space, count):
            yield image.flip(axes)
