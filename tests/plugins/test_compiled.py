"""Every shipped objective compiled whole, as a run compiles it, is the eager one: in fp32 at 1e-5."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl_core import plugins
from ssl_core.engine.compile import CompiledStep
from ssl_core.engine.learner import Learner
from ssl_core.testing.bench import Setting

CATALOGUE = plugins.load()
OBJECTIVES = [entry.name for entry in CATALOGUE.entries("objective") if entry.origin.plugin.startswith("sslx:")]


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_compiled_step_is_the_eager_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    bench = Setting(CATALOGUE.objective(name), {}, "values_and_ids").build()
    learner = Learner(bench.tokenizer, bench.encoder, bench.objective)
    twin = copy.deepcopy(learner)
    step = CompiledStep(twin, "key", tmp_path)
    inputs: Mapping[str, Tensor] = bench.inputs
    for seed in range(2):
        draws = learner.objective.draw(len(next(iter(inputs.values()))), torch.Generator().manual_seed(seed))
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
