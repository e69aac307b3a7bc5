"""e-Mix, ShED, Capri and DABS-MAE against reference implementations: the loss and all gradients, in float64.

The reference implementations process one row at a time and cover the steps from embeddings to loss. The encoder is an
argument, since it has tests of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core import Objective
from ssl_plugins.objectives.capri import Capri
from ssl_plugins.objectives.dabs_mae import DabsMAE
from ssl_plugins.objectives.emix import EMix
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.shed import ShED

RTOL = 1e-9
LAYOUTS = ("1d", "2d", "discrete", "joint")
Encode = Callable[[Tensor], Tensor]
Linear = tuple[Tensor, Tensor]

# -------------------------------------------------------------------------------------------- reference implementations


def average(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum() / len(losses)


def cross_entropy(scores: Tensor, label: int) -> Tensor:
    """-log softmax(scores)[label], for one vector of scores."""
    return (scores - scores[label]).exp().sum().log()


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def linear(weights: Linear, x: Tensor) -> Tensor:
    return x @ weights[0].T + weights[1]


def emix_loss(
    embeddings: Tensor, encode: Encode, pool_cls: bool, norm: Linear, last: Linear,
    weight: Sequence[Tensor], partner: Sequence[int], temperature: float, coefficient: str,
) -> Tensor:  # fmt: skip
    rows = range(len(embeddings))

    def features(encoded: Tensor) -> list[Tensor]:
        vectors = []
        for row in encoded:
            pooled = row.mean(dim=0) if pool_cls else row[1:].mean(dim=0)
            centred = pooled - pooled.mean()
            scaled = centred / (centred.square().mean() + 1e-5).sqrt() * norm[0] + norm[1]
            vectors.append(unit(linear(last, scaled)))
        return vectors

    mixed = [weight[i] * embeddings[i] + (1 - weight[i]) * embeddings[partner[i]].detach() for i in rows]
    queries, keys = features(encode(torch.stack(mixed))), features(encode(embeddings))
    own, other = [], []
    for i in rows:
        scores = torch.stack([queries[i] @ keys[j] for j in rows]) / temperature
        own.append(cross_entropy(scores, i))
        other.append(cross_entropy(scores, partner[i]))
    if coefficient == "sample":
        return average([weight[i] * own[i] + (1 - weight[i]) * other[i] for i in rows])
    mean = average(weight)  # published code: weights (B, 1, 1) broadcast with losses (B,), then the mean of all entries
    return mean * average(own) + (1 - mean) * average(other)


def shed_loss(embeddings: Tensor, encode: Encode, weights: Linear, cycles: Sequence[Sequence[int]]) -> Tensor:
    """cycles: the positions a_0, a_1, ... of each row; the embedding at a_(j-1) moves to a_j."""
    shuffled = []
    for row, cycle in zip(embeddings, cycles, strict=True):
        vectors = list(row)
        for j, position in enumerate(cycle):
            vectors[position] = row[cycle[j - 1]]
        shuffled.append(torch.stack(vectors))
    losses = []
    for row, cycle in zip(encode(torch.stack(shuffled)), cycles, strict=True):
        scores = linear(weights, row[1:])
        losses += [cross_entropy(scores[position], int(position in cycle)) for position in range(len(scores))]
    return average(losses)


def blank(embeddings: Tensor, hidden: Tensor) -> Tensor:
    visible = [[0.0 if is_hidden else 1.0 for is_hidden in row] for row in hidden.tolist()]
    return embeddings * torch.tensor(visible, dtype=embeddings.dtype)[:, :, None]


def capri_loss(
    embeddings: Tensor, encode: Encode, weights: Linear, hidden: Tensor,
    temperature: float, normalise: bool, direction: str, positions: str, negatives: str,
) -> Tensor:  # fmt: skip
    """Contrast each (prediction, target) pair with the others of its group, which is a row or the whole batch."""
    predicted = linear(weights, encode(blank(embeddings, hidden))[:, 1:])
    groups = [
        [(g, e) for g, e, is_hidden in zip(predicted[b], embeddings[b], hidden[b].tolist(), strict=True)
         if is_hidden or (positions == "all" and negatives == "sequence")]
        for b in range(len(embeddings))
    ]  # fmt: skip
    if negatives == "batch":
        groups = [[pair for group in groups for pair in group]]
    over_targets, over_predictions = [], []
    for group in groups:
        if normalise:
            group = [(unit(g), unit(e)) for g, e in group]
        scores = torch.stack([g for g, _ in group]) @ torch.stack([e for _, e in group]).T / temperature
        over_targets += [cross_entropy(scores[i, :], i) for i in range(len(group))]
        over_predictions += [cross_entropy(scores[:, j], j) for j in range(len(group))]
    first, second = average(over_targets), average(over_predictions)
    return {"targets": first, "predictions": second, "both": (first + second) / 2}[direction]


def dabs_mae_loss(
    embeddings: Tensor,
    encode: Encode,
    hidden: Tensor,
    segments: Sequence[tuple[Tensor, Linear | Tensor]],
    squared: bool,
) -> Tensor:
    """segments: in the order of the row, patches and the head's linear map, or ids and the embedding table."""
    encoded, start, losses = encode(blank(embeddings, hidden))[:, 1:], 0, []
    for target, head in segments:
        length, errors = target.shape[1], []
        for row in range(len(embeddings)):
            for position in range(length):
                if not hidden[row, start + position]:
                    continue
                h = encoded[row, start + position]
                if isinstance(head, Tensor):
                    errors.append(cross_entropy(head @ h, int(target[row, position])))
                else:
                    residual = target[row, position] - linear(head, h * (h > 0))
                    errors.append(residual.square().mean() if squared else residual.square().sum().sqrt())
        start += length
        losses.append(average(errors))
    return average(losses)


