"""Teachers: an exponential moving average (EMA) of parts of the model, and a trained encoder that does not change."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ssl_core.contracts import Ema, Teacher, Tokenizer
from ssl_core.nn.distributed import own_part
from ssl_core.nn.encoder import Encoder
from ssl_core.tokens import Outcome, Tokens


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
    def update(self, student: nn.Module, progress: Tensor, frozen: Tensor | None = None) -> None:
        """teacher = m teacher + (1 - m) student for parameters; buffers are copied. No number leaves the device.

        frozen: 0-dim bool; where it is true, m is 1.
        """
        momentum = self.ema.momentum(progress)
        if frozen is not None:
            momentum = torch.where(frozen, torch.ones_like(momentum), momentum)
        for name, part in _parts_of(student, self.ema):
            teacher = self.parts[_key(name)]
            mine = [own_part(parameter) for parameter in teacher.parameters()]
            theirs = [own_part(parameter) for parameter in part.parameters()]
            if mine:
                torch._foreach_mul_(mine, momentum)
                torch._foreach_add_(mine, list(torch._foreach_mul(theirs, 1 - momentum)))
            for own, other in zip(teacher.buffers(), part.buffers(), strict=True):
                own.copy_(other)


class Distillation(nn.Module):
    """Self-distillation for further pre-training (Lee et al., ICLR 2023, section 3.2): an addition to any loss.

    The teacher is an encoder that began from the same weights as the student and was trained on the same data. Both
    encode whole rows, without a mask; the student's features are drawn towards the teacher's by the squared distance,
    averaged over the rows of a batch.

    Args:
        tokenizer: That of the teacher. It takes the same inputs as the student's.
        encoder: That of the teacher, of the student's width.
        weight: Factor of the distance (Lee et al.: 1).
        on: "pool" compares the vectors of `Encoder.pool`, "cls" the cls tokens, as the paper's published code.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder, weight: float = 1.0, on: str = "pool") -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.weight, self.on = tokenizer, encoder, weight, on
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Distillation:
        """The teacher stays in eval mode."""
        return super().train(False)

    def forward(self, outcome: Outcome, inputs: Mapping[str, Tensor], tokens: Tokens, encoder: Encoder) -> Outcome:
        """The outcome with the distance added; the metrics "objective_loss" and "distill_loss" are the two parts.

        Args:
            outcome: That of the objective.
            inputs: The batch, as the student's tokenizer got it.
            tokens: What the student's tokenizer made of it.
            encoder: The student's encoder.
        """
        student = self._features(encoder, tokens)
        with torch.no_grad():
            teacher = self._features(self.encoder, self.tokenizer(inputs))
        distance = (student - teacher).square().sum(dim=-1).mean()
        parts = {"objective_loss": outcome.loss.detach(), "distill_loss": distance.detach()}
        return Outcome(outcome.loss + self.weight * distance, {**outcome.metrics, **parts})

    def _features(self, encoder: Encoder, tokens: Tokens) -> Tensor:
        """(B, D), in fp32 whatever the autocast."""
        encoded = encoder(tokens.embeddings, geometry=tokens.geometry)
        features = encoded[:, 0] if self.on == "cls" else encoder.pool(encoded, tokens.valid)
        return features.to(torch.promote_types(features.dtype, torch.float32))


def _parts_of(student: nn.Module, ema: Ema) -> Iterator[tuple[str, nn.Module]]:
    """The student's modules that a teacher averages."""
    for name in ema.of:
        yield name, student.get_submodule(name)


def _key(name: str) -> str:
    return name.replace(".", "/")


def _detached(tokens: Tokens) -> Tokens:
    return Tokens(tokens.embeddings.detach(), tokens.targets, tokens.layout, tokens.geometry)
