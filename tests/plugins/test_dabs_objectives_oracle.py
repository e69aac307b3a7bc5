"""e-Mix, ShED, Capri and DABS-MAE against a plain transcription: the loss and every parameter's gradient, in float64.

The transcription goes row by row and covers what lies between content and loss; the encoder, which has tests of its
own, is handed in.
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

# -------------------------------------------------------------------------------------------- the transcription


def average(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum() / len(losses)


def cross_entropy(scores: Tensor, label: int) -> Tensor:
    """-log of the label's share of exp(scores), for one vector of scores."""
    return (scores - scores[label]).exp().sum().log()


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def linear(weights: Linear, x: Tensor) -> Tensor:
    return x @ weights[0].T + weights[1]


def emix_loss(
    embeddings: Tensor, encode: Encode, pool_summary: bool, norm: Linear, last: Linear,
    share: Sequence[Tensor], partner: Sequence[int], temperature: float, coefficient: str,
) -> Tensor:  # fmt: skip
    rows = range(len(embeddings))

    def features(encoded: Tensor) -> list[Tensor]:
        made = []
        for row in encoded:
            pooled = row.mean(dim=0) if pool_summary else row[1:].mean(dim=0)
            centred = pooled - pooled.mean()
            scaled = centred / (centred.square().mean() + 1e-5).sqrt() * norm[0] + norm[1]
            made.append(unit(linear(last, scaled)))
        return made

    mixed = [share[i] * embeddings[i] + (1 - share[i]) * embeddings[partner[i]].detach() for i in rows]
    anchors, originals = features(encode(torch.stack(mixed))), features(encode(embeddings))
    own, other = [], []
    for i in rows:
        scores = torch.stack([anchors[i] @ originals[j] for j in rows]) / temperature
        own.append(cross_entropy(scores, i))
        other.append(cross_entropy(scores, partner[i]))
    if coefficient == "sample":
        return average([share[i] * own[i] + (1 - share[i]) * other[i] for i in rows])
    mean = average(share)  # the reference: shares (B, 1, 1) broadcast against losses (B,), then averaged over all
    return mean * average(own) + (1 - mean) * average(other)


def shed_loss(embeddings: Tensor, encode: Encode, weights: Linear, cycles: Sequence[Sequence[int]]) -> Tensor:
    """cycles: for each row the places a_0, a_1, ...; what stood at a_(j-1) moves to a_j."""
    changed = []
    for row, cycle in zip(embeddings, cycles, strict=True):
        places = list(row)
        for j, place in enumerate(cycle):
            places[place] = row[cycle[j - 1]]
        changed.append(torch.stack(places))
    losses = []
    for row, cycle in zip(encode(torch.stack(changed)), cycles, strict=True):
        scores = linear(weights, row[1:])
        losses += [cross_entropy(scores[place], int(place in cycle)) for place in range(len(scores))]
    return average(losses)


def blanked(embeddings: Tensor, hidden: Tensor) -> Tensor:
    keep = [[0.0 if gone else 1.0 for gone in row] for row in hidden.tolist()]
    return embeddings * torch.tensor(keep, dtype=embeddings.dtype)[:, :, None]


def capri_loss(
    embeddings: Tensor, encode: Encode, weights: Linear, hidden: Tensor,
    temperature: float, normalise: bool, direction: str, positions: str, negatives: str,
) -> Tensor:  # fmt: skip
    """Groups of (prediction, target) pairs, each row or the whole batch: every pair is told from its group."""
    predicted = linear(weights, encode(blanked(embeddings, hidden))[:, 1:])
    groups = [
        [(g, e) for g, e, gone in zip(predicted[b], embeddings[b], hidden[b].tolist(), strict=True)
         if gone or (positions == "all" and negatives == "sequence")]
        for b in range(len(embeddings))
    ]  # fmt: skip
    if negatives == "batch":
        groups = [[pair for group in groups for pair in group]]
    among_targets, among_predictions = [], []
    for group in groups:
        if normalise:
            group = [(unit(g), unit(e)) for g, e in group]
        scores = torch.stack([g for g, _ in group]) @ torch.stack([e for _, e in group]).T / temperature
        among_targets += [cross_entropy(scores[i, :], i) for i in range(len(group))]
        among_predictions += [cross_entropy(scores[:, j], j) for j in range(len(group))]
    first, second = average(among_targets), average(among_predictions)
    return {"targets": first, "predictions": second, "both": (first + second) / 2}[direction]


