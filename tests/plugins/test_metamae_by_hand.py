"""MetaMAE: terms of the loss calculated by hand, properties of its draws, and model sizes of the paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_core import ContinuousTarget, Geometry, Layout, Learner, Segment, Tokens
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.tokenizers import GridTokenizer, IdTokenizer
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.metamae import MetaMAE

# By data set of the benchmark: grid, mask ratio, visible tokens, mean number of hidden tokens next to a visible one,
# and mean number of nearby tokens at r = 0.1. The means are simulated and rounded.
SETS = {
    "PAMAP2": ((64,), 0.85, 9, 14.5, 1.45),
    "HIGGS": ((28,), 0.50, 14, 10.7, 1.06),
    "EuroSAT": ((8, 8), 0.85, 9, 23.2, 2.3),
    "Genomics": ((250,), 0.50, 125, 93.9, 9.4),
    "Pfam": ((128,), 0.15, 108, 19.5, 1.95),
    "LibriSpeech": ((14, 14), 0.85, 29, 75.4, 7.5),
    "WaferMap": ((8, 8), 0.15, 54, 10.0, 1.0),
}


def small(grid: tuple[int, ...], ratio: float = 0.5, **options: Any) -> MetaMAE:
    """A MetaMAE with a tiny network, on one segment."""
    layout = Layout([Segment("x", grid, "continuous", 3)])
    masking = RandomMasking(RandomMasking.Options(ratio=ratio), layout)
    sizes = {"depth": 1, "width": 8, "heads": 1, "projector_hidden": 4, "projector_out": 3}
    return MetaMAE(MetaMAE.Options(**(sizes | options)), layout, 8, {"mask": masking})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chosen_counts(draws: Mapping[str, Tensor]) -> Tensor:
    return draws["support"].sum(dim=1) - draws["visible"].shape[1]


# ------------------------------------------------------------------------------------------------- losses by hand


def test_contrast_by_hand() -> None:
    """B = 2, temperature 0.5: each of the four vectors against the other three, one of which is its positive."""
    objective = small((4,), temperature=0.5).double()
    objective.projector = nn.Identity()
    latent = torch.tensor([[[9.0, 9.0], [1.0, 1.0], [1.0, -1.0]], [[9.0, -9.0], [0.0, 1.0], [0.0, 3.0]]])
    adapted = torch.tensor([[[-9.0, 0.0], [4.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]])
    # The means of the tokens, without the cls token (9, ...), have directions (1, 0), (0, 1), (0.8, 0.6), (0, 1).
    # Similarities / 0.5: the latents with each other 0; the first latent with its adapted one 1.6, with the other 0;
    # the second latent with the first adapted one 1.2, with its own 2; the adapted latents with each other 1.2.
    e = math.exp
    terms = [
        math.log(0 + e(1.6) + e(0) + e(0)) - 1.6,
        math.log(e(0) + e(1.2) + e(2)) - 2,
        math.log(e(1.6) + e(1.2) + e(1.2)) - 1.6,
        math.log(e(0) + e(2) + e(1.2)) - 2,
    ]
    assert sum(terms) / 4 == pytest.approx(0.52759, abs=1e-5)
    loss = objective.contrast(latent.double(), adapted.double())
    assert loss.item() == pytest.approx(sum(terms) / 4, rel=1e-12)


def test_contrast_of_identical_latents_is_uniform() -> None:
    """If all 2B vectors are equal, all 2B - 1 candidates are equally likely and the loss is log(2B - 1)."""
    objective = small((4,)).double()
    objective.projector = nn.Identity()
    same = torch.ones(5, 3, 2, dtype=torch.float64)
    assert objective.contrast(same, same).item() == pytest.approx(math.log(9), rel=1e-12)


@pytest.mark.parametrize(("mean", "expected"), [("batch", 2 * (1 + 2 + 3 + 4 + 5) / 5), ("sample", 1.5 + 4.0)])
def test_inner_loss_by_hand(monkeypatch: pytest.MonkeyPatch, mean: str, expected: float) -> None:
    """B = 2, five tokens in the support set with errors 1 to 5: B sum(s e) / sum(s), or the sum of samples' means."""
    objective = small((4,), inner_mean=mean)
    errors = torch.tensor([[1.0, 2.0, 100.0], [3.0, 4.0, 5.0]])
    support = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    monkeypatch.setattr(objective.head, "errors", lambda *arguments: errors)
    tokens = Tokens(torch.zeros(2, 4, 8), (ContinuousTarget(torch.zeros(2, 4, 3)),), objective.layout)
    loss = objective.inner_loss(torch.zeros(2, 3, 8), tokens, torch.arange(4).repeat(2, 1), support)
    assert loss.item() == pytest.approx(expected)


