"""The decoder: rows in shuffled order are rows in place, and a slice is a slice of the whole."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from ssl_core import Layout, Segment
from ssl_core.nn import Decoder, gather_tokens

GRIDS = [((10,),), ((2, 5),), ((2, 3), (4,))]
KEPT = 4


def build(grids: tuple[tuple[int, ...], ...], depth: int = 2) -> Decoder:
    layout = Layout([Segment(f"part {i}", grid, "continuous", 4) for i, grid in enumerate(grids)])
    decoder = Decoder(layout, 12, 16, depth, 3, double_backward=True).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return decoder


def latent_and_order(decoder: Decoder) -> tuple[Tensor, Tensor]:
    return torch.randn(3, 1 + KEPT, 16, dtype=torch.float64), torch.rand(3, decoder.length).argsort(dim=1)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("grids", GRIDS)
def test_shuffled_equals_in_place(plain: ModuleType, grids: tuple[tuple[int, ...], ...], depth: int) -> None:
    """Against the transcription, which puts every token back and decodes the row in its natural order."""
    decoder = build(grids, depth)
    latent, order = latent_and_order(decoder)
    sizes = plain.Sizes(
        tuple(plain.Piece("continuous", grid, 4) for grid in grids),
        dim=16, decoder_dim=12, decoder_depth=depth, decoder_heads=3, decoder_mlp=24,
    )  # fmt: skip
    params = plain.parameters_of({f"objective.decoder.{name}": p for name, p in decoder.named_parameters()})
    params["encoder.cls_token"] = torch.zeros(16, dtype=torch.float64)  # tells the transcription the number type
    expected = plain.decode(params, latent, order[:, :KEPT], sizes)
    torch.testing.assert_close(decoder(latent, order), gather_tokens(expected, order), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("wanted", [slice(0, KEPT), slice(KEPT, None), slice(0, KEPT + 2), slice(3, 7), None])
def test_a_slice_equals_the_whole(wanted: slice | None, depth: int) -> None:
    decoder = build(((2, 5),), depth)
    latent, order = latent_and_order(decoder)
    whole = decoder(latent, order)
    assert whole.shape == (3, 10, 12)
    made = decoder(latent, order, wanted)
    torch.testing.assert_close(made, whole[:, wanted or slice(None)], rtol=1e-11, atol=1e-13)


def test_the_order_of_the_hidden_tokens_does_not_matter() -> None:
    decoder = build(((10,),))
    latent, order = latent_and_order(decoder)
    shuffled = torch.cat([order[:, :KEPT], order[:, KEPT:].flip(1)], dim=1)
    made, again = decoder(latent, order), decoder(latent, shuffled)
    torch.testing.assert_close(again[:, KEPT:], made[:, KEPT:].flip(1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(again[:, :KEPT], made[:, :KEPT], rtol=1e-10, atol=1e-12)


def test_hidden_tokens_differ_by_their_places_only() -> None:
    """Each row's predictions depend on the latent: two rows with the same latent and order are equal."""
    decoder = build(((10,),))
    latent, order = latent_and_order(decoder)
    made = decoder(latent[:1].expand(3, -1, -1), order[:1].expand(3, -1))
    torch.testing.assert_close(made[1], made[0], rtol=1e-12, atol=1e-14)
    assert (made[0, KEPT] - made[0, KEPT + 1]).abs().max() > 1e-3


@pytest.mark.parametrize("grids", GRIDS)
def test_every_latent_vector_reaches_every_prediction(grids: tuple[tuple[int, ...], ...]) -> None:
    decoder = build(grids)
    latent, order = latent_and_order(decoder)
    latent.requires_grad_()
    (gradient,) = torch.autograd.grad(decoder(latent, order, slice(9, 10)).square().sum(), latent)
    assert (gradient.abs().amax(dim=-1) > 0).all()  # the cls token's, too (D30)


def test_the_latent_enters_in_fp32_under_autocast() -> None:
    """In bf16 a small inner step on the latent would be rounded away before the first block."""
    decoder = build(((10,),)).float()
    latent, order = latent_and_order(decoder)
    latent, seen = latent.float(), []
    decoder.project.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        decoder(latent, order)
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], decoder.project(latent))


def test_the_mask_token_starts_small() -> None:
    layout = Layout([Segment("x", (4,), "continuous", 4)])
    started = torch.cat([Decoder(layout, 128, 16, 1, 4).mask_token for _ in range(20)])
    assert started.std().item() == pytest.approx(0.02, abs=0.001)
