"""Checks of an objective, each on five layouts with a small encoder."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.contracts import Draws, Objective
from ssl_core.nn.double_backward import double_backward_attention
from ssl_core.nn.indexing import embedding_lookup
from ssl_core.testing.check import Check, CheckFailed, CheckSpec, expect, expect_equal, join_names, registrar
from ssl_core.testing.harness import Harness, Setting, target_tensors
from ssl_core.testing.layouts import CASES, DIM, sample
from ssl_core.testing.parallel import train_in_micro_batches, train_in_threads
from ssl_core.tokens import ContinuousTarget, DiscreteTarget, Tokens
from ssl_core.training.accumulation import NotDivisible

STEPS = 30
PARALLEL = 1e-12  # tolerance in float64
FALL = 0.05  # the loss must fall by this share of its first value

CHECKS: list[CheckSpec] = []
check = registrar(CHECKS)


def checks(objective: type[Objective], values: Mapping[str, Any]) -> list[Check]:
    """All checks of an objective class."""
    applicable = []
    for case in CASES:
        setting = Setting(objective, values, case)
        for spec in CHECKS:
            applies = spec.only in (None, case)
            if spec.function is hidden_tokens_do_not_reach_encoder:
                applies &= bool(objective.masking_choices())
            if spec.function is reconstruction_fits_the_layout:
                applies &= objective.reconstruct is not Objective.reconstruct
            if applies:
                applicable.append(Check(objective, spec, setting, case))
    return applicable


# --- checks ----------------------------------------------------------------------------------------------------------


@check("__init__")
def builds(setting: Setting) -> None:
    """`__init__` takes options, a layout, a width and the default maskings, and sets them as attributes."""
    learner = setting.build()
    objective = learner.objective
    for name, value in (("layout", learner.tokenizer.layout), ("dim", DIM)):
        own = getattr(objective, name, None)
        expect(own == value, f"self.{name} is {own!r}; call super().__init__(options, layout, dim, maskings)")
    expect(isinstance(objective.options, type(objective).Options), "self.options is not of the class's own Options")


@check("forward")
def loss_is_a_finite_scalar(setting: Setting) -> None:
    """The loss is a finite scalar that can be differentiated; every metric is a finite scalar."""
    outcome = setting.build().outcome()
    for name, value in {"loss": outcome.loss, **{f"metric '{k}'": v for k, v in outcome.metrics.items()}}.items():
        expect(isinstance(value, Tensor), f"the {name} is {type(value).__name__}, not a tensor")
        expect(value.shape == (), f"the {name} has shape {tuple(value.shape)}, not ()")
        expect(value.isfinite(), f"the {name} is {value.item()}")
    expect(outcome.loss.requires_grad, "the loss does not depend on any parameter")


@check("forward")
def gradient_reaches_every_parameter(setting: Setting) -> None:
    """The gradient reaches every parameter of encoder, tokenizer and objective that requires one."""
    learner = setting.build()
    for seed in range(4):  # one draw may hide a rare part
        learner.loss(seed).backward()
    missed = [
        name
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    everywhere = {name for name, parameter in learner.named_parameters() if parameter.requires_grad}
    encoder = {name for name in everywhere if name.startswith("encoder.")}
    if encoder <= set(missed) < everywhere:
        raise CheckFailed("the loss does not depend on the encoder; compute the loss from what encoder(...) returns")
    expect(
        not missed, f"no gradient, or zero everywhere, or NaN: {join_names(missed)}; remove or freeze unused parameters"
    )


@check("forward")
def same_seed_same_loss(setting: Setting) -> None:
    """The same weights, batch and seed give the same loss, bit for bit: all randomness is seeded."""
    first = setting.build().loss(seed=3)
    random.seed(17)
    np.random.seed(17)
    expect_equal(first, setting.build().loss(seed=3), "the loss of a second, equal learner")


@check("forward")
def segment_names_do_not_matter(setting: Setting) -> None:
    """The loss does not depend on the names of segments, bit for bit: an objective does not know the modality. Of a
    layout it uses lengths, grids and kinds.
    """
    expect_equal(setting.build().loss(), setting.build(rename_segments=True).loss(), "the loss after renaming")


@check("forward")
def tokens_are_not_modified(setting: Setting) -> None:
    """Neither the forward nor the backward pass writes to embeddings or targets."""
    learner = setting.build()
    tokens = learner.tokens()
    before = [tokens.embeddings, *target_tensors(tokens)]
    copies = [tensor.detach().clone() for tensor in before]
    learner.outcome(tokens).loss.backward()
    expect_equal(copies, [tensor.detach() for tensor in before], "embeddings and targets")


@check("forward")
def loss_falls(setting: Setting) -> None:
    """On one small batch of structured data the loss falls by 5 % within 30 optimiser steps (AdamW)."""
    learner = setting.build()
    optimiser = torch.optim.AdamW(learner.parameters(), lr=2e-3, weight_decay=0.0)
    losses: list[float] = []
    while len(losses) < STEPS:  # three draws in turn make the first and the last three losses comparable
        loss = learner.loss(len(losses) % 3)
        losses.append(loss.item())
        first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
        if len(losses) >= 6 and last < first - FALL * abs(first):
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise CheckFailed(f"after {STEPS} steps the loss went from {first:.4g} to {last:.4g}")


@check("forward")
def smallest_batch_works(setting: Setting) -> None:
    """A batch of 2, or of `min_batch_size` if larger, has a finite loss and finite gradients."""
    learner = setting.build()
    rows = max(2, setting.objective.min_batch_size)
    loss = learner.outcome(learner.tokens(sample(learner.tokenizer, rows))).loss
    expect(loss.isfinite(), f"the loss of {rows} samples is {loss.item()}")
    _finite_gradients(learner, loss)


@check("forward")
def bf16_autocast_is_finite(setting: Setting) -> None:
    """Loss and gradients are finite under bfloat16 autocast."""
    learner = setting.build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = learner.loss()
    expect(loss.isfinite(), f"the loss is {loss.item()}")
    _finite_gradients(learner, loss)


def _finite_gradients(learner: Harness, loss: Tensor) -> None:
    loss.backward()
    names = [name for name, p in learner.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    expect(not names, f"the gradient is not finite in {join_names(names)}")


@check("forward", only="continuous_and_discrete")
def compiled_equals_eager(setting: Setting) -> None:
    """torch.compile traces the step without graph breaks, and loss and gradients are equal to the eager ones."""
    learner = setting.build()
    tokens, draws = learner.tokens(), learner.draws()
    twin = copy.deepcopy(learner)

    def step(embeddings: Tensor) -> Tensor:
        return twin.call_objective(replace(tokens, embeddings=embeddings), draws).loss

    tokens = replace(tokens, embeddings=tokens.embeddings.detach(), targets=tuple(map(_detached, tokens.targets)))
    eager = learner.outcome(tokens, draws).loss
    torch._dynamo.reset()
    torch.manual_seed(0)
    torch.compiler.allow_in_graph([double_backward_attention, embedding_lookup])
    try:
        compiled = torch.compile(step, backend="eager", fullgraph=True)(tokens.embeddings)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise CheckFailed(f"torch.compile needs a graph break ({reason}), so train.compile=on fails") from error
    finally:
        torch._dynamo.reset()
    expect(torch.allclose(eager, compiled, rtol=1e-4), f"the loss {eager.item():.7g} became {compiled.item():.7g}")
    eager.backward()
    compiled.backward()
    for (name, one), other in zip(learner.named_parameters(), twin.parameters(), strict=True):
        if one.grad is None or other.grad is None:
            expect(one.grad is other.grad, f"the gradient of {name} exists in only one of the two steps")
        else:
            close = torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5 * float(one.grad.abs().max()) + 1e-9)
            expect(close, f"the gradient of {name} differs by {(one.grad - other.grad).abs().max():.3g}")


def _detached(target: ContinuousTarget | DiscreteTarget) -> ContinuousTarget | DiscreteTarget:
    return target if isinstance(target, ContinuousTarget) else DiscreteTarget(target.ids, target.table.detach())


@check("forward")
def parallel_equals_single(setting: Setting) -> None:
    """Two processes, each with half of every batch, train the same parameters as one. A loss that couples rows uses
    `weighted_mean`, `gather_batch` and `batch_rows` of ssl_core.nn, and every draw of a row has the rows as first axis.

    An objective that draws in `forward`, as dropout does, is not compared: each process draws its own.
    """
    if (examples := _examples_in_float64(setting)) is None:
        return
    learner, batches = examples
    (single,) = train_in_threads(learner, batches, 1)
    for rank, part in enumerate(train_in_threads(learner, batches, 2)):
        _expect_same_training(single, part, f"process {rank} differs", "a single process")


@check("forward")
def micro_batches_equal_batch(setting: Setting) -> None:
    """Two micro-batches, accumulated to a step, train the same parameters as one batch; see `parallel_equals_single`.

    `cross_sample_loss` of a loss that couples rows is True. Not compared are an objective that draws in `forward`, and
    one whose loss differentiates through `gather_batch`, which cannot be accumulated.
    """
    if (examples := _examples_in_float64(setting)) is None:
        return
    learner, batches = examples
    (single,) = train_in_threads(learner, batches, 1)
    with contextlib.suppress(NotDivisible):
        divided = train_in_micro_batches(learner, batches, 2)
        _expect_same_training(single, divided, "micro-batches differs", "that of a whole batch")


def _examples_in_float64(setting: Setting) -> tuple[Harness, list[tuple[dict[str, Tensor], dict[str, Tensor]]]] | None:
    """A learner, and three batches with their draws; None if it draws in `forward`."""
    learner = setting.build().double()
    rows = max(setting.rows, 2 * setting.objective.min_batch_size)
    inputs = {name: _double(value) for name, value in sample(learner.tokenizer, rows).items()}
    batches = [(inputs, {n: _double(value) for n, value in learner.draws(rows, seed).items()}) for seed in range(3)]
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(learner(*batches[0]).loss.detach())
    return (learner, batches) if torch.equal(*losses) else None


def _expect_same_training(single: nn.Module, other: nn.Module, what: str, reference: str) -> None:
    for (name, one), (_, two) in zip(single.named_parameters(), other.named_parameters(), strict=True):
        close = torch.allclose(one, two, rtol=PARALLEL, atol=PARALLEL)
        expect(close, f"after three steps {name} of {what} by {(one - two).abs().max().item():.2g} from {reference}")


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


@check("__init__")
def state_dict_round_trip(setting: Setting) -> None:
    """A state dict loaded into a fresh learner gives the same loss, bit for bit: all state is in it."""
    trained, fresh = setting.build(), setting.build(seed=5)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    for seed in range(3):
        optimiser.zero_grad()
        trained.loss(seed).backward()
        optimiser.step()
    fresh.load_state_dict(trained.state_dict())
    for seed in (7, 8):  # twice: state that a step changes must be in the state dict, too
        expect_equal(trained.loss(seed), fresh.loss(seed), "the loss after loading")


@check("forward")
def hidden_tokens_do_not_reach_encoder(setting: Setting) -> None:
    """No call of the encoder sees a hidden token: its input depends only on the embeddings at the call's position_ids,
    which are among those that the draws name as visible; for whole rows only on the visible tokens.
    """
    learner = setting.build()
    draws = learner.draws()
    names = [name for name in draws if name.rpartition(".")[2] == "visible"]
    expect(names, f"draw returned {sorted(draws)}; name the position ids that may be seen 'visible' or 'NAME.visible'")
    tokens = learner.tokens(draws=draws)
    shape = tokens.embeddings.shape
    seen = torch.zeros(shape[:2], dtype=torch.bool)
    for name in names:
        seen = seen.scatter(1, draws[name], True)
    reference = _encoder_calls(learner, tokens, draws)
    expect(reference, "the encoder was not called")
    noise = 10 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for number, (_, position_ids) in enumerate(reference):
        visible = seen
        if position_ids is not None:
            visible = torch.zeros(shape[:2], dtype=torch.bool).scatter(1, position_ids, True)
            expect(not (visible & ~seen).any(), f"call {number + 1} of the encoder has position_ids of hidden tokens")
        other = replace(tokens, embeddings=torch.where(visible.unsqueeze(-1), tokens.embeddings, noise))
        calls = _encoder_calls(learner, other, draws)
        expect(len(calls) == len(reference), f"the encoder was called {len(reference)} times, then {len(calls)} times")
        expect_equal(reference[number], calls[number], f"the input of call {number + 1} of the encoder")


def _encoder_calls(learner: Harness, tokens: Tokens, draws: Draws) -> list[tuple[Tensor, Tensor | None]]:
    """Embeddings and position ids of every call of the encoder in one step."""
    calls: list[tuple[Tensor, Tensor | None]] = []

    def record(_: nn.Module, args: Any, kwargs: Any) -> None:
        values = dict(zip(("embeddings", "position_ids"), args, strict=False)) | kwargs
        position_ids = values.get("position_ids")
        calls.append((values["embeddings"].detach().clone(), position_ids))

    handle = learner.encoder.register_forward_pre_hook(record, with_kwargs=True)
    try:
        learner.outcome(tokens, draws)
    finally:
        handle.remove()
    return calls


@check("reconstruct")
def reconstruction_fits_the_layout(setting: Setting) -> None:
    """`reconstruct` returns finite predictions (B, Ls, size) of each segment, in eval mode without gradients."""
    learner = setting.build().eval()
    with torch.no_grad():
        tokens, draws = learner.tokens(), learner.draws()
        predictions = learner.objective.reconstruct(tokens, learner.encoder, draws)
    if predictions is None:
        return
    segments = learner.tokenizer.layout.segments
    expect(len(predictions) == len(segments), f"{len(predictions)} predictions for {len(segments)} segments")
    for segment, prediction in zip(segments, predictions, strict=True):
        shape = (setting.rows, segment.length, segment.size)
        expect(tuple(prediction.shape) == shape, f"a prediction has shape {tuple(prediction.shape)}, not {shape}")
        expect(prediction.isfinite().all(), "a prediction is not finite")


@check("draw")
def draw_is_pure(setting: Setting) -> None:
    """`draw` takes all randomness from its generator, and returns named tensors on the CPU."""
    learner = setting.build()
    draws = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        draws.append(learner.draw(setting.rows, torch.Generator().manual_seed(3)))
    for name, value in draws[0].items():
        expect(isinstance(value, Tensor), f"'{name}' is {type(value).__name__}, not a tensor")
        expect(value.device.type == "cpu", f"'{name}' is on {value.device}")
    expect_equal(draws[0], draws[1], "the draws of two equal generators")


@check("draw")
def draws_have_fixed_shapes(setting: Setting) -> None:
    """`draw` returns tensors of the same names, shapes and dtypes in every step: a compiled step depends on them."""
    learner = setting.build()
    first = _shapes(learner.draws(seed=0))
    for seed in range(1, 12):
        other = _shapes(learner.draws(seed=seed))
        expect(first == other, f"{first} became {other}")


def _shapes(draws: Draws) -> dict[str, tuple[Any, ...]]:
    return {name: (*value.shape, str(value.dtype).removeprefix("torch.")) for name, value in draws.items()}
