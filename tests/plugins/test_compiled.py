"""Every shipped objective compiled whole, as a run compiles it, is the eager one: in fp32 at 1e-5, in bf16 as exact."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core import plugins
from ssl_core.contracts import Objective
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.testing.harness import Setting
from ssl_core.tokenizers import IdTokenizer
from ssl_core.tokens import Outcome
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.learner import Learner

CATALOGUE = plugins.load()
OBJECTIVES = [entry.name for entry in CATALOGUE.entries("objective") if entry.origin.plugin.startswith("sslx:")]


@dataclass
class Perturbed:
    """A learner with weights away from their start, and what it is given."""

    learner: Learner
    inputs: Mapping[str, Tensor]

    @property
    def objective(self) -> Objective:
        return self.learner.objective


def perturbed(cls: type[Objective], options: dict[str, Any]) -> Perturbed:
    """The same weights whatever the options."""
    torch.manual_seed(0)
    bench = Setting(cls, options, "continuous_and_discrete").build()
    with torch.no_grad():
        for parameter in (*bench.tokenizer.parameters(), *bench.encoder.parameters(), *bench.objective.parameters()):
            parameter += 0.1 * torch.randn_like(parameter)  # the second-order term is tiny near initialisation
    return Perturbed(Learner(bench.tokenizer, bench.encoder, bench.objective), bench.inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_compiled_step_is_the_eager_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    bench = Setting(CATALOGUE.objective(name), {}, "continuous_and_discrete").build()
    learner = Learner(bench.tokenizer, bench.encoder, bench.objective)
    twin = copy.deepcopy(learner)
    step = CompiledStep(twin, "key", tmp_path)
    inputs: Mapping[str, Tensor] = bench.inputs
    for seed in range(2):
        draws = learner.draw(len(next(iter(inputs.values()))), torch.Generator().manual_seed(seed))
        losses = []
        for one, function in ((learner, learner), (twin, step)):
            one.zero_grad()
            torch.manual_seed(seed)
            outcome = function(inputs, draws)
            outcome.loss.backward()
            losses.append(outcome.loss.detach())
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
        for (parameter, eager), compiled in zip(learner.named_parameters(), twin.parameters(), strict=True):
            assert (eager.grad is None) == (compiled.grad is None), parameter
            if eager.grad is not None:
                largest = float(eager.grad.abs().max())
                torch.testing.assert_close(compiled.grad, eager.grad, rtol=1e-5, atol=1e-5 * largest, msg=parameter)


@pytest.mark.slow
def test_in_bf16_a_compiled_step_errs_as_the_eager_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MetaMAE with weights away from their start. A lost second derivative would be a larger error than rounding."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    learner = perturbed(CATALOGUE.objective("metamae"), {"alpha": 2.0})
    first_order = perturbed(CATALOGUE.objective("metamae"), {"alpha": 2.0, "first_order": True})
    inputs = learner.inputs
    draws = learner.draw(len(next(iter(inputs.values()))), torch.Generator().manual_seed(0))
    step = CompiledStep(copy.deepcopy(learner.learner), "key", tmp_path)

    def gradient(module: Learner, function: Callable[..., Outcome], half: bool) -> Tensor:
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            outcome = function(inputs, draws)
        outcome.loss.backward()
        return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    exact = gradient(learner.learner, learner.learner, half=False)

    def error(found: Tensor) -> float:
        return float((found - exact).norm() / exact.norm())

    eager = error(gradient(learner.learner, learner.learner, half=True))
    assert error(gradient(step.learner, step, half=True)) < 1.3 * eager
    assert error(gradient(first_order.learner, first_order.learner, half=False)) > 5 * eager


@pytest.mark.slow
def test_a_compiled_step_on_ids_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tokens share few rows of the table; two threads that add to one row must not do so in an order of chance."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.set_num_threads(2)
    tokenizer = IdTokenizer(IdTokenizer.Options(), {}, 64, field="x", length=128, vocab=5)
    encoder = TransformerEncoder(EncoderOptions(dim=64, depth=1, heads=2, positions="learned"), tokenizer.layout)
    cls, masking = CATALOGUE.objective("mae"), CATALOGUE.masking("random")
    options = cls.Options(depth=1, width=32, heads=2)  # type: ignore[call-arg]
    learner = Learner(
        tokenizer, encoder, cls(options, tokenizer.layout, 64, masking(masking.Options(ratio=0.5), tokenizer.layout))
    )
    inputs = {"x": torch.randint(5, (64, 128))}
    draws = learner.draw(64, torch.Generator().manual_seed(0))
    step, found = CompiledStep(learner, "key", tmp_path), []
    for _ in range(8):
        learner.zero_grad()
        step(inputs, draws).loss.backward()
        found.append([p.grad.clone() for p in learner.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))