# ------------------------------------------------------------------------------------- comparison


def build(make_case: Callable[..., Any], kind: str, objective: type[Objective], rows: int = 5, **options: Any) -> Any:
    """A case of tests/conftest.py with another objective, whose weights are perturbed as well."""
    case = make_case(kind, MAE, rows=rows)
    masking = case.objective.masking if objective.default_masking else None
    built = objective(
        objective.Options(**options), case.learner.tokenizer.layout, 16, {} if masking is None else {"mask": masking}
    ).double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    case.learner.objective = built
    return case


def cycle_of(source: Tensor, moved: Tensor) -> list[int]:
    """The positions a_0, a_1, ... of one row: the embedding at a_j comes from a_(j-1)."""
    cycle = [int(moved.argmax())]
    while (previous := int(source[cycle[0]])) != cycle[-1]:
        cycle.insert(0, previous)
    return cycle


def hidden_of(draws: Mapping[str, Tensor], length: int) -> Tensor:
    rows = torch.ones(len(draws["visible"]), length, dtype=torch.bool)
    return rows.scatter(1, draws["visible"], False)


def expected(case: Any, draws: Mapping[str, Tensor], **changes: Any) -> Tensor:
    """The loss of the reference implementation for the case's objective and options. `changes` replace arguments."""
    objective, encoder, options = case.objective, case.learner.encoder, case.objective.options
    tokens = case.learner.tokenizer(case.inputs)
    weights = dict(objective.named_parameters())

    def pair(name: str) -> Linear:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    arguments: dict[str, Any] = {"embeddings": tokens.embeddings, "encode": encoder}
    function: Callable[..., Tensor]
    if isinstance(objective, EMix):
        function = emix_loss
        arguments |= {"pool_cls": encoder.options.pool == "all", "norm": pair("head.0"), "last": pair("head.1")}
        arguments |= {"weight": draws["weight"].double(), "partner": draws["partner"].tolist()}
        arguments |= {"temperature": options.temperature, "coefficient": options.coefficient}
    elif isinstance(objective, ShED):
        cycles = [cycle_of(*row) for row in zip(draws["source"], draws["moved"], strict=True)]
        function, arguments = shed_loss, arguments | {"weights": pair("head"), "cycles": cycles}
    elif isinstance(objective, Capri):
        names = ("temperature", "normalise", "direction", "positions", "negatives")
        function, arguments = capri_loss, arguments | {name: getattr(options, name) for name in names}
        arguments |= {"weights": pair("predictor"), "hidden": hidden_of(draws, tokens.layout.length)}
    else:
        segments = [
            (target.patches, pair(f"maps.{i}")) if hasattr(target, "patches") else (target.ids, target.table)
            for i, target in enumerate(tokens.targets)
        ]
        function, arguments = dabs_mae_loss, arguments | {"segments": segments, "squared": options.squared}
        arguments |= {"hidden": hidden_of(draws, tokens.layout.length)}
    return function(**(arguments | changes))


