"""An objective on its bench: a small tokenizer, an encoder and a batch, built afresh for every check."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core import plugins
from ssl_core.contracts import Draws, Masking, Objective
from ssl_core.errors import ConfigError
from ssl_core.nn.encoder import Encoder
from ssl_core.testing.check import CheckFailed, expect
from ssl_core.testing.layouts import DIM, ENCODER, make_tokenizer, renamed, sample
from ssl_core.testing.options import make_options
from ssl_core.tokens import ContinuousTarget, Layout, Outcome, Tokens

ROWS = 8


@dataclass(frozen=True)
class Setting:
    """An objective class on one layout."""

    objective: type[Objective]
    values: Mapping[str, Any]
    case: str

    @property
    def rows(self) -> int:
        """The size of a usual batch."""
        return max(ROWS, self.objective.min_batch_size)

    def masking(self, layout: Layout) -> Masking | None:
        """The objective's own default masking. Breaks the promise if it is not installed."""
        choice = self.objective.default_masking
        if choice is None:
            return None
        try:
            cls = _installed().masking(choice.name)
        except ConfigError as error:
            raise CheckFailed(f"default_masking: {error}") from None
        return cls(make_options(cls, choice.values), layout)

    def build(self, seed: int = 0, blind: bool = False) -> Bench:
        """A freshly initialised learner, the same for the same seed; `blind`: built for a layout without names."""
        torch.manual_seed(seed)
        tokenizer = make_tokenizer(self.case)
        layout = renamed(tokenizer.layout) if blind else tokenizer.layout
        encoder = Encoder(ENCODER, tokenizer.layout)
        options = make_options(self.objective, self.values)
        torch.manual_seed(seed + 1)
        return Bench(self, tokenizer, encoder, self.objective(options, layout, DIM, self.masking(layout)))


@functools.cache
def _installed() -> plugins.Catalogue:
    return plugins.load()


class Bench(nn.Module):
    """Tokenizer, encoder and objective, and what is done with them."""

    def __init__(self, setting: Setting, tokenizer: Any, encoder: Encoder, objective: Objective) -> None:
        super().__init__()
        self.setting = setting
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.objective = objective

    @functools.cached_property
    def inputs(self) -> dict[str, Tensor]:
        """The usual batch."""
        return sample(self.tokenizer, self.setting.rows)

    def tokens(self, inputs: Mapping[str, Tensor] | None = None) -> Tokens:
        """The batch as the objective's layout has it."""
        return replace(self.tokenizer(self.inputs if inputs is None else inputs), layout=self.objective.layout)

    def draws(self, rows: int | None = None, seed: int = 0) -> Draws:
        """The chance of one step."""
        return self.objective.draw(rows or self.setting.rows, torch.Generator().manual_seed(seed))

    def outcome(self, tokens: Tokens | None = None, draws: Draws | None = None, seed: int = 0) -> Outcome:
        """One step, by default on the usual batch; all chance comes from the seed."""
        tokens = self.tokens() if tokens is None else tokens
        draws = self.draws(tokens.embeddings.shape[0], seed) if draws is None else draws
        torch.manual_seed(seed)
        outcome = self.objective(tokens, self.encoder, draws)
        expect(
            isinstance(outcome, Outcome),
            f"forward returned {type(outcome).__name__}, not Outcome; write `return Outcome(loss)`",
        )
        return outcome

    def loss(self, seed: int = 0) -> Tensor:
        """The loss of one step."""
        return self.outcome(seed=seed).loss


def targets_of(tokens: Tokens) -> list[Tensor]:
    """The numbers of all targets."""
    numbers: list[Tensor] = []
    for target in tokens.targets:
        numbers += [target.patches] if isinstance(target, ContinuousTarget) else [target.ids, target.table]
    return numbers
