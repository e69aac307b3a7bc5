"""Golden losses: twenty steps of a small learner, for every shipped objective on every kind of layout.

After a change that is meant to change the losses, or for a new objective, rewrite golden_losses.json and inspect its
diff:

    SSLX_UPDATE_GOLDEN=1 python -m pytest tests/plugins/test_golden_losses.py

With `-k` only the selected entries are written. A step is that of the training loop (AdamW, fp32, one thread).

The comparison must be sensitive to the mathematics but not to rounding. N(0, 0.1) is added to the initial weights,
since close to the initialisation the inner gradient of MetaMAE is so small that a change of its step size alpha by a
thousandth changes losses by less than the tolerance. The learning rate is MetaMAE's, 1e-4. Largest measured relative
changes of a loss: 3e-7 for two threads instead of one, 5e-7 for a relative perturbation of all weights by 1e-7, and
2e-5 to 5e-5 on grids for the thousandth of alpha. With N(0, 0.2) the perturbation changed losses by 6e-4.
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
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.training.schedule import rate_at
from ssl_core.utils.seeds import generator, seed_torch

GOLDEN = Path(__file__).with_name("golden_losses.json")
UPDATE = os.environ.get("SSLX_UPDATE_GOLDEN") not in (None, "", "0")
COMMAND = "SSLX_UPDATE_GOLDEN=1 python -m pytest tests/plugins/test_golden_losses.py"
SHIPPED: dict[str, type[Objective]] = {
    entry.name: entry.value for entry in plugins.load().entries("objective") if entry.origin.plugin.startswith("sslx:")
}
STEPS = 20
RECORDED_STEPS = (0, 5, 10, 15, 19)
SEED = 0
RTOL = 1e-5
NOISE = 0.1
STREAMS = {"encoder.cls_token": "encoder.summary"}  # names of the random streams of renamed parameters
TRAIN = TrainOptions(steps=STEPS, lr=1e-4, precision="fp32")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads changes the order of sums and so the last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def losses(objective: type[Objective], case: str, **values: Any) -> list[float]:
    """The losses of the steps in RECORDED_STEPS."""
    setting = Setting(objective, values, case)
    harness = setting.build(SEED)
    learner = Learner(harness.tokenizer, harness.encoder, harness.objective).train()
    perturb(learner)
    learner.start_teacher()
    optimizer = make_optimizer(learner, TRAIN)
    step_losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(TRAIN, step)
        draws = learner.draw(setting.rows, generator(SEED, "draw", step)) | {PROGRESS: torch.tensor(step / STEPS)}
        inputs = sample(harness.tokenizer, setting.rows, seed=step)
        seed_torch(SEED, "step", step)
        outcome = learner(inputs, draws)
        outcome.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        learner.update_teacher(draws[PROGRESS])
        step_losses.append(outcome.loss.item())
    return [float(f"{step_losses[step]:.9g}") for step in RECORDED_STEPS]  # nine digits hold a float32


def perturb(learner: Learner) -> None:
    """Add noise to each parameter, from a stream of its name, so that a new parameter does not affect the others."""
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            parameter += NOISE * torch.randn(parameter.shape, generator=generator(SEED, STREAMS.get(name, name)))


def read() -> dict[str, dict[str, list[float]]]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))["losses"] if GOLDEN.exists() else {}


def write(golden: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Write sorted, with one entry in each line, so that diffs are readable."""
    blocks = []
    for name in sorted(golden):
        rows = [f"   {json.dumps(case)}: {json.dumps(golden[name][case])}" for case in CASES if case in golden[name]]
        blocks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n  }")
    head = f' "written by": {json.dumps(COMMAND)},\n "torch": {json.dumps(torch.__version__)},\n'
    head += f' "losses of steps": {json.dumps(RECORDED_STEPS)},\n'
    GOLDEN.write_text("{\n" + head + ' "losses": {\n' + ",\n".join(blocks) + "\n }\n}\n", encoding="utf-8")


def differs(actual: list[float], expected: list[float]) -> bool:
    return actual != pytest.approx(expected, rel=RTOL, abs=0.0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SHIPPED)
def test_losses_equal_golden_losses(name: str, case: str) -> None:
    actual, golden = losses(SHIPPED[name], case), read()
    if UPDATE:
        write(golden | {name: golden.get(name, {}) | {case: actual}})
        return
    expected = golden.get(name, {}).get(case)
    assert expected is not None, f"objective '{name}' has no golden losses on {case} yet; write them with: {COMMAND}"
    assert not differs(actual, expected), (
        f"the losses of '{name}' on {case} changed at steps {RECORDED_STEPS}: got {actual}, expected {expected}; "
        f"if the change is intended, rewrite them with: {COMMAND}"
    )


def test_golden_losses_contain_no_stale_entries() -> None:
    golden = read()
    current = {name: {case: row for case, row in cells.items() if case in CASES} for name, cells in golden.items()}
    current = {name: cells for name, cells in current.items() if name in SHIPPED}
    if UPDATE:
        write(current)
    else:
        assert current == golden, (
            f"golden losses of objectives or layouts that do not exist; remove them with: {COMMAND}"
        )


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
def test_control_changes_of_constants_by_a_thousandth_are_detected(name: str, option: str, value: float) -> None:
    """The first assertion checks that `value` is the default."""
    golden = read()[name]["continuous_2d"]
    assert SHIPPED[name].Options.model_fields[option].default == value
    assert differs(losses(SHIPPED[name], "continuous_2d", **{option: 1.001 * value}), golden)


def test_control_missing_second_derivative_is_detected() -> None:
    assert differs(losses(SHIPPED["metamae"], "continuous_3d", first_order=True), read()["metamae"]["continuous_3d"])