def gradients(loss: Tensor, case: Any) -> dict[str, Tensor]:
    parameters = dict(case.learner.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: gradient for name, gradient in zip(parameters, grads, strict=True) if gradient is not None}


def largest_difference(case: Any, draws: Mapping[str, Tensor], reference: Tensor, zero: Sequence[str] = ()) -> float:
    """Largest relative difference of loss and gradients to the reference. `zero`: parameters without a gradient."""
    loss = case.learner(case.inputs, draws).loss
    grads, reference_grads = gradients(loss, case), gradients(reference, case)
    assert grads.keys() == reference_grads.keys() == dict(case.learner.named_parameters()).keys()
    worst = ((loss - reference) / reference).abs().item()
    top = max(gradient.abs().max() for gradient in reference_grads.values())
    for name, gradient in reference_grads.items():
        size = gradient.abs().max()
        if name in zero:
            assert size < 1e-12 * top, name
            size = top
        else:
            assert size > 1e-9 * top, name
        worst = max(worst, ((grads[name] - gradient).abs().max() / size).item())
    return worst


@pytest.mark.parametrize("pool", ["tokens", "all"])
@pytest.mark.parametrize("options", [{}, {"coefficient": "batch-mean"}, {"temperature": 0.7, "out": 5}])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_emix_equals_reference_implementation(
    make_case: Callable[..., Any], kind: str, options: dict[str, Any], pool: str
) -> None:
    case = build(make_case, kind, EMix, **options)
    case.learner.encoder.options = case.learner.encoder.options.model_copy(update={"pool": pool})
    draws = case.draws()
    assert largest_difference(case, draws, expected(case, draws)) < RTOL