def test_running_statistics_of_the_projector_are_updated_twice(make_case: Callable[..., Any]) -> None:
    """First with the batch statistics of the latent, then with those of the adapted latent."""
    case = make_case("2d", MetaMAE, nearby_ratio=0.5, projector_hidden=24, projector_out=6)
    draws = case.draws()
    case.learner(case.inputs, draws)
    expected = case.plain.metamae_loss(
        case.parameters, case.batch, draws["visible"], case.chosen(draws), case.sizes, alpha=0.5, contrast_weight=0.1
    )
    mean, variance = torch.zeros(24).double(), torch.ones(24).double()
    for batch_mean, batch_variance in expected.statistics:
        mean, variance = 0.9 * mean + 0.1 * batch_mean, 0.9 * variance + 0.1 * batch_variance
    norm = case.objective.projector[1]
    assert norm.num_batches_tracked == 2
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-10, atol=1e-12)
    (first, _), (second, _) = expected.statistics
    assert (first - second).abs().max() > 1e-3  # otherwise the test could not detect the wrong order


@pytest.mark.parametrize("kind", ["wide", "discrete", "joint"])
@pytest.mark.parametrize("mean", ["batch", "sample"])
def test_inner_step_equals_the_numerical_gradient(make_case: Callable[..., Any], kind: str, mean: str) -> None:
    """Central differences of the inner loss in all coordinates of the latent, including the cls token."""
    case = make_case(kind, MetaMAE, rows=2, nearby_ratio=0.5, inner_mean=mean, alpha=0.3)
    draws, objective = case.draws(), case.objective
    order, support = draws["order"], draws["support"]
    with torch.no_grad():
        tokens = case.learner.tokenizer(case.inputs)
        latent = torch.randn(2, 1 + draws["visible"].shape[1], tokens.embeddings.shape[-1], dtype=torch.float64)
        numeric = torch.empty_like(latent)
        for index in range(latent.numel()):
            step = torch.zeros_like(latent)
            step.view(-1)[index] = 1e-5
            up, down = (objective.inner_loss(z, tokens, order, support) for z in (latent + step, latent - step))
            numeric.view(-1)[index] = (up - down) / 2e-5
        adapted = objective.adapt(latent, tokens, order, support)
    gradient = (latent - adapted) / 0.3
    assert (gradient - numeric).abs().max() < 1e-7 * numeric.abs().max()
    assert (numeric.abs().amax(dim=(0, 2)) > 0).all()  # every vector changes, including the cls token


def test_inner_step_is_not_lost_under_autocast(make_case: Callable[..., Any]) -> None:
    """The step is small compared with the latent, and bf16 has 8 bits; the inner loss must still decrease by it."""
    case = make_case("2d", MetaMAE, noise=0.1, alpha=0.05, rows=16)
    case.learner.float()
    inputs = {name: x.float() for name, x in case.inputs.items()}
    draws, objective = case.draws(), case.objective
    results = []
    for precise in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            tokens = case.learner.tokenizer(inputs)
            objective.adapt, latents = spy(MetaMAE.adapt, objective)
            objective(tokens, case.learner.encoder, draws)
            (latent, adapted), rest = latents[0], (tokens, draws["order"], draws["support"])
            gain = objective.inner_loss(latent, *rest) - objective.inner_loss(adapted, *rest)
        results.append(((adapted.float() - latent.float()).flatten(), gain.item()))
    (step, gain), (bf16_step, bf16_gain) = results
    assert torch.cosine_similarity(step, bf16_step, dim=0) > 0.98
    assert bf16_gain == pytest.approx(gain, rel=0.2)


def spy(method: Callable[..., Tensor], objective: MetaMAE) -> tuple[Callable[..., Tensor], list[tuple[Tensor, Tensor]]]:
    """MetaMAE.adapt, and a list of the latents that it is called with and returns."""
    calls: list[tuple[Tensor, Tensor]] = []

    def wrapper(latent: Tensor, *rest: Any) -> Tensor:
        calls.append((latent, method(objective, latent, *rest)))
        return calls[-1][1]

    return wrapper, calls


