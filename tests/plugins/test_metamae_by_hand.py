"""MetaMAE's parts against numbers worked out by hand, and what it draws against the paper's settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_core import ContinuousTarget, Geometry, Layout, Learner, Segment, Tokens
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.tokenizers import GridTokenizer, IdTokenizer
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.metamae import MetaMAE

# Protocol table 3.4: grid, mask ratio, kept, hidden tokens that touch a visible one (mean), nearby tokens at r = 0.1
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
    """A MetaMAE whose network is tiny, on one segment of the given grid."""
    layout = Layout([Segment("x", grid, "continuous", 3)])
    masking = RandomMasking(RandomMasking.Options(ratio=ratio), layout)
    sizes = {"depth": 1, "width": 8, "heads": 1, "projector_hidden": 4, "projector_out": 3}
    return MetaMAE(MetaMAE.Options(**(sizes | options)), layout, 8, {} if masking is None else {"mask": masking})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chosen_counts(draws: Mapping[str, Tensor]) -> Tensor:
    return draws["support"].sum(dim=1) - draws["visible"].shape[1]


# ------------------------------------------------------------------------------------------------- losses by hand


def test_contrast_by_hand() -> None:
    """B = 2, temperature 0.5: each of the four vectors against the three others, its twin being the answer."""
    objective = small((4,), temperature=0.5).double()
    objective.projector = nn.Identity()
    far = torch.tensor([[[9.0, 9.0], [1.0, 1.0], [1.0, -1.0]], [[9.0, -9.0], [0.0, 1.0], [0.0, 3.0]]])
    near = torch.tensor([[[-9.0, 0.0], [4.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]])
    # The pooled tokens, the summary (9, ...) left out, point to (1, 0), (0, 1), (0.8, 0.6), (0, 1). Similarities / 0.5:
    # first with second 0, with its twin 1.6, with the other twin 0; second with the first twin 1.2, with its own 2;
    # the twins with each other 1.2.
    e = math.exp
    each = [
        math.log(0 + e(1.6) + e(0) + e(0)) - 1.6,
        math.log(e(0) + e(1.2) + e(2)) - 2,
        math.log(e(1.6) + e(1.2) + e(1.2)) - 1.6,
        math.log(e(0) + e(2) + e(1.2)) - 2,
    ]
    assert sum(each) / 4 == pytest.approx(0.52759, abs=1e-5)
    made = objective.contrast(far.double(), near.double())
    assert made.item() == pytest.approx(sum(each) / 4, rel=1e-12)


def test_identical_tasks_cannot_be_told_apart() -> None:
    """All 2B vectors equal: every one of the 2B - 1 others is as likely, so the loss is log(2B - 1)."""
    objective = small((4,)).double()
    objective.projector = nn.Identity()
    same = torch.ones(5, 3, 2, dtype=torch.float64)
    assert objective.contrast(same, same).item() == pytest.approx(math.log(9), rel=1e-12)


@pytest.mark.parametrize(("mean", "expected"), [("batch", 2 * (1 + 2 + 3 + 4 + 5) / 5), ("sample", 1.5 + 4.0)])
def test_inner_loss_by_hand(monkeypatch: pytest.MonkeyPatch, mean: str, expected: float) -> None:
    """B = 2, five supported tokens with losses 1 to 5: B sum(s l) / sum(s), or each sample's mean (D34)."""
    objective = small((4,), inner_mean=mean)
    errors = torch.tensor([[1.0, 2.0, 100.0], [3.0, 4.0, 5.0]])
    support = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    monkeypatch.setattr(objective.head, "errors", lambda *arguments: errors)
    tokens = Tokens(torch.zeros(2, 4, 8), (ContinuousTarget(torch.zeros(2, 4, 3)),), objective.layout)
    made = objective.inner_loss(torch.zeros(2, 3, 8), tokens, torch.arange(4).repeat(2, 1), support)
    assert made.item() == pytest.approx(expected)


def test_the_projectors_running_statistics_are_updated_twice(make_case: Callable[..., Any]) -> None:
    """First with the latent's batch statistics, then with the adapted latent's (D25)."""
    case = make_case("2d", MetaMAE, nearby_ratio=0.5, projector_hidden=24, projector_out=6)
    draws = case.draws()
    case.learner(case.inputs, draws)
    expected = case.plain.metamae_loss(
        case.parameters, case.batch, draws["visible"], case.chosen(draws), case.sizes, alpha=0.5, contrast_weight=0.1
    )
    mean, variance = torch.zeros(24).double(), torch.ones(24).double()
    for seen_mean, seen_variance in expected.statistics:
        mean, variance = 0.9 * mean + 0.1 * seen_mean, 0.9 * variance + 0.1 * seen_variance
    norm = case.objective.projector[1]
    assert norm.num_batches_tracked == 2
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-10, atol=1e-12)
    (first, _), (second, _) = expected.statistics
    assert (first - second).abs().max() > 1e-3  # else the order could not be seen