def dabs_mae_loss(
    embeddings: Tensor,
    encode: Encode,
    hidden: Tensor,
    segments: Sequence[tuple[Tensor, Linear | Tensor]],
    squared: bool,
) -> Tensor:
    """segments: patches and the linear map of the head, or ids and the table; one after the other along the row."""
    encoded, start, losses = encode(blanked(embeddings, hidden))[:, 1:], 0, []
    for target, head in segments:
        length, errors = target.shape[1], []
        for row in range(len(embeddings)):
            for place in range(length):
                if not hidden[row, start + place]:
                    continue
                h = encoded[row, start + place]
                if isinstance(head, Tensor):
                    errors.append(cross_entropy(head @ h, int(target[row, place])))
                else:
                    rest = target[row, place] - linear(head, h * (h > 0))
                    errors.append(rest.square().mean() if squared else rest.square().sum().sqrt())
        start += length
        losses.append(average(errors))
    return average(losses)


# ------------------------------------------------------------------------------------- the objectives beside it


def build(make_case: Callable[..., Any], kind: str, objective: type[Objective], rows: int = 5, **options: Any) -> Any:
    """A case of tests/conftest.py whose objective is another one, its weights perturbed as the rest."""
    case = make_case(kind, MAE, rows=rows)
    masking = case.objective.masking if objective.default_masking else None
    made = objective(
        objective.Options(**options), case.learner.tokenizer.layout, 16, {} if masking is None else {"mask": masking}
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    case.learner.objective = made
    return case


def cycle_of(source: Tensor, moved: Tensor) -> list[int]:
    """The places a_0, a_1, ... of one row: a_(j-1) is where a_j's embedding comes from."""
    places = [int(moved.argmax())]
    while (before := int(source[places[0]])) != places[-1]:
        places.insert(0, before)
    return places


def hidden_of(draws: Mapping[str, Tensor], length: int) -> Tensor:
    rows = torch.ones(len(draws["visible"]), length, dtype=torch.bool)
    return rows.scatter(1, draws["visible"], False)


def expected(case: Any, draws: Mapping[str, Tensor], **changes: Any) -> Tensor:
    """The transcription's loss for the case's objective and options; `changes` replace its arguments."""
    objective, encoder, options = case.objective, case.learner.encoder, case.objective.options
    tokens = case.learner.tokenizer(case.inputs)
    weights = dict(objective.named_parameters())

    def pair(name: str) -> Linear:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    given: dict[str, Any] = {"content": tokens.embeddings, "encode": encoder}
    function: Callable[..., Tensor]
    if isinstance(objective, EMix):
        function = emix_loss
        given |= {"pool_summary": encoder.options.pool == "all", "norm": pair("head.0"), "last": pair("head.1")}
        given |= {"share": draws["weight"].double(), "partner": draws["partner"].tolist()}
        given |= {"temperature": options.temperature, "coefficient": options.coefficient}
    elif isinstance(objective, ShED):
        cycles = [cycle_of(*row) for row in zip(draws["source"], draws["moved"], strict=True)]
        function, given = shed_loss, given | {"weights": pair("head"), "cycles": cycles}
    elif isinstance(objective, Capri):
        names = ("temperature", "normalise", "direction", "positions", "negatives")
        function, given = capri_loss, given | {name: getattr(options, name) for name in names}
        given |= {"weights": pair("predictor"), "hidden": hidden_of(draws, tokens.layout.length)}
    else:
        segments = [
            (target.patches, pair(f"maps.{i}")) if hasattr(target, "patches") else (target.ids, target.table)
            for i, target in enumerate(tokens.targets)
        ]
        function, given = dabs_mae_loss, given | {"segments": segments, "squared": options.squared}
        given |= {"hidden": hidden_of(draws, tokens.layout.length)}
    return function(**(given | changes))


def gradients(loss: Tensor, case: Any) -> dict[str, Tensor]:
    parameters = dict(case.learner.named_parameters())
    made = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: gradient for name, gradient in zip(parameters, made, strict=True) if gradient is not None}


def largest_difference(case: Any, draws: Mapping[str, Tensor], theirs: Tensor, zero: Sequence[str] = ()) -> float:
    """Of the loss and of each parameter's gradient, relative to its largest entry. `zero`: gradients that vanish."""
    loss = case.learner(case.inputs, draws).loss
    ours_by, theirs_by = gradients(loss, case), gradients(theirs, case)
    assert ours_by.keys() == theirs_by.keys() == dict(case.learner.named_parameters()).keys()
    worst = ((loss - theirs) / theirs).abs().item()
    top = max(gradient.abs().max() for gradient in theirs_by.values())
    for name, gradient in theirs_by.items():
        size = gradient.abs().max()
        if name in zero:
            assert size < 1e-12 * top, name
            size = top
        else:
            assert size > 1e-9 * top, name
        worst = max(worst, ((ours_by[name] - gradient).abs().max() / size).item())
    return worst


