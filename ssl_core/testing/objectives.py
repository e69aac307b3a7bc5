"""The promises of an objective, each kept on five layouts with a small encoder."""

from __future__ import annotations

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
from ssl_core.testing.check import Check, CheckFailed, CheckSpec, expect, listed, recorder, same
from ssl_core.testing.harness import Harness, Setting, target_tensors
from ssl_core.testing.layouts import CASES, DIM, sample
from ssl_core.tokens import ContinuousTarget, DiscreteTarget, Tokens

STEPS = 30
FALL = 0.05  # the part of its first value by which the loss must fall at least

CHECKS: list[CheckSpec] = []
check = recorder(CHECKS)


def checks(objective: type[Objective], values: Mapping[str, Any]) -> list[Check]:
    """All checks of an objective class."""
    made = []
    for case in CASES:
        setting = Setting(objective, values, case)
        for one in CHECKS:
            applies = one.only in (None, case)
            if one.function is hidden_tokens_do_not_reach_encoder:
                applies &= bool(objective.masking_choices())
            if one.function is reconstruction_fits_the_layout:
                applies &= objective.reconstruct is not Objective.reconstruct
            if applies:
                made.append(Check(objective, one, setting, case))
    return made


# --- the promises ----------------------------------------------------------------------------------------------------


@check("__init__")
def builds(setting: Setting) -> None:
    """It builds from its options, a layout, a width and its default masking, and keeps them as attributes."""
    bench = setting.build()
    objective = bench.objective
    for name, value in (("layout", bench.tokenizer.layout), ("dim", DIM)):
        own = getattr(objective, name, None)
        expect(own == value, f"self.{name} is {own!r}; call super().__init__(options, layout, dim, masking)")
    expect(isinstance(objective.options, type(objective).Options), "self.options is not of the class's own Options")


@check("forward")
def loss_is_a_finite_scalar(setting: Setting) -> None:
    """The loss is one finite number that can be differentiated, and so is every metric one finite number."""
    outcome = setting.build().outcome()
    for name, value in {"loss": outcome.loss, **{f"metric '{k}'": v for k, v in outcome.metrics.items()}}.items():
        expect(isinstance(value, Tensor), f"the {name} is {type(value).__name__}, not a tensor")
        expect(value.shape == (), f"the {name} has shape {tuple(value.shape)}, not ()")
        expect(value.isfinite(), f"the {name} is {value.item()}")
    expect(outcome.loss.requires_grad, "the loss does not depend on any parameter")


