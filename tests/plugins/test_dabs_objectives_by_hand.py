"""e-Mix, ShED, Capri and DABS-MAE: losses calculated by hand, and properties of their draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_core import ContinuousTarget, Geometry, Layout, Objective, Segment, Tokens
from ssl_core.tokens import DiscreteTarget, Target
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.objectives.capri import Capri
from ssl_plugins.objectives.dabs_mae import DabsMAE
from ssl_plugins.objectives.emix import EMix
from ssl_plugins.objectives.shed import ShED


class AddVector(nn.Module):
    """An encoder that adds one vector to each token; the cls token is large and must not be used."""

    def __init__(self, vector: list[float]) -> None:
        super().__init__()
        self.vector = torch.tensor(vector)

    def forward(self, embeddings: Tensor, geometry: Geometry | None = None) -> Tensor:
        return torch.cat([torch.full_like(embeddings[:, :1], 1e3), embeddings + self.vector], dim=1)

    def pool(self, encoded: Tensor, valid: Tensor | None = None) -> Tensor:
        return encoded[:, 1:].mean(dim=1)


def small(objective: type[Objective], *segments: Segment, dim: int = 2, **options: Any) -> Any:
    layout = Layout(segments)
    masking = RandomMasking(RandomMasking.Options(ratio=0.5), layout) if objective.default_masking else None
    return objective(objective.Options(**options), layout, dim, {} if masking is None else {"mask": masking})


def continuous(length: int, size: int = 2) -> Segment:
    return Segment("x", (length,), "continuous", size)


def make_tokens(objective: Objective, embeddings: Any, *targets: Target) -> Tokens:
    return Tokens(torch.tensor(embeddings), targets, objective.layout)


def set_weights(linear: nn.Linear, weight: Any, bias: Any) -> None:
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight))
        linear.bias.copy_(torch.tensor(bias))


def log_sum(*scores: float) -> float:
    return math.log(sum(math.exp(score) for score in scores))


# -------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(("coefficient", "cost"), [("sample", 0.25 * 5 / 2), ("batch-mean", 0.375 * 5 / 2)])
def test_emix_by_hand(coefficient: str, cost: float) -> None:
    """Features of the samples are (1, 0) and (0, 1); of the first mixture, 3:1, (1, 0); the second mixture is 1:1.

    The logits of the first mixture are 5 and 0, so its partner costs 5 more than itself. The second costs log 2.
    """
    objective = small(EMix, continuous(1), out=2, coefficient=coefficient)
    norm, last = objective.head
    norm.eps = 1e-12  # LayerNorm maps two numbers to (1, -1), (-1, 1) or (0, 0)
    set_weights(last, [[0.25, -0.25], [-0.25, 0.25]], [0.5, 0.5])
    tokens = make_tokens(objective, [[[4.0, 0.0]], [[0.0, 4.0]]])
    draws = {"weight": torch.tensor([0.75, 0.5]), "partner": torch.tensor([1, 0])}
    outcome = objective(tokens, AddVector([0.0, 0.0]), draws)
    assert outcome.loss.item() == pytest.approx((math.log1p(math.exp(-5)) + math.log(2)) / 2 + cost, rel=1e-5)


def test_shed_by_hand() -> None:
    """Logits (0, x). The last two of the embeddings 1, 2, 3 are swapped; all three are predicted as moved."""
    objective = small(ShED, continuous(3, 1), dim=1)
    set_weights(objective.head, [[0.0], [1.0]], [0.0, 0.0])
    tokens = make_tokens(objective, [[[1.0], [2.0], [3.0]]])
    draws = {"source": torch.tensor([[0, 2, 1]]), "moved": torch.tensor([[0, 1, 1]])}
    outcome = objective(tokens, AddVector([10.0]), draws)
    costs = [11 + math.log1p(math.exp(-11)), math.log1p(math.exp(-13)), math.log1p(math.exp(-12))]
    assert outcome.loss.item() == pytest.approx(sum(costs) / 3, rel=1e-6)
    assert outcome.metrics["accuracy"].item() == pytest.approx(2 / 3)


def test_shed_takes_embeddings_from_the_source() -> None:
    """A cycle of three, unlike a swap, distinguishes source and destination: 1, 2, 3 become 3, 1, 2."""
    inputs: list[Tensor] = []

    class Spy(AddVector):
        def forward(self, embeddings: Tensor, geometry: Geometry | None = None) -> Tensor:
            inputs.append(embeddings)
            return super().forward(embeddings)

    objective = small(ShED, continuous(3, 1), dim=1, ratio=1)
    tokens = make_tokens(objective, [[[1.0], [2.0], [3.0]]])
    objective(tokens, Spy([0.0]), {"source": torch.tensor([[2, 0, 1]]), "moved": torch.ones(1, 3).long()})
    assert inputs[0].flatten().tolist() == [3.0, 1.0, 2.0]


# Embeddings (1, 0), (2, 0), (0, 1), the last two blanked. Predictions (encoded plus (1, 0)): (2, 0), (1, 0), (1, 0).
# Logits: of the first 2, 4, 0; of the other two 1, 2, 0 each.
CAPRI = [
    ("masked", "targets", False, (log_sum(2, 0) - 2 + log_sum(2, 0)) / 2),
    ("masked", "predictions", False, math.log(2)),
    ("masked", "both", False, ((log_sum(2, 0) - 2 + log_sum(2, 0)) / 2 + math.log(2)) / 2),
    ("all", "targets", False, (log_sum(2, 4, 0) - 2 + log_sum(1, 2, 0) - 2 + log_sum(1, 2, 0)) / 3),
    ("all", "predictions", False, (log_sum(2, 1, 1) - 2 + log_sum(4, 2, 2) - 2 + math.log(3)) / 3),
    ("masked", "targets", True, (log_sum(1, 0) - 1 + log_sum(1, 0)) / 2),
    ("all", "targets", True, (2 * (log_sum(1, 1, 0) - 1) + log_sum(1, 1, 0)) / 3),
]


@pytest.mark.parametrize(("positions", "direction", "normalise", "value"), CAPRI)
def test_capri_by_hand(positions: str, direction: str, normalise: bool, value: float) -> None:
    options: dict[str, Any] = {"positions": positions, "direction": direction, "normalise": normalise}
    objective = small(Capri, continuous(3), temperature=1.0, **options)
    set_weights(objective.predictor, [[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
    tokens = make_tokens(objective, [[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])
    draws = {"visible": torch.tensor([[0]]), "masked": torch.tensor([[1, 2]])}
    assert objective(tokens, AddVector([0.0, 0.0]), draws).loss.item() == pytest.approx(value, rel=1e-5)


def test_capri_with_negatives_of_the_batch_by_hand() -> None:
    """One masked token in each of two rows: within its row it has no negative, so its loss is zero."""
    tokens = [[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]]
    draws = {"visible": torch.tensor([[0], [0]]), "masked": torch.tensor([[1], [1]])}
    for negatives, value in (("batch", (log_sum(2, 0) - 2 + log_sum(2, 0)) / 2), ("sequence", 0.0)):
        objective = small(Capri, continuous(2), negatives=negatives, normalise=False, temperature=1.0)
        set_weights(objective.predictor, [[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
        loss = objective(make_tokens(objective, tokens), AddVector([0.0, 0.0]), draws).loss
        assert loss.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("squared", "patches"), [(False, (5 + 1) / 2), (True, (12.5 + 0.5) / 2)])
def test_dabs_mae_by_hand(squared: bool, patches: float) -> None:
    """Blanked tokens are encoded as (1, -2), after ReLU (1, 0), and predict (3, 4). Logits of ids: 0 and 1 - 2 = -1."""
    objective = small(DabsMAE, continuous(3), Segment("y", (2,), "discrete", 2), squared=squared)
    set_weights(objective.maps["0"], [[2.0, 7.0], [5.0, 7.0]], [1.0, -1.0])
    table = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    targets = (
        ContinuousTarget(torch.tensor([[[0.0, 0.0], [9.0, 9.0], [3.0, 3.0]]])),
        DiscreteTarget(torch.tensor([[1, 0]]), table),
    )
    tokens = make_tokens(objective, [[[5.0, 5.0]] * 5], *targets)
    draws = {"visible": torch.tensor([[1, 4]]), "hidden": torch.tensor([[1, 0, 1, 1, 0]], dtype=torch.bool)}
    loss = objective(tokens, AddVector([1.0, -2.0]), draws).loss
    assert loss.item() == pytest.approx((patches + log_sum(0, 1)) / 2, rel=1e-6)


def test_dabs_mae_gradient_of_a_perfect_prediction_is_finite() -> None:
    """The norm is not differentiable at zero. PyTorch's gradient there is 0."""
    objective = small(DabsMAE, continuous(2))
    set_weights(objective.maps["0"], [[0.0, 0.0], [0.0, 0.0]], [1.0, -1.0])
    tokens = make_tokens(objective, [[[5.0, 5.0]] * 2], ContinuousTarget(torch.tensor([[[1.0, -1.0], [1.0, -1.0]]])))
    draws = {"visible": torch.tensor([[1]]), "hidden": torch.tensor([[True, False]])}
    loss = objective(tokens, AddVector([1.0, 1.0]), draws).loss
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad.isfinite().all() for parameter in objective.parameters())


