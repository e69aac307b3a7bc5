"""A test harness for objectives: a small tokenizer, an encoder and a batch, built afresh for each check."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ssl_core import plugins
from ssl_core.contracts import PROGRESS, Draws, Maskings, Objective, Tokenizer
from ssl_core.errors import ConfigError
from ssl_core.nn.encoder import Encoder, TransformerEncoder
from ssl_core.testing.check import CheckFailed, expect
from ssl_core.testing.layouts import DIM, ENCODER, ROWS, make_tokenizer, renamed, sample
from ssl_core.testing.options import make_options
from ssl_core.tokens import ContinuousTarget, Geometry, Layout, Outcome, Tokens
from ssl_core.training.learner import VIEW, Learner


@dataclass(frozen=True)
class Setting:
    """An objective class on one layout."""

    objective: type[Objective]
    values: Mapping[str, Any]
    case: str

    @property
    def rows(self) -> int:
        """Batch size."""
        return max(ROWS, self.objective.min_batch_size)

    def maskings(self, layout: Layout) -> Maskings:
        """The default maskings of the objective.

        Raises:
            CheckFailed: If one is not installed.
        """
        maskings = {}
        for name, choice in self.objective.masking_choices().items():
            try:
                cls = _installed().masking(choice.name)
            except ConfigError as error:
                raise CheckFailed(f"default_masking: {error}") from None
            maskings[name] = cls(make_options(cls, choice.values), layout)
        return maskings

    def build(self, seed: int = 0, rename_segments: bool = False) -> Harness:
        """A freshly initialised learner, a function of the seed."""
        torch.manual_seed(seed)
        tokenizer = make_tokenizer(self.case)
        layout = renamed(tokenizer.layout) if rename_segments else tokenizer.layout
        encoder = TransformerEncoder(ENCODER, tokenizer.layout)
        options = make_options(self.objective, self.values)
        torch.manual_seed(seed + 1)
        return Harness(self, tokenizer, encoder, self.objective(options, layout, DIM, self.maskings(layout)))


@functools.cache
def _installed() -> plugins.Catalogue:
    return plugins.load()


class Harness(Learner):
    """A learner with a fixed batch."""

    def __init__(self, setting: Setting, tokenizer: Tokenizer, encoder: Encoder, objective: Objective) -> None:
        super().__init__(tokenizer, encoder, objective)
        self.setting = setting
        self.start_teacher()

    @functools.cached_property
    def inputs(self) -> dict[str, Tensor]:
        """The batch."""
        return sample(self.tokenizer, self.setting.rows)

    def inputs_of_views(self, inputs: Mapping[str, Tensor], draws: Draws) -> Mapping[str, Tensor]:
        """The inputs of all views, one after the other."""
        views = self.objective.views
        if views == 1:
            return inputs
        own = {name.removeprefix(VIEW): value for name, value in draws.items() if name.startswith(VIEW)}
        return self.tokenizer.view({name: torch.cat([value] * views) for name, value in inputs.items()}, own)

    def tokens(self, inputs: Mapping[str, Tensor] | None = None, draws: Draws | None = None) -> Tokens:
        """The tokens of a batch, all views, with the objective's layout."""
        inputs = self.inputs_of_views(self.inputs if inputs is None else inputs, draws or {})
        return replace(self.tokenizer(inputs), layout=self.objective.layout)

    def draws(self, rows: int | None = None, seed: int = 0) -> Draws:
        """The draws of one step."""
        draws = self.draw(rows or self.setting.rows, torch.Generator().manual_seed(seed), Geometry())
        return draws | {PROGRESS: torch.tensor(0.5)}

    def outcome(self, tokens: Tokens | None = None, draws: Draws | None = None, seed: int = 0) -> Outcome:
        """The outcome of one step, by default on the fixed batch. All randomness comes from the seed."""
        rows = None if tokens is None else tokens.embeddings.shape[0] // self.objective.views
        draws = self.draws(rows, seed) if draws is None else draws
        tokens = self.tokens(draws=draws) if tokens is None else tokens
        torch.manual_seed(seed)
        outcome = self.call_objective(tokens, draws)
        expect(
            isinstance(outcome, Outcome),
            f"forward returned {type(outcome).__name__}, not Outcome; write `return Outcome(loss)`",
        )
        return outcome

    def call_objective(self, tokens: Tokens, draws: Draws) -> Outcome:
        """The objective's forward pass, with the teacher if it has one."""
        if self.teacher is None:
            outcome: Outcome = self.objective(tokens, self.encoder, draws)
            return outcome
        teacher = self.teacher.view(self.inputs_of_views(self.inputs, draws), tokens, self.encoder)
        outcome = self.objective(tokens, self.encoder, draws, replace(teacher, tokens=tokens_without_grad(tokens)))
        return outcome

    def loss(self, seed: int = 0) -> Tensor:
        """The loss of one step."""
        return self.outcome(seed=seed).loss


def tokens_without_grad(tokens: Tokens) -> Tokens:
    """The tokens as a teacher's tokenizer with equal weights gives them: without gradients."""
    targets = tuple(
        target if isinstance(target, ContinuousTarget) else replace(target, table=target.table.detach())
        for target in tokens.targets
    )
    return replace(tokens, embeddings=tokens.embeddings.detach(), targets=targets)


def target_tensors(tokens: Tokens) -> list[Tensor]:
    """The tensors of all targets."""
    tensors: list[Tensor] = []
    for target in tokens.targets:
        tensors += [target.patches] if isinstance(target, ContinuousTarget) else [target.ids, target.table]
    return tensors
