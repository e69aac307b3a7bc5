"""Gradients of batches that are computed in micro-batches: those of the whole batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_core import Learner, SslxError
from ssl_core.nn.distributed import batch_rows, batch_total, gather_batch, process_count, use_group, weighted_mean
from ssl_core.pipeline.sampler import Part, draws_of
from ssl_core.testing.harness import Setting
from ssl_core.testing.layouts import sample
from ssl_core.testing.parallel import train_in_micro_batches, train_in_threads
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.accumulation import MicroBatches
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.training.plan import TrainingPlan
from ssl_core.training.step import Batch, step_function
from ssl_plugins.objectives.metamae import MetaMAE
from tests.core.test_parallel import VARIANTS, gap, padded


@pytest.mark.parametrize(("name", "values"), VARIANTS, ids=lambda value: str(value))
def test_micro_batches_train_what_the_batch_trains_on_padded_rows(name: str, values: dict[str, Any]) -> None:
    learner, batches = padded(name, values, "continuous_and_discrete")
    start = copy.deepcopy(learner)
    (whole,) = train_in_threads(learner, batches, 1)
    assert gap(whole, start) > 1e-4, "the steps must change something"
    for count in (2, 3):
        assert gap(whole, train_in_micro_batches(learner, batches, count)) < 1e-12


@pytest.fixture
def no_gradient_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: each micro-batch gets the gradient of its own loss alone."""
    monkeypatch.setattr(MicroBatches, "_roots", lambda self, loss: ([loss], [None]))


@pytest.mark.parametrize("name", ["metamae", "emix"])
@pytest.mark.usefixtures("no_gradient_of_others")
def test_a_missing_gradient_of_other_micro_batches_is_found(name: str) -> None:
    learner, batches = padded(name, {}, "continuous_and_discrete")
    (whole,) = train_in_threads(learner, batches, 1)
    assert gap(whole, train_in_micro_batches(learner, batches, 2)) > 1e-6


class Step:
    """A loss of a weight and six numbers in micro-batches of two; counts the passes."""

    def __init__(self, loss: Any, coupled: bool = False, compiled: bool = False) -> None:
        self.loss, self.passes = loss, 0
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.values = torch.tensor([0.3, -1.0, 2.0, 0.5, -0.2, 1.1], dtype=torch.float64)
        self.group = MicroBatches(3, coupled=coupled, compiled=compiled)

    def gradient(self) -> float:
        """In micro-batches."""

        def loss_of(part: int) -> Tensor:
            self.passes += 1
            return self.loss(self.weight, self.values[2 * part : 2 * part + 2], part)

        self.weight.grad = None
        with use_group(self.group):
            self.group.add_gradient(loss_of, [self.weight])
        assert self.weight.grad is not None
        return self.weight.grad.item()

    def expected(self) -> float:
        """Of the whole batch."""
        (gradient,) = torch.autograd.grad(self.loss(self.weight, self.values, 0), self.weight)
        return gradient.item()


def plain_mean(weight: Tensor, values: Tensor, part: int) -> Tensor:
    return weighted_mean((weight * values).square(), torch.ones_like(values))


def mean_of_positive(weight: Tensor, values: Tensor, part: int) -> Tensor:
    return weighted_mean((weight * values).square(), (values > 0).double())


def variance(weight: Tensor, values: Tensor, part: int) -> Tensor:
    return gather_batch((weight * values).sin()).var()


def two_gathers(weight: Tensor, values: Tensor, part: int) -> Tensor:
    rows = (weight * values).sin()
    return gather_batch(rows).var() + gather_batch(rows.square()).mean().exp()


def chain(weight: Tensor, values: Tensor, part: int) -> Tensor:
    """The second gather depends on the first, and the third on both."""
    rows = (weight * values).sin()
    rows = rows - gather_batch(rows).mean()
    rows = rows / gather_batch(rows).square().mean().sqrt() + weight * rows
    return (gather_batch(rows).exp().mean() * rows * weight).square().mean()


def chain_of_constants(weight: Tensor, values: Tensor, part: int) -> Tensor:
    """A divisor that depends on a gather, and a factor that depends on the divisor."""
    rows = (weight * values).sin()
    positive = (rows - gather_batch(rows.detach()).mean() > 0).double()
    mean = weighted_mean(rows.square(), positive)
    size = batch_total(mean.detach()) / process_count()  # the average of the parts of the mean is the mean
    own = batch_rows(len(values), values.device)
    return mean * size + (rows * own).mean()


