"""Positions: the sine-cosine formula, the order of axes, segments, and learned tables."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch

from ssl_core import ConfigError, Layout, Segment
from ssl_core.nn import Positions, sincos
from ssl_core.nn.positions import sincos_1d


def layout_of(*grids: tuple[int, ...]) -> Layout:
    return Layout([Segment(f"part {i}", grid, "continuous", 4) for i, grid in enumerate(grids)])


def test_sincos_by_hand() -> None:
    """Width 4: frequencies 1 and 1/100; first the sines, then the cosines."""
    table = sincos((6,), 4)
    expected = [math.sin(5), math.sin(0.05), math.cos(5), math.cos(0.05)]
    torch.testing.assert_close(table[5], torch.tensor(expected), rtol=0, atol=1e-7)
    assert table[0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("grid", [(7, 7), (3, 8), (8, 3), (1, 5)])
def test_two_dimensions_put_the_column_first(grid: tuple[int, int]) -> None:
    """MetaMAE: half of the width from the column, then half from the row, for square grids and others."""
    table = sincos(grid, 16).view(*grid, 16)
    for row in range(grid[0]):
        for column in range(grid[1]):
            expected = torch.cat([sincos_1d(torch.tensor([column]), 8)[0], sincos_1d(torch.tensor([row]), 8)[0]])
            torch.testing.assert_close(table[row, column], expected.float(), rtol=0, atol=1e-7)


def test_three_dimensions_put_the_last_axis_first() -> None:
    table = sincos((2, 3, 4), 12).view(2, 3, 4, 12)
    assert torch.equal(table[0, 0, :, :4], table[1, 2, :, :4])
    assert torch.equal(table[0, :, 0, 4:8], table[1, :, 3, 4:8])
    assert torch.equal(table[:, 0, 0, 8:], table[:, 2, 3, 8:])
    assert len(table.view(-1, 12).unique(dim=0)) == 24


def test_remainder_of_the_width_is_zero() -> None:
    table = sincos((2, 2, 2), 16)
    assert not table[:, 12:].any()
    assert table[:, :12].any(dim=0).sum() >= 9
    with pytest.raises(ConfigError, match="too small"):
        sincos((2, 2, 2), 5)


@pytest.mark.parametrize("grids", [((64,),), ((14, 14),), ((5, 9),), ((2, 3, 4),), ((4, 3), (11,))])
def test_table_equals_reference_implementation(plain: ModuleType, grids: tuple[tuple[int, ...], ...]) -> None:
    pieces = tuple(plain.Piece("continuous", grid, 4) for grid in grids)
    table, expected = Positions(layout_of(*grids), 24).table, plain.position_table(pieces, 24)
    torch.testing.assert_close(table, expected, rtol=0, atol=6e-8)
    assert not table[0].any()  # the cls token has no position


def test_fixed_positions_are_neither_parameters_nor_saved() -> None:
    positions = Positions(layout_of((4, 4)), 8)
    assert not list(positions.parameters())
    assert not positions.state_dict()


def test_segments_have_type_vectors() -> None:
    """A learned vector for each segment and none for the cls token. Each segment counts from its own origin."""
    positions = Positions(layout_of((5,), (5,)), 8)
    vectors = positions()
    assert positions.types is not None
    assert positions.types.shape == (2, 8)
    assert not vectors[0].any()
    fixed = sincos((5,), 8)
    torch.testing.assert_close(vectors[1:6], fixed + positions.types[0])
    torch.testing.assert_close(vectors[6:], fixed + positions.types[1])


def test_learned_positions() -> None:
    torch.manual_seed(0)
    positions = Positions(layout_of((20, 20)), 64, "learned")
    (table,) = positions.parameters()
    assert table.shape == (401, 64)
    assert table.std().item() == pytest.approx(1, abs=0.02)
    assert positions() is table


def test_unknown_kind_raises() -> None:
    with pytest.raises(ValueError, match="sincos"):
        Positions(layout_of((4,)), 8, "rotary")
