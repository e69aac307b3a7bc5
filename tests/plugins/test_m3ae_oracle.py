"""M3AE against a plain transcription of protocol section 4.10: the loss and every parameter's gradient, in float64.

The transcription goes sample by sample and token by token. What is absent is never put into a row, so that nothing has
to be kept out of attention; the transformer blocks are those of benchmarks/plain.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ssl_core import Geometry, Tokens
from ssl_plugins.maskings.segments import SegmentsMasking
from ssl_plugins.objectives.m3ae import M3AE

RTOL = 1e-9
LAYOUTS = ("1d", "2d", "discrete", "joint")
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "published about absent segments": {"absent": "zero"},
    "all tokens": {"all_tokens": True},
    "tied": {"tied": True},
    "README's weight": {"discrete_weight": 0.5},
    "one block": {"depth": 1},
}

# -------------------------------------------------------------------------------------------- the transcription


class Made(NamedTuple):
    """The loss, each segment's part of it without its weight, and the predictions {place: vector} of each sample."""

    loss: Tensor
    parts: list[Tensor]
    predictions: list[dict[int, Tensor]]


def piece_at(sizes: Any, place: int) -> tuple[int, int]:
    """The piece that a place of the row belongs to, and the place inside it."""
    for number, piece in enumerate(sizes.pieces):
        if place < piece.length:
            return number, place
        place -= piece.length
    raise IndexError


def transcription(
    plain: Any, params: Mapping[str, Tensor], batch: Sequence[Tensor], visible: Tensor, valid: Tensor, sizes: Any,
    *, weights: Sequence[float], all_tokens: bool, absent: str, tied: bool, mistake: str = "",
) -> Made:  # fmt: skip
    targets = plain.target_tensors(batch, sizes)
    embeddings = plain.embed(params, targets, sizes)
    encoder_at = plain.positions(params, "encoder", sizes, sizes.dim)
    decoder_at = plain.positions(params, "decoder", sizes, sizes.decoder_dim)
    errors: list[list[list[Tensor]]] = [[] for _ in sizes.pieces]  # of each piece, each sample
    predictions = []
    for b in range(len(embeddings)):
        attended = torch.ones_like(valid[b]) if mistake == "padding is attended to" else valid[b]
        there = attended.nonzero().flatten().tolist()
        seen = [place for place in there if place in visible[b].tolist()]

        row = [params["encoder.cls_token"] + encoder_at[0], *(embeddings[b, p] + encoder_at[1 + p] for p in seen)]
        latent = plain.transformer(torch.stack(row)[None], params, "encoder", sizes.depth, sizes.heads, 0.0, True)[0]
        known = latent @ params["decoder.project.weight"].T + params["decoder.project.bias"]

        masks = params["decoder.mask_token"]
        row = [known[0] + decoder_at[0]]
        for p in there:
            number = 0 if mistake == "one mask token" else piece_at(sizes, p)[0]
            row.append((known[1 + seen.index(p)] if p in seen else masks[number]) + decoder_at[1 + p])
        depth, heads = sizes.decoder_depth, sizes.decoder_heads
        decoded = plain.transformer(torch.stack(row)[None], params, "decoder", depth, heads, 0.0, True)[0]

        made: dict[int, Tensor] = {}
        for number in range(len(sizes.pieces)):
            errors[number].append([])
        for p, vector in zip(there, decoded[1:], strict=True):
            number, inside = piece_at(sizes, p)
            kind = sizes.pieces[number].kind
            made[p] = params[f"head.{number}.weight"] @ vector + params[f"head.{number}.bias"]
            if kind == "discrete" and tied:
                made[p] = params[f"tokenizer.{number}.table"] @ made[p]
            if not valid[b, p] or (p in seen and not all_tokens):
                continue
            truth = targets[number][b, inside]
            if kind == "continuous":
                errors[number][b].append(((made[p] - truth) ** 2).sum() / len(truth))
            else:
                errors[number][b].append(-(made[p][truth] - made[p].exp().sum().log()))
        predictions.append(made)

    parts = []
    for of_piece in errors:
        if mistake == "mean over the batch's tokens":
            of_piece = [[error for of_sample in of_piece for error in of_sample]]
        each = [sum(e, embeddings.new_zeros(())) / max(len(e), 1e-5) for e in of_piece if e or absent == "zero"]
        parts.append(sum(each, embeddings.new_zeros(())) / max(len(each), 1))
    loss = sum((w * part for w, part in zip(weights, parts, strict=True)), embeddings.new_zeros(()))
    return Made(loss, parts, predictions)


