"""I-JEPA against an independent reference in float64, sample by sample and block by block."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core import ConfigError, Geometry, Layout, Learner, Segment, plugins
from ssl_core.testing.harness import Setting
from ssl_core.testing.layouts import sample
from ssl_plugins.objectives.ijepa import IJEPA

CATALOGUE = plugins.load()


def perturbed(case: str, **options: object) -> Learner:
    learner = Setting(IJEPA, options, case).build().double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return learner


def attend(x: Tensor, block: torch.nn.Module, heads: int) -> Tensor:
    """One pre-norm block on one row (n, d), attention written as a loop over heads and queries."""
    y = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias, 1e-5)
    qkv = y @ block.attn.qkv.weight.T
    q, k, v = qkv.chunk(3, dim=-1)
    size = q.shape[-1] // heads
    out = torch.zeros_like(q)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            logits = torch.stack([q[i, part] @ k[j, part] for j in range(len(x))]) / math.sqrt(size)
            weights = (logits - logits.max()).exp()
            out[i, part] = (weights / weights.sum()) @ v[:, part]
    x = x + out @ block.attn.proj.weight.T + block.attn.proj.bias
    y = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, 1e-5)
    hidden = F.gelu(y @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    return x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


def run_blocks(x: Tensor, transformer: torch.nn.Module, heads: int) -> Tensor:
    for block in transformer.blocks:
        x = attend(x, block, heads)
    return F.layer_norm(x, x.shape[-1:], transformer.norm.weight, transformer.norm.bias, 1e-5)


def encode(encoder: torch.nn.Module, embeddings: Tensor, position_ids: list[int]) -> Tensor:
    """[cls | tokens] of one row."""
    table = encoder.positions()
    cls = (encoder.cls_token + table[0])[None]
    tokens = embeddings[position_ids] + table[[1 + i for i in position_ids]]
    return run_blocks(torch.cat([cls, tokens]), encoder.transformer, 4)


def reference(learner: Learner, inputs: dict[str, Tensor], draws: dict[str, Tensor], kind: str) -> Tensor:
    tokens = learner.tokenizer(inputs)
    objective, teacher = learner.objective, learner.teacher.parts
    decoder, table = objective.predictor, objective.predictor.positions()
    length, errors = learner.tokenizer.layout.length, []
    for b, embeddings in enumerate(tokens.embeddings):
        context = draws["visible"][b].tolist()
        latent = encode(learner.encoder, embeddings, context) @ decoder.project.weight.T + decoder.project.bias
        own = teacher["tokenizer"]({name: value[b : b + 1] for name, value in inputs.items()}).embeddings[0]
        with torch.no_grad():
            whole = encode(teacher["encoder"], own, list(range(length)))[1:]
            whole = F.layer_norm(whole, whole.shape[-1:])
        for block in draws["targets"][b].tolist():
            known = latent + torch.cat([table[:1], table[[1 + i for i in context]]])
            masked = decoder.mask_token + table[[1 + i for i in block]]
            row = run_blocks(torch.cat([known, masked]), decoder.transformer, 4)[-len(block) :]
            predicted = row @ objective.project.weight.T + objective.project.bias
            difference = predicted - whole[block]
            if kind == "l2":
                errors.append(difference.square().mean(dim=1))
            else:
                small = difference.abs() < 1
                errors.append(torch.where(small, difference.square() / 2, difference.abs() - 0.5).mean(dim=1))
    return torch.cat(errors).mean()


@pytest.mark.parametrize("loss", ["smooth-l1", "l2"])
@pytest.mark.parametrize("case", ["continuous_1d", "continuous_2d", "discrete"])
def test_loss_and_gradients_equal_the_reference(case: str, loss: str) -> None:
    learner = perturbed(case, loss=loss, depth=2, width=16, heads=4)
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in sample(learner.tokenizer, 3).items()}
    draws = learner.draw(3, torch.Generator().manual_seed(0))
    found = learner(inputs, draws).loss
    expected = reference(learner, inputs, draws, loss)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    mine = torch.autograd.grad(found, parameters, allow_unused=True)
    theirs = torch.autograd.grad(expected, parameters, allow_unused=True)
    for one, other in zip(mine, theirs, strict=True):
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


def test_context_and_targets_never_meet() -> None:
    learner = perturbed("continuous_2d")
    draws = learner.draw(50, torch.Generator().manual_seed(1))
    for visible, targets in zip(draws["visible"].tolist(), draws["targets"].tolist(), strict=True):
        assert not set(visible) & {i for block in targets for i in block}
        assert len(set(visible)) == len(visible)


def test_a_target_is_one_box_of_the_grid() -> None:
    """Without the border's influence: a box as wide and high as its aspect ratio allows, without holes."""
    layout = Layout([Segment("a", (16, 16), "continuous", 1)])
    cls = CATALOGUE.masking("box")
    mask = cls(cls.Options(ratio=0.14, aspect=(1.0, 1.0)), layout)(64, torch.Generator().manual_seed(0))
    hidden = mask.hidden.view(64, 16, 16)
    assert hidden.flatten(1).sum(dim=1).unique().tolist() == [math.ceil(256 * 0.14)]
    for one in hidden:
        rows, columns = one.any(dim=1).nonzero().flatten(), one.any(dim=0).nonzero().flatten()
        box = one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.float().mean() > 0.6  # the outermost ring may be incomplete, since the number of tokens is fixed
        inner = box[1:-1, 1:-1]
        assert inner.all()


def test_padding_is_no_target_and_no_context() -> None:
    learner = perturbed("discrete")
    length = learner.tokenizer.layout.length
    valid = torch.arange(length).expand(20, -1) < 12
    draws = learner.draw(20, torch.Generator().manual_seed(0), Geometry(valid=valid))
    assert valid.gather(1, draws["visible"]).sum(dim=1).min() >= 1
    counted = valid.unsqueeze(1).expand(-1, 4, -1).gather(2, draws["targets"])
    assert counted.sum(dim=2).unique().tolist() == [math.ceil(12 * 0.175)]


def test_targets_that_leave_no_context_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave no context; lower objective.targets or masking.target.ratio"):
        Setting(IJEPA, {"targets": 6}, "continuous_1d").build()


def test_the_deviation_of_a_batch_of_one_is_zero() -> None:
    encoded = torch.randn(1, 5, 4)
    assert IJEPA.deviation(encoded, None) == 0
    both = torch.randn(3, 5, 4)
    all_valid = torch.ones(3, 5, dtype=torch.bool)
    assert torch.allclose(IJEPA.deviation(both, None), IJEPA.deviation(both, all_valid))
