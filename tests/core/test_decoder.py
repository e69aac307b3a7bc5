"""The decoder: equivalence with decoding in natural order, slices of the output, and gradients."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from ssl_core import Layout, Segment
from ssl_core.nn import Decoder, gather_tokens

GRIDS = [((10,),), ((2, 5),), ((2, 3), (4,))]
VISIBLE = 4


def build(grids: tuple[tuple[int, ...], ...], depth: int = 2) -> Decoder:
    layout = Layout([Segment(f"part {i}", grid, "continuous", 4) for i, grid in enumerate(grids)])
    decoder = Decoder(layout, 12, 16, depth, 3, double_backward=True).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return decoder


def latent_and_order(decoder: Decoder) -> tuple[Tensor, Tensor]:
    return torch.randn(3, 1 + VISIBLE, 16, dtype=torch.float64), torch.rand(3, len(decoder.positions()) - 1).argsort(
        dim=1
    )


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("grids", GRIDS)
def test_equals_reference_implementation_in_natural_order(
    plain: ModuleType, grids: tuple[tuple[int, ...], ...], depth: int
) -> None:
    """The reference implementation restores the order of the tokens and decodes the whole row."""
    decoder = build(grids, depth)
    latent, order = latent_and_order(decoder)
    sizes = plain.Sizes(
        tuple(plain.Piece("continuous", grid, 4) for grid in grids),
        dim=16, decoder_dim=12, decoder_depth=depth, decoder_heads=3, decoder_mlp=24,
    )  # fmt: skip
    params = plain.parameters_of({f"objective.decoder.{name}": p for name, p in decoder.named_parameters()})
    params["encoder.cls_token"] = torch.zeros(16, dtype=torch.float64)  # sets the dtype of the reference implementation
    expected = plain.decode(params, latent, order[:, :VISIBLE], sizes)
    torch.testing.assert_close(decoder(latent, order), gather_tokens(expected, order), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(
    "output_slice", [slice(0, VISIBLE), slice(VISIBLE, None), slice(0, VISIBLE + 2), slice(3, 7), None]
)
def test_output_slice_equals_slice_of_the_output(output_slice: slice | None, depth: int) -> None:
    decoder = build(((2, 5),), depth)
    latent, order = latent_and_order(decoder)
    whole = decoder(latent, order)
    assert whole.shape == (3, 10, 12)
    decoded = decoder(latent, order, output_slice)
    torch.testing.assert_close(decoded, whole[:, output_slice or slice(None)], rtol=1e-11, atol=1e-13)


def test_equivariant_to_the_order_of_hidden_tokens() -> None:
    decoder = build(((10,),))
    latent, order = latent_and_order(decoder)
    shuffled = torch.cat([order[:, :VISIBLE], order[:, VISIBLE:].flip(1)], dim=1)
    decoded, permuted = decoder(latent, order), decoder(latent, shuffled)
    torch.testing.assert_close(permuted[:, VISIBLE:], decoded[:, VISIBLE:].flip(1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(permuted[:, :VISIBLE], decoded[:, :VISIBLE], rtol=1e-10, atol=1e-12)


def test_hidden_tokens_differ_by_position_only() -> None:
    """Rows with the same latent and order get equal outputs; hidden tokens of one row differ."""
    decoder = build(((10,),))
    latent, order = latent_and_order(decoder)
    decoded = decoder(latent[:1].expand(3, -1, -1), order[:1].expand(3, -1))
    torch.testing.assert_close(decoded[1], decoded[0], rtol=1e-12, atol=1e-14)
    assert (decoded[0, VISIBLE] - decoded[0, VISIBLE + 1]).abs().max() > 1e-3


@pytest.mark.parametrize("grids", GRIDS)
def test_every_latent_vector_reaches_every_prediction(grids: tuple[tuple[int, ...], ...]) -> None:
    decoder = build(grids)
    latent, order = latent_and_order(decoder)
    latent.requires_grad_()
    (gradient,) = torch.autograd.grad(decoder(latent, order, slice(9, 10)).square().sum(), latent)
    assert (gradient.abs().amax(dim=-1) > 0).all()  # including the cls token


def test_latent_is_projected_in_fp32_under_autocast() -> None:
    """bf16 would round away a small inner step on the latent before the first block."""
    decoder = build(((10,),)).float()
    latent, order = latent_and_order(decoder)
    latent, outputs = latent.float(), []
    decoder.project.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        decoder(latent, order)
    assert outputs[0].dtype == torch.float32
    assert torch.equal(outputs[0], decoder.project(latent))


def test_initial_deviation_of_the_mask_token() -> None:
    layout = Layout([Segment("x", (4,), "continuous", 4)])
    mask_tokens = torch.cat([Decoder(layout, 128, 16, 1, 4).mask_token for _ in range(20)])
    assert mask_tokens.std().item() == pytest.approx(0.02, abs=0.001)