def test_outer_loss_depends_on_hidden_targets_only(make_case: Callable[..., Any]) -> None:
    """With a fixed latent, changing a visible token's target changes nothing; changing a hidden token's does."""
    case = make_case("1d", MetaMAE, contrast_weight=0.0, nearby_ratio=0.0)
    draws, objective = case.draws(), case.objective
    latent = torch.randn(4, 1 + draws["visible"].shape[1], 16, dtype=torch.float64)
    objective.adapt = lambda latent, *rest: latent
    tokens = case.learner.tokenizer(case.inputs)
    patches = tokens.targets[0].patches

    def loss(where: Tensor) -> float:
        changed = patches.clone()
        changed.scatter_add_(1, where[:, :, None].expand(-1, -1, patches.shape[-1]), torch.ones_like(patches))
        targets = (type(tokens.targets[0])(changed),)
        changed_tokens = type(tokens)(tokens.embeddings, targets, tokens.layout)
        return objective(changed_tokens, lambda *args, **kwargs: latent, draws).loss.item()

    visible = draws["visible"].shape[1]
    order = draws["order"]
    assert loss(order[:, :0]) == loss(order[:, :visible])
    assert loss(order[:, :0]) != loss(order[:, visible : visible + 1])


# --------------------------------------------------------------------------------------------------------- nearby


def test_nearby_tokens_of_one_visible_token(plain: ModuleType) -> None:
    hidden = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 1]], dtype=torch.bool)
    layout = Layout([Segment("x", (8,), "continuous", 1)])
    assert layout.dilate(~hidden)[0].nonzero().flatten().tolist() == [2, 3, 4]
    assert plain.dilate(hidden, [plain.Piece("continuous", (8,), 1)])[0].nonzero().flatten().tolist() == [2, 4]


def expected_adjacent(grid: tuple[int, ...], hidden: int) -> float:
    """Mean number of hidden tokens next to a visible one: sum of P(hidden) - P(hidden with its k neighbours)."""
    length, total = math.prod(grid), 0.0
    for coordinates in itertools.product(*(range(size) for size in grid)):
        k = sum((i > 0) + (i < size - 1) for i, size in zip(coordinates, grid, strict=True))
        total += hidden / length - math.comb(length - k - 1, hidden - k - 1) / math.comb(length, hidden)
    return total


@pytest.mark.parametrize("name", SETS)
def test_number_of_nearby_tokens_for_benchmark_sets(name: str) -> None:
    grid, ratio, visible, adjacent, nearby = SETS[name]
    objective = small(grid, ratio, nearby_ratio=0.1)
    rows = 6000
    draws = objective.draw(rows, seeded(), Geometry())
    assert draws["visible"].shape == (rows, visible)
    expected = expected_adjacent(grid, math.prod(grid) - visible)
    assert expected == pytest.approx(adjacent, abs=0.2)  # the table's numbers are simulated and rounded
    assert 0.1 * expected == pytest.approx(nearby, abs=0.06)
    counts = chosen_counts(draws)
    assert counts.mean().item() == pytest.approx(0.1 * expected, abs=4 * counts.std().item() / math.sqrt(rows))


@pytest.mark.parametrize("grid", [(30,), (5, 7), (3, 3, 4)])
def test_nearby_ratio_zero_and_one(grid: tuple[int, ...], plain: ModuleType) -> None:
    draws = small(grid, 0.7, nearby_ratio=0.0).draw(50, seeded(), Geometry())
    assert draws["support"].shape == draws["visible"].shape
    assert draws["support"].all()
    draws = small(grid, 0.7, nearby_ratio=1.0).draw(50, seeded(), Geometry())
    hidden = plain.hidden_from(draws["visible"], math.prod(grid))
    dilated = plain.dilate(hidden, [plain.Piece("continuous", grid, 1)])
    assert torch.equal(support_mask(draws) & hidden, dilated)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_nearby_count_hidden(ratio: float, plain: ModuleType) -> None:
    """As in the paper's text: r times the number of hidden tokens, or all adjacent ones if there are fewer."""
    draws = small((6, 6), 0.8, nearby_ratio=ratio, nearby_count="hidden").draw(200, seeded(), Geometry())
    hidden = plain.hidden_from(draws["visible"], 36)
    dilated = plain.dilate(hidden, [plain.Piece("continuous", (6, 6), 1)])
    count = round(ratio * int(hidden[0].sum()))
    assert torch.equal(chosen_counts(draws).long(), dilated.sum(dim=1).clamp(max=count))
    assert not (support_mask(draws) & hidden & ~dilated).any()