@pytest.mark.parametrize("kind", ["wide", "discrete", "joint"])
@pytest.mark.parametrize("mean", ["batch", "sample"])
def test_the_inner_step_is_the_numeric_gradient(make_case: Callable[..., Any], kind: str, mean: str) -> None:
    """Central differences of the inner loss in every coordinate of the latent, cls token included (D30)."""
    case = make_case(kind, MetaMAE, rows=2, nearby_ratio=0.5, inner_mean=mean, alpha=0.3)
    draws, objective = case.draws(), case.objective
    order, support = draws["order"], draws["support"]
    with torch.no_grad():
        tokens = case.learner.tokenizer(case.inputs)
        latent = torch.randn(2, 1 + draws["visible"].shape[1], tokens.embeddings.shape[-1], dtype=torch.float64)
        numeric = torch.empty_like(latent)
        for place in range(latent.numel()):
            step = torch.zeros_like(latent)
            step.view(-1)[place] = 1e-5
            up, down = (
                objective.inner_loss(position_ids, tokens, order, support)
                for position_ids in (latent + step, latent - step)
            )
            numeric.view(-1)[place] = (up - down) / 2e-5
        adapted = objective.adapt(latent, tokens, order, support)
    taken = (latent - adapted) / 0.3
    assert (taken - numeric).abs().max() < 1e-7 * numeric.abs().max()
    assert (numeric.abs().amax(dim=(0, 2)) > 0).all()  # every vector moves, the cls token's, too


def test_bf16_does_not_round_the_inner_step_away(make_case: Callable[..., Any]) -> None:
    """The step is small beside the latent, bf16 has 8 bits: what the decoder gains by it must survive autocast."""
    case = make_case("2d", MetaMAE, noise=0.1, alpha=0.05, rows=16)
    case.learner.float()
    inputs = {name: x.float() for name, x in case.inputs.items()}
    draws, objective = case.draws(), case.objective
    seen = []
    for precise in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            tokens = case.learner.tokenizer(inputs)
            objective.adapt, latents = spy(MetaMAE.adapt, objective)
            objective(tokens, case.learner.encoder, draws)
            (latent, adapted), rest = latents[0], (tokens, draws["order"], draws["support"])
            gain = objective.inner_loss(latent, *rest) - objective.inner_loss(adapted, *rest)
        seen.append(((adapted.float() - latent.float()).flatten(), gain.item()))
    (step, gain), (rough_step, rough_gain) = seen
    assert torch.cosine_similarity(step, rough_step, dim=0) > 0.98
    assert rough_gain == pytest.approx(gain, rel=0.2)


