"""The teacher: an exponential moving average (EMA) of parts of the model, updated after each optimiser step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ssl_core.contracts import Ema, Teacher
from ssl_core.nn.encoder import Encoder
from ssl_core.tokens import Tokens


class TeacherCopy(nn.Module):
    """Copies of parts of the student, averaged over the steps of training. The student is a `Learner`."""

    def __init__(self, student: nn.Module, ema: Ema) -> None:
        super().__init__()
        self.ema = ema
        # a ModuleDict takes no dots in its keys
        self.parts = nn.ModuleDict({_key(name): copy.deepcopy(part) for name, part in _parts_of(student, ema)})
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> TeacherCopy:
        """The teacher stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def view(self, inputs: Mapping[str, Tensor], tokens: Tokens, encoder: Encoder) -> Teacher:
        """What the objective gets of the teacher for a batch. tokens, encoder: the student's."""
        parts, prefix = dict(self.parts.items()), _key("objective.")
        own = parts["tokenizer"](inputs) if "tokenizer" in parts else _detached(tokens)
        modules = {name.removeprefix(prefix): part for name, part in parts.items() if name.startswith(prefix)}
        return Teacher(own, parts.get("encoder", encoder), modules)  # type: ignore[arg-type]

    @torch.no_grad()
    def update(self, student: nn.Module, progress: Tensor) -> None:
        """teacher = m teacher + (1 - m) student for parameters; buffers are copied. No number leaves the device."""
        momentum = self.ema.momentum(progress)
        for name, part in _parts_of(student, self.ema):
            teacher = self.parts[_key(name)]
            mine: list[Tensor] = list(teacher.parameters())
            theirs: list[Tensor] = list(part.parameters())
            if mine:
                torch._foreach_mul_(mine, momentum)
                torch._foreach_add_(mine, list(torch._foreach_mul(theirs, 1 - momentum)))
            for own, other in zip(teacher.buffers(), part.buffers(), strict=True):
                own.copy_(other)


def _parts_of(student: nn.Module, ema: Ema) -> Iterator[tuple[str, nn.Module]]:
    """The student's modules that a teacher averages."""
    for name in ema.of:
        yield name, student.get_submodule(name)


def _key(name: str) -> str:
    return name.replace(".", "/")


def _detached(tokens: Tokens) -> Tokens:
    return Tokens(tokens.embeddings.detach(), tokens.targets, tokens.layout, tokens.geometry)
