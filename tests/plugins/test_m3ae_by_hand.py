"""M3AE: losses calculated by hand, options, and the masking by segments."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssl_core import ConfigError, ContinuousTarget, Geometry, Layout, Segment, Tokens
from ssl_core.nn import Decoder
from ssl_core.tokens import DiscreteTarget
from ssl_plugins.maskings.segments import SegmentsMasking
from ssl_plugins.objectives.m3ae import M3AE

IMAGE, WORDS = Segment("a", (2,), "continuous", 2), Segment("b", (3,), "discrete", 2)
BOTH = Layout([IMAGE, WORDS])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masking(layout: Layout, **options: Any) -> SegmentsMasking:
    return SegmentsMasking(SegmentsMasking.Options(**options), layout)


class IdentityEncoder(nn.Module):
    """Returns the embeddings unchanged."""

    def forward(self, embeddings: Tensor, position_ids: Tensor, geometry: Geometry | None = None) -> Tensor:
        return torch.cat([torch.zeros_like(embeddings[:, :1]), embeddings], dim=1)


class FixedDecoder(nn.Module):
    """Returns a fixed vector for each position."""

    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0], [math.log(3), 0.0], [0.0, 0.0]])

    def forward(self, latent: Tensor, order: Tensor, output_slice: slice, geometry: Geometry | None = None) -> Tensor:
        return self.vectors[order][:, output_slice]


# All tokens of the first sample are valid, and of the second the words at positions 2 and 4. Hidden positions: 1, 3, 4.
# The patches (1, 0) and (0, 0) are predicted as (1, 0) and (3, 4): errors 0 and (9 + 16) / 2.
# The error of a word is log 2 if both scores are equal, and -log(3 / 4) for scores log 3 and 0.
HALF, QUARTER = math.log(2), math.log(4 / 3)
BY_HAND: list[tuple[dict[str, Any], float, float, float]] = [
    ({}, 12.5, ((QUARTER + HALF) / 2 + HALF) / 2, 0.1),
    ({"absent": "zero"}, 12.5 / 2, ((QUARTER + HALF) / 2 + HALF) / 2, 0.1),
    ({"all_tokens": True}, 12.5 / 2, ((HALF + QUARTER + HALF) / 3 + HALF) / 2, 0.1),
    ({"discrete_weight": 0.5}, 12.5, ((QUARTER + HALF) / 2 + HALF) / 2, 0.5),
]


@pytest.mark.parametrize(("options", "image", "words", "weight"), BY_HAND)
def test_m3ae_by_hand(options: dict[str, Any], image: float, words: float, weight: float) -> None:
    objective = M3AE(M3AE.Options(**options), BOTH, 2, {"mask": masking(BOTH)})
    objective.decoder = FixedDecoder()
    objective.head.maps = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    with torch.no_grad():
        for linear in objective.head.maps:
            linear.weight.copy_(torch.eye(2))
            linear.bias.zero_()
    patches = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]).expand(2, -1, -1)
    ids = torch.tensor([[0, 0, 1], [1, 1, 0]])
    valid = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 0, 1]], dtype=torch.bool)
    tokens = Tokens(
        torch.zeros(2, 5, 2),
        (ContinuousTarget(patches), DiscreteTarget(ids, torch.zeros(2, 2))),
        BOTH,
        Geometry(valid=valid),
    )
    draws = {"visible": torch.tensor([[0, 2]] * 2), "order": torch.tensor([[0, 2, 1, 3, 4]] * 2)}
    outcome = objective(tokens, IdentityEncoder(), draws)  # type: ignore[arg-type]
    assert outcome.metrics["segment1"].item() == pytest.approx(image, rel=1e-6)
    assert outcome.metrics["segment2"].item() == pytest.approx(words, rel=1e-6)
    assert outcome.loss.item() == pytest.approx(image + weight * words, rel=1e-6)


def test_decoder_has_a_mask_token_for_each_segment() -> None:
    decoder = Decoder(BOTH, 8, 4, 1, 2, mask_per_segment=True)
    rows: list[Tensor] = []
    decoder.transformer.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0]))
    order = torch.tensor([[0, 4, 3, 1, 2]])
    decoder(torch.zeros(1, 3, 4), order)
    table = decoder.positions()
    assert decoder.mask_token.shape == (2, 8)
    for column, (position, number) in enumerate([(3, 1), (1, 0), (2, 1)], start=3):
        torch.testing.assert_close(rows[0][0, column], decoder.mask_token[number] + table[1 + position])


def test_defaults_are_those_of_the_published_code() -> None:
    options = M3AE.Options()
    published = {"discrete_weight": 0.1, "weights": (), "all_tokens": False, "tied": False}
    assert published.items() <= options.model_dump().items()
    assert options.absent == "skip"  # differs from the published code
    assert M3AE(options, BOTH, 4, {}).weights == (1.0, 0.1)
    assert [linear.out_features for linear in M3AE(options, BOTH, 4, {}).head.maps] == [2, 2]
    assert M3AE.default_masking is not None
    default = SegmentsMasking.Options(**M3AE.default_masking.values)
    assert default.model_dump() == {"ratio": (0.75,), "shared": False}


def test_invalid_weights_raise() -> None:
    with pytest.raises(
        ConfigError, match=r"objective\.weights has 3 numbers for 2 segments; give one for each, or none"
    ):
        M3AE(M3AE.Options(weights=(1, 1, 1)), BOTH, 4, {})
    with pytest.raises(pydantic.ValidationError):
        M3AE.Options(weights=(1, -1))


# ------------------------------------------------------------------------------------------- masking by segments

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=3).filter(lambda sizes: sum(sizes) > 1)
percents = st.lists(st.integers(1, 99), min_size=3, max_size=3)


def layout_of(sizes: list[int]) -> Layout:
    return Layout([Segment(f"part {i}", (length,), "continuous", 1) for i, length in enumerate(sizes)])


@settings(deadline=None, max_examples=60, derandomize=True)
@given(lengths, percents, st.integers(0, 2**31), st.booleans())
def test_number_of_visible_tokens_of_each_segment(
    sizes: list[int], percent: list[int], seed: int, shared: bool
) -> None:
    """int(L (1 - r)) of each, in exact arithmetic; segments for which that is 0 draw together with the longest one."""
    layout, percent = layout_of(sizes), percent[: len(sizes)]
    hide = masking(layout, ratio=[p / 100 for p in percent], shared=shared)
    mask = hide(5, seeded(seed))
    expected = [length * Fraction(100 - p, 100) for length, p in zip(sizes, percent, strict=True)]
    longest = sizes.index(max(sizes))
    joined = [i for i, count in enumerate(expected) if count < 1 or i == longest]
    for row, visible in zip(mask.hidden, mask.visible.tolist(), strict=True):
        assert visible == (~row).nonzero().flatten().tolist()
        counts = [int((~row[span]).sum()) for _, span in layout.spans]
        assert all(counts[i] == math.floor(expected[i]) for i in range(len(sizes)) if i not in joined)
        total = math.floor(sum(expected[i] for i in joined))
        assert sum(counts[i] for i in joined) == (total if len(sizes) > len(joined) else max(1, total))
    if shared:
        assert (mask.visible == mask.visible[0]).all()
    assert torch.equal(mask.visible, hide(5, seeded(seed)).visible)


def test_segments_are_hidden_uniformly_and_independently() -> None:
    """Pairs of one segment are hidden equally often, pairs of two segments as often as independent tokens."""
    rows, layout = 20_000, layout_of([4, 6])
    hidden = masking(layout, ratio=(0.5, 0.67))(rows, seeded(5)).hidden.double()
    together = hidden.T @ hidden / rows
    share = [1 / 2] * 4 + [5 / 6] * 6
    for i, j in itertools.combinations(range(10), 2):
        within = (2 / 4) * (1 / 3) if i < 4 else (5 / 6) * (4 / 5)
        expected = share[i] * share[j] if i < 4 <= j else within
        assert together[i, j].item() == pytest.approx(expected, abs=5 * math.sqrt(0.25 / rows))


def visible_counts(layout: Layout, ratio: object) -> list[int]:
    visible = ~masking(layout, ratio=ratio)(1, seeded()).hidden[0]
    return [int(visible[span].sum()) for _, span in layout.spans]


def test_token_of_a_short_segment_is_visible_as_often_as_others() -> None:
    rows = 20_000
    visible = 1 - masking(layout_of([7, 1]), ratio=0.75)(rows, seeded(3)).hidden.double().mean(dim=0)
    torch.testing.assert_close(visible, torch.full((8,), 0.25, dtype=torch.float64), atol=0.02, rtol=0)


def test_number_and_range_of_ratios() -> None:
    for ratio in (0.5, [0.5], (0.5, 0.5)):
        assert visible_counts(layout_of([4, 6]), ratio) == [2, 3]
    assert visible_counts(layout_of([100, 10]), (0.07, 0.9)) == [93, 1]  # 100 * 0.07 is above 7 in floating point
    with pytest.raises(ConfigError, match=r"masking\.ratio has 2 numbers for 3 segments; give one, or one for each"):
        masking(layout_of([4, 6, 2]), ratio=(0.5, 0.5))
    for invalid in (0.0, 1.0, (), (0.5, 1.5), "much", None):
        with pytest.raises(pydantic.ValidationError):
            SegmentsMasking.Options(ratio=invalid)


def test_shared_draws_differ_between_steps() -> None:
    hide, generator = masking(layout_of([10, 10]), shared=True), seeded()
    assert not torch.equal(hide(4, generator).visible, hide(4, generator).visible)
