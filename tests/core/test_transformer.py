"""The transformer: parameters, initialisation, dropout, and slices of the output."""

from __future__ import annotations

import math
from functools import partial
from types import ModuleType

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from ssl_core.nn import Transformer, TransformerBlock, initialise


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def perturbed(transformer: Transformer) -> Transformer:
    transformer.double()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return transformer


def test_parameters_of_a_block() -> None:
    """The sizes of the published code: MetaMAE's block, and DABS's block and encoder with a head width of 64."""
    assert count(Transformer(256, 1, 8).blocks[0]) == 526_336
    assert count(Transformer(256, 1, 8, head_dim=64).blocks[0]) == 788_480
    assert count(Transformer(256, 12, 8, head_dim=64, final_norm=False)) == 9_461_760


@pytest.mark.parametrize("depth", [1, 3])
def test_equals_reference_implementation(plain: ModuleType, depth: int) -> None:
    transformer = perturbed(Transformer(16, depth, 2))
    params = {f"transformer.{name}": parameter for name, parameter in transformer.named_parameters()}
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    expected = plain.transformer(x, params, "transformer", depth, 2, 0.0, True)
    torch.testing.assert_close(transformer(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer_scale", [None, 0.3])
def test_block_equals_timm(layer_scale: float | None) -> None:
    block = perturbed(Transformer(16, 1, 2, layer_scale=layer_scale)).blocks[0]
    norm = partial(torch.nn.LayerNorm, eps=1e-5)
    reference = Block(16, 2, mlp_ratio=2.0, norm_layer=norm, init_values=layer_scale).double()
    weights = {name.replace("scale", "ls"): value for name, value in block.state_dict().items()}
    reference.load_state_dict(weights)
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference(x), rtol=1e-12, atol=1e-14)
    assert isinstance(block, TransformerBlock)


def test_stochastic_depth_drops_whole_rows_and_keeps_the_mean() -> None:
    transformer = Transformer(8, 3, 2, drop_path=0.5).double()
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in transformer.blocks]
    assert rates == [0.0, 0.25, 0.5]
    block, x = transformer.blocks[2], torch.randn(1, 4, 8, dtype=torch.float64)
    with torch.no_grad():
        branch = block.eval().attn(block.norm1(x))
        torch.manual_seed(0)
        outputs = block.drop_path.train()(branch.expand(4000, -1, -1))
    dropped = (outputs == 0).all(dim=(1, 2))
    assert dropped.double().mean().item() == pytest.approx(0.5, abs=0.04)
    torch.testing.assert_close(outputs[~dropped][0], 2 * branch[0])


def test_layers_are_the_outputs_of_blocks() -> None:
    transformer = perturbed(Transformer(16, 3, 2))
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    first, third = transformer(x, layers=(1, 3))
    torch.testing.assert_close(first, transformer.blocks[0](x))
    torch.testing.assert_close(third, transformer(x))
    with pytest.raises(ValueError, match="1 to 3"):
        transformer(x, layers=(4,))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("output_slice", [slice(1, 4), slice(5, None), slice(0, 1), slice(None), slice(2, 2)])
def test_output_slice_equals_slice_of_the_output(output_slice: slice, depth: int) -> None:
    """The outputs, and first and second derivatives."""
    transformer = perturbed(Transformer(16, depth, 2, double_backward=True))
    x = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    results = []
    for part in (transformer(x, output_slice), transformer(x)[:, output_slice]):
        (first,) = torch.autograd.grad(part.sin().sum(), x, create_graph=True)
        parameters = list(transformer.parameters())
        second = torch.autograd.grad(first.square().sum(), parameters, allow_unused=True)
        results.append([part, first, *(s if s is not None else torch.zeros(()) for s in second)])
    for sliced, whole in zip(*results, strict=True):
        torch.testing.assert_close(sliced.expand_as(whole), whole, rtol=1e-9, atol=1e-11)


def test_last_block_computes_only_the_output_slice() -> None:
    transformer = Transformer(16, 2, 2)
    lengths: list[int] = []
    for block in transformer.blocks:
        block.mlp.register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    transformer(torch.randn(1, 7, 16), slice(2, 4))
    assert lengths == [7, 2]


def test_epsilon_of_layer_norms() -> None:
    norms = [part for part in Transformer(16, 2, 2).modules() if isinstance(part, nn.LayerNorm)]
    assert len(norms) == 5
    assert {norm.eps for norm in norms} == {1e-5}


def test_dropout_after_attention_and_twice_in_the_mlp() -> None:
    """As in MetaMAE's published code: no dropout on the attention weights."""
    (block,) = Transformer(16, 1, 2, dropout=0.1).blocks
    rates = {name: part.p for name, part in block.named_modules() if isinstance(part, nn.Dropout)}
    assert rates == {"attn.proj_drop": 0.1, "mlp.drop1": 0.1, "mlp.drop2": 0.1}


def test_dropout_is_off_in_evaluation_mode() -> None:
    transformer = Transformer(16, 1, 2, dropout=0.5)
    x = torch.randn(2, 5, 16)
    assert not torch.equal(transformer(x), transformer(x))
    transformer.eval()
    assert torch.equal(transformer(x), transformer(x))


def test_initialisation() -> None:
    transformer = Transformer(256, 1, 8)
    initialise(transformer)
    for part in transformer.modules():
        if isinstance(part, nn.Linear):
            bound = math.sqrt(6 / sum(part.weight.shape))
            assert 0.99 * bound < part.weight.abs().max() <= bound
            assert part.bias is None or not part.bias.any()
        if isinstance(part, nn.LayerNorm):
            assert part.weight.eq(1).all()
            assert not part.bias.any()
