"""Compiled steps of all shipped objectives equal eager ones: to 1e-5 in fp32, with similar rounding errors in bf16."""

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
SOONER = {"emix", "metamae"}  # tested by .ci/run: a compiler takes up to two minutes for an objective


@dataclass
class Perturbed:
    """A learner with perturbed weights, and its inputs."""

    learner: Learner
    inputs: Mapping[str, Tensor]


def perturbed(cls: type[Objective], options: dict[str, Any]) -> Perturbed:
    """Perturbed weights that do not depend on the options."""
    torch.manual_seed(0)
    harness = Setting(cls, options, "continuous_and_discrete").build()
    with torch.no_grad():
        for parameter in (
            *harness.tokenizer.parameters(),
            *harness.encoder.parameters(),
            *harness.objective.parameters(),
        ):
            parameter += 0.1 * torch.randn_like(parameter)  # the second-order term is tiny near initialisation
    return Perturbed(Learner(harness.tokenizer, harness.encoder, harness.objective), harness.inputs)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SOONER else pytest.mark.release) for n in OBJECTIVES]
)
def test_compiled_step_equals_eager_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    harness = Setting(CATALOGUE.objective(name), {}, "continuous_and_discrete").build()
    learner = Learner(harness.tokenizer, harness.encoder, harness.objective)
    learner.start_teacher()
    compiled_learner = copy.deepcopy(learner)
    step = CompiledStep(compiled_learner, "key", tmp_path)
    inputs: Mapping[str, Tensor] = harness.inputs
    for seed in range(2):
        draws = harness.draws(seed=seed)
        losses = []
        for module, function in ((learner, learner), (compiled_learner, step)):
            module.zero_grad()
            torch.manual_seed(seed)
            outcome = function(inputs, draws)
            outcome.loss.backward()
            losses.append(outcome.loss.detach())
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
        for (parameter, eager), compiled in zip(learner.named_parameters(), compiled_learner.parameters(), strict=True):
            assert (eager.grad is None) == (compiled.grad is None), parameter
            if eager.grad is not None:
                largest = float(eager.grad.abs().max())
                torch.testing.assert_close(compiled.grad, eager.grad, rtol=1e-5, atol=1e-5 * largest, msg=parameter)


@pytest.mark.release
def test_bf16_error_of_compiled_step_is_that_of_eager_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MetaMAE with perturbed weights. Without the second derivative the error would exceed the rounding error."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    learner = perturbed(CATALOGUE.objective("metamae"), {"alpha": 2.0})
    first_order = perturbed(CATALOGUE.objective("metamae"), {"alpha": 2.0, "first_order": True})
    inputs = learner.inputs
    draws = learner.learner.draw(len(next(iter(inputs.values()))), torch.Generator().manual_seed(0))
    step = CompiledStep(copy.deepcopy(learner.learner), "key", tmp_path)

    def gradient(module: Learner, function: Callable[..., Outcome], half: bool) -> Tensor:
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            outcome = function(inputs, draws)
        outcome.loss.backward()
        return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    exact = gradient(learner.learner, learner.learner, half=False)

    def error(approximate: Tensor) -> float:
        return float((approximate - exact).norm() / exact.norm())

    eager = error(gradient(learner.learner, learner.learner, half=True))
    assert error(gradient(step.learner, step, half=True)) < 1.3 * eager
    assert error(gradient(first_order.learner, first_order.learner, half=False)) > 5 * eager


@pytest.mark.release
def test_compiled_step_on_ids_is_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tokens share few rows of the table, to which two threads must add in a fixed order."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.set_num_threads(2)
    tokenizer = IdTokenizer(IdTokenizer.Options(), {}, 64, field="x", length=128, vocab=5)
    encoder = TransformerEncoder(EncoderOptions(dim=64, depth=1, heads=2, positions="learned"), tokenizer.layout)
    cls, masking = CATALOGUE.objective("mae"), CATALOGUE.masking("random")
    options = cls.Options(depth=1, width=32, heads=2)  # type: ignore[call-arg]
    learner = Learner(
        tokenizer,
        encoder,
        cls(options, tokenizer.layout, 64, {"mask": masking(masking.Options(ratio=0.5), tokenizer.layout)}),
    )
    inputs = {"x": torch.randint(5, (64, 128))}
    draws = learner.draw(64, torch.Generator().manual_seed(0))
    step, runs = CompiledStep(learner, "key", tmp_path), []
    for _ in range(8):
        learner.zero_grad()
        step(inputs, draws).loss.backward()
        runs.append([p.grad.clone() for p in learner.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))