def test_defaults() -> None:
    assert EMix.Options().model_dump() == {"beta": 1.0, "temperature": 0.2, "out": 128, "coefficient": "sample"}
    assert ShED.Options().model_dump() == {"ratio": 0.15, "min_moved": 2}
    capri = {"temperature": 0.07, "normalise": True, "positions": "masked", "direction": "targets"}
    assert Capri.Options().model_dump() == capri | {"negatives": "sequence"}
    assert DabsMAE.Options().model_dump() == {"squared": False}


# ----------------------------------------------------------------------------------------------------------- draws


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("beta", [1.0, 4.0, 0.3])
def test_emix_weights_are_folded_beta_samples(beta: float) -> None:
    """Samples of Beta(b, b), folded at a half. The variance of Beta(b, b) is 1 / (4 (2 b + 1))."""
    weight = small(EMix, continuous(1), beta=beta).draw(20_000, seeded(), Geometry())["weight"].double()
    assert weight.min() >= 0.5
    assert weight.max() <= 1
    assert (weight - 0.5).square().mean().item() == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.05)
    if beta == 1:  # uniform in [0.5, 1]: the distribution function is linear
        line = torch.linspace(0.5, 1, len(weight), dtype=torch.float64)
        assert (weight.sort().values - line).abs().max() < 0.01


