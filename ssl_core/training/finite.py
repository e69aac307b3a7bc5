"""Steps whose loss or gradient is not finite. They leave the weights as they are, and the device is not waited for."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_core.errors import SslxError
from ssl_core.nn.distributed import Group, is_sharded, own_part

OnNan = Literal["stop", "skip"]
NOT_FINITE = "not_finite"
"""Name of the flag among the values of a step."""


class NotFinite(SslxError):
    """The loss or the gradient of a step is not finite, and the run stops. The state before the step is saved."""


def changing_buffers(learner: Any) -> list[Tensor]:
    """The buffers that a forward pass may change: those of the objective and of batch norms."""
    norms = (module for module in learner.modules() if isinstance(module, _BatchNorm))
    return list({id(b): b for part in (learner.objective, *norms) for b in part.buffers()}.values())


class FiniteGuard:
    """Updates the weights after a backward pass, unless loss or gradient is not finite.

    On the CPU the numbers are looked at. On CUDA, a fused optimiser reads a flag on the device: with "stop" the flag
    stays set, so that the weights are those before the step until the loop looks at the flags.

    Args:
        learner: The module that is trained. Buffers of its objective and of batch norms are restored, too.
        optimizer: Its optimiser.
        on_nan: "stop" or "skip".
        device: Where the learner is.
        group: The processes that train together; a step that is not finite in one of them is so in all.
    """

    def __init__(
        self,
        learner: Any,
        optimizer: torch.optim.Optimizer,
        on_nan: OnNan,
        device: torch.device,
        group: Group | None = None,
    ) -> None:
        self.group = group
        self.learner, self.optimizer, self.on_nan = learner, optimizer, on_nan
        self.flag: Tensor | None = None
        sharded = any(is_sharded(parameter) for parameter in learner.parameters())  # takes no flag
        if device.type == "cuda" and optimizer.defaults.get("fused") and not sharded:
            self.flag = torch.zeros((), device=device)
            optimizer.found_inf = self.flag  # type: ignore[attr-defined]  # read by fused steps, as GradScaler sets it
        self.buffers = changing_buffers(learner)
        self.saved: list[Tensor] | None = None
        self.bad: Tensor | None = None
        self.pending: list[tuple[int, Tensor]] = []

    def before(self) -> None:
        """Call before each forward pass."""
        if self.saved is None:
            self.saved = [buffer.clone() for buffer in self.buffers]

    def after(self, loss: Tensor) -> None:
        """Call after each forward pass with its loss, 0-dim."""
        bad = ~torch.isfinite(loss)
        self.bad = bad if self.bad is None else self.bad | bad

    def update(self, norm: Tensor, progress: Tensor) -> Tensor:
        """Take a step of the optimiser and of the teacher, unless a loss or `norm` is not finite. Returns the flag.

        Args:
            norm: 0-dim, of the gradient of all batches of the step.
            progress: 0-dim, as in the draws.
        """
        bad = ~torch.isfinite(norm)
        bad = bad if self.bad is None else self.bad | bad
        if self.group is not None:
            bad = self.group.all_reduce(bad.to(torch.float32)) > 0
        if self.flag is not None:
            found = bad.to(self.flag)
            self.flag.copy_(torch.maximum(self.flag, found) if self.on_nan == "stop" else found)
            self.optimizer.step()
            for buffer, value in zip(self.buffers, self.saved or (), strict=True):
                buffer.copy_(torch.where(self.flag > 0, value, buffer))
            self.learner.update_teacher(progress, frozen=self.flag > 0)
            bad = self.flag > 0
        elif not bool(bad):
            self.optimizer.step()
            self.learner.update_teacher(progress)
        else:
            for buffer, value in zip(self.buffers, self.saved or (), strict=True):
                buffer.copy_(value)
        self.saved = self.bad = None
        self.optimizer.zero_grad()
        return bad

    def record(self, step: int, flag: Tensor) -> None:
        """Note the flag of a step, which is read by `bad_steps`."""
        self.pending.append((step, flag.clone() if flag.is_cuda else flag))

    @property
    def is_read_at_once(self) -> bool:
        """Whether reading a flag waits for nothing."""
        return self.flag is None

    def bad_steps(self) -> list[int]:
        """The numbers of the steps since the last call whose flag is set."""
        flags = torch.stack([flag for _, flag in self.pending]).tolist() if self.pending else []
        steps = [step for (step, _), flag in zip(self.pending, flags, strict=True) if flag]
        self.pending.clear()
        return steps


def gradient_norm(parameters: list[nn.Parameter], clip: float, group: Group | None = None) -> Tensor:
    """The norm of the gradient, which is clipped to the norm `clip` unless that is 0.

    group: the processes among which gradients may be sharded.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded = [own_part(gradient) for gradient in gradients if is_sharded(gradient)]
    if sharded and group is not None:
        rest = nn.utils.get_total_norm([gradient for gradient in gradients if not is_sharded(gradient)])
        norm = (group.all_reduce(nn.utils.get_total_norm(sharded).square()) + rest.square()).sqrt()
        if clip:  # as clip_grad_norm_ does, which takes no list of both kinds
            torch._foreach_mul_([own_part(gradient) for gradient in gradients], (clip / (norm + 1e-6)).clamp(max=1.0))
        return norm
    if clip:
        return nn.utils.clip_grad_norm_(parameters, clip)
    return nn.utils.get_total_norm(gradients)
