"""Tokens that are not valid (padding, a missing part) affect neither the loss of shipped objectives nor features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssl_core import ContinuousTarget, DiscreteTarget, Geometry, Tokens, plugins
from ssl_core.contracts import Draws
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.testing.harness import Harness, Setting
from ssl_core.testing.layouts import CASES, DIM, make_tokenizer, sample

ROWS = 6
SHIPPED = {e.name: e.value for e in plugins.load().entries("objective") if e.origin.plugin.startswith("sslx:")}


def build(name: str, case: str) -> tuple[Harness, Tokens, Draws]:
    """An objective in float64 with its encoder, a batch of which a third is not valid, and the draws of one step."""
    torch.manual_seed(0)
    catalogue, cls = plugins.load(), SHIPPED[name]
    tokenizer = make_tokenizer(case)
    maskings = {}
    for key, choice in cls.masking_choices().items():
        masking = catalogue.masking(choice.name)
        values = {"ratio": 0.5} if key == "mask" else choice.values
        maskings[key] = masking(masking.Options(**values), tokenizer.layout)
    objective = cls(cls.Options(), tokenizer.layout, DIM, maskings)
    encoder = TransformerEncoder(EncoderOptions(dim=DIM, depth=2, heads=4), tokenizer.layout)
    harness = Harness(Setting(cls, {}, case), tokenizer, encoder, objective).double()
    tokens = tokenizer({k: v.double() if v.is_floating_point() else v for k, v in sample(tokenizer, ROWS).items()})
    length = tokenizer.layout.length
    valid = torch.arange(length).expand(ROWS, length) % 3 != 0
    valid[0] = torch.arange(length) < length // 2  # the second half of one row is not valid
    return harness, replace(tokens, geometry=Geometry(valid=valid)), harness.draws(ROWS, seed=1)


def change_invalid(tokens: Tokens) -> Tokens:
    """Other embeddings and targets for all tokens that are not valid."""
    assert tokens.valid is not None
    invalid = ~tokens.valid
    embeddings = torch.where(invalid.unsqueeze(-1), torch.randn_like(tokens.embeddings) * 7, tokens.embeddings)
    targets: list[ContinuousTarget | DiscreteTarget] = []
    for target, (segment, span) in zip(tokens.targets, tokens.layout.spans, strict=True):
        here = invalid[:, span]
        if isinstance(target, ContinuousTarget):
            targets.append(ContinuousTarget(torch.where(here.unsqueeze(-1), target.patches + 5, target.patches)))
        else:
            targets.append(DiscreteTarget(torch.where(here, (target.ids + 3) % segment.size, target.ids), target.table))
    return replace(tokens, embeddings=embeddings, targets=tuple(targets))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_invalid_tokens_have_no_effect(name: str, case: str) -> None:
    harness, tokens, draws = build(name, case)
    outcome = harness.call_objective(tokens, draws)
    loss = outcome.loss
    assert torch.isfinite(loss)
    changed = harness.call_objective(change_invalid(tokens), draws)
    torch.testing.assert_close(changed.loss, loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dict(changed.metrics), dict(outcome.metrics), rtol=1e-10, atol=1e-12)
    all_valid = replace(tokens, geometry=Geometry(valid=torch.ones_like(tokens.valid)))  # type: ignore[arg-type]
    assert not torch.isclose(harness.call_objective(all_valid, draws).loss, loss, rtol=1e-6), "the mask must matter"


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_all_valid_equals_no_mask(name: str) -> None:
    harness, tokens, draws = build(name, "continuous_and_discrete")
    all_valid = replace(tokens, geometry=Geometry(valid=torch.ones_like(tokens.valid)))  # type: ignore[arg-type]
    no_mask = replace(tokens, geometry=Geometry(valid=None))
    left, right = (harness.call_objective(variant, draws).loss for variant in (all_valid, no_mask))
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pool", ["tokens", "all"])
def test_features_of_a_padded_row_equal_those_of_the_row(pool: str) -> None:
    tokenizer = make_tokenizer("discrete").double()
    encoder = TransformerEncoder(EncoderOptions(dim=DIM, depth=2, heads=4, pool=pool), tokenizer.layout).double()  # type: ignore[arg-type]
    tokens = tokenizer(sample(tokenizer, 3))
    position_ids = torch.arange(10).expand(3, 10)
    unpadded = encoder.pool(encoder(tokens.embeddings[:, :10], position_ids=position_ids))
    valid = torch.arange(24).expand(3, 24) < 10
    padded = encoder.pool(encoder(tokens.embeddings, geometry=Geometry(valid=valid)), valid)
    torch.testing.assert_close(padded, unpadded, rtol=1e-10, atol=1e-12)
