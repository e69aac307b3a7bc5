"""What is absent from a row (padding, a missing part) has no effect on any shipped objective, nor on the features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssl_core import ContinuousTarget, DiscreteTarget, Geometry, Tokens, plugins
from ssl_core.contracts import Objective
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.testing.layouts import CASES, DIM, make_tokenizer, sample

ROWS = 6
SHIPPED = {e.name: e.value for e in plugins.load().entries("objective") if e.origin.plugin.startswith("sslx:")}


def parts(name: str, case: str) -> tuple[Objective, TransformerEncoder, Tokens, dict[str, torch.Tensor]]:
    """An objective in float64 with its encoder, a batch of which a third is padding, and one step's chance."""
    torch.manual_seed(0)
    catalogue = plugins.load()
    tokenizer = make_tokenizer(case)
    cls = SHIPPED[name]
    masking = None
    if cls.default_masking is not None:
        found = catalogue.masking(cls.default_masking.name)
        masking = found(found.Options(ratio=0.5), tokenizer.layout)
    objective = cls(cls.Options(), tokenizer.layout, DIM, {} if masking is None else {"mask": masking}).double()
    encoder = TransformerEncoder(EncoderOptions(dim=DIM, depth=2, heads=4), tokenizer.layout).double()
    tokens = tokenizer.double()(
        {k: v.double() if v.is_floating_point() else v for k, v in sample(tokenizer, ROWS).items()}
    )
    length = tokenizer.layout.length
    valid = torch.arange(length).expand(ROWS, length) % 3 != 0
    valid[0] = torch.arange(length) < length // 2  # a row cut in half
    draws = objective.draw(ROWS, torch.Generator().manual_seed(1), Geometry())
    return objective, encoder, replace(tokens, geometry=Geometry(valid=valid)), dict(draws)


def spoilt(tokens: Tokens) -> Tokens:
    """Other content and other targets wherever nothing is present."""
    assert tokens.valid is not None
    away = ~tokens.valid
    embeddings = torch.where(away.unsqueeze(-1), torch.randn_like(tokens.embeddings) * 7, tokens.embeddings)
    targets: list[ContinuousTarget | DiscreteTarget] = []
    for target, (segment, span) in zip(tokens.targets, tokens.layout.spans, strict=True):
        mine = away[:, span]
        if isinstance(target, ContinuousTarget):
            targets.append(ContinuousTarget(torch.where(mine.unsqueeze(-1), target.patches + 5, target.patches)))
        else:
            targets.append(DiscreteTarget(torch.where(mine, (target.ids + 3) % segment.size, target.ids), target.table))
    return replace(tokens, embeddings=embeddings, targets=tuple(targets))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_absent_tokens_have_no_effect(name: str, case: str) -> None:
    objective, encoder, tokens, draws = parts(name, case)
    loss = objective(tokens, encoder, draws).loss
    assert torch.isfinite(loss)
    torch.testing.assert_close(objective(spoilt(tokens), encoder, draws).loss, loss, rtol=1e-10, atol=1e-12)
    everything = replace(tokens, geometry=Geometry(valid=torch.ones_like(tokens.valid)))  # type: ignore[arg-type]
    assert not torch.isclose(objective(everything, encoder, draws).loss, loss, rtol=1e-6), "presence must matter"


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_all_present_is_the_same_as_no_word_of_it(name: str) -> None:
    objective, encoder, tokens, draws = parts(name, "continuous_and_discrete")
    everything = replace(tokens, geometry=Geometry(valid=torch.ones_like(tokens.valid)))  # type: ignore[arg-type]
    nothing_said = replace(tokens, geometry=Geometry(valid=None))
    left, right = (objective(given, encoder, draws).loss for given in (everything, nothing_said))
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pool", ["tokens", "all"])
def test_features_of_a_padded_row_are_those_of_the_row_alone(pool: str) -> None:
    tokenizer = make_tokenizer("discrete").double()
    encoder = TransformerEncoder(EncoderOptions(dim=DIM, depth=2, heads=4, pool=pool), tokenizer.layout).double()  # type: ignore[arg-type]
    tokens = tokenizer(sample(tokenizer, 3))
    kept = torch.arange(10).expand(3, 10)
    alone = encoder.pool(encoder(tokens.embeddings[:, :10], position_ids=kept))
    valid = torch.arange(24).expand(3, 24) < 10
    padded = encoder.pool(encoder(tokens.embeddings, geometry=Geometry(valid=valid)), valid)
    torch.testing.assert_close(padded, alone, rtol=1e-10, atol=1e-12)