# ------------------------------------------------------------------------------------------------ both, compared


def build(make_case: Callable[..., Any], kind: str, rows: int = 4, **options: Any) -> Any:
    """A case of tests/conftest.py with M3AE, and M3AE's masking instead of MAE's."""
    case = make_case(kind, M3AE, rows=rows, **options)
    case.objective.masking = SegmentsMasking(SegmentsMasking.Options(ratio=(0.6,)), case.learner.tokenizer.layout)
    return case


def presence(case: Any, how: str) -> Tensor:
    """(B, L) bool. "padding": a part of each segment, as long as the row's number wants.

    "absent": besides, the first sample lacks the first segment and the second the last; of one segment: all.
    "gone": no sample has the last segment; of one segment, none of the samples has anything.
    """
    layout = case.learner.tokenizer.layout
    rows = len(case.batch[0])
    valid = torch.ones(rows, layout.length, dtype=torch.bool)
    spans = [span for _, span in layout.spans]
    if how == "nothing":
        return valid
    for b in range(rows):
        for span in spans:
            length = span.stop - span.start
            valid[b, span.start + max(length - b - 1, 1) : span.stop] = False
    if how == "absent":
        valid[0, spans[0]] = False
        valid[1, spans[-1]] = False
    if how == "gone":
        valid[:, spans[-1]] = False
    return valid


def weights_of(case: Any) -> tuple[float, ...]:
    options = case.objective.options
    return options.weights or tuple(
        options.discrete_weight if segment.target == "discrete" else 1.0
        for segment in case.learner.tokenizer.layout.segments
    )


def tokens_of(case: Any, valid: Tensor | None) -> Tokens:
    return replace(case.learner.tokenizer(case.inputs), geometry=Geometry(valid=valid))


def expected(case: Any, draws: Mapping[str, Tensor], valid: Tensor, **changes: Any) -> Made:
    options = case.objective.options
    settings: dict[str, Any] = {
        "weights": weights_of(case), "all_tokens": options.all_tokens, "absent": options.absent, "tied": options.tied,
    }  # fmt: skip
    return transcription(
        case.plain, case.parameters, case.batch, draws["visible"], valid, case.sizes, **(settings | changes)
    )


def gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), made, strict=True)
    }


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest entry of b."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() if (a != b).any() else 0.0