def spy(method: Callable[..., Tensor], objective: MetaMAE) -> tuple[Callable[..., Tensor], list[tuple[Tensor, Tensor]]]:
    """MetaMAE.adapt, and a list of what went in and came out."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(latent: Tensor, *rest: Any) -> Tensor:
        seen.append((latent, method(objective, latent, *rest)))
        return seen[-1][1]

    return watched, seen


def test_the_outer_loss_counts_hidden_tokens_only(make_case: Callable[..., Any]) -> None:
    """With the latent given, a visible token's target has no part in the outer loss; a hidden one's has."""
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
        embeddings = type(tokens)(tokens.embeddings, targets, tokens.layout)
        return objective(embeddings, lambda *rest, **named: latent, draws).loss.item()

    visible = draws["visible"].shape[1]
    places = draws["order"]
    assert loss(places[:, :0]) == loss(places[:, :visible])
    assert loss(places[:, :0]) != loss(places[:, visible : visible + 1])


# --------------------------------------------------------------------------------------------------------- nearby


def test_nearby_on_the_protocols_row(plain: ModuleType) -> None:
    hidden = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 1]], dtype=torch.bool)
    layout = Layout([Segment("x", (8,), "continuous", 1)])
    assert layout.dilate(~hidden)[0].nonzero().flatten().tolist() == [2, 3, 4]
    assert plain.dilate(hidden, [plain.Piece("continuous", (8,), 1)])[0].nonzero().flatten().tolist() == [2, 4]


def expected_touching(grid: tuple[int, ...], hidden: int) -> float:
    """How many hidden tokens touch a visible one on average: 1 - P(it and its k neighbours all hidden), summed."""
    length, total = math.prod(grid), 0.0
    for place in itertools.product(*(range(size) for size in grid)):
        k = sum((position_ids > 0) + (position_ids < size - 1) for position_ids, size in zip(place, grid, strict=True))
        total += hidden / length - math.comb(length - k - 1, hidden - k - 1) / math.comb(length, hidden)
    return total


@pytest.mark.parametrize("name", SETS)
def test_counts_of_the_protocol(name: str) -> None:
    grid, ratio, kept, adjacent, nearby = SETS[name]
    objective = small(grid, ratio, nearby_ratio=0.1)
    rows = 6000
    draws = objective.draw(rows, seeded(), Geometry())
    assert draws["visible"].shape == (rows, kept)
    expected = expected_touching(grid, math.prod(grid) - kept)
    assert expected == pytest.approx(adjacent, abs=0.2)  # the table's numbers were drawn, and are rounded
    assert 0.1 * expected == pytest.approx(nearby, abs=0.06)
    counts = chosen_counts(draws)
    assert counts.mean().item() == pytest.approx(0.1 * expected, abs=4 * counts.std().item() / math.sqrt(rows))


@pytest.mark.parametrize("grid", [(30,), (5, 7), (3, 3, 4)])
def test_ratio_zero_and_one(grid: tuple[int, ...], plain: ModuleType) -> None:
    draws = small(grid, 0.7, nearby_ratio=0.0).draw(50, seeded(), Geometry())
    assert draws["support"].shape == draws["visible"].shape
    assert draws["support"].all()
    draws = small(grid, 0.7, nearby_ratio=1.0).draw(50, seeded(), Geometry())
    hidden = plain.hidden_from(draws["visible"], math.prod(grid))
    dilate = plain.dilate(hidden, [plain.Piece("continuous", grid, 1)])
    assert torch.equal(supported(draws) & hidden, dilate)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_a_share_of_the_hidden_tokens(ratio: float, plain: ModuleType) -> None:
    """nearby_count "hidden", as the paper: r times the number of hidden tokens, as far as so many are near (D32)."""
    draws = small((6, 6), 0.8, nearby_ratio=ratio, nearby_count="hidden").draw(200, seeded(), Geometry())
    hidden = plain.hidden_from(draws["visible"], 36)
    dilate = plain.dilate(hidden, [plain.Piece("continuous", (6, 6), 1)])
    wanted = round(ratio * int(hidden[0].sum()))
    assert torch.equal(chosen_counts(draws).long(), dilate.sum(dim=1).clamp(max=wanted))
    assert not (supported(draws) & hidden & ~dilate).any()


def test_near_tokens_are_chosen_independently_and_equally_often(plain: ModuleType) -> None:
    """Each near token with probability r whatever its place: pooled over rows the count is binomial."""
    draws = small((12,), 0.5, nearby_ratio=0.3).draw(20_000, seeded(), Geometry())
    hidden = plain.hidden_from(draws["visible"], 12)
    near = plain.dilate(hidden, [plain.Piece("continuous", (12,), 1)])
    chosen = supported(draws) & hidden
    rate = chosen.sum(dim=0) / near.sum(dim=0)
    assert (rate - 0.3).abs().max() < 0.03
    counts, wanted = chosen.sum(dim=1)[near.sum(dim=1) == 5].double(), 5 * 0.3 * 0.7
    assert counts.var().item() == pytest.approx(wanted, rel=0.1)  # a fixed count would have no variance


# ----------------------------------------------------------------------------------------------------------- draw


def supported(draws: Mapping[str, Tensor]) -> Tensor:
    """(B, L) bool in natural order: the tokens of the inner loss."""
    order, support = draws["order"], draws["support"]
    return torch.zeros(order.shape).scatter(1, order[:, : support.shape[1]], support) > 0


@pytest.mark.parametrize("count", ["near", "hidden"])
@pytest.mark.parametrize("grid", [(28,), (8, 8), (2, 3, 4)])
def test_order_is_visible_then_nearby_then_the_rest(grid: tuple[int, ...], count: str) -> None:
    objective = small(grid, 0.6, nearby_ratio=0.3, nearby_count=count)
    draws = objective.draw(64, seeded(1), Geometry())
    visible, order, support = draws["visible"], draws["order"], draws["support"]
    length, kept = math.prod(grid), visible.shape[1]
    assert torch.equal(order.sort(dim=1).values, torch.arange(length).expand(64, length))
    assert torch.equal(order[:, :kept], visible)
    assert set(support.unique().tolist()) <= {0.0, 1.0}
    assert support[:, :kept].all()
    assert (support[:, :-1] >= support[:, 1:]).all()  # ones first: what is chosen comes before what is not
    assert support.shape[1] >= kept + chosen_counts(draws).max()


@pytest.mark.parametrize("name", SETS)
def test_shapes_are_fixed(name: str) -> None:
    """Else a compiled step would be compiled anew. The room is for more nearby tokens than a row is likely to have."""
    grid, ratio = SETS[name][:2]
    objective = small(grid, ratio, nearby_ratio=0.1)
    draws = [objective.draw(64, seeded(seed), Geometry()) for seed in range(30)]
    assert len({tuple((name, x.shape) for name, x in each.items()) for each in draws}) == 1
    room = draws[0]["support"].shape[1] - draws[0]["visible"].shape[1]
    most = max(chosen_counts(each).max().item() for each in draws)
    assert most <= room <= math.prod(grid) - draws[0]["visible"].shape[1]


def test_a_batch_that_overflows_the_room_loses_nothing(make_case: Callable[..., Any]) -> None:
    case = make_case("2d", MetaMAE, nearby_ratio=0.9)
    roomy = case.draws()
    case.objective.room = 0
    full = case.draws()
    assert full["support"].shape == full["order"].shape
    assert torch.equal(supported(full), supported(roomy))
    losses = [case.learner(case.inputs, draws).loss for draws in (roomy, full)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)


def test_draws_depend_on_the_generator_alone() -> None:
    objective = small((8, 8), 0.6, nearby_ratio=0.3)
    state = torch.get_rng_state()
    first = objective.draw(16, seeded(5), Geometry())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    objective.eval()
    again, other = objective.draw(16, seeded(5), Geometry()), objective.draw(16, seeded(6), Geometry())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["order"], other["order"])
    generator = seeded(5)
    assert torch.equal(objective.draw(16, generator, Geometry())["order"], first["order"])
    assert not torch.equal(objective.draw(16, generator, Geometry())["order"], first["order"])


def test_mae_draws_an_order_with_the_visible_first() -> None:
    layout = Layout([Segment("x", (5, 4), "continuous", 3)])
    masking = RandomMasking(RandomMasking.Options(ratio=0.7), layout)
    draws = MAE(MAE.Options(depth=1, width=8, heads=1), layout, 8, {} if masking is None else {"mask": masking}).draw(
        32, seeded(), Geometry()
    )
    assert torch.equal(draws["order"].sort(dim=1).values, torch.arange(20).expand(32, 20))
    assert torch.equal(draws["order"][:, :6], draws["visible"])


# ----------------------------------------------------------------------------------------------------------- size


class Grid(GridTokenizer):
    name = "grid"


class Vocabulary(IdTokenizer):
    name = "vocabulary"


# Protocol 3.2 and 2.11, decoder depths of Table 8: (channels, space, patch) or (length, vocabulary), depth, millions
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
def test_trainable_totals_of_the_published_models(name: str) -> None:
    shape, depth, millions = TOTALS[name]
    tokenizer: GridTokenizer | IdTokenizer
    if len(shape) == 3:
        channels, space, patch = shape
        tokenizer = Grid(Grid.Options(), {}, 256, field="x", channels=channels, shape=space, patch=patch)
    else:
        tokenizer = Vocabulary(Vocabulary.Options(), {}, 256, field="x", length=shape[0], vocab=shape[1])
    layout = tokenizer.layout
    masking = RandomMasking(RandomMasking.Options(ratio=0.5), layout)
    objective = MetaMAE(MetaMAE.Options(depth=depth), layout, 256, masking)
    encoder = TransformerEncoder(EncoderOptions(), layout)
    assert round(count(Learner(tokenizer, encoder, objective)) / 1e6, 2) == millions
    assert count(encoder.transformer.blocks[0]) == 526_336
    assert count(objective.projector) == 395_264


def test_the_projector_is_no_part_of_the_xavier_initialisation() -> None:
    """D24: torch's default, uniform within 1 / sqrt(inputs); Xavier would reach sqrt(6 / (inputs + outputs))."""
    projector = MetaMAE(MetaMAE.Options(), Layout([Segment("x", (4,), "continuous", 3)]), 256, None).projector
    first, last = projector[0].weight, projector[3].weight
    assert 0.99 / 16 < first.abs().max() <= 1 / 16
    assert 0.99 / 32 < last.abs().max() <= 1 / 32
