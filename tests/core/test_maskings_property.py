"""Properties of masks and neighbourhoods on random layouts, compared with naive implementations."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_core import Geometry, Layout, Mask, Segment
from ssl_plugins.maskings.block import BlockMasking
from ssl_plugins.maskings.random import RandomMasking

examples = settings(deadline=None, max_examples=80, derandomize=True)

grids = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
segments = st.builds(
    Segment, st.sampled_from(["a", "b"]), grids, st.sampled_from(["continuous", "discrete"]), st.integers(1, 9)
)
layouts = st.lists(segments, min_size=1, max_size=3).map(Layout)
maskable = layouts.filter(lambda layout: layout.length > 1)
ratios = st.integers(1, 99).map(lambda percent: percent / 100)
seeds = st.integers(0, 2**31)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def token_coordinates(layout: Layout) -> list[tuple[int, tuple[int, ...]]]:
    """The number of the segment and the coordinates of each token."""
    return [
        (number, coordinates)
        for number, segment in enumerate(layout.segments)
        for coordinates in itertools.product(*(range(size) for size in segment.grid))
    ]


def near(one: tuple[int, tuple[int, ...]], other: tuple[int, tuple[int, ...]]) -> bool:
    """Whether two tokens of one segment are one step apart along one axis."""
    return one[0] == other[0] and sum(abs(a - b) for a, b in zip(one[1], other[1], strict=True)) == 1


# --- layouts ---------------------------------------------------------------------------------------------------------


@examples
@given(layouts)
def test_neighbours_are_the_tokens_one_step_away(layout):
    tokens = token_coordinates(layout)
    table = layout.neighbours
    axes = max(len(segment.grid) for segment in layout.segments)
    assert table.shape == (layout.length, 2 * axes)
    assert table.dtype == torch.long
    for token, row in enumerate(table.tolist()):
        expected = {i for i in range(layout.length) if near(tokens[token], tokens[i])}
        assert set(row) - {token} == expected  # missing neighbours are filled with the token itself
        others = [i for i in row if i != token]
        assert len(others) == len(expected), "a neighbour occurs twice"


@examples
@given(layouts, seeds, st.integers(1, 4))
def test_dilation_adds_neighbours_of_chosen_tokens(layout, seed, rows):
    chosen = torch.rand(rows, layout.length, generator=seeded(seed)) < 0.3
    tokens = token_coordinates(layout)
    expected = [
        [
            bool(row[i]) or any(row[j] and near(tokens[i], tokens[j]) for j in range(layout.length))
            for i in range(len(row))
        ]
        for row in chosen.tolist()
    ]
    original = chosen.clone()
    assert layout.dilate(chosen).tolist() == expected
    assert torch.equal(chosen, original)


@examples
@given(layouts)
def test_spans_cover_the_row_in_order(layout):
    positions = [i for _, span in layout.spans for i in range(span.start, span.stop)]
    assert positions == list(range(layout.length))
    for number, (segment, span) in enumerate(layout.spans):
        assert (layout.segment_of[span] == number).all()
        assert span.stop - span.start == segment.length == math.prod(segment.grid)


# --- maskings --------------------------------------------------------------------------------------------------------


def hidden_count(length: int, ratio: float) -> int:
    """ceil(ratio L) in exact arithmetic, but at least one token is visible."""
    return min(math.ceil(length * Fraction(str(ratio))), length - 1)


def check_mask(mask, layout: Layout, rows: int, ratio: float) -> None:
    length = layout.length
    hidden = hidden_count(length, ratio)
    assert mask.hidden.shape == (rows, length)
    assert mask.visible.shape == (rows, length - hidden)
    for visible, row in zip(mask.visible.tolist(), mask.hidden.tolist(), strict=True):
        assert visible == sorted(set(visible))
        assert visible == [i for i in range(length) if not row[i]]
        assert sum(row) == hidden
        assert 0 < hidden < length
    assert mask.hidden_position_ids.tolist() == [[i for i in range(length) if row[i]] for row in mask.hidden.tolist()]


@examples
@given(maskable, ratios, seeds, st.integers(1, 5))
def test_random_mask(layout, ratio, seed, rows):
    masking = RandomMasking(RandomMasking.Options(ratio=ratio), layout)
    mask = masking(rows, seeded(seed))
    check_mask(mask, layout, rows, ratio)
    assert torch.equal(mask.hidden, masking(rows, seeded(seed)).hidden)


@examples
@given(maskable, ratios, seeds, st.integers(1, 5), st.integers(1, 4))
def test_block_mask(layout, ratio, seed, rows, size):
    masking = BlockMasking(BlockMasking.Options(ratio=ratio, size=size), layout)
    mask = masking(rows, seeded(seed))
    check_mask(mask, layout, rows, ratio)
    assert torch.equal(mask.hidden, masking(rows, seeded(seed)).hidden)


@examples
@given(maskable, ratios, seeds, st.integers(1, 4))
def test_block_mask_equals_placing_blocks_one_by_one(layout, ratio, seed, size):
    """With the same random order: all blocks are hidden completely except the last, which is hidden in part."""
    rows, length = 3, layout.length
    mask = BlockMasking(BlockMasking.Options(ratio=ratio, size=size), layout)(rows, seeded(seed))
    generator = seeded(seed)
    orders = torch.rand(rows, length, generator=generator).argsort(dim=1).tolist()
    tokens, count = token_coordinates(layout), hidden_count(length, ratio)
    for order, hidden in zip(orders, mask.hidden.tolist(), strict=True):
        placed: set[int] = set()
        for start in order:
            block = {j for j in range(length) if in_block(tokens[start], tokens[j], size)}
            if len(placed | block) >= count:
                actual = {i for i in range(length) if hidden[i]}
                assert placed <= actual <= placed | block
                break
            placed |= block
        else:
            raise AssertionError("all blocks together do not hide enough")


def in_block(start: tuple[int, tuple[int, ...]], token: tuple[int, tuple[int, ...]], size: int) -> bool:
    return start[0] == token[0] and all(0 <= b - a < size for a, b in zip(start[1], token[1], strict=True))


def test_random_mask_is_uniform():
    """All tokens and all pairs are hidden equally often, by a chi-square test at its 0.999 quantile."""
    layout, rows = Layout([Segment("a", (6,), "continuous", 1)]), 20_000
    hidden = RandomMasking(RandomMasking.Options(ratio=0.5), layout)(rows, seeded(5)).hidden.double()
    pairs = (hidden.T @ hidden)[torch.triu(torch.ones(6, 6), diagonal=1).bool()]
    expected = rows * (3 / 6) * (2 / 5)
    assert ((pairs - expected) ** 2 / expected).sum() < 36.1  # 14 degrees of freedom, minus dependence
    assert (hidden.mean(dim=0) - 0.5).abs().max() < 4 * math.sqrt(0.25 / rows)


def test_block_mask_is_clustered():
    """Hidden tokens have more hidden neighbours than under random masking."""
    layout, shares = Layout([Segment("a", (12, 12), "continuous", 1)]), []
    for masking in (
        BlockMasking(BlockMasking.Options(ratio=0.4, size=4), layout),
        RandomMasking(RandomMasking.Options(ratio=0.4), layout),
    ):
        hidden = masking(50, seeded(0)).hidden
        shares.append(hidden[:, layout.neighbours][hidden].double().mean().item())
    assert shares[0] > shares[1] + 0.2


# --- padding ---------------------------------------------------------------------------------------------------------


def test_padded_rows_hide_their_exact_share():
    """ceil(n ratio) of n valid tokens, as in exact arithmetic: float32 gives one more for 100 of 128 and 0.15."""
    length = 128
    counts = torch.arange(1, length)
    geometry = Geometry(valid=torch.arange(length) < counts[:, None])
    order = torch.arange(length).expand(len(counts), -1)
    for percent in range(1, 100):
        ratio = percent / 100
        mask = Mask.from_order(order, math.ceil(Fraction(percent * length, 100)), geometry, ratio)
        exact = [min(math.ceil(Fraction(percent * n, 100)), n - 1, mask.hidden.sum(1)[0] + n) for n in counts.tolist()]
        found = (mask.hidden & geometry.valid).sum(dim=1).tolist()
        assert [a - b for a, b in zip(found, exact, strict=True) if a > b] == []
