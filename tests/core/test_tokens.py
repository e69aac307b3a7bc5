"""Layouts: segments, coordinates, neighbours and dilation."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_core import Layout, Segment
from ssl_core.tokens import grid_coordinates

grids = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


def layout_of(*grids: tuple[int, ...]) -> Layout:
    return Layout([Segment(f"part {i}", grid, "continuous", 4) for i, grid in enumerate(grids)])


@pytest.mark.parametrize(("grid", "size"), [((), 4), ((0,), 4), ((3, -1), 4), ((3,), 0)])
def test_segment_with_a_size_that_is_not_positive_raises(grid: tuple[int, ...], size: int) -> None:
    with pytest.raises(ValueError, match="segment 'picture'"):
        Segment("picture", grid, "continuous", size)


def test_layout_without_segments_raises() -> None:
    with pytest.raises(ValueError, match="at least one segment"):
        Layout([])


def test_spans_are_consecutive() -> None:
    layout = layout_of((2, 3), (5,), (1, 2, 2))
    assert layout.length == 15
    assert [(span.start, span.stop) for _, span in layout.spans] == [(0, 6), (6, 11), (11, 15)]
    assert [span for _, span in layout.spans] == [span for _, span in layout.spans]  # a second iteration gives the same
    assert layout.segment_of.tolist() == [0] * 6 + [1] * 5 + [2] * 4


def test_coordinates_are_row_major() -> None:
    assert grid_coordinates((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_neighbours_in_one_dimension() -> None:
    assert [sorted(set(row)) for row in layout_of((4,)).neighbours.tolist()] == [[0, 1], [0, 2], [1, 3], [2, 3]]


def test_neighbours_in_two_dimensions() -> None:
    # 0 1 2 3
    # 4 5 6 7
    # 8 9 10 11
    neighbours = layout_of((3, 4)).neighbours.tolist()
    assert sorted(set(neighbours[5])) == [1, 4, 6, 9]
    assert sorted(set(neighbours[3]) - {3}) == [
        2,
        7,
    ]  # the end of a row is not a neighbour of the start of the next row
    assert sorted(set(neighbours[4]) - {4}) == [0, 5, 8]


def test_neighbours_in_three_dimensions() -> None:
    middle = 1 * 9 + 1 * 3 + 1
    assert sorted(layout_of((3, 3, 3)).neighbours[middle].tolist()) == sorted(middle + s for s in (-9, -3, -1, 1, 3, 9))


def test_dilation_does_not_cross_segments() -> None:
    layout = layout_of((4,), (2, 2))
    chosen = torch.zeros(1, 8, dtype=torch.bool)
    chosen[0, 3] = True
    assert layout.dilate(chosen)[0].nonzero().flatten().tolist() == [2, 3]
    chosen[0, 3], chosen[0, 4] = False, True
    assert layout.dilate(chosen)[0].nonzero().flatten().tolist() == [4, 5, 6]


def test_dilation_of_one_token_in_one_dimension() -> None:
    masked = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 1]], dtype=torch.bool)
    assert layout_of((8,)).dilate(~masked)[0].nonzero().flatten().tolist() == [2, 3, 4]


def test_dilation_of_rows_of_another_length_raises() -> None:
    with pytest.raises(ValueError, match="expected"):
        layout_of((8,)).dilate(torch.zeros(1, 7, dtype=torch.bool))


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(grids, min_size=1, max_size=3), seed=st.integers(0, 10_000))
def test_dilation_adds_tokens_at_distance_one(shapes: list[tuple[int, ...]], seed: int) -> None:
    """Expected: chosen tokens and those one step along one axis from a chosen token of the same segment."""
    layout = layout_of(*shapes)
    chosen = torch.rand(3, layout.length, generator=torch.Generator().manual_seed(seed)) < 0.2
    dilated = layout.dilate(chosen)
    tokens = [
        (i, coordinates)
        for i, grid in enumerate(shapes)
        for coordinates in itertools.product(*(range(n) for n in grid))
    ]
    for row, (number, (segment, coordinates)) in itertools.product(range(3), enumerate(tokens)):
        expected = any(
            chosen[row, other]
            and segment == other_segment
            and sum(abs(a - b) for a, b in zip(coordinates, other_coordinates, strict=True)) <= 1
            for other, (other_segment, other_coordinates) in enumerate(tokens)
            if segment == other_segment
        )
        assert bool(dilated[row, number]) == expected


def test_dilation_equals_reference_implementation(plain: ModuleType) -> None:
    for shapes in (((17,),), ((4, 6),), ((2, 3, 4),), ((3, 5), (7,))):
        hidden = torch.rand(40, layout_of(*shapes).length) < 0.7
        expected = plain.dilate(hidden, [plain.Piece("continuous", grid, 4) for grid in shapes])
        assert torch.equal(layout_of(*shapes).dilate(~hidden) & hidden, expected)
