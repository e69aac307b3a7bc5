"""The gradient of a batch that is computed in micro-batches, also where the loss couples samples of different ones.

Each micro-batch counts as the batch of a process of its own. What the loss takes of the whole batch, by the functions
of `ssl_core.nn.distributed`, is not known while the first micro-batch is computed. So micro-batches are computed more
than once: without gradients, for the values; then for the gradients of gathered rows; at last for the gradients of the
parameters. For one gather of features these are the passes of GradCache (Gao et al., arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.errors import SslxError
from ssl_core.nn.distributed import Group

Forward = Callable[[int], Tensor]
"""Computes the loss of a micro-batch, 0-dim, by its number; each time with the same random numbers."""


@dataclass
class Collective:
    """One call of the group by the loss.

    Attributes:
        gathers: Rows are gathered; else values are summed.
        own: The value of each micro-batch in this process, in the current pass.
        used: What each of them took for the result, in the current pass.
        result: The result for the whole batch, as far as it is known.
        differentiable: A gradient flows through it, or may do so.
        rows: What the current micro-batch gathers, with its graph. None if the loss is compiled.
        gathered: What it got, with its graph. None if the loss is compiled.
        partial: The gradient of the result, summed over the micro-batches so far.
        gradient: The gradient of the result, once it is known.
    """

    gathers: bool
    own: list[Tensor] = field(default_factory=list)
    used: list[Tensor] = field(default_factory=list)
    result: Tensor | None = None
    differentiable: bool = False
    rows: Tensor | None = None
    gathered: Tensor | None = None
    partial: Tensor | None = None
    gradient: Tensor | None = None

    @property
    def is_open(self) -> bool:
        """Whether a gradient flows through it that is not known."""
        return self.differentiable and self.gradient is None

    def add(self, gradient: Tensor) -> None:
        """Add to the gradient of the result."""
        self.partial = gradient if self.partial is None else self.partial + gradient


class MicroBatches(Group):
    """The micro-batches of a step as a group, those of all processes.

    Args:
        count: Number of micro-batches.
        group: The processes that each of them is divided among; None for a single one.
        coupled: Compute them for the values first. If False, this is done from the first step on in which the loss of
            one turns out to depend on the others, as that of a mean whose divisors differ.
        buffers: Those that a forward pass may change. Each gets the values of before the step, so that they count the
            batch once.
        compiled: The loss is compiled, once for all passes.
    """

    def __init__(
        self,
        count: int,
        group: Group | None = None,
        coupled: bool = False,
        buffers: Sequence[Tensor] = (),
        compiled: bool = False,
    ) -> None:
        self.count, self.group, self.coupled, self.buffers, self.compiled = count, group, coupled, buffers, compiled
        self.saved: list[Tensor] = []
        self.collectives: dict[int, Collective] = {}
        self.part, self.position, self.passes = 0, 0, 0
        self.is_computing = False
        self.waits: dict[int, set[int]] | None = None

    @property
    def rank(self) -> int:
        """Number of the current micro-batch of this process among those of all."""
        return self.part if self.group is None else self.part * self.group.size + self.group.rank

    @property
    def size(self) -> int:
        """Number of micro-batches of all processes."""
        return self.count if self.group is None else self.count * self.group.size

    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum over the micro-batches; before it is known, as if the values of all were this one."""
        position = self._next()
        if self.compiled:
            return _sum_operator(value.detach(), position)
        return self.take_part(value, position, gathers=False).used[-1].clone()

    def all_gather(self, value: Tensor) -> Tensor:
        """The rows of all micro-batches; before they are known, as if those of all were these."""
        return self.gather(value.detach())

    def gather(self, rows: Tensor) -> Tensor:
        """As `all_gather`. It can be differentiated, but not by the loss itself."""
        position = self._next()
        if self.compiled:
            return _gather_operator(rows, position, self.size)
        collective = self.take_part(rows, position, gathers=True)
        gathered: Tensor = _Gathered.apply(rows, collective.used[-1], self)
        collective.rows, collective.gathered = rows, gathered
        collective.differentiable = gathered.requires_grad or not torch.is_grad_enabled()
        return gathered

    def _next(self) -> int:
        self.position += 1
        return self.position - 1

    def take_part(self, value: Tensor, position: int, gathers: bool) -> Collective:
        """The collective at a position, with the value of the current micro-batch and what it takes for the result.

        Raises:
            SslxError: the first micro-batch has another one there.
        """
        if self.part == 0 and position not in self.collectives:
            self.collectives[position] = Collective(gathers)
        collective, own = self.collectives.get(position), value.detach()
        if collective is None or collective.gathers != gathers:
            raise _unlike()
        collective.own.append(own.clone())
        if collective.result is not None:
            collective.used.append(collective.result)
        else:
            collective.used.append(own.repeat(self.size, *[1] * (own.dim() - 1)) if gathers else own * self.size)
        return collective

    def add_gradient(self, forward: Forward, parameters: Sequence[nn.Parameter]) -> None:
        """Compute the gradient of the mean loss of the micro-batches, in `grad` of the parameters.

        This group is in use meanwhile (`use_group`). Of several processes each gets its part; their mean is the
        gradient.

        Args:
            forward: Computes the loss of a micro-batch.
            parameters: Those of the model. They have no gradient yet.

        Raises:
            SslxError: the loss cannot be computed in micro-batches.
        """
        global _running
        self.collectives, self.passes, _running = {}, 0, self
        try:
            self.saved = [buffer.clone() for buffer in self.buffers]
            if self.coupled:
                with torch.set_grad_enabled(self.compiled):
                    self._compute(forward, lambda loss: None)
            while not (self._compiled_pass(forward) if self.compiled else self._pass(forward)):
                for parameter in parameters:
                    parameter.grad = None
        finally:
            self.collectives, _running = {}, None

    def _pass(self, forward: Forward) -> bool:
        """Compute all micro-batches for what is not known yet. Returns whether the parameters have their gradient."""
        waiting = [number for number, collective in self.collectives.items() if collective.is_open]
        if waiting:
            if self._compute(forward, self._collect):
                self._close(waiting)
            return False
        right = self._compute(forward, self._backward)
        right = right and not any(collective.is_open for collective in self.collectives.values())
        self.coupled = self.coupled or not right
        return right

    def _compiled_pass(self, forward: Forward) -> bool:
        """As `_pass`, where the graph of a micro-batch cannot be looked at: its backward pass exchanges gradients.

        They are right if the pass before had the same.
        """
        right, same = self._compute(forward, lambda loss: loss.backward()), list[Tensor]()
        for _, collective in sorted(self.collectives.items()):
            if collective.partial is not None:
                total = collective.partial if self.group is None else self.group.all_reduce(collective.partial)
                right = right and collective.gradient is not None
                same += [] if collective.gradient is None else [_is_same(collective.gradient, total)]
                collective.gradient = total
        right = (right and _all(same)) or self.passes > 2 * len(self.collectives) + 1
        self.coupled = self.coupled or not right
        return right

    def _compute(self, forward: Forward, use: Callable[[Tensor], None]) -> bool:
        """Compute each micro-batch and call `use` with its part of the mean loss.

        Returns:
            Whether what they took for the results of the collectives was right.
        """
        for collective in self.collectives.values():
            collective.own, collective.used, collective.partial = [], [], None
        for part in range(self.count):
            self.part, self.position, self.is_computing = part, 0, True
            with torch.no_grad():
                for buffer, value in zip(self.buffers, self.saved, strict=True):
                    buffer.copy_(value)
            loss = forward(part)
            self.is_computing = False
            if any(len(collective.own) != part + 1 for collective in self.collectives.values()):
                raise _unlike()
            use(loss / self.count)
            for collective in self.collectives.values():
                collective.rows = collective.gathered = None  # else they keep the graph
        return self._settle()

    def _settle(self) -> bool:
        """Compute the results of the collectives from the values of this pass; return whether it has used these."""
        self.passes += 1
        same: list[Tensor] = []
        for _, collective in sorted(self.collectives.items()):
            if collective.gathers:
                parts = collective.own if self.group is None else [self.group.all_gather(own) for own in collective.own]
                collective.result = torch.cat(parts)
            else:
                total = torch.stack(collective.own).sum(dim=0).to(collective.own[0].dtype)
                collective.result = total if self.group is None else self.group.all_reduce(total)
            same += [_is_same(used, collective.result) for used in collective.used]
        right = _all(same)
        # a pass makes one more result right; the limit is for devices that give other bits each time
        right = right or self.passes > len(self.collectives)
        if self.group is None or not self.collectives:
            return right
        wrong = torch.tensor(float(not right), device=self.collectives[0].own[0].device)
        return not bool(self.group.all_reduce(wrong))

    def _collect(self, loss: Tensor) -> None:
        """Add to the gradients of results that are not known, from the loss and from gathered rows whose gradients are.

        These are computed in the order of the graph: rows that depend on an earlier result pass their gradient on.
        """
        targets = {
            number: collective.gathered
            for number, collective in self.collectives.items()
            if collective.is_open and collective.gathered is not None
        }
        if not targets:
            return
        if self.waits is None:
            self.waits = {number: self._later(number, list(targets)) for number in targets}
        roots, gradients = self._roots(loss)
        found = torch.autograd.grad(roots, list(targets.values()), gradients, allow_unused=True)
        for number, gradient in zip(targets, found, strict=True):
            if gradient is not None:
                self.collectives[number].add(gradient)

    def _later(self, number: int, targets: Sequence[int]) -> set[int]:
        """The numbers of the later collectives whose rows depend on the result of this one."""
        gathered = self.collectives[number].gathered
        assert gathered is not None
        later = ((one, self.collectives[one].rows) for one in targets if one > number)
        return {one for one, rows in later if rows is not None and _depends(rows, gathered)}

    def _close(self, waiting: Sequence[int]) -> None:
        """Keep the gradients of the results that no later result without a gradient depends on."""
        for number in waiting:
            collective = self.collectives[number]
            if collective.is_open and (self.waits or {}).get(number, set()).isdisjoint(waiting):
                assert collective.result is not None
                partial = torch.zeros_like(collective.result) if collective.partial is None else collective.partial
                collective.gradient = partial if self.group is None else self.group.all_reduce(partial)

    def _backward(self, loss: Tensor) -> None:
        """Add to the gradients of the parameters, from the loss and from gathered rows whose gradients are known."""
        torch.autograd.backward(*self._roots(loss))

    def _roots(self, loss: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """The loss and the rows that the current micro-batch gathers, with their gradients as far as known."""
        roots: list[Tensor] = [loss]
        gradients: list[Tensor | None] = [None]
        for collective in self.collectives.values():
            if collective.gradient is not None and collective.rows is not None:
                first = self.rank * len(collective.rows)
                roots.append(collective.rows)
                gradients.append(collective.gradient[first : first + len(collective.rows)])
        return roots, gradients


class NotDivisible(SslxError):
    """The loss differentiates through a gather, so its value depends on a gradient of other micro-batches."""

    def __init__(self) -> None:
        super().__init__(
            "the loss differentiates through gather_batch, which train.accumulate_steps cannot compute; set "
            "train.accumulate_steps=1"
        )


class _Gathered(torch.autograd.Function):
    """The result of a gather. Its gradient is not that of one micro-batch: `MicroBatches` collects it."""

    @staticmethod
    def forward(rows: Tensor, result: Tensor, batches: MicroBatches) -> Tensor:
        return result.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, MicroBatches], output: Tensor) -> None:
        ctx.batches = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        if ctx.batches.is_computing:
            raise NotDivisible
        return None, None, None