@pytest.mark.parametrize(
    ("loss", "passes"),
    [(plain_mean, 1), (mean_of_positive, 2), (variance, 3), (two_gathers, 3), (chain, 7), (chain_of_constants, 3)],
)
def test_gradients_and_their_passes(loss: Any, passes: int) -> None:
    """Of the first step; the next ones may have a pass more, of gathered rows that turn out to be constant."""
    step = Step(loss)
    assert step.gradient() == pytest.approx(step.expected(), rel=1e-13)
    assert step.passes == 3 * passes
    assert step.gradient() == pytest.approx(step.expected(), rel=1e-13)
    assert step.passes <= 3 * (2 * passes + 1)


def test_a_loss_that_is_known_to_couple_samples_is_first_computed_without_gradients() -> None:
    enabled = []

    def loss(weight: Tensor, values: Tensor, part: int) -> Tensor:
        enabled.append(torch.is_grad_enabled())
        return variance(weight, values, part)

    step = Step(loss, coupled=True)
    assert step.gradient() == pytest.approx(step.expected(), rel=1e-13)
    assert enabled == [False] * 3 + [True] * 6 + [True]  # the last: the whole batch


@pytest.mark.parametrize(
    ("loss", "passes"),
    [(plain_mean, 1), (mean_of_positive, 2), (variance, 3), (two_gathers, 3), (chain, 7), (chain_of_constants, 3)],
)
def test_gradients_and_their_passes_as_in_compiled_code(loss: Any, passes: int) -> None:
    """Where gradients are exchanged in the backward pass."""
    step = Step(loss, compiled=True)
    assert step.gradient() == pytest.approx(step.expected(), rel=1e-13)
    assert step.passes == 3 * passes
    assert step.gradient() == pytest.approx(step.expected(), rel=1e-13)
    assert step.passes <= 3 * (2 * passes + 1)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_loss_that_differentiates_through_a_gather_is_refused(compiled: bool) -> None:
    def loss(weight: Tensor, values: Tensor, part: int) -> Tensor:
        rows = weight * values
        (slope,) = torch.autograd.grad(gather_batch(rows).pow(3).sum(), weight, create_graph=True)
        return slope.square()

    with pytest.raises(SslxError, match="differentiates through gather_batch.*set train.accumulate_steps=1"):
        Step(loss, compiled=compiled).gradient()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("one", "other"), [(plain_mean, variance), (variance, two_gathers), (two_gathers, variance)])
def test_micro_batches_that_compare_other_values_are_refused(one: Any, other: Any, compiled: bool) -> None:
    def loss(weight: Tensor, values: Tensor, part: int) -> Tensor:
        return (other if part == 1 else one)(weight, values, part)

    with pytest.raises(SslxError, match="compares other values of the whole batch"):
        Step(loss, compiled=compiled).gradient()


def test_values_that_are_not_finite_end() -> None:
    step = Step(mean_of_positive)
    step.values[3] = torch.nan
    assert step.gradient() != step.gradient()


@pytest.mark.slow
def test_compiled_micro_batches_share_one_graph(tmp_path: Path) -> None:
    """Of a loss with two gathers: the step of eager code, in float32."""
    harness = Setting(MetaMAE, {"depth": 1}, "continuous_1d").build()
    first = Learner(harness.tokenizer, harness.encoder, harness.objective)
    second, options = copy.deepcopy(first), TrainOptions(accumulate_steps=3, optimizer="sgd", lr=0.1)
    batches: list[Batch] = []
    for seed in range(6):
        draws = first.draw(24, torch.Generator().manual_seed(seed // 3)) | {"progress": torch.tensor(0.5)}
        batches.append((sample(first.tokenizer, 8), draws_of(Part(seed % 3, 3), draws, 24)))
    losses = []
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]
    for learner, compiled in ((first, None), (second, CompiledStep(second, "key", tmp_path))):
        before = counted["unique_graphs"]
        plan = TrainingPlan(options, 0, torch.device("cpu"), "fp32", tmp_path, compiled=compiled)
        step = step_function(learner, make_optimizer(learner, options), plan)
        losses.append([[one["loss"].item() for one in step(number, batches[3 * number :][:3])] for number in range(2)])
        assert counted["unique_graphs"] - before == (compiled is not None)
    assert losses[1] == pytest.approx(np.array(losses[0]), rel=1e-4)
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=name)