@check("forward")
def gradient_reaches_every_parameter(setting: Setting) -> None:
    """The gradient reaches every parameter of encoder, tokenizer and objective that asks for one."""
    bench = setting.build()
    for seed in range(4):  # a rare part may be hidden in one draw
        bench.loss(seed).backward()
    missed = [
        name
        for name, parameter in bench.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    everywhere = {name for name, parameter in bench.named_parameters() if parameter.requires_grad}
    encoder = {name for name in everywhere if name.startswith("encoder.")}
    if encoder <= set(missed) < everywhere:
        raise CheckFailed("the loss does not depend on the encoder; call it, and make the loss of what it returns")
    expect(not missed, f"no gradient, or zero everywhere, or NaN: {listed(missed)}; remove or freeze what is unused")


@check("forward")
def same_seed_same_loss(setting: Setting) -> None:
    """The same weights, batch and seed give the same loss, bit for bit: all chance is seeded."""
    first = setting.build().loss(seed=3)
    random.seed(17)
    np.random.seed(17)
    same(first, setting.build().loss(seed=3), "the loss of a second, equal learner")


@check("forward")
def blind(setting: Setting) -> None:
    """It cannot know the modality: of a layout it uses lengths, grids and kinds, never names. With the segments
    renamed, the loss is the same, bit for bit.
    """
    same(setting.build().loss(), setting.build(blind=True).loss(), "the loss after renaming")


@check("forward")
def tokens_are_left_unchanged(setting: Setting) -> None:
    """Content and targets of the tokens are not written to, neither forward nor backward."""
    bench = setting.build()
    tokens = bench.tokens()
    before = [tokens.embeddings, *target_tensors(tokens)]
    kept = [numbers.detach().clone() for numbers in before]
    bench.outcome(tokens).loss.backward()
    same(kept, [numbers.detach() for numbers in before], "content and targets")


@check("forward")
def loss_falls(setting: Setting) -> None:
    """On one small batch of structured data the loss falls by 5 % within 30 optimiser steps."""
    bench = setting.build()
    optimiser = torch.optim.AdamW(bench.parameters(), lr=2e-3, weight_decay=0.0)
    losses: list[float] = []
    while len(losses) < STEPS:  # three draws in turn, so that the first three and the last three are comparable
        loss = bench.loss(len(losses) % 3)
        losses.append(loss.item())
        first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
        if len(losses) >= 6 and last < first - FALL * abs(first):
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise CheckFailed(f"after {STEPS} steps it went from {first:.4g} to {last:.4g}")


@check("forward")
def smallest_batch_works(setting: Setting) -> None:
    """A batch of 2, or of `min_batch_size` where that is more, has a finite loss and finite gradients."""
    bench = setting.build()
    rows = max(2, setting.objective.min_batch_size)
    loss = bench.outcome(bench.tokens(sample(bench.tokenizer, rows))).loss
    expect(loss.isfinite(), f"the loss of {rows} samples is {loss.item()}")
    _finite_gradients(bench, loss)


@check("forward")
def bf16_autocast_is_finite(setting: Setting) -> None:
    """Under bfloat16 autocast, loss and gradients are finite."""
    bench = setting.build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = bench.loss()
    expect(loss.isfinite(), f"the loss is {loss.item()}")
    _finite_gradients(bench, loss)


def _finite_gradients(bench: Harness, loss: Tensor) -> None:
    loss.backward()
    wrong = [name for name, p in bench.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    expect(not wrong, f"the gradient is not finite in {', '.join(wrong)}")


@check("forward", only="continuous_and_discrete")
def compiled_equals_eager(setting: Setting) -> None:
    """Traced by torch.compile in one piece, as a run compiles it, the loss and all gradients are the same."""
    bench = setting.build()
    tokens, draws = bench.tokens(), bench.draws()
    twin = copy.deepcopy(bench)

    def step(embeddings: Tensor) -> Tensor:
        return twin.call_objective(replace(tokens, embeddings=embeddings), draws).loss

    tokens = replace(tokens, embeddings=tokens.embeddings.detach(), targets=tuple(map(_detached, tokens.targets)))
    eager = bench.outcome(tokens, draws).loss
    torch._dynamo.reset()
    torch.manual_seed(0)
    torch.compiler.allow_in_graph([double_backward_attention, embedding_lookup])
    try:
        compiled = torch.compile(step, backend="eager", fullgraph=True)(tokens.embeddings)
    except torch._dynamo.exc.Unsupported as error:
        what = next(iter(str(error).strip().splitlines()), "")
        raise CheckFailed(
            f"the compiler can't trace it in one piece ({what}), so that train.compile=on fails"
        ) from error
    finally:
        torch._dynamo.reset()
    expect(torch.allclose(eager, compiled, rtol=1e-4), f"the loss {eager.item():.7g} became {compiled.item():.7g}")
    eager.backward()
    compiled.backward()
    for (name, one), other in zip(bench.named_parameters(), twin.parameters(), strict=True):
        if one.grad is None or other.grad is None:
            expect(one.grad is other.grad, f"the gradient of {name} is there only in one of the two")
        else:
            close = torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5 * float(one.grad.abs().max()) + 1e-9)
            expect(close, f"the gradient of {name} differs by {(one.grad - other.grad).abs().max():.3g}")


def _detached(target: ContinuousTarget | DiscreteTarget) -> ContinuousTarget | DiscreteTarget:
    return target if isinstance(target, ContinuousTarget) else DiscreteTarget(target.ids, target.table.detach())


@check("__init__")
def state_dict_round_trip(setting: Setting) -> None:
    """A state dict loaded into a fresh learner gives the same loss, bit for bit: nothing that counts is outside it."""
    trained, fresh = setting.build(), setting.build(seed=5)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    for seed in range(3):
        optimiser.zero_grad()
        trained.loss(seed).backward()
        optimiser.step()
    fresh.load_state_dict(trained.state_dict())
    for seed in (7, 8):  # twice: what a step changes besides the weights must be in the state dict, too
        same(trained.loss(seed), fresh.loss(seed), "the loss after loading")


@check("forward")
def hidden_tokens_do_not_reach_encoder(setting: Setting) -> None:
    """No call of the encoder sees a hidden token: its input depends only on the embeddings at the call's position_ids.
    A call without position_ids, for whole rows, depends only on what the draws name as visible.
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
    expected = _encoder_calls(learner, tokens, draws)
    expect(expected, "the encoder was not called")
    noise = 10 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for number, (_, position_ids) in enumerate(expected):
        visible = seen
        if position_ids is not None:
            visible = torch.zeros(shape[:2], dtype=torch.bool).scatter(1, position_ids, True)
        other = replace(tokens, embeddings=torch.where(visible.unsqueeze(-1), tokens.embeddings, noise))
        calls = _encoder_calls(learner, other, draws)
        expect(len(calls) == len(expected), f"the encoder was called {len(expected)} times, then {len(calls)} times")
        same(expected[number], calls[number], f"the input of call {number + 1} of the encoder")


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


@check("teacher")
def teacher_gets_no_gradient(setting: Setting) -> None:
    """The loss has no gradient in the teacher, if there is one."""
    learner = setting.build()
    learner.loss().backward()
    if learner.teacher is None:
        return
    touched = [name for name, parameter in learner.teacher.named_parameters() if parameter.grad is not None]
    expect(not touched, f"the loss has a gradient in the teacher: {listed(touched)}")


@check("reconstruct")
def reconstruction_fits_the_layout(setting: Setting) -> None:
    """`reconstruct` gives finite predictions (B, Ls, size) for each segment, in evaluation and without gradients."""
    bench = setting.build().eval()
    with torch.no_grad():
        tokens, draws = bench.tokens(), bench.draws()
        made = bench.objective.reconstruct(tokens, bench.encoder, draws)
    if made is None:
        return
    segments = bench.tokenizer.layout.segments
    expect(len(made) == len(segments), f"{len(made)} predictions for {len(segments)} segments")
    for segment, numbers in zip(segments, made, strict=True):
        wanted = (setting.rows, segment.length, segment.size)
        expect(tuple(numbers.shape) == wanted, f"a prediction has shape {tuple(numbers.shape)}, not {wanted}")
        expect(numbers.isfinite().all(), "a prediction is not finite")


@check("draw")
def draw_is_pure(setting: Setting) -> None:
    """`draw` depends on its generator and nothing else, and gives named tensors on the CPU."""
    learner = setting.build()
    made = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        made.append(learner.draw(setting.rows, torch.Generator().manual_seed(3)))
    for name, value in made[0].items():
        expect(isinstance(value, Tensor), f"'{name}' is {type(value).__name__}, not a tensor")
        expect(value.device.type == "cpu", f"'{name}' is on {value.device}")
    same(made[0], made[1], "drawn twice from equal generators")


@check("draw")
def draws_have_fixed_shapes(setting: Setting) -> None:
    """`draw` gives tensors of the same names, shapes and types in every step, so that a compiled step stays valid."""
    bench = setting.build()
    first = _forms(bench.draws(seed=0))
    for seed in range(1, 12):
        other = _forms(bench.draws(seed=seed))
        expect(first == other, f"{first} became {other}")


def _forms(draws: Draws) -> dict[str, tuple[Any, ...]]:
    return {name: (*value.shape, str(value.dtype).removeprefix("torch.")) for name, value in draws.items()}
