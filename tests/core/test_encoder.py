"""The transformer encoder: whole rows or some of their tokens, in any order."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from ssl_core import Layout, Segment
from ssl_core.nn import EncoderOptions, TransformerEncoder, gather_tokens

GRIDS = [((9,),), ((2, 5),), ((2, 3), (4,))]


def build(grids: tuple[tuple[int, ...], ...], **options: object) -> TransformerEncoder:
    layout = Layout([Segment(f"part {i}", grid, "continuous", 4) for i, grid in enumerate(grids)])
    encoder = TransformerEncoder(
        EncoderOptions.model_validate({"dim": 16, "depth": 2, "heads": 2} | options), layout
    ).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return encoder


def random_embeddings(encoder: TransformerEncoder, rows: int = 3) -> Tensor:
    return torch.randn(rows, len(encoder.positions()) - 1, 16, dtype=torch.float64)


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_equivariant_to_the_order_of_tokens(grids: tuple[tuple[int, ...], ...], positions: str) -> None:
    encoder = build(grids, positions=positions)
    embeddings = random_embeddings(encoder)
    position_ids = torch.rand(embeddings.shape[:2]).argsort(dim=1)[:, :5]
    shuffle = torch.tensor([3, 0, 4, 1, 2])
    encoded = encoder(gather_tokens(embeddings, position_ids), position_ids=position_ids)
    permuted = encoder(gather_tokens(embeddings, position_ids[:, shuffle]), position_ids=position_ids[:, shuffle])
    torch.testing.assert_close(permuted[:, 0], encoded[:, 0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(permuted[:, 1:], encoded[:, 1:][:, shuffle], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("grids", GRIDS)
def test_all_position_ids_equal_the_whole_row(grids: tuple[tuple[int, ...], ...]) -> None:
    encoder = build(grids)
    embeddings = random_embeddings(encoder)
    position_ids = torch.arange(embeddings.shape[1]).expand(len(embeddings), -1)
    torch.testing.assert_close(
        encoder(embeddings, position_ids=position_ids), encoder(embeddings), rtol=1e-12, atol=1e-14
    )


def test_output_depends_on_position_ids() -> None:
    encoder = build(((9,),))
    embeddings = random_embeddings(encoder)[:, :3]
    first, second = (torch.tensor(position_ids).expand(3, -1) for position_ids in ([0, 1, 2], [0, 1, 5]))
    assert (encoder(embeddings, position_ids=first) - encoder(embeddings, position_ids=second)).abs().max() > 1e-3


@pytest.mark.parametrize("grids", GRIDS)
def test_equals_reference_implementation(plain: ModuleType, grids: tuple[tuple[int, ...], ...]) -> None:
    encoder = build(grids)
    embeddings = random_embeddings(encoder)
    visible = torch.rand(embeddings.shape[:2]).argsort(dim=1)[:, :4].sort(dim=1).values
    sizes = plain.Sizes(tuple(plain.Piece("continuous", grid, 4) for grid in grids), dim=16, depth=2, heads=2, mlp=32)
    params = plain.parameters_of({f"encoder.{name}": p for name, p in encoder.named_parameters()})
    expected = plain.encode(params, embeddings, visible, sizes)
    torch.testing.assert_close(
        encoder(gather_tokens(embeddings, visible), position_ids=visible), expected, rtol=1e-10, atol=1e-12
    )


def test_pool_is_the_mean_of_tokens_with_or_without_cls() -> None:
    encoded = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(build(((4,),)).pool(encoded), encoded[:, 1:].mean(dim=1))
    torch.testing.assert_close(build(((4,),), pool="all").pool(encoded), encoded.mean(dim=1))


def test_final_norm_is_optional() -> None:
    encoder = build(((4,),), final_norm=False)
    assert isinstance(encoder.transformer.norm, nn.Identity)


def test_dropout_rates_include_the_embedding() -> None:
    rates = [part.p for part in build(((4,),), dropout=0.25, depth=3).modules() if isinstance(part, nn.Dropout)]
    assert rates == [0.25] * (1 + 3 * 3)


def test_initial_deviation_of_the_cls_token() -> None:
    layout = Layout([Segment("x", (4,), "continuous", 4)])
    cls_tokens = torch.cat([TransformerEncoder(EncoderOptions(depth=1), layout).cls_token for _ in range(20)])
    assert cls_tokens.std().item() == pytest.approx(0.02, abs=0.001)


def test_activation_checkpointing_keeps_less_and_changes_nothing() -> None:
    plain, saving = build(GRIDS[2], depth=6, dropout=0.1), build(GRIDS[2], depth=6, dropout=0.1)
    saving.load_state_dict(plain.state_dict())
    saving.transformer.activation_checkpointing = True
    assert build(GRIDS[2], activation_checkpointing=True).transformer.activation_checkpointing
    embeddings, kept, gradients = random_embeddings(plain), [], []
    for encoder in (plain, saving):
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = encoder(embeddings).square().sum()
            kept.append(sum(sizes))
        loss.backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    assert kept[1] < kept[0] / 2
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