@pytest.mark.parametrize("count", ["near", "hidden"])
def test_padding_is_neither_visible_nor_hidden(count: str, plain: ModuleType) -> None:
    """Nearby tokens are next to a valid visible one, and r counts valid hidden tokens."""
    rows, length = 400, 40
    valid = torch.arange(length) < torch.arange(2, length + 1).repeat(11)[:rows, None]
    objective = small((length,), 0.5, nearby_ratio=0.4, nearby_count=count)
    draws = objective.draw(rows, seeded(), Geometry(valid=valid))
    hidden = plain.hidden_from(draws["visible"], length)
    chosen = support_mask(draws) & hidden
    shown = valid & ~hidden
    beside = F.pad(shown, (0, 1))[:, 1:] | F.pad(shown, (1, 0))[:, :-1]
    near = beside & hidden & valid
    assert not (chosen & ~near).any()
    if count == "hidden":
        most = (0.4 * (hidden & valid).sum(dim=1).double()).round().long()
        assert torch.equal(chosen.sum(dim=1), torch.minimum(near.sum(dim=1), most))


def test_nearby_tokens_are_chosen_independently(plain: ModuleType) -> None:
    """Each adjacent token is chosen with probability r at every position, so the count in a row is binomial."""
    draws = small((12,), 0.5, nearby_ratio=0.3).draw(20_000, seeded(), Geometry())
    hidden = plain.hidden_from(draws["visible"], 12)
    near = plain.dilate(hidden, [plain.Piece("continuous", (12,), 1)])
    chosen = support_mask(draws) & hidden
    rate = chosen.sum(dim=0) / near.sum(dim=0)
    assert (rate - 0.3).abs().max() < 0.03
    counts, variance = chosen.sum(dim=1)[near.sum(dim=1) == 5].double(), 5 * 0.3 * 0.7
    assert counts.var().item() == pytest.approx(variance, rel=0.1)  # a fixed count would have variance 0


# ----------------------------------------------------------------------------------------------------------- draw


def support_mask(draws: Mapping[str, Tensor]) -> Tensor:
    """(B, L) bool in natural order: the support set of the inner loss."""
    order, support = draws["order"], draws["support"]
    return torch.zeros(order.shape).scatter(1, order[:, : support.shape[1]], support) > 0


@pytest.mark.parametrize("count", ["near", "hidden"])
@pytest.mark.parametrize("grid", [(28,), (8, 8), (2, 3, 4)])
def test_order_is_visible_then_nearby_then_other_tokens(grid: tuple[int, ...], count: str) -> None:
    objective = small(grid, 0.6, nearby_ratio=0.3, nearby_count=count)
    draws = objective.draw(64, seeded(1), Geometry())
    visible, order, support = draws["visible"], draws["order"], draws["support"]
    length, count_visible = math.prod(grid), visible.shape[1]
    assert torch.equal(order.sort(dim=1).values, torch.arange(length).expand(64, length))
    assert torch.equal(order[:, :count_visible], visible)
    assert set(support.unique().tolist()) <= {0.0, 1.0}
    assert support[:, :count_visible].all()
    assert (support[:, :-1] >= support[:, 1:]).all()  # chosen tokens come first
    assert support.shape[1] >= count_visible + chosen_counts(draws).max()


@pytest.mark.parametrize("name", SETS)
def test_shapes_of_draws_are_fixed(name: str) -> None:
    """Other shapes would trigger recompilation. The limit exceeds the number of nearby tokens of almost every row."""
    grid, ratio = SETS[name][:2]
    objective = small(grid, ratio, nearby_ratio=0.1)
    draws = [objective.draw(64, seeded(seed), Geometry()) for seed in range(30)]
    assert len({tuple((name, x.shape) for name, x in step_draws.items()) for step_draws in draws}) == 1
    limit = draws[0]["support"].shape[1] - draws[0]["visible"].shape[1]
    most = max(chosen_counts(step_draws).max().item() for step_draws in draws)
    assert most <= limit <= math.prod(grid) - draws[0]["visible"].shape[1]


