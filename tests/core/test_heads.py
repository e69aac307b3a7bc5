"""Reconstruction heads: errors of predictions, and masked means."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_core import ContinuousTarget, DiscreteTarget, Layout, Segment, Target
from ssl_core.nn import ReconstructionHead, gather_tokens, masked_mean

CONTINUOUS, DISCRETE = Segment("a", (2, 3), "continuous", 5), Segment("b", (4,), "discrete", 7)
ROWS = 3


def head_and_targets(*segments: Segment) -> tuple[ReconstructionHead, list[Target], Tensor]:
    """A head with a bias, its targets, and hidden vectors of whole rows; width 12, encoder width 16."""
    head = ReconstructionHead(Layout(segments), 16, 12).double()
    targets: list[Target] = []
    for linear, segment in zip(head.maps, segments, strict=True):
        linear.bias.data.normal_()
        if segment.target == "continuous":
            targets.append(ContinuousTarget(torch.randn(ROWS, segment.length, segment.size, dtype=torch.float64)))
        else:
            ids = torch.randint(segment.size, (ROWS, segment.length))
            targets.append(DiscreteTarget(ids, torch.randn(segment.size, 16, dtype=torch.float64, requires_grad=True)))
    return head, targets, torch.randn(ROWS, head.layout.length, 12, dtype=torch.float64)


def test_continuous_error_by_hand() -> None:
    """The mean square over the patch: (1 + 4 + 9) / 3."""
    head = ReconstructionHead(Layout([Segment("a", (1,), "continuous", 3)]), 16, 2)
    head.maps[0].weight.data, head.maps[0].bias.data = torch.zeros(3, 2), torch.tensor([1.0, 2.0, 3.0])
    errors = head.errors(torch.ones(1, 1, 2), [ContinuousTarget(torch.tensor([[[0.0, 4.0, 0.0]]]))])
    assert errors.item() == pytest.approx((1 + 4 + 9) / 3)


def test_discrete_error_by_hand() -> None:
    """Width 1: the map gives 2 and the table is (0, 1, -1), so the logits are 0, 2, -2."""
    head = ReconstructionHead(Layout([Segment("b", (1,), "discrete", 3)]), 1, 1)
    head.maps[0].weight.data, head.maps[0].bias.data = torch.ones(1, 1), torch.ones(1)
    table = torch.tensor([[0.0], [1.0], [-1.0]])
    errors = head.errors(torch.ones(1, 1, 1), [DiscreteTarget(torch.tensor([[2]]), table)])
    assert errors.item() == pytest.approx(math.log(1 + math.exp(2) + math.exp(-2)) + 2)


def test_gradient_reaches_the_embedding_table() -> None:
    head, targets, hidden = head_and_targets(DISCRETE)
    (gradient,) = torch.autograd.grad(head.errors(hidden, targets).sum(), targets[0].table)  # type: ignore[union-attr]
    assert (gradient.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize(
    "segments", [(CONTINUOUS,), (DISCRETE,), (CONTINUOUS, DISCRETE), (DISCRETE, CONTINUOUS, DISCRETE)]
)
def test_errors_of_tokens_in_any_order(segments: tuple[Segment, ...]) -> None:
    head, targets, hidden = head_and_targets(*segments)
    whole = head.errors(hidden, targets)
    assert whole.shape == (ROWS, head.layout.length)
    position_ids = torch.rand(whole.shape).argsort(dim=1)[:, :4]
    errors = head.errors(gather_tokens(hidden, position_ids), targets, position_ids)
    torch.testing.assert_close(errors, whole.gather(1, position_ids), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", ["backward", "func"])
def test_gradient_reaches_targets_that_require_it(method: str) -> None:
    """Patches are gathered by an operator without a gradient only if they do not require one."""
    head, _, hidden = head_and_targets(CONTINUOUS)
    patches = torch.randn(ROWS, CONTINUOUS.length, CONTINUOUS.size, dtype=torch.float64)
    position_ids = torch.rand(ROWS, CONTINUOUS.length).argsort(dim=1)[:, :4]

    def loss(patches: Tensor) -> Tensor:
        return head.errors(gather_tokens(hidden, position_ids), [ContinuousTarget(patches)], position_ids).sum()

    predicted = head.predict(hidden, [ContinuousTarget(patches)])[0]
    expected = torch.zeros_like(patches).scatter(1, position_ids[..., None].expand(-1, -1, CONTINUOUS.size), 1.0)
    expected = expected * 2 * (patches - predicted) / CONTINUOUS.size
    if method == "func":
        gradient = torch.func.grad(loss)(patches)
    else:
        (gradient,) = torch.autograd.grad(loss(patches.requires_grad_()), patches)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("segments", [(CONTINUOUS, DISCRETE), (DISCRETE, CONTINUOUS, DISCRETE)])
def test_errors_of_a_segment_do_not_depend_on_other_segments(segments: tuple[Segment, ...]) -> None:
    head, targets, hidden = head_and_targets(*segments)
    whole = head.errors(hidden, targets)
    for number, (segment, span) in enumerate(head.layout.spans):
        single = ReconstructionHead(Layout([segment]), 16, 12).double()
        single.maps[0] = head.maps[number]
        expected = single.errors(hidden[:, span], [targets[number]])
        torch.testing.assert_close(whole[:, span], expected, rtol=1e-12, atol=1e-14)


def test_position_ids_without_tokens_of_one_segment() -> None:
    head, targets, hidden = head_and_targets(CONTINUOUS, DISCRETE)
    position_ids = torch.tensor([0, 5, 2]).expand(ROWS, 3)
    errors = head.errors(gather_tokens(hidden, position_ids), targets, position_ids)
    torch.testing.assert_close(errors, head.errors(hidden, targets)[:, [0, 5, 2]])


@pytest.mark.parametrize("segments", [(CONTINUOUS,), (DISCRETE,), (CONTINUOUS, DISCRETE)])
def test_errors_are_those_of_predict(segments: tuple[Segment, ...]) -> None:
    head, targets, hidden = head_and_targets(*segments)
    errors = head.errors(hidden, targets)
    predictions = head.predict(hidden, targets)
    for (segment, span), predicted, target in zip(head.layout.spans, predictions, targets, strict=True):
        assert predicted.shape == (ROWS, segment.length, segment.size)
        if isinstance(target, ContinuousTarget):
            expected = F.mse_loss(predicted, target.patches, reduction="none").mean(dim=-1)
        else:
            expected = -predicted.log_softmax(dim=-1).gather(-1, target.ids[..., None])[..., 0]
        torch.testing.assert_close(errors[:, span], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("segments", [(CONTINUOUS,), (DISCRETE,), (CONTINUOUS, DISCRETE)])
def test_errors_are_fp32_under_autocast(segments: tuple[Segment, ...]) -> None:
    head, targets, hidden = head_and_targets(*segments)
    head.float()
    targets = [
        ContinuousTarget(t.patches.float())
        if isinstance(t, ContinuousTarget)
        else DiscreteTarget(t.ids, t.table.float())
        for t in targets
    ]
    with torch.autocast("cpu", torch.bfloat16):
        errors = head.errors(hidden.bfloat16(), targets)
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors, head.errors(hidden.float(), targets), rtol=0.1, atol=0.1)


def test_masked_mean_of_one_segment() -> None:
    errors = torch.tensor([[1.0, 2.0, 100.0], [3.0, 100.0, 100.0]])
    where = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    layout = Layout([Segment("a", (3,), "continuous", 1)])
    assert masked_mean(errors, where, layout).item() == pytest.approx(2)
    assert masked_mean(errors, where * torch.tensor([2.0, 1.0, 1.0]), layout).item() == pytest.approx(10 / 5)


def test_masked_mean_weights_segments_equally() -> None:
    """The mean of the means of (1, 2, 3) and (10), not of the four errors."""
    layout = Layout([Segment("a", (3,), "continuous", 1), Segment("b", (1,), "discrete", 4)])
    errors = torch.tensor([[1.0, 2.0, 3.0, 10.0]])
    assert masked_mean(errors, torch.ones(1, 4), layout).item() == pytest.approx((2 + 10) / 2)


def test_masked_mean_ignores_segments_without_weight() -> None:
    layout = Layout([Segment("a", (3,), "continuous", 1), Segment("b", (1,), "discrete", 4)])
    errors = torch.tensor([[1.0, 2.0, 3.0, 10.0]], requires_grad=True)
    mean = masked_mean(errors, torch.tensor([[1, 1, 0, 0]]), layout)
    assert mean.item() == pytest.approx(1.5)
    (gradient,) = torch.autograd.grad(mean, errors)
    assert gradient.tolist() == [[0.5, 0.5, 0, 0]]


def test_masked_mean_has_finite_derivatives_without_weight() -> None:
    """MetaMAE's inner loss is B times this mean, and a segment may have no valid token in a whole batch."""
    layout = Layout([Segment("a", (2,), "continuous", 1), Segment("b", (2,), "continuous", 1)])
    where = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    for weights in (where, torch.zeros(1, 4)):
        errors = torch.ones(1, 4, requires_grad=True)
        (first,) = torch.autograd.grad(64 * masked_mean(errors.square(), weights, layout), errors, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), errors)
        assert torch.equal(first, 64 * weights if weights.any() else torch.zeros(1, 4))
        assert torch.equal(second, first)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_masked_mean_is_invariant_to_the_order_of_tokens(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layout = Layout([Segment("a", (2, 2), "continuous", 1), Segment("b", (3,), "discrete", 4)])
    errors = torch.rand(4, 7, generator=generator, dtype=torch.float64)
    where = torch.rand(4, 7, generator=generator) < 0.5
    where[0, 0] = True
    order = torch.rand(4, 7, generator=generator).argsort(dim=1)
    shuffled = masked_mean(errors.gather(1, order), where.gather(1, order), layout, order)
    torch.testing.assert_close(shuffled, masked_mean(errors, where, layout), rtol=1e-12, atol=0)
