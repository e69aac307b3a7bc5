"""M3AE against a reference implementation of docs/methods/m3ae.md: the loss and all gradients, in float64.

The reference implementation processes one sample and one token at a time. Rows contain valid tokens only, so that
attention needs no mask. The transformer blocks are those of benchmarks/plain.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ssl_core import ConfigError, Geometry, Tokens
from ssl_plugins.maskings.segments import SegmentsMasking
from ssl_plugins.objectives.m3ae import M3AE

RTOL = 1e-9
LAYOUTS = ("1d", "2d", "discrete", "joint")
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "absent zero": {"absent": "zero"},
    "all tokens": {"all_tokens": True},
    "tied": {"tied": True},
    "discrete_weight 0.5": {"discrete_weight": 0.5},
    "one block": {"depth": 1},
    "published blocks": {
        "mlp_ratio": 4.0, "qkv_bias": True, "act": "gelu_tanh", "norm_eps": 1e-2,
        "encoder_options": {"mlp_ratio": 4.0, "qkv_bias": True, "act": "gelu_tanh", "norm_eps": 1e-2},
    },
    "heads of one layer": {"head_depth": 1},
    "heads of three layers": {"head_depth": 3, "act": "gelu_tanh", "norm_eps": 1e-2},
    "tied heads of two layers": {"head_depth": 2, "tied": True},
}  # fmt: skip

# -------------------------------------------------------------------------------------------- reference implementation


class Result(NamedTuple):
    """The loss, the unweighted loss of each segment, and the predictions {position: vector} of each sample."""

    loss: Tensor
    parts: list[Tensor]
    predictions: list[dict[int, Tensor]]


def piece_at(sizes: Any, position: int) -> tuple[int, int]:
    """The piece that a position of the row belongs to, and the position inside the piece."""
    for number, piece in enumerate(sizes.pieces):
        if position < piece.length:
            return number, position
        position -= piece.length
    raise IndexError


def output_map(plain: Any, params: Mapping[str, Tensor], number: int, x: Tensor, form: Any) -> Tensor:
    """Of a decoded token (d,): a linear map; before it, if the head has layers, LayerNorm and these layers."""
    at = f"head.{number}"
    if f"{at}.weight" in params:
        return params[f"{at}.weight"] @ x + params[f"{at}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return plain.layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], True, form.eps)

    x = norm(x, f"{at}.norm")
    layer = 0
    while f"{at}.layers.{layer}.weight" in params:
        inner = params[f"{at}.layers.{layer}.weight"] @ x + params[f"{at}.layers.{layer}.bias"]
        y = norm(plain.gelu(inner, True, form.tanh), f"{at}.norms.{layer}")
        x = y if layer == 0 else x + y
        layer += 1
    return params[f"{at}.out.weight"] @ x + params[f"{at}.out.bias"]


def reference(
    plain: Any, params: Mapping[str, Tensor], batch: Sequence[Tensor], visible: Tensor, valid: Tensor, sizes: Any,
    *, weights: Sequence[float], all_tokens: bool, absent: str, tied: bool, mistake: str = "",
) -> Result:  # fmt: skip
    targets = plain.targets_of(batch, sizes)
    embeddings = plain.embed(params, targets, sizes)
    encoder_positions = plain.positions(params, "encoder", sizes, sizes.dim)
    decoder_positions = plain.positions(params, "decoder", sizes, sizes.decoder_dim)
    errors: list[list[list[Tensor]]] = [[] for _ in sizes.pieces]  # errors[piece][sample]
    predictions = []
    for b in range(len(embeddings)):
        attended = torch.ones_like(valid[b]) if mistake == "attention to padding" else valid[b]
        tokens = attended.nonzero().flatten().tolist()
        visible_ids = [p for p in tokens if p in visible[b].tolist()]

        row = [
            params["encoder.cls_token"] + encoder_positions[0],
            *(embeddings[b, p] + encoder_positions[1 + p] for p in visible_ids),
        ]
        row = torch.stack(row)[None]
        latent = plain.transformer(row, params, "encoder", sizes.depth, sizes.heads, 0.0, True, sizes.form)[0]
        known = latent @ params["decoder.project.weight"].T + params["decoder.project.bias"]

        masks = params["decoder.mask_token"]
        row = [known[0] + decoder_positions[0]]
        for p in tokens:
            number = 0 if mistake == "one mask token" else piece_at(sizes, p)[0]
            row.append(
                (known[1 + visible_ids.index(p)] if p in visible_ids else masks[number]) + decoder_positions[1 + p]
            )
        depth, heads = sizes.decoder_depth, sizes.decoder_heads
        row = torch.stack(row)[None]
        decoded = plain.transformer(row, params, "decoder", depth, heads, 0.0, True, sizes.decoder_form)[0]

        vectors: dict[int, Tensor] = {}
        for number in range(len(sizes.pieces)):
            errors[number].append([])
        for p, vector in zip(tokens, decoded[1:], strict=True):
            number, inside = piece_at(sizes, p)
            kind = sizes.pieces[number].kind
            vectors[p] = output_map(plain, params, number, vector, sizes.decoder_form)
            if kind == "discrete" and tied:
                vectors[p] = params[f"tokenizer.{number}.table"] @ vectors[p]
            if not valid[b, p] or (p in visible_ids and not all_tokens):
                continue
            target = targets[number][b, inside]
            if kind == "continuous":
                errors[number][b].append(((vectors[p] - target) ** 2).sum() / len(target))
            else:
                errors[number][b].append(-(vectors[p][target] - vectors[p].exp().sum().log()))
        predictions.append(vectors)

    parts = []
    for piece_errors in errors:
        if mistake == "mean over all tokens of the batch":
            piece_errors = [[error for sample_errors in piece_errors for error in sample_errors]]
        means = [sum(e, embeddings.new_zeros(())) / max(len(e), 1e-5) for e in piece_errors if e or absent == "zero"]
        parts.append(sum(means, embeddings.new_zeros(())) / max(len(means), 1))
    loss = sum((w * part for w, part in zip(weights, parts, strict=True)), embeddings.new_zeros(()))
    return Result(loss, parts, predictions)


# ------------------------------------------------------------------------------------------------ comparison


def build(make_case: Callable[..., Any], kind: str, rows: int = 4, **options: Any) -> Any:
    """A case of tests/conftest.py with M3AE and its masking by segments."""
    case = make_case(kind, M3AE, rows=rows, **options)
    masking = SegmentsMasking(SegmentsMasking.Options(ratio=(0.6,)), case.learner.tokenizer.layout)
    case.objective.maskings = {"mask": masking}
    return case


def valid_tokens(case: Any, pattern: str) -> Tensor:
    """(B, L) bool: which tokens are valid.

    "all": all tokens. "padding": the beginning of each segment, with a length that depends on the row. "absent": in
    addition, the first sample lacks the first segment and the second one the last segment. "none": in addition to
    "padding", no sample has the last segment.
    """
    layout = case.learner.tokenizer.layout
    rows = len(case.batch[0])
    valid = torch.ones(rows, layout.length, dtype=torch.bool)
    spans = [span for _, span in layout.spans]
    if pattern == "all":
        return valid
    for b in range(rows):
        for span in spans:
            length = span.stop - span.start
            valid[b, span.start + max(length - b - 1, 1) : span.stop] = False
    if pattern == "absent":
        valid[0, spans[0]] = False
        valid[1, spans[-1]] = False
    if pattern == "none":
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


def expected(case: Any, draws: Mapping[str, Tensor], valid: Tensor, **changes: Any) -> Result:
    options = case.objective.options
    settings: dict[str, Any] = {
        "weights": weights_of(case), "all_tokens": options.all_tokens, "absent": options.absent, "tied": options.tied,
    }  # fmt: skip
    return reference(
        case.plain, case.parameters, case.batch, draws["visible"], valid, case.sizes, **(settings | changes)
    )


def gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), grads, strict=True)
    }


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest entry of b."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() if (a != b).any() else 0.0


def check(case: Any, valid: Tensor, draws: Mapping[str, Tensor], valid_argument: Tensor | None) -> dict[str, Tensor]:
    """Compare loss, losses of segments and gradients with the reference implementation. Returns its gradients."""
    outcome = case.objective(tokens_of(case, valid_argument), case.learner.encoder, draws)
    result = expected(case, draws, valid)
    assert distance(outcome.loss, result.loss) < RTOL
    assert list(outcome.metrics) == [f"segment{i + 1}" for i in range(len(result.parts))]
    for actual, part in zip(outcome.metrics.values(), result.parts, strict=True):
        assert distance(actual, part) < RTOL
    if not result.loss.requires_grad:
        return {}
    actual, reference_grads = gradients(outcome.loss, case.parameters), gradients(result.loss, case.parameters)
    for name in actual:
        # if the gradient is zero, rounding errors remain, which are small compared with the largest gradient
        if reference_grads[name].abs().max() < 1e-12:
            assert actual[name].abs().max() < 1e-12, name
        else:
            assert distance(actual[name], reference_grads[name]) < RTOL, name
    return reference_grads


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pattern", ["all", "padding", "absent"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_m3ae_equals_reference_implementation(
    make_case: Callable[..., Any], kind: str, pattern: str, variant: str
) -> None:
    case = build(make_case, kind, **VARIANTS[variant])
    valid = valid_tokens(case, pattern)
    grads = check(case, valid, case.draws(seed=3), None if pattern == "all" else valid)
    for name, gradient in grads.items():
        assert gradient.abs().max() > 1e-9, f"{name}: the loss of this test does not depend on it"


def test_segment_weights_with_random_masking(make_case: Callable[..., Any]) -> None:
    """Random masking hides different numbers of tokens of a segment in different rows."""
    case = make_case("joint", M3AE, weights=(0.3, 1.7))
    draws = case.draws(seed=1)
    counts = (draws["visible"] < case.sizes.pieces[0].length).sum(dim=1)
    assert counts.min() < counts.max()
    for pattern in ("all", "padding", "absent"):
        valid = valid_tokens(case, pattern)
        check(case, valid, draws, valid)


@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_segment_without_valid_tokens_has_loss_zero(make_case: Callable[..., Any], kind: str, absent: str) -> None:
    case = build(make_case, kind, absent=absent)
    valid = valid_tokens(case, "none")
    draws = case.draws(seed=3)
    grads = check(case, valid, draws, valid)
    last = len(case.sizes.pieces) - 1
    outcome = case.objective(tokens_of(case, valid), case.learner.encoder, draws)
    assert outcome.metrics[f"segment{last + 1}"].item() == 0
    actual = gradients(outcome.loss, case.parameters)
    assert all(gradient.isfinite().all() for gradient in actual.values())
    assert actual[f"head.{last}.weight"].abs().max() == 0
    assert bool(grads) == (last > 0)


MISTAKES = {
    "one mask token": ("joint", "all", {}),
    "attention to padding": ("joint", "padding", {}),
    "mean over all tokens of the batch": ("1d", "padding", {}),
    "absent: zero": ("joint", "absent", {"absent": "zero"}),
    "all tokens": ("2d", "all", {"all_tokens": True}),
    "weights": ("joint", "all", {"weights": (1.0, 0.5)}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_control_mistakes_are_detected(make_case: Callable[..., Any], mistake: str) -> None:
    kind, pattern, changes = MISTAKES[mistake]
    case = build(make_case, kind)
    valid, draws = valid_tokens(case, pattern), case.draws(seed=3)
    loss = case.objective(tokens_of(case, valid), case.learner.encoder, draws).loss
    assert distance(loss, expected(case, draws, valid).loss) < RTOL
    wrong = expected(case, draws, valid, **(changes or {"mistake": mistake}))
    assert distance(loss, wrong.loss) > 1e-4


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_control_type_vectors_matter(make_case: Callable[..., Any], part: str) -> None:
    case = build(make_case, "joint")
    valid, draws = valid_tokens(case, "all"), case.draws(seed=3)
    loss = case.objective(tokens_of(case, None), case.learner.encoder, draws).loss
    parameters = case.parameters
    types = parameters[f"{part}.types"]
    assert types.shape[0] == 2
    with torch.no_grad():
        types.copy_(types.flip(0))
    assert distance(loss, expected(case, draws, valid).loss) > 1e-4


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_reconstruct_equals_reference_implementation(make_case: Callable[..., Any], kind: str, tied: bool) -> None:
    case = build(make_case, kind, tied=tied)
    valid, draws = valid_tokens(case, "absent"), case.draws(seed=3)
    with torch.no_grad():
        predictions = case.objective.reconstruct(tokens_of(case, valid), case.learner.encoder, draws)
        reference_predictions = expected(case, draws, valid).predictions
    assert [tuple(part.shape[1:]) for part in predictions] == [
        (piece.length, piece.size) for piece in case.sizes.pieces
    ]
    for b, row in enumerate(reference_predictions):
        for position, vector in row.items():
            number, inside = piece_at(case.sizes, position)
            assert distance(predictions[number][b, inside], vector) < RTOL


@pytest.mark.parametrize("pattern", ["all", "padding", "absent"])
def test_pass_without_continuous_segments_equals_reference_implementation(
    make_case: Callable[..., Any], pattern: str
) -> None:
    """The second pass is that of rows whose images are not valid, with a mask of its own."""
    case = build(make_case, "joint", unpaired_weight=0.7)
    valid, draws = valid_tokens(case, pattern), case.draws(seed=3)
    second = {name.removeprefix("unpaired."): value for name, value in draws.items() if name.startswith("unpaired.")}
    assert not torch.equal(second["visible"], draws["visible"])
    alone = valid.clone()
    alone[:, : case.sizes.pieces[0].length] = False
    paired, unpaired = expected(case, draws, valid), expected(case, second, alone, weights=(0.0, 1.0))
    outcome = case.objective(tokens_of(case, None if pattern == "all" else valid), case.learner.encoder, draws)
    total = paired.loss + 0.7 * unpaired.loss
    assert distance(outcome.loss, total) < RTOL
    assert distance(outcome.metrics["unpaired"], unpaired.loss) < RTOL
    actual, reference_grads = gradients(outcome.loss, case.parameters), gradients(total, case.parameters)
    for name in actual:
        assert distance(actual[name], reference_grads[name]) < RTOL, name
    assert distance(outcome.loss, paired.loss) > 1e-4
    assert distance(unpaired.loss, expected(case, second, valid, weights=(0.0, 1.0)).loss) > 1e-4  # images matter


@pytest.mark.parametrize("kind", ["1d", "discrete"])
def test_pass_without_continuous_segments_needs_both_kinds(make_case: Callable[..., Any], kind: str) -> None:
    with pytest.raises(ConfigError, match=r"set objective\.unpaired_weight=0"):
        build(make_case, kind, unpaired_weight=1.0)