@pytest.mark.parametrize(
    "options", [{}, {"min_moved": 1}, {"ratio": 0.05}, {"ratio": 0.05, "min_moved": 1}, {"ratio": 1}]
)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_shed_equals_reference_implementation(
    make_case: Callable[..., Any], kind: str, options: dict[str, Any]
) -> None:
    case = build(make_case, kind, ShED, **options)
    draws = case.draws()
    assert largest_difference(case, draws, expected(case, draws)) < RTOL


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("positions", ["masked", "all"])
@pytest.mark.parametrize("direction", ["targets", "predictions", "both"])
@pytest.mark.parametrize("negatives", ["sequence", "batch"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_capri_equals_reference_implementation(
    make_case: Callable[..., Any], kind: str, negatives: str, direction: str, positions: str, normalise: bool
) -> None:
    options = {"negatives": negatives, "direction": direction, "positions": positions, "normalise": normalise}
    case = build(make_case, kind, Capri, rows=3, **options)
    if not normalise:  # at a low temperature the softmax saturates and gradients vanish
        case.objective.options = case.objective.options.model_copy(update={"temperature": 2.0})
    draws = case.draws()
    # a bias adds the same to the scores of all predictions, so a softmax over predictions does not depend on it
    biases = ["objective.predictor.bias", "encoder.transformer.norm.bias"]
    zero = biases if direction == "predictions" and not normalise else []
    assert largest_difference(case, draws, expected(case, draws), zero) < RTOL


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_dabs_mae_equals_reference_implementation(make_case: Callable[..., Any], kind: str, squared: bool) -> None:
    case = build(make_case, kind, DabsMAE, squared=squared)
    draws = case.draws()
    assert largest_difference(case, draws, expected(case, draws)) < RTOL


# ------------------------------------------------------------------------------------------------------- controls

CHANGES: dict[str, tuple[type[Objective], str, dict[str, Any], dict[str, Any]]] = {
    "e-Mix, coefficient batch-mean": (EMix, "1d", {}, {"coefficient": "batch-mean"}),
    "e-Mix, coefficient sample": (EMix, "1d", {"coefficient": "batch-mean"}, {"coefficient": "sample"}),
    "e-Mix, cls token pooled": (EMix, "1d", {}, {"pool_cls": True}),
    "e-Mix, another temperature": (EMix, "1d", {}, {"temperature": 0.25}),
    "Capri, softmax over predictions": (Capri, "1d", {}, {"direction": "predictions"}),
    "Capri, softmax over targets": (Capri, "1d", {"direction": "both"}, {"direction": "targets"}),
    "Capri, all tokens": (Capri, "1d", {}, {"positions": "all"}),
    "Capri, masked tokens": (Capri, "1d", {"positions": "all"}, {"positions": "masked"}),
    "Capri, not normalised": (Capri, "1d", {"temperature": 2.0}, {"normalise": False}),
    "Capri, negatives from the batch": (Capri, "1d", {}, {"negatives": "batch"}),
    "DABS-MAE, squared": (DabsMAE, "1d", {}, {"squared": True}),
}


@pytest.mark.parametrize("mistake", CHANGES)
def test_control_wrong_options_are_detected(make_case: Callable[..., Any], mistake: str) -> None:
    objective, kind, options, changes = CHANGES[mistake]
    case = build(make_case, kind, objective, **options)
    draws = case.draws()
    loss, wrong = case.learner(case.inputs, draws).loss, expected(case, draws, **changes)
    assert abs(loss - wrong) > 1e-4 * abs(wrong)


def test_control_emix_permutation_and_gradients(make_case: Callable[..., Any]) -> None:
    case = build(make_case, "2d", EMix)
    draws = {
        **case.draws(),
        "partner": torch.tensor([2, 0, 1, 4, 3]),
    }  # contains a cycle of three, so it differs from its inverse
    assert largest_difference(case, draws, expected(case, draws)) < RTOL
    inverse = expected(case, draws, partner=draws["partner"].argsort().tolist())
    assert largest_difference(case, draws, inverse) > 1e-3
    embeddings = case.learner.tokenizer(case.inputs).embeddings
    not_detached = torch.stack([
        weight * embeddings[i] + (1 - weight) * embeddings[draws["partner"][i]]
        for i, weight in enumerate(draws["weight"].double())
    ])  # fmt: skip
    inputs = iter([not_detached, embeddings])  # the same values, but with a gradient into the partner's embeddings
    without_stop = expected(case, draws, encode=lambda _: case.learner.encoder(next(inputs)))
    assert abs(case.learner(case.inputs, draws).loss - without_stop) < RTOL
    assert largest_difference(case, draws, without_stop) > 1e-3
    calls = iter([case.learner.encoder, lambda x: case.learner.encoder(x).detach()])  # stop-gradient on the keys
    assert largest_difference(case, draws, expected(case, draws, encode=lambda x: next(calls)(x))) > 1e-3


def test_control_shed_cycles_and_gradients(make_case: Callable[..., Any]) -> None:
    case = build(make_case, "2d", ShED, ratio=0.3)
    draws = case.draws()
    cycles = [cycle_of(*row) for row in zip(draws["source"], draws["moved"], strict=True)]
    embeddings = case.learner.tokenizer(case.inputs).embeddings
    assert largest_difference(case, draws, expected(case, draws, cycles=cycles)) < RTOL
    assert largest_difference(case, draws, expected(case, draws, cycles=[c[::-1] for c in cycles])) > 1e-4
    unmoved = expected(
        case, draws, encode=lambda _: case.learner.encoder(embeddings)
    )  # labelled as moved but not moved
    assert largest_difference(case, draws, unmoved) > 1e-4
    wrong_source = expected(case, draws, encode=lambda x: case.learner.encoder(embeddings + (x - embeddings).detach()))
    assert abs(case.learner(case.inputs, draws).loss - wrong_source) < RTOL
    assert (
        largest_difference(case, draws, wrong_source) > 1e-4
    )  # the gradient must reach the source of a moved embedding
    weights = tuple(parameter.flip(0) for parameter in case.objective.head.parameters())  # labels swapped
    assert largest_difference(case, draws, expected(case, draws, weights=weights)) > 1e-2


@pytest.mark.parametrize("objective", [Capri, DabsMAE])
def test_control_masks_matter(make_case: Callable[..., Any], objective: type[Objective]) -> None:
    case = build(make_case, "2d", objective)
    draws = case.draws()
    loss, hidden = case.learner(case.inputs, draws).loss, hidden_of(draws, 16)
    embeddings = case.learner.tokenizer(case.inputs).embeddings
    for wrong in (
        expected(case, draws, hidden=~hidden),
        expected(case, draws, encode=lambda _: case.learner.encoder(embeddings)),  # no token blanked
        expected(case, draws, encode=lambda x: case.learner.encoder(x).roll(1, dims=1)),  # shifted by one token
    ):
        assert abs(loss - wrong) > 1e-4 * abs(wrong)


def test_control_gradient_of_capri_reaches_targets(make_case: Callable[..., Any]) -> None:
    case = build(make_case, "1d", Capri)
    draws, tokens = case.draws(), case.learner.tokenizer(case.inputs)
    hidden = hidden_of(draws, 12)
    detached = expected(
        case, draws, embeddings=tokens.embeddings.detach(),
        encode=lambda _: case.learner.encoder(blank(tokens.embeddings, hidden)),
    )  # fmt: skip
    assert abs(case.learner(case.inputs, draws).loss - detached) < RTOL
    assert largest_difference(case, draws, detached) > 1e-3


def test_control_dabs_mae_table_mask_and_relu(make_case: Callable[..., Any]) -> None:
    case = build(make_case, "joint", DabsMAE)
    draws, tokens = case.draws(), case.learner.tokenizer(case.inputs)
    weights = case.objective.maps["0"]
    image = (tokens.targets[0].patches, (weights.weight, weights.bias))
    loss = case.learner(case.inputs, draws).loss

    def wrong(**changes: Any) -> bool:
        return bool(abs(loss - expected(case, draws, **changes)) > 1e-4)

    other = torch.randn_like(tokens.targets[1].table)
    assert wrong(segments=[image, (tokens.targets[1].ids, other)])
    assert wrong(hidden=torch.ones(5, 13, dtype=torch.bool), encode=lambda _: case.learner.encoder(
        blank(tokens.embeddings, hidden_of(draws, 13))
    ))  # fmt: skip
    assert wrong(segments=[(image[0] * 1.01, image[1]), (tokens.targets[1].ids, tokens.targets[1].table)])
    # a ReLU on the encoder's output does not change predictions of patches, but those of ids
    ids_only = build(make_case, "discrete", DabsMAE)
    patches_only = build(make_case, "1d", DabsMAE)
    for other_case, agrees in ((ids_only, False), (patches_only, True)):
        draws = other_case.draws()
        rectified = expected(other_case, draws, encode=lambda x, case=other_case: case.learner.encoder(x).relu())
        assert (abs(other_case.learner(other_case.inputs, draws).loss - rectified) < RTOL) == agrees