def check(case: Any, valid: Tensor, draws: Mapping[str, Tensor], handed: Tensor | None) -> dict[str, Tensor]:
    """Loss, parts and gradients agree. Returns the gradients."""
    outcome = case.objective(tokens_of(case, handed), case.learner.encoder, draws)
    right = expected(case, draws, valid)
    assert distance(outcome.loss, right.loss) < RTOL
    assert list(outcome.metrics) == [f"segment{i + 1}" for i in range(len(right.parts))]
    for ours, theirs in zip(outcome.metrics.values(), right.parts, strict=True):
        assert distance(ours, theirs) < RTOL
    if not right.loss.requires_grad:
        return {}
    ours, theirs = gradients(outcome.loss, case.parameters), gradients(right.loss, case.parameters)
    for name in ours:
        # where the truth is zero, rounding may leave something: small beside the largest gradient of all
        if theirs[name].abs().max() < 1e-12:
            assert ours[name].abs().max() < 1e-12, name
        else:
            assert distance(ours[name], theirs[name]) < RTOL, name
    return theirs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("how", ["nothing", "padding", "absent"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_m3ae_equals_the_transcription(make_case: Callable[..., Any], kind: str, how: str, variant: str) -> None:
    case = build(make_case, kind, **VARIANTS[variant])
    valid = presence(case, how)
    found = check(case, valid, case.draws(seed=3), None if how == "nothing" else valid)
    for name, gradient in found.items():
        assert gradient.abs().max() > 1e-9, f"{name}: the test's loss does not depend on it"


def test_weights_of_each_segment_and_masks_that_differ_in_their_segments(make_case: Callable[..., Any]) -> None:
    """Any masking will do: the random one hides unequally many tokens of a segment in each row."""
    case = make_case("joint", M3AE, weights=(0.3, 1.7))
    draws = case.draws(seed=1)
    counts = (draws["visible"] < case.sizes.pieces[0].length).sum(dim=1)
    assert counts.min() < counts.max()
    for how in ("nothing", "padding", "absent"):
        valid = presence(case, how)
        check(case, valid, draws, valid)


@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_segment_that_no_sample_has_costs_nothing(make_case: Callable[..., Any], kind: str, absent: str) -> None:
    case = build(make_case, kind, absent=absent)
    valid = presence(case, "gone")
    draws = case.draws(seed=3)
    found = check(case, valid, draws, valid)
    last = len(case.sizes.pieces) - 1
    outcome = case.objective(tokens_of(case, valid), case.learner.encoder, draws)
    assert outcome.metrics[f"segment{last + 1}"].item() == 0
    ours = gradients(outcome.loss, case.parameters)
    assert all(gradient.isfinite().all() for gradient in ours.values())
    assert ours[f"head.{last}.weight"].abs().max() == 0
    assert bool(found) == (last > 0)


MISTAKES = {
    "one mask token": ("joint", "nothing", {}),
    "padding is attended to": ("joint", "padding", {}),
    "mean over the batch's tokens": ("1d", "padding", {}),
    "absent: zero": ("joint", "absent", {"absent": "zero"}),
    "all tokens": ("2d", "nothing", {"all_tokens": True}),
    "weights": ("joint", "nothing", {"weights": (1.0, 0.5)}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_control_what_must_matter_does(make_case: Callable[..., Any], mistake: str) -> None:
    kind, how, changes = MISTAKES[mistake]
    case = build(make_case, kind)
    valid, draws = presence(case, how), case.draws(seed=3)
    loss = case.objective(tokens_of(case, valid), case.learner.encoder, draws).loss
    assert distance(loss, expected(case, draws, valid).loss) < RTOL
    wrong = expected(case, draws, valid, **(changes or {"mistake": mistake}))
    assert distance(loss, wrong.loss) > 1e-4


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_control_the_type_vectors_matter(make_case: Callable[..., Any], part: str) -> None:
    case = build(make_case, "joint")
    valid, draws = presence(case, "nothing"), case.draws(seed=3)
    loss = case.objective(tokens_of(case, None), case.learner.encoder, draws).loss
    parameters = case.parameters
    types = parameters[f"{part}.types"]
    assert types.shape[0] == 2
    with torch.no_grad():
        types.copy_(types.flip(0))
    assert distance(loss, expected(case, draws, valid).loss) > 1e-4


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_pictures_show_the_predictions_of_the_transcription(
    make_case: Callable[..., Any], kind: str, tied: bool
) -> None:
    case = build(make_case, kind, tied=tied)
    valid, draws = presence(case, "absent"), case.draws(seed=3)
    with torch.no_grad():
        made = case.objective.reconstruct(tokens_of(case, valid), case.learner.encoder, draws)
        right = expected(case, draws, valid).predictions
    assert [tuple(part.shape[1:]) for part in made] == [(piece.length, piece.size) for piece in case.sizes.pieces]
    for b, row in enumerate(right):
        for place, vector in row.items():
            number, inside = piece_at(case.sizes, place)
            assert distance(made[number][b, inside], vector) < RTOL
