"""One optimiser step: its micro-batches, and the function that updates the weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeAlias

import torch
from torch import Tensor

from ssl_core.contracts import PROGRESS
from ssl_core.nn.distributed import use_group
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.prefetch import BatchStream, TensorDict
from ssl_core.tokens import Outcome
from ssl_core.training.accel.cuda_graph import GraphedStep
from ssl_core.training.accumulation import MicroBatches
from ssl_core.training.device import autocast
from ssl_core.training.finite import NOT_FINITE, FiniteGuard, changing_buffers, gradient_norm
from ssl_core.training.learner import Learner
from ssl_core.training.options import TrainOptions
from ssl_core.training.parallel import average_gradients, check_alike
from ssl_core.training.plan import TrainingPlan
from ssl_core.utils.seeds import seed_torch

GRAD_NORM = "train/grad_norm"
Batch = tuple[TensorDict, TensorDict]
"""Inputs and draws."""
Batches: TypeAlias = "list[Batch] | StepBatches"
"""The micro-batches of a step."""
Values = dict[str, Tensor]
"""Loss and metrics of a micro-batch; of the last of a step also the norm of the gradient, and whether it is finite."""


def batch_stream(learner: Learner, data: PreprocessedSplit, plan: TrainingPlan, numbers: range) -> BatchStream:
    """Inputs and draws of some micro-batches, of several processes those of this one."""
    size, views = plan.options.batch_size, learner.objective.views
    return BatchStream(
        learner, data, size, plan.seed, plan.device, numbers, progress_of(plan.options), plan.group, views,
        plan.options.accumulate_steps,
    )  # fmt: skip


def micro_batch_numbers(plan: TrainingPlan, step: int, end: int) -> range:
    """The numbers of the micro-batches from a step on, before step `end`."""
    return range(plan.options.accumulate_steps * step, plan.options.accumulate_steps * end)


class StepBatches:
    """The micro-batches of a step by number; each is taken from the stream at its first use, and made again later.

    So on CUDA, the next ones are prepared while one is computed. progress: put in place of that of the draws.
    """

    def __init__(self, feed: BatchStream, stream: Callable[[range], BatchStream], numbers: range) -> None:
        self.feed, self.stream, self.numbers = feed, stream, numbers
        self.taken = 0
        self.progress: float | None = None

    def __getitem__(self, part: int) -> Batch:
        if part == self.taken:
            self.taken += 1
            inputs, draws = self.feed.take()
        else:
            with self.stream(self.numbers[part : part + 1]) as again:
                inputs, draws = again.take()
        if self.progress is not None:
            draws[PROGRESS] = torch.full_like(draws[PROGRESS], self.progress)
        return inputs, draws


def progress_of(options: TrainOptions) -> Callable[[int], float]:
    """The share of the run that is done at a micro-batch, in [0, 1], by steps; the loop puts the clock in its place."""
    return lambda number: number // options.accumulate_steps / max(options.steps, 1)


def step_function(
    learner: Learner, optimizer: torch.optim.Optimizer, plan: TrainingPlan, guard: FiniteGuard | None = None
) -> Callable[[int, Batches], list[Values]]:
    """A function of the number of a step and its micro-batches. It updates the weights."""
    options, compiled, group, parameters = plan.options, plan.compiled, plan.group, list(learner.parameters())
    finite = guard or FiniteGuard(learner, optimizer, options.on_nan, plan.device, group)
    checked: list[bool] = []

    def forward(inputs: TensorDict, draws: TensorDict) -> Outcome:
        with autocast(plan.device, plan.precision):
            return (compiled or learner)(inputs, draws)

    def passes(inputs: TensorDict, draws: TensorDict) -> Values:
        finite.before()
        outcome = forward(inputs, draws)
        with compiled.compiling() if compiled is not None else nullcontext():
            outcome.loss.backward()
        finite.after(outcome.loss.detach())
        return values_of(outcome)

    def update(values: Values, progress: Tensor) -> None:
        if group is not None:
            if not checked:
                check_alike(learner, group)
                checked.append(True)
            average_gradients(parameters, group)
        values[GRAD_NORM] = gradient_norm(parameters, options.grad_clip, group)
        values[NOT_FINITE] = finite.update(values[GRAD_NORM], progress)

    def whole_step(inputs: TensorDict, draws: TensorDict) -> Values:
        values = passes(inputs, draws) if compiled is None else compiled.retrying(lambda: passes(inputs, draws))
        update(values, draws[PROGRESS])
        return values

    if options.accumulate_steps > 1:
        count, coupled = options.accumulate_steps, learner.objective.cross_sample_loss
        micro_batches = MicroBatches(count, group, coupled, changing_buffers(learner), compiled is not None)

        def accumulated_step(step: int, batches: Batches) -> list[Values]:
            values: list[Values] = [{} for _ in range(count)]
            kept: dict[int, Batch] = {}
            progress = torch.zeros(())

            def loss_of(part: int) -> Tensor:
                nonlocal progress
                inputs, draws = kept[part] if part in kept else batches[part]
                if micro_batches.coupled:  # there are more passes
                    kept[part] = inputs, draws
                seed_torch(plan.seed, plan.step_purpose, step * count + part)
                outcome, progress = forward(inputs, draws), draws[PROGRESS]
                values[part] = values_of(outcome)
                return outcome.loss

            def add_gradient() -> None:
                with use_group(micro_batches), compiled.compiling() if compiled is not None else nullcontext():
                    micro_batches.add_gradient(loss_of, parameters)

            finite.before()
            add_gradient() if compiled is None else compiled.retrying(add_gradient)
            for one in values:
                finite.after(one["loss"])
            update(values[-1], progress)
            return values

        return accumulated_step

    take_step = GraphedStep(whole_step, plan.device, plan.say, optimizer.zero_grad) if plan.graphed else whole_step

    def single_step(step: int, batches: Batches) -> list[Values]:
        inputs, draws = batches[0]
        seed_torch(plan.seed, plan.step_purpose, step)
        return [take_step(inputs, draws)]

    return single_step


def values_of(outcome: Outcome) -> Values:
    """Loss and metrics, without their graphs."""
    return {"loss": outcome.loss.detach(), **outcome.metrics}