_running: MicroBatches | None = None
"""Those whose step is computed: what the operators of compiled code take part in."""


@torch.library.custom_op("sslx::micro_batch_sum", mutates_args=())
def _sum_operator(value: Tensor, position: int) -> Tensor:
    """`MicroBatches.all_reduce` as one operator."""
    assert _running is not None
    return _running.take_part(value, position, gathers=False).used[-1].clone()


@_sum_operator.register_fake
def _(value: Tensor, position: int) -> Tensor:
    return torch.empty_like(value)


@torch.library.custom_op("sslx::micro_batch_gather", mutates_args=())
def _gather_operator(rows: Tensor, position: int, size: int) -> Tensor:
    """`MicroBatches.gather` as one operator."""
    assert _running is not None
    return _running.take_part(rows, position, gathers=True).used[-1].clone()


@_gather_operator.register_fake
def _(rows: Tensor, position: int, size: int) -> Tensor:
    return rows.new_empty((size * rows.shape[0], *rows.shape[1:]))


@torch.library.custom_op("sslx::micro_batch_gradient", mutates_args=())
def _gradient_operator(gradient: Tensor, position: int, size: int) -> Tensor:
    """The gradient of the rows of the current micro-batch, once it is known; else 0. Collects that of the result."""
    assert _running is not None
    if _running.is_computing:
        raise NotDivisible
    collective, count = _running.collectives[position], len(gradient) // size
    collective.add(gradient.clone())
    if collective.gradient is None:
        return torch.zeros_like(gradient[:count])
    return collective.gradient[_running.rank * count :][:count].clone()


