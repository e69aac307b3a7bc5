"""Checks of a masking, each on five layouts and on rows of two tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ssl_core.contracts import Mask, Masking
from ssl_core.testing.check import Check, CheckSpec, expect, expect_equal, registrar
from ssl_core.testing.layouts import CASES, make_tokenizer
from ssl_core.testing.options import make_options
from ssl_core.tokens import Geometry, Layout, Segment

ROWS = 64

CHECKS: list[CheckSpec] = []
check = registrar(CHECKS)

TINY = {
    "two_tokens": Layout([Segment("speech", (2,), "continuous", 4)]),
    "two_rows": Layout([Segment("image", (2, 1), "continuous", 4)]),
    "two_segments": Layout([Segment("image", (1, 1), "continuous", 4), Segment("text", (1,), "discrete", 5)]),
}


@dataclass(frozen=True)
class Setting:
    """A masking class on one layout."""

    masking: type[Masking]
    values: Mapping[str, Any]
    case: str

    @property
    def layout(self) -> Layout:
        """The layout."""
        return TINY[self.case] if self.case in TINY else make_tokenizer(self.case).layout

    def mask(self, seed: int = 0, rows: int = ROWS, geometry: Geometry | None = None) -> Mask:
        """A mask of a freshly built masking."""
        masking = self.masking(make_options(self.masking, self.values), self.layout)
        generator = torch.Generator().manual_seed(seed)
        mask = masking(rows, generator) if geometry is None else masking(rows, generator, geometry)
        expect(isinstance(mask, Mask), f"it returned {type(mask).__name__}, not Mask")
        return mask


def checks(masking: type[Masking], values: Mapping[str, Any]) -> list[Check]:
    """All checks of a masking class."""
    cases = (*CASES, *TINY)
    return [Check(masking, spec, Setting(masking, values, case), case) for case in cases for spec in CHECKS]


@check("__call__")
def mask_has_shapes_and_dtypes(setting: Setting) -> None:
    """`visible` is (B, V) long with V < L, `hidden` is (B, L) bool, both on the CPU, also for a single row."""
    for rows in (ROWS, 1):
        mask, length = setting.mask(rows=rows), setting.layout.length
        hidden = (tuple(mask.hidden.shape), mask.hidden.dtype, mask.hidden.device.type)
        expect(hidden == ((rows, length), torch.bool, "cpu"), f"hidden is {hidden}")
        visible = (mask.visible.shape[:-1], mask.visible.dtype, mask.visible.device.type)
        expect(visible == ((rows,), torch.long, "cpu"), f"visible is {visible}")
        expect(0 < mask.visible.shape[1] < length, f"visible has {mask.visible.shape[1]} of {length} tokens")


@check("__call__")
def visible_and_hidden_are_complementary(setting: Setting) -> None:
    """Every token of every row is either visible or hidden."""
    mask = setting.mask()
    length = setting.layout.length
    expect(mask.visible.min() >= 0 and mask.visible.max() < length, f"visible has ids outside 0..{length - 1}")
    seen = torch.zeros(ROWS, length, dtype=torch.bool).scatter(1, mask.visible, True)
    count = int((seen == mask.hidden).sum())
    expect(count == 0, f"{count} of {seen.numel()} tokens are both or neither")


@check("__call__")
def every_row_hides_the_same_number(setting: Setting) -> None:
    """Every row hides the same number of tokens, in every step."""
    counts = {int(count) for seed in range(4) for count in setting.mask(seed).hidden.sum(dim=1)}
    expect(len(counts) == 1, f"rows hide {sorted(counts)} tokens")


@check("__call__")
def some_are_visible_and_some_hidden(setting: Setting) -> None:
    """No row is entirely visible or entirely hidden."""
    for seed in range(4):
        hidden = setting.mask(seed).hidden
        expect(hidden.any(dim=1).all(), "a row hides nothing")
        expect(not hidden.all(dim=1).any(), "a row hides everything")


@check("__call__")
def visible_position_ids_ascend(setting: Setting) -> None:
    """The position ids in `visible` are in ascending order, without repetition."""
    mask = setting.mask()
    expect((mask.visible.diff(dim=1) > 0).all(), f"a row of visible is {mask.visible[0].tolist()}")


@check("__call__")
def mask_depends_on_the_generator_alone(setting: Setting) -> None:
    """All randomness comes from the generator: the same state of it gives the same mask."""
    masks = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        mask = setting.mask(seed=3)
        masks.append([mask.visible, mask.hidden])
    expect_equal(masks[0], masks[1], "the masks of two equal generators")


@check("__call__")
def seeds_and_rows_differ(setting: Setting) -> None:
    """Another seed gives another mask, and the rows of a batch do not all have the same mask."""
    first, second = setting.mask(seed=0).hidden, setting.mask(seed=1).hidden
    expect(not torch.equal(first, second), "two seeds gave the same mask")
    expect((first != first[0]).any(), f"all {ROWS} rows of a batch have the same mask")


@check("__call__")
def padded_rows_keep_a_visible_token(setting: Setting) -> None:
    """With `geometry.valid` the mask has the same shapes, and every row with two or more valid tokens shows one."""
    length = setting.layout.length
    counts = torch.arange(ROWS) % (length - 1) + 2
    valid = torch.arange(length) < counts.unsqueeze(1)
    whole, padded = setting.mask(), setting.mask(geometry=Geometry(valid=valid))
    shapes = [(tuple(mask.visible.shape), tuple(mask.hidden.shape)) for mask in (whole, padded)]
    expect(shapes[0] == shapes[1], f"visible and hidden have shapes {shapes[0]} without padding and {shapes[1]} with")
    empty = counts[~(valid & ~padded.hidden).any(dim=1)]
    number = "" if not empty.numel() else str(int(empty[0]))
    expect(not number, f"all {number} valid tokens of a row are hidden; use Mask.from_order with the geometry")
