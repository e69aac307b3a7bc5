"""Golden losses: twenty steps of a small learner, for every shipped objective on every kind of layout.

After a change that is meant to change the losses, or for a new objective, write golden_losses.json anew and look at
its diff:

    SSLX_UPDATE_GOLDEN=1 python -m pytest tests/plugins/test_golden_losses.py

With `-k` only the cells that are chosen are written. The steps are the engine's own (AdamW, fp32, one thread).

So that the comparison is about mathematics and neither blind nor chaotic: the weights are moved from their start by
N(0, 0.1), because near it the inner gradient of MetaMAE is so small that a thousandth of its step size alpha changes
the losses by less than the tolerance; and the rate is the paper's 1e-4. Measured then, at most, as parts of a loss:
3e-7 for two threads instead of one, 5e-7 for a disturbance of all weights by 1e-7 of their value, and 2e-5 to 5e-5 on
grids for the thousandth of alpha. With N(0, 0.2) the disturbance came to 6e-4.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_core import Learner, Objective, plugins
from ssl_core.contracts import PROGRESS
from ssl_core.testing.harness import Setting
from ssl_core.testing.layouts import CASES, sample
from ssl_core.training.optim import make_optimizer, rate_at
from ssl_core.training.options import TrainOptions
from ssl_core.utils.seeds import generator, seed_torch

GOLDEN = Path(__file__).with_name("golden_losses.json")
UPDATE = os.environ.get("SSLX_UPDATE_GOLDEN") not in (None, "", "0")
COMMAND = "SSLX_UPDATE_GOLDEN=1 python -m pytest tests/plugins/test_golden_losses.py"
SHIPPED: dict[str, type[Objective]] = {
    entry.name: entry.value for entry in plugins.load().entries("objective") if entry.origin.plugin.startswith("sslx:")
}
STEPS = 20
KEPT = (0, 5, 10, 15, 19)
SEED = 0
RTOL = 1e-5
AWAY = 0.1
STREAMS = {"encoder.cls_token": "encoder.summary"}  # a renamed parameter keeps its random numbers, so losses stay
TRAIN = TrainOptions(steps=STEPS, lr=1e-4, precision="fp32")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The order of sums, thus the last digits, would depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses(objective: type[Objective], case: str, **values: Any) -> list[float]:
    """The losses of the steps in KEPT."""
    setting = Setting(objective, values, case)
    bench = setting.build(SEED)
    learner = Learner(bench.tokenizer, bench.encoder, bench.objective).train()
    move(learner)
    learner.start_teacher()
    optimizer = make_optimizer(learner, TRAIN)
    seen = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(TRAIN, step)
        draws = learner.draw(setting.rows, generator(SEED, "draw", step)) | {PROGRESS: torch.tensor(step / STEPS)}
        inputs = sample(bench.tokenizer, setting.rows, seed=step)
        seed_torch(SEED, "step", step)
        outcome = learner(inputs, draws)
        outcome.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        learner.update_teacher(draws[PROGRESS])
        seen.append(outcome.loss.item())
    return [float(f"{seen[step]:.9g}") for step in KEPT]  # nine digits hold a float32


def move(learner: Learner) -> None:
    """Away from the start, parameter by parameter under its own name, so that a new one does not move the others."""
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            parameter += AWAY * torch.randn(parameter.shape, generator=generator(SEED, STREAMS.get(name, name)))


def read() -> dict[str, dict[str, list[float]]]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))["losses"] if GOLDEN.exists() else {}


def write(golden: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Sorted, a cell a line, so that a diff shows what changed."""
    blocks = []
    for name in sorted(golden):
        rows = [f"   {json.dumps(case)}: {json.dumps(golden[name][case])}" for case in CASES if case in golden[name]]
        blocks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n  }")
    head = f' "written by": {json.dumps(COMMAND)},\n "torch": {json.dumps(torch.__version__)},\n'
    head += f' "losses of steps": {json.dumps(KEPT)},\n'
    GOLDEN.write_text("{\n" + head + ' "losses": {\n' + ",\n".join(blocks) + "\n }\n}\n", encoding="utf-8")


def differs(found: list[float], wanted: list[float]) -> bool:
    return found != pytest.approx(wanted, rel=RTOL, abs=0.0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SHIPPED)
def test_losses_are_those_on_record(name: str, case: str) -> None:
    found, golden = losses(SHIPPED[name], case), read()
    if UPDATE:
        write(golden | {name: golden.get(name, {}) | {case: found}})
        return
    wanted = golden.get(name, {}).get(case)
    assert wanted is not None, f"objective '{name}' has no golden losses on {case} yet; write them with: {COMMAND}"
    assert not differs(found, wanted), (
        f"the losses of '{name}' on {case} changed at steps {KEPT}: found {found}, on record {wanted}; "
        f"if that is what the change is for, write them anew with: {COMMAND}"
    )


def test_nothing_on_record_is_left_over() -> None:
    golden = read()
    kept = {name: {case: row for case, row in cells.items() if case in CASES} for name, cells in golden.items()}
    kept = {name: cells for name, cells in kept.items() if name in SHIPPED}
    if UPDATE:
        write(kept)
    else:
        assert kept == golden, f"golden losses of what is not shipped; remove them with: {COMMAND}"


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("metamae", "alpha", 0.5),
        ("metamae", "contrast_weight", 0.1),
        ("metamae", "temperature", 0.5),
        ("emix", "temperature", 0.2),
        ("capri", "temperature", 0.07),
    ],
)
def test_a_thousandth_more_of_a_constant_is_noticed(name: str, option: str, value: float) -> None:
    """The control: what the test above is to notice. The first assertion says that it is the constant's default."""
    golden = read()[name]["continuous_2d"]
    assert SHIPPED[name].Options.model_fields[option].default == value
    assert differs(losses(SHIPPED[name], "continuous_2d", **{option: 1.001 * value}), golden)


def test_leaving_out_the_second_derivative_is_noticed() -> None:
    assert differs(losses(SHIPPED["metamae"], "continuous_3d", first_order=True), read()["metamae"]["continuous_3d"])