def test_emix_weights_of_the_loss_are_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 would round 0.998 to 1, and leave the other sample out of the loss."""
    seen = []

    def cross_entropy(logits: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
        seen.append(logits.dtype)
        return torch.ones(len(logits)) * (1 if len(seen) == 1 else 1000)

    objective = small(EMix, continuous(4))
    monkeypatch.setattr("ssl_plugins.objectives.emix.F.cross_entropy", cross_entropy)
    tokens = Tokens(torch.randn(2, 4, 2).bfloat16(), (), objective.layout)
    draws = {"weight": torch.tensor([0.998, 0.998]), "partner": torch.tensor([1, 0])}
    with torch.autocast("cpu", torch.bfloat16):
        outcome = objective(tokens, AddVector([0.0, 1.0]), draws)
    assert outcome.loss.item() == pytest.approx(0.998 + 0.002 * 1000, rel=1e-4)


def test_emix_permutations_are_uniform() -> None:
    objective, generator = small(EMix, continuous(1)), seeded()
    partners = torch.stack([objective.draw(4, generator, Geometry())["partner"] for _ in range(2400)])
    assert torch.equal(partners.sort(dim=1).values, torch.arange(4).expand(2400, 4))
    codes, counts = (partners * torch.tensor([64, 16, 4, 1])).sum(dim=1).unique(return_counts=True)
    assert len(codes) == 24
    assert ((counts - 100).square() / 100).sum() < 60  # chi-square with 23 degrees of freedom; its 0.999 quantile is 50


# Row lengths of the benchmark, such as 250 for genomics, 228 for image and text, 128 for text, 28 for HIGGS.
@pytest.mark.parametrize("length", [2, 7, 20, 28, 64, 128, 196, 228, 250])
def test_shed_moves_exactly_k_in_one_cycle(length: int) -> None:
    draws = small(ShED, continuous(length)).draw(60, seeded(), Geometry())
    count = max((15 * length + 99) // 100, 2)
    identity = torch.arange(length).expand(60, length)
    source, moved = draws["source"], draws["moved"]
    assert torch.equal(source.sort(dim=1).values, identity)
    assert set(moved.unique().tolist()) <= {0, 1}
    assert (moved.sum(dim=1) == count).all()
    assert torch.equal(source != identity, moved == 1)  # all moved tokens and no others change
    position_ids = moved.argmax(dim=1, keepdim=True)
    start, visited = position_ids, []
    for _ in range(count):
        visited.append(position_ids)
        position_ids = source.gather(1, position_ids)
    assert torch.equal(position_ids, start)  # the cycle closes after k steps
    assert all(len(set(row)) == count for row in torch.cat(visited, dim=1).tolist())


def test_shed_of_one_token_as_in_the_published_code() -> None:
    """With min_moved=1 no embedding moves but one token is labelled as moved. By default two tokens are swapped."""
    identity = torch.arange(6).expand(50, 6)
    draws = small(ShED, continuous(6), min_moved=1).draw(50, seeded(), Geometry())
    assert torch.equal(draws["source"], identity)
    assert (draws["moved"].sum(dim=1) == 1).all()
    valid = torch.arange(6) < torch.tensor([[1], [2], [0], [6]])
    draws = small(ShED, continuous(6)).draw(4, seeded(), Geometry(valid=valid))
    assert draws["moved"].sum(dim=1).tolist() == [0, 2, 0, 2], "a token alone does not move"
    draws = small(ShED, continuous(6)).draw(50, seeded(), Geometry())
    assert ((draws["source"] != identity).sum(dim=1) == 2).all()


def test_shed_chooses_positions_and_sources_uniformly() -> None:
    draws = small(ShED, continuous(5), ratio=0.6).draw(6000, seeded(), Geometry())
    assert (draws["moved"].float().mean(dim=0) - 0.6).abs().max() < 0.03
    for position in range(5):  # the four other positions are equally frequent sources
        sources = draws["source"][:, position][draws["moved"][:, position] == 1]
        shares = torch.bincount(sources, minlength=5) / len(sources)
        assert (shares - torch.tensor([0.25] * 5).index_fill(0, torch.tensor(position), 0.0)).abs().max() < 0.035


@pytest.mark.parametrize("objective", [Capri, DabsMAE])
@pytest.mark.parametrize("length", [7, 20, 28, 64, 128, 196, 228, 250])
def test_default_masks_hide_15_percent(objective: type[Objective], length: int) -> None:
    layout = Layout([continuous(length)])
    assert objective.default_masking is not None
    assert objective.default_masking.name == "random"
    masking = RandomMasking(RandomMasking.Options(**objective.default_masking.values), layout)
    draws = objective(objective.Options(), layout, 2, {"mask": masking}).draw(40, seeded(), Geometry())
    hidden = draws["hidden"].nonzero()[:, 1].view(40, -1) if "hidden" in draws else draws["masked"]
    assert hidden.shape == (40, (15 * length + 99) // 100)
    both = torch.cat([draws["visible"], hidden], dim=1)
    assert torch.equal(both.sort(dim=1).values, torch.arange(length).expand(40, length))


@pytest.mark.parametrize("objective", [EMix, ShED, Capri, DabsMAE])
def test_draws_depend_only_on_the_generator(objective: type[Objective]) -> None:
    built = small(objective, continuous(40))

    def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
        assert a.keys() == b.keys()
        return all(torch.equal(a[name], b[name]) for name in a)

    state = torch.get_rng_state()
    first = built.draw(16, seeded(5), Geometry())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    generator = seeded(5)
    assert same(built.draw(16, generator, Geometry()), first)
    assert not same(built.draw(16, generator, Geometry()), first)
    assert not same(built.draw(16, seeded(6), Geometry()), first)