@pytest.mark.parametrize("pool", ["tokens", "all"])
@pytest.mark.parametrize("options", [{}, {"coefficient": "batch-mean"}, {"temperature": 0.7, "out": 5}])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_emix(make_case: Callable[..., Any], kind: str, options: dict[str, Any], pool: str) -> None:
    case = build(make_case, kind, EMix, **options)
    case.learner.encoder.options = case.learner.encoder.options.model_copy(update={"pool": pool})
    draws = case.draws()
    assert largest_difference(case, draws, expected(case, draws)) < RTOL


@pytest.mark.parametrize(
    "options", [{}, {"min_moved": 1}, {"ratio": 0.05}, {"ratio": 0.05, "min_moved": 1}, {"ratio": 1}]
)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_shed(make_case: Callable[..., Any], kind: str, options: dict[str, Any]) -> None:
    case = build(make_case, kind, ShED, **options)
    draws = case.draws()
    assert largest_difference(case, draws, expected(case, draws)) < RTOL


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("positions", ["masked", "all"])
@pytest.mark.parametrize("direction", ["targets", "predictions", "both"])
@pytest.mark.parametrize("negatives", ["sequence", "batch"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_capri(
    make_case: Callable[..., Any], kind: str, negatives: str, direction: str, positions: str, normalise: bool
) -> None:
    options = {"negatives": negatives, "direction": direction, "positions": positions, "normalise": normalise}
    case = build(make_case, kind, Capri, rows=3, **options)
    if not normalise:  # softmaxes that put all on one would leave nothing to compare
        case.objective.options = case.objective.options.model_copy(update={"temperature": 2.0})
    draws = case.draws()
    # a bias adds as much to every prediction's score, so that a softmax over predictions does not see it
    biases = ["objective.predictor.bias", "encoder.transformer.norm.bias"]
    zero = biases if direction == "predictions" and not normalise else []
    assert largest_difference(case, draws, expected(case, draws), zero) < RTOL


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_dabs_mae(make_case: Callable[..., Any], kind: str, squared: bool) -> None:
    case = build(make_case, kind, DabsMAE, squared=squared)
    draws = case.draws()
    assert largest_difference(case, draws, expected(case, draws)) < RTOL


# ------------------------------------------------------------------------------------------------------- controls

CHANGES: dict[str, tuple[type[Objective], str, dict[str, Any], dict[str, Any]]] = {
    "e-Mix, the batch's mean share": (EMix, "1d", {}, {"coefficient": "batch-mean"}),
    "e-Mix, each its own share": (EMix, "1d", {"coefficient": "batch-mean"}, {"coefficient": "sample"}),
    "e-Mix, the summary pooled": (EMix, "1d", {}, {"pool_summary": True}),
    "e-Mix, another temperature": (EMix, "1d", {}, {"temperature": 0.25}),
    "Capri, softmax over predictions": (Capri, "1d", {}, {"direction": "predictions"}),
    "Capri, softmax over targets": (Capri, "1d", {"direction": "both"}, {"direction": "targets"}),
    "Capri, every token": (Capri, "1d", {}, {"positions": "all"}),
    "Capri, masked tokens": (Capri, "1d", {"positions": "all"}, {"positions": "masked"}),
    "Capri, not normalised": (Capri, "1d", {"temperature": 2.0}, {"normalise": False}),
    "Capri, negatives of the batch": (Capri, "1d", {}, {"negatives": "batch"}),
    "DABS-MAE, squared": (DabsMAE, "1d", {}, {"squared": True}),
}


@pytest.mark.parametrize("mistake", CHANGES)
def test_control_a_wrong_option(make_case: Callable[..., Any], mistake: str) -> None:
    objective, kind, options, changes = CHANGES[mistake]
    case = build(make_case, kind, objective, **options)
    draws = case.draws()
    loss, wrong = case.learner(case.inputs, draws).loss, expected(case, draws, **changes)
    assert abs(loss - wrong) > 1e-4 * abs(wrong)


def test_control_emix(make_case: Callable[..., Any]) -> None:
    case = build(make_case, "2d", EMix)
    draws = {**case.draws(), "partner": torch.tensor([2, 0, 1, 4, 3])}  # a cycle of three: not its own inverse
    assert largest_difference(case, draws, expected(case, draws)) < RTOL
    inverse = expected(case, draws, partner=draws["partner"].argsort().tolist())
    assert largest_difference(case, draws, inverse) > 1e-3
    embeddings = case.learner.tokenizer(case.inputs).embeddings
    into_partner = torch.stack([
        share * embeddings[i] + (1 - share) * embeddings[draws["partner"][i]]
        for i, share in enumerate(draws["weight"].double())
    ])  # fmt: skip
    frozen = iter([into_partner, embeddings])  # the same values, but the partner's embeddings are trained, too
    trained = expected(case, draws, encode=lambda _: case.learner.encoder(next(frozen)))
    assert abs(case.learner(case.inputs, draws).loss - trained) < RTOL
    assert largest_difference(case, draws, trained) > 1e-3
    calls = iter([case.learner.encoder, lambda x: case.learner.encoder(x).detach()])  # stop-gradient on f
    assert largest_difference(case, draws, expected(case, draws, encode=lambda x: next(calls)(x))) > 1e-3


def test_control_shed(make_case: Callable[..., Any]) -> None:
    case = build(make_case, "2d", ShED, ratio=0.3)
    draws = case.draws()
    cycles = [cycle_of(*row) for row in zip(draws["source"], draws["moved"], strict=True)]
    embeddings = case.learner.tokenizer(case.inputs).embeddings
    assert largest_difference(case, draws, expected(case, draws, cycles=cycles)) < RTOL
    assert largest_difference(case, draws, expected(case, draws, cycles=[c[::-1] for c in cycles])) > 1e-4
    still = expected(case, draws, encode=lambda _: case.learner.encoder(embeddings))  # labelled as moved, not moved
    assert largest_difference(case, draws, still) > 1e-4
    stopped = expected(case, draws, encode=lambda x: case.learner.encoder(embeddings + (x - embeddings).detach()))
    assert abs(case.learner(case.inputs, draws).loss - stopped) < RTOL
    assert largest_difference(case, draws, stopped) > 1e-4  # the gradient goes to the moved embedding's own origin
    weights = tuple(parameter.flip(0) for parameter in case.objective.head.parameters())  # 1 for what stayed
    assert largest_difference(case, draws, expected(case, draws, weights=weights)) > 1e-2


@pytest.mark.parametrize("objective", [Capri, DabsMAE])
def test_control_masks(make_case: Callable[..., Any], objective: type[Objective]) -> None:
    case = build(make_case, "2d", objective)
    draws = case.draws()
    loss, hidden = case.learner(case.inputs, draws).loss, hidden_of(draws, 16)
    embeddings = case.learner.tokenizer(case.inputs).embeddings
    for wrong in (
        expected(case, draws, hidden=~hidden),
        expected(case, draws, encode=lambda _: case.learner.encoder(embeddings)),  # nothing blanked
        expected(case, draws, encode=lambda x: case.learner.encoder(x).roll(1, dims=1)),  # off by the summary
    ):
        assert abs(loss - wrong) > 1e-4 * abs(wrong)


def test_control_capri_trains_its_targets(make_case: Callable[..., Any]) -> None:
    case = build(make_case, "1d", Capri)
    draws, tokens = case.draws(), case.learner.tokenizer(case.inputs)
    hidden = hidden_of(draws, 12)
    frozen = expected(
        case, draws, embeddings=tokens.embeddings.detach(),
        encode=lambda _: case.learner.encoder(blanked(tokens.embeddings, hidden)),
    )  # fmt: skip
    assert abs(case.learner(case.inputs, draws).loss - frozen) < RTOL
    assert largest_difference(case, draws, frozen) > 1e-3


def test_control_dabs_mae(make_case: Callable[..., Any]) -> None:
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
        blanked(tokens.embeddings, hidden_of(draws, 13))
    ))  # fmt: skip
    assert wrong(segments=[(image[0] * 1.01, image[1]), (tokens.targets[1].ids, tokens.targets[1].table)])
    # a rectified encoding changes the patches' prediction not at all and the ids' prediction much
    ids_only = build(make_case, "discrete", DabsMAE)
    patches_only = build(make_case, "1d", DabsMAE)
    for one, agrees in ((ids_only, False), (patches_only, True)):
        chance = one.draws()
        rectified = expected(one, chance, encode=lambda x, one=one: one.learner.encoder(x).relu())
        assert (abs(one.learner(one.inputs, chance).loss - rectified) < RTOL) == agrees