def test_batch_above_the_limit_of_nearby_tokens_is_complete(make_case: Callable[..., Any]) -> None:
    case = make_case("2d", MetaMAE, nearby_ratio=0.9)
    expected = case.draws()
    case.objective.max_nearby = 0
    overflow = case.draws()
    assert overflow["support"].shape == overflow["order"].shape
    assert torch.equal(support_mask(overflow), support_mask(expected))
    losses = [case.learner(case.inputs, draws).loss for draws in (expected, overflow)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)


def test_draws_depend_only_on_the_generator() -> None:
    objective = small((8, 8), 0.6, nearby_ratio=0.3)
    state = torch.get_rng_state()
    first = objective.draw(16, seeded(5), Geometry())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    objective.eval()
    repeated, other = objective.draw(16, seeded(5), Geometry()), objective.draw(16, seeded(6), Geometry())
    assert all(torch.equal(first[name], repeated[name]) for name in first)
    assert not torch.equal(first["order"], other["order"])
    generator = seeded(5)
    assert torch.equal(objective.draw(16, generator, Geometry())["order"], first["order"])
    assert not torch.equal(objective.draw(16, generator, Geometry())["order"], first["order"])


def test_order_of_mae_starts_with_visible_tokens() -> None:
    layout = Layout([Segment("x", (5, 4), "continuous", 3)])
    masking = RandomMasking(RandomMasking.Options(ratio=0.7), layout)
    draws = MAE(MAE.Options(depth=1, width=8, heads=1), layout, 8, {"mask": masking}).draw(32, seeded(), Geometry())
    assert torch.equal(draws["order"].sort(dim=1).values, torch.arange(20).expand(32, 20))
    assert torch.equal(draws["order"][:, :6], draws["visible"])


# ----------------------------------------------------------------------------------------------------------- size


class Grid(GridTokenizer):
    name = "grid"


class Vocabulary(IdTokenizer):
    name = "vocabulary"


# Inputs of the published code, as (channels, space, patch) or (length, vocabulary), decoder depths of Table 8, and the
# numbers of parameters in millions.
TOTALS = {
    "Libri": ((1, (224, 224), (16, 16)), 4, 7.37),
    "PAMAP2": ((52, (320,), (5,)), 4, 7.37),
    "HIGGS": ((1, (28,), (1,)), 6, 7.54),
    "EuroSAT": ((13, (64, 64), (8, 8)), 4, 7.59),
    "Wafer": ((3, (32, 32), (4, 4)), 6, 7.56),
    "Genomics": ((250, 4), 2, 7.04),
    "Pfam": ((128, 26), 4, 7.31),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", TOTALS)
def test_number_of_parameters_equals_the_published_models(name: str) -> None:
    shape, depth, millions = TOTALS[name]
    tokenizer: GridTokenizer | IdTokenizer
    if len(shape) == 3:
        channels, space, patch = shape
        tokenizer = Grid(Grid.Options(), {}, 256, field="x", channels=channels, shape=space, patch=patch)
    else:
        tokenizer = Vocabulary(Vocabulary.Options(), {}, 256, field="x", length=shape[0], vocab=shape[1])
    layout = tokenizer.layout
    masking = RandomMasking(RandomMasking.Options(ratio=0.5), layout)
    objective = MetaMAE(MetaMAE.Options(depth=depth), layout, 256, {"mask": masking})
    encoder = TransformerEncoder(EncoderOptions(), layout)
    assert round(count(Learner(tokenizer, encoder, objective)) / 1e6, 2) == millions
    assert count(encoder.transformer.blocks[0]) == 526_336
    assert count(objective.projector) == 395_264


def test_projector_has_the_default_initialisation_of_torch() -> None:
    """Uniform within 1 / sqrt(inputs); Xavier initialisation would reach sqrt(6 / (inputs + outputs))."""
    projector = MetaMAE(MetaMAE.Options(), Layout([Segment("x", (4,), "continuous", 3)]), 256, {}).projector
    first, last = projector[0].weight, projector[3].weight
    assert 0.99 / 16 < first.abs().max() <= 1 / 16
    assert 0.99 / 32 < last.abs().max() <= 1 / 32
