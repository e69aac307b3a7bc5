"""Checks of an encoder, each on five layouts, with random embeddings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ssl_core.errors import ConfigError
from ssl_core.nn.double_backward import double_backward_attention
from ssl_core.nn.encoder import Encoder
from ssl_core.nn.indexing import embedding_lookup, gather_tokens
from ssl_core.testing.check import Check, CheckFailed, CheckSpec, expect, expect_equal, join_names, registrar
from ssl_core.testing.layouts import CASES, DEPTH, DIM, HEADS, ROWS, make_tokenizer
from ssl_core.testing.options import make_options
from ssl_core.tokens import Geometry, Layout

RTOL, ATOL = 1e-4, 1e-5
EFFECT = 1e-3  # the least change of an output that counts as a dependence

CHECKS: list[CheckSpec] = []
check = registrar(CHECKS)


@dataclass(frozen=True)
class Setting:
    """An encoder class on one layout."""

    encoder: type[Encoder]
    values: Mapping[str, Any]
    case: str

    @cached_property
    def layout(self) -> Layout:
        """The layout."""
        layout: Layout = make_tokenizer(self.case).layout
        return layout

    def build(self, seed: int = 0) -> Encoder:
        """A freshly initialised encoder in eval mode, a function of the seed."""
        torch.manual_seed(seed)
        return self.encoder(make_options(self.encoder, self.values), self.layout).eval()

    def embeddings(self, encoder: Encoder, rows: int = ROWS) -> Tensor:
        """(rows, L, D): random embeddings of whole rows."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(rows, self.layout.length, encoder.dim, generator=generator)

    def position_ids(self, rows: int = ROWS) -> Tensor:
        """(rows, L // 2): random position ids of a subset of each row, in random order."""
        order = torch.rand(rows, self.layout.length, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
        return order[:, : self.layout.length // 2]

    def valid(self, rows: int = ROWS) -> Tensor:
        """(rows, L) bool: about two thirds of the tokens, and the first of each row."""
        valid = torch.rand(rows, self.layout.length, generator=torch.Generator().manual_seed(3)) < 0.67
        valid[:, 0] = True
        return valid


def small_options(encoder: type[Encoder], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a small encoder: `dim`, `depth` and `heads`, as far as it has these options, then `values`."""
    sizes = {"dim": DIM, "depth": DEPTH, "heads": HEADS}
    return {name: size for name, size in sizes.items() if name in encoder.Options.model_fields} | dict(values)


def checks(encoder: type[Encoder], values: Mapping[str, Any]) -> list[Check]:
    """All checks of an encoder class."""
    return [
        Check(encoder, spec, Setting(encoder, values, case), case)
        for case in CASES
        for spec in CHECKS
        if spec.only in (None, case)
    ]


def _expect_close(first: Tensor, second: Tensor, got: str) -> None:
    """Fail the check unless two outputs are equal up to rounding."""
    expect(first.shape == second.shape, f"{got}: shapes {tuple(first.shape)} and {tuple(second.shape)}")
    difference = float((first - second).detach().abs().max()) if first.numel() else 0.0
    expect(torch.allclose(first, second, rtol=RTOL, atol=ATOL), f"{got}, by up to {difference:.3g}")


def _missing_gradients(encoder: Encoder) -> list[str]:
    return [
        name
        for name, parameter in encoder.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]


# --- checks ----------------------------------------------------------------------------------------------------------


@check("__init__")
def builds(setting: Setting) -> None:
    """`__init__` takes options and a layout, and sets `options`, `layout` and `dim` as attributes."""
    encoder = setting.build()
    expect(isinstance(encoder.options, setting.encoder.Options), "self.options is not of the class's own Options")
    expect(
        encoder.layout == setting.layout and encoder.dim == encoder.options.dim,
        "self.layout or self.dim differs from the arguments; call super().__init__(options, layout)",
    )


@check("forward")
def output_has_its_shape(setting: Setting) -> None:
    """The output is finite and (B, 1 + n, D), for whole rows, for a subset of the tokens and for a single token."""
    encoder = setting.build()
    embeddings = setting.embeddings(encoder)
    whole = encoder(embeddings)
    subsets = (setting.position_ids(), setting.position_ids()[:, :1])
    outputs = [whole, *(encoder(gather_tokens(embeddings, ids), position_ids=ids) for ids in subsets)]
    for output, count in zip(outputs, (setting.layout.length, *(ids.shape[1] for ids in subsets)), strict=True):
        shape = (ROWS, 1 + count, encoder.dim)
        expect(isinstance(output, Tensor), f"the output is {type(output).__name__}, not a tensor")
        expect(tuple(output.shape) == shape, f"the output for {count} tokens is {tuple(output.shape)}, not {shape}")
        expect(output.isfinite().all(), f"the output for {count} tokens is not finite")


@check("pool")
def pooled_features_have_their_shape(setting: Setting) -> None:
    """`pool` returns finite features (B, D), and ignores invalid tokens."""
    encoder = setting.build()
    encoded, valid = encoder(setting.embeddings(encoder)), setting.valid()
    for features in (encoder.pool(encoded), encoder.pool(encoded, valid)):
        expect(tuple(features.shape) == (ROWS, encoder.dim), f"features are {tuple(features.shape)}")
        expect(features.isfinite().all(), "features are not finite")
    noise = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(4))
    counted = torch.cat([torch.ones(ROWS, 1, dtype=torch.bool), valid], dim=1).unsqueeze(-1)
    other = encoder.pool(torch.where(counted, encoded, noise), valid)
    _expect_close(encoder.pool(encoded, valid), other, "features change with the output at invalid tokens")


@check("forward")
def token_order_does_not_matter(setting: Setting) -> None:
    """With `position_ids` the order of the tokens does not matter; all ids in order are the same as whole rows."""
    encoder = setting.build()
    embeddings = setting.embeddings(encoder)
    everything = torch.arange(setting.layout.length).expand(ROWS, -1)
    whole = encoder(embeddings)
    _expect_close(whole, encoder(embeddings, position_ids=everything), "position_ids of whole rows change the output")
    position_ids = setting.position_ids()
    first = encoder(gather_tokens(embeddings, position_ids), position_ids=position_ids)
    flipped = position_ids.flip(1)
    second = encoder(gather_tokens(embeddings, flipped), position_ids=flipped)
    second = torch.cat([second[:, :1], second[:, 1:].flip(1)], dim=1)
    _expect_close(first, second, "the tokens in another order have other outputs")


@check("forward")
def invalid_tokens_influence_nothing(setting: Setting) -> None:
    """Embeddings of invalid tokens do not change the cls token or the valid tokens, in whole rows and in subsets."""
    encoder = setting.build()
    embeddings, valid = setting.embeddings(encoder), setting.valid()
    geometry = Geometry(valid=valid)
    noise = 10 * torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(4))
    other = torch.where(valid.unsqueeze(-1), embeddings, noise)
    for position_ids in (None, setting.position_ids()):
        outputs = []
        for each in (embeddings, other):
            part = each if position_ids is None else gather_tokens(each, position_ids)
            outputs.append(encoder(part, position_ids=position_ids, geometry=geometry))
        counted = valid if position_ids is None else valid.gather(1, position_ids)
        where = torch.cat([torch.ones(ROWS, 1, dtype=torch.bool), counted], dim=1)
        rows = "whole rows" if position_ids is None else "subsets"
        _expect_close(outputs[0][where], outputs[1][where], f"invalid tokens change the output of {rows}")


@check("forward")
def rows_are_independent(setting: Setting) -> None:
    """The output of a row does not depend on the other rows of the batch, in train and eval mode."""
    encoder = setting.build()
    embeddings = setting.embeddings(encoder)
    other = torch.cat([embeddings[:1], 10 * embeddings[1:].flip(2)])
    for mode in (True, False):
        encoder.train(mode)
        outputs = []
        for each in (embeddings, other):
            torch.manual_seed(0)  # equal dropout
            outputs.append(encoder(each)[:1])
        _expect_close(outputs[0], outputs[1], "other rows change the output of the first")


@check("forward")
def positions_matter(setting: Setting) -> None:
    """A token that moves to another position is encoded differently."""
    encoder = setting.build()
    embeddings = setting.embeddings(encoder)[:, :2]
    outputs = [
        encoder(embeddings, position_ids=torch.tensor(ids).expand(ROWS, -1))[:, 2]
        for ids in ((0, 1), (0, setting.layout.length - 1))
    ]
    moved = float((outputs[0] - outputs[1]).detach().abs().max())
    expect(moved > EFFECT, f"a token moved from 1 to {setting.layout.length - 1} changes by {moved:.3g}; add positions")


@check("forward")
def coords_and_bias_are_used(setting: Setting) -> None:
    """`geometry.coords` and `geometry.bias` change the output, or the encoder raises `ConfigError`."""
    encoder = setting.build()
    embeddings, length = setting.embeddings(encoder), setting.layout.length
    coords = setting.layout.coordinates.expand(ROWS, -1, -1)
    bias = torch.zeros(ROWS, length, length)
    local = bias.masked_fill(torch.ones(length, length, dtype=torch.bool).tril(-1), float("-inf"))
    pairs = {
        "coords": (Geometry(coords=coords), Geometry(coords=coords + 1.5 * coords.flip(1))),
        "bias": (Geometry(bias=bias), Geometry(bias=local)),
    }
    for name, (one, other) in pairs.items():
        try:
            outputs = [encoder(embeddings, geometry=geometry) for geometry in (one, other)]
        except ConfigError:
            continue
        expect(all(output.isfinite().all() for output in outputs), f"with geometry.{name} the output is not finite")
        effect = float((outputs[0] - outputs[1]).detach().abs().max())
        expect(effect > EFFECT, f"geometry.{name} has no effect; use it, or raise ConfigError")


@check("forward")
def layers_are_listed(setting: Setting) -> None:
    """`layers=` returns a list with one output (B, 1 + n, D) for each layer, in the order of `layers`. That of the
    deepest is the output without `layers`. `options.depth`, if there is such an option, is the number of layers.
    """
    encoder = setting.build()
    depth = int(getattr(encoder.options, "depth", 1))
    embeddings = setting.embeddings(encoder)
    whole = encoder(embeddings)
    for layers in ((depth,), tuple(range(1, depth + 1)), tuple(range(depth, 0, -1))):
        outputs = encoder(embeddings, layers=layers)
        expect(isinstance(outputs, list), f"layers={layers} returned {type(outputs).__name__}, not a list")
        expect(len(outputs) == len(layers), f"layers={layers} returned {len(outputs)} outputs")
        for output in outputs:
            expect(output.shape == whole.shape, f"layers={layers} returned a tensor {tuple(output.shape)}")
            expect(output.isfinite().all(), f"layers={layers} returned numbers that are not finite")
        _expect_close(outputs[layers.index(depth)], whole, "the output of the deepest layer is not that of the encoder")


@check("forward")
def gradient_reaches_every_parameter(setting: Setting) -> None:
    """The gradient of the output reaches the embeddings and every parameter that requires one."""
    encoder = setting.build().train()
    embeddings = setting.embeddings(encoder).requires_grad_()
    output = encoder(embeddings)
    (output * torch.randn(output.shape)).sum().backward()
    missed = _missing_gradients(encoder)
    expect(not missed, f"no gradient, or zero everywhere, or NaN: {join_names(missed)}")
    expect(embeddings.grad is not None and embeddings.grad.isfinite().all(), "embeddings have no finite gradient")


@check("forward")
def embeddings_are_not_modified(setting: Setting) -> None:
    """Neither the forward nor the backward pass writes to the embeddings."""
    encoder = setting.build()
    embeddings = setting.embeddings(encoder)
    before = embeddings.clone()
    encoder(embeddings).sum().backward()
    expect_equal(before, embeddings, "the embeddings")


@check("__init__")
def state_dict_round_trip(setting: Setting) -> None:
    """A state dict loaded into a fresh encoder gives the same output, bit for bit: all state is in it."""
    trained, fresh = setting.build().train(), setting.build(seed=5)
    embeddings = setting.embeddings(trained)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        trained(embeddings).square().mean().backward()
        optimiser.step()
    fresh.load_state_dict(trained.state_dict())
    expect_equal(trained.eval()(embeddings), fresh(embeddings), "the output after loading")


@check("forward")
def bf16_autocast_is_finite(setting: Setting) -> None:
    """Output and gradients are finite under bfloat16 autocast."""
    encoder = setting.build().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = encoder(setting.embeddings(encoder))
    expect(output.isfinite().all(), "the output is not finite")
    output.float().square().mean().backward()
    names = [name for name, p in encoder.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    expect(not names, f"the gradient is not finite in {join_names(names)}")


@check("forward", only="continuous_and_discrete")
def compiled_equals_eager(setting: Setting) -> None:
    """torch.compile traces the encoder without graph breaks, and output and gradients are equal to the eager ones."""
    encoder = setting.build()
    twin = copy.deepcopy(encoder)
    embeddings, position_ids = setting.embeddings(encoder), setting.position_ids()
    part = gather_tokens(embeddings, position_ids)
    eager = encoder(part, position_ids)
    torch._dynamo.reset()
    torch.compiler.allow_in_graph([double_backward_attention, embedding_lookup])
    try:
        compiled = torch.compile(twin, backend="eager", fullgraph=True)(part, position_ids)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise CheckFailed(f"torch.compile needs a graph break ({reason}), so train.compile=on fails") from error
    finally:
        torch._dynamo.reset()
    _expect_close(eager, compiled, "the compiled output differs")
    for output in (eager, compiled):
        output.square().mean().backward()
    for (name, one), other in zip(encoder.named_parameters(), twin.parameters(), strict=True):
        if one.grad is None or other.grad is None:
            expect(one.grad is other.grad, f"the gradient of {name} exists in only one of the two")
        else:
            _expect_close(one.grad, other.grad, f"the compiled gradient of {name} differs")
