"""Masking strategies: exact numbers of hidden tokens on random layouts, and the defining property of each."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_core import Geometry, Layout, Segment, testing
from ssl_plugins.maskings.block import BlockMasking
from ssl_plugins.maskings.color_noise import ColorNoiseMasking
from ssl_plugins.maskings.disjoint import DisjointMasking
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.maskings.segments import SegmentsMasking
from ssl_plugins.maskings.span import SpanMasking
from ssl_plugins.maskings.tube import TubeMasking

examples = settings(deadline=None, max_examples=40, derandomize=True)
grids = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
segments = st.builds(Segment, st.sampled_from(["a", "b"]), grids, st.just("continuous"), st.just(3))
layouts = st.lists(segments, min_size=1, max_size=3).map(Layout).filter(lambda layout: layout.length > 1)
ratios = st.integers(1, 99).map(lambda percent: percent / 100)
seeds = st.integers(0, 2**31)
SQUARE = Layout([Segment("a", (14, 14), "continuous", 1)])
COLORS = ("red", "blue", "green", "purple")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ceil_share(units: int, ratio: float) -> int:
    return math.ceil(units * Fraction(str(ratio)))


def check_mask(mask, layout: Layout, rows: int, hidden: int) -> None:
    assert mask.hidden.shape == (rows, layout.length)
    for visible, row in zip(mask.visible.tolist(), mask.hidden.tolist(), strict=True):
        assert visible == [i for i in range(layout.length) if not row[i]]
        assert sum(row) == hidden < layout.length


def hidden_neighbour_share(masking, rows: int = 200) -> float:
    """The share of neighbours of hidden tokens that are hidden."""
    hidden = masking(rows, seeded(0)).hidden.float().view(rows, 14, 14)
    pairs = (hidden[:, 1:] * hidden[:, :-1]).mean() + (hidden[:, :, 1:] * hidden[:, :, :-1]).mean()
    return (pairs / 2 / hidden.mean()).item()


@pytest.mark.parametrize("masking", [ColorNoiseMasking, DisjointMasking, SpanMasking, TubeMasking, BlockMasking])
def test_conforms(masking):
    for param in testing.parametrize(masking).mark.args[1]:
        param.values[0]()


@examples
@given(layouts, ratios, seeds, st.integers(1, 5), st.sampled_from(COLORS))
def test_color_noise_hides_exactly_the_share(layout, ratio, seed, rows, color):
    masking = ColorNoiseMasking(ColorNoiseMasking.Options(ratio=ratio, color=color), layout)
    check_mask(masking(rows, seeded(seed)), layout, rows, min(ceil_share(layout.length, ratio), layout.length - 1))


@examples
@given(layouts, ratios, seeds, st.integers(1, 5), st.integers(1, 12))
def test_span_hides_exactly_the_share(layout, ratio, seed, rows, longest):
    masking = SpanMasking(SpanMasking.Options(ratio=ratio, longest=longest), layout)
    check_mask(masking(rows, seeded(seed)), layout, rows, min(ceil_share(layout.length, ratio), layout.length - 1))


# --- color-noise -----------------------------------------------------------------------------------------------------


def test_red_noise_clusters_and_blue_noise_spreads():
    shares = {
        color: hidden_neighbour_share(ColorNoiseMasking(ColorNoiseMasking.Options(ratio=0.5, color=color), SQUARE))
        for color in COLORS
    }
    random = hidden_neighbour_share(RandomMasking(RandomMasking.Options(ratio=0.5), SQUARE))
    assert shares["blue"] < random - 0.05 < random + 0.05 < shares["green"] < shares["red"]


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("grid", [(40,), (9, 8), (4, 5, 6), (1, 7), (1, 1)])
def test_noise_has_variance_one_at_every_position(color, grid):
    masking = ColorNoiseMasking(ColorNoiseMasking.Options(color=color), Layout([Segment("a", grid, "continuous", 1)]))
    noise = masking._noise(4000, grid, seeded(0))
    assert ((noise.var(dim=0) - 1).abs() < 6 * math.sqrt(2 / 4000)).all()


GAINS = {"red": (1, 0), "blue": (0, 1), "green": (0, 0), "purple": (1, 1)}


@pytest.mark.parametrize("color", COLORS)
def test_filter_gain_at_the_lowest_and_highest_frequency(color):
    """The gain is computed from the combined kernel."""
    masking = ColorNoiseMasking(
        ColorNoiseMasking.Options(color=color, sigma=1.5, sigma_wide=4), Layout([Segment("a", (8,), "continuous", 1)])
    )
    kernel = sum(share * kernel for share, kernel in zip(masking.shares, masking.kernels, strict=True))
    signs = (-1.0) ** (torch.arange(len(kernel)) - masking.reach)
    assert kernel.sum().item() == pytest.approx(GAINS[color][0], abs=1e-3)
    assert (kernel * signs).sum().item() == pytest.approx(GAINS[color][1], abs=1e-3)


def test_sigma_wide_below_sigma_raises():
    with pytest.raises(ValueError, match="sigma_wide must be above sigma"):
        ColorNoiseMasking.Options(color="green", sigma=2.0, sigma_wide=1.0)


# --- disjoint --------------------------------------------------------------------------------------------------------


@examples
@given(layouts, st.integers(2, 7), seeds, st.integers(1, 9))
def test_views_of_a_group_are_disjoint_and_cover_the_row(layout, views, seed, rows):
    mask = DisjointMasking(DisjointMasking.Options(views=views), layout)(rows, seeded(seed))
    views = min(views, layout.length)
    check_mask(mask, layout, rows, layout.length - layout.length // views)
    for start in range(0, rows, views):
        group = mask.visible[start : start + views].flatten().tolist()
        assert len(group) == len(set(group)), "a token is visible in two views"
        if start + views <= rows:
            assert layout.length - len(group) == layout.length % views < views


def test_each_view_is_uniform():
    visible = ~DisjointMasking(DisjointMasking.Options(views=4), SQUARE)(8000, seeded(0)).hidden
    for view in range(4):
        share = visible[view::4].double().mean(dim=0)
        assert (share - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 2000)


# --- tube ------------------------------------------------------------------------------------------------------------


@examples
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), ratios, seeds, grids)
def test_tubes_are_constant_in_time(times, height, width, ratio, seed, other):
    layout = Layout([Segment("v", (times, height, width), "continuous", 1), Segment("o", other, "continuous", 1)])
    mask = TubeMasking(TubeMasking.Options(ratio=ratio), layout)(5, seeded(seed))
    assert len(set(mask.hidden.sum(dim=1).tolist())) == 1
    assert (mask.visible.diff(dim=1) > 0).all()
    assert torch.equal(torch.ones_like(mask.hidden).scatter(1, mask.visible, False), mask.hidden)
    area = height * width
    if times > 1 and area > 1:
        video = mask.hidden[:, : times * area].view(5, times, area)
        assert (video == video[:, :1]).all()
        assert (video[:, 0].sum(dim=1) == min(ceil_share(area, ratio), area - 1)).all()


def test_tube_masking_without_video_is_random():
    layout = Layout([Segment("a", (6, 5), "continuous", 1), Segment("b", (10,), "discrete", 7)])
    hidden = TubeMasking(TubeMasking.Options(ratio=0.5), layout)(4000, seeded(0)).hidden
    assert (hidden.sum(dim=1) == 20).all()
    assert (hidden.double().mean(dim=0) - 0.5).abs().max() < 5 * math.sqrt(0.25 / 4000)


# --- span ------------------------------------------------------------------------------------------------------------


def test_span_lengths_are_geometric_with_the_papers_mean():
    masking = SpanMasking(SpanMasking.Options(), Layout([Segment("a", (50,), "discrete", 9)]))
    lengths = masking.lengths(torch.rand(200_000, generator=seeded(0)))
    weights = torch.tensor([0.2 * 0.8**k for k in range(10)], dtype=torch.float64)
    expected = weights / weights.sum()
    shares = torch.bincount(lengths, minlength=11)[1:] / 200_000
    assert shares.tolist() == pytest.approx(expected.tolist(), abs=0.004)
    assert lengths.double().mean().item() == pytest.approx(3.8, abs=0.03)


def test_mean_length_of_isolated_spans():
    """In a long row with few spans the runs of hidden tokens are the spans."""
    layout = Layout([Segment("a", (40_000,), "discrete", 9)])
    hidden = SpanMasking(SpanMasking.Options(ratio=0.01), layout)(4, seeded(0)).hidden
    runs = hidden[:, :1].sum() + (hidden[:, 1:] & ~hidden[:, :-1]).sum()
    assert (hidden.sum() / runs).item() == pytest.approx(3.8, rel=0.08)


@examples
@given(layouts, ratios, seeds, st.integers(1, 6))
def test_span_mask_equals_placing_spans_one_by_one(layout, ratio, seed, longest):
    """With the same random numbers; the last span is shortened at its end."""
    masking = SpanMasking(SpanMasking.Options(ratio=ratio, longest=longest), layout)
    rows, length = 2, layout.length
    masks = masking(rows, seeded(seed)).hidden.tolist()
    generator = seeded(seed)
    orders = torch.rand(rows, length, generator=generator).argsort(dim=1).tolist()
    span_lengths = masking.lengths(torch.rand(rows, length, generator=generator)).tolist()
    ends = [span.stop for _, span in layout.spans for _ in range(span.start, span.stop)]
    count = min(ceil_share(length, ratio), length - 1)
    for order, lengths, hidden in zip(orders, span_lengths, masks, strict=True):
        placed: set[int] = set()
        for start in order:
            for position in range(start, min(start + lengths[start], ends[start])):
                if len(placed) < count:
                    placed.add(position)
        assert placed == {position for position in range(length) if hidden[position]}


# --- block -----------------------------------------------------------------------------------------------------------


def test_block_masking_of_long_rows_needs_no_table_of_pairs():
    """66,000 tokens: a table of all pairs would take 4 GB for each row."""
    layout = Layout([Segment("a", (40, 40, 40), "continuous", 1), Segment("b", (2000,), "discrete", 9)])
    mask = BlockMasking(BlockMasking.Options(ratio=0.5, size=4), layout)(2, seeded(0))
    assert (mask.hidden.sum(dim=1) == 33_000).all()


# --- segments --------------------------------------------------------------------------------------------------------


def test_shared_segments_hide_the_same_places_of_padded_rows():
    """M3AE's published code draws one permutation for a batch, in which padding counts like any token."""
    layout = Layout([Segment("image", (4, 4), "continuous", 3), Segment("text", (64,), "discrete", 9)])
    lengths = torch.tensor([64, 40, 20, 1])
    valid = torch.cat([torch.ones(4, 16, dtype=torch.bool), torch.arange(64) < lengths[:, None]], dim=1)
    masking = SegmentsMasking(SegmentsMasking.Options(ratio=(0.75,), shared=True), layout)
    mask = masking(4, seeded(0), Geometry(valid=valid))
    assert torch.equal(mask.visible, masking(4, seeded(0)).visible)
    assert (mask.visible == mask.visible[0]).all()
    own = SegmentsMasking(SegmentsMasking.Options(ratio=(0.75,)), layout)(4, seeded(0), Geometry(valid=valid))
    seen = torch.zeros_like(valid).scatter(1, own.visible, True) & valid
    assert seen[:, 16:].sum(dim=1).tolist() == [16, 10, 5, 1], "a draw of each row's own tokens is exact"


def test_a_row_that_would_see_padding_alone_has_a_draw_of_its_own():
    layout = Layout([Segment("text", (64,), "discrete", 9)])
    valid = torch.arange(64) < torch.tensor([64, 1])[:, None]
    masking = SegmentsMasking(SegmentsMasking.Options(ratio=(0.75,), shared=True), layout)
    for seed in range(8):
        mask = masking(2, seeded(seed), Geometry(valid=valid))
        assert valid.gather(1, mask.visible).any(dim=1).all()
        assert (mask.hidden.sum(dim=1) == 48).all()