@_gradient_operator.register_fake
def _(gradient: Tensor, position: int, size: int) -> Tensor:
    return gradient.new_empty((gradient.shape[0] // size, *gradient.shape[1:]))


def _remember_position(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
    _, ctx.position, ctx.size = inputs


def _gather_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return _gradient_operator(gradient, ctx.position, ctx.size), None, None


_gather_operator.register_autograd(_gather_backward, setup_context=_remember_position)


def _is_same(one: Tensor, other: Tensor) -> Tensor:
    """Whether two tensors have the same values, 0-dim; NaN is the same as NaN."""
    if one.shape != other.shape:
        return torch.zeros((), dtype=torch.bool, device=one.device)
    return ((one == other) | ((one != one) & (other != other))).all()


def _all(flags: Sequence[Tensor]) -> bool:
    """Whether all flags are set; looks at the device once."""
    return not flags or bool(torch.stack(list(flags)).all())


def _depends(value: Tensor, other: Tensor) -> bool:
    """Whether the graph of a value holds the operation that has made another one."""
    seen, found = set(), [value.grad_fn]
    while found:
        node = found.pop()
        if node is None or node in seen:
            continue
        if node is other.grad_fn:
            return True
        seen.add(node)
        found += [before for before, _ in node.next_functions]
    return False


def _unlike() -> SslxError:
    return SslxError(
        "the loss of one micro-batch compares other values of the whole batch than that of another; set "
        "train.accumulate_steps=1"
    )
