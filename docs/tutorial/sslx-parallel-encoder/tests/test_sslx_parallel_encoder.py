"""What an encoder must do for every objective, and the mathematics of this one's block."""

import numpy as np
import pytest
import torch
from ssl_core import ConfigError, Geometry, Layout, Learner, Segment
from ssl_core.nn import gather_tokens
from ssl_core.tokenizers import GridTokenizer
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.maskings.segments import SegmentsMasking
from ssl_plugins.objectives.capri import Capri
from ssl_plugins.objectives.dabs_mae import DabsMAE
from ssl_plugins.objectives.emix import EMix
from ssl_plugins.objectives.m3ae import M3AE
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.metamae import MetaMAE
from ssl_plugins.objectives.shed import ShED

from sslx_parallel_encoder.encoder import ParallelBlock, ParallelEncoder

LAYOUT = Layout([Segment("image", (3, 4), "continuous", 5)])
MASKINGS = {"random": RandomMasking, "segments": SegmentsMasking}


def make_encoder(layout=LAYOUT, **options):
    torch.manual_seed(0)
    return ParallelEncoder(ParallelEncoder.Options(dim=32, heads=4, **{"depth": 3, **options}), layout)


def make_row(rows=2):
    return torch.randn(rows, LAYOUT.length, 32, generator=torch.Generator().manual_seed(1))


# --- the block ---


def plain_block(block, x):
    """The block for one row without masks, in float64 and numpy."""
    weights = {name: value.detach().numpy() for name, value in block.state_dict().items()}
    normed = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + 1e-6) * weights["norm.weight"]
    q, k, v = np.split(normed @ weights["attention.qkv.weight"].T, 3, axis=1)
    heads = []
    for part in np.split(np.arange(32), 4):
        logits = q[:, part] @ k[:, part].T / np.sqrt(8)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        heads.append(shares @ v[:, part])
    attended = np.concatenate(heads, axis=1) @ weights["attention.proj.weight"].T + weights["attention.proj.bias"]
    gate, value = np.split(normed @ weights["mlp.gate_and_value.weight"].T, 2, axis=1)
    return x + attended + (gate / (1 + np.exp(-gate)) * value) @ weights["mlp.out.weight"].T


def test_block_equals_the_reference_implementation():
    torch.manual_seed(0)
    block = ParallelBlock(32, 4, 48).double()
    torch.nn.init.normal_(block.norm.weight)
    x = torch.randn(1, 7, 32, dtype=torch.float64)
    expected = plain_block(block, x[0].numpy())
    assert np.allclose(block(x, None, None)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-10)


# --- whole rows and subsets ---


def test_cls_token_comes_first():
    assert make_encoder()(make_row()).shape == (2, 1 + LAYOUT.length, 32)


def test_all_position_ids_are_the_whole_row():
    encoder, row = make_encoder(), make_row()
    ids = torch.arange(LAYOUT.length).expand(2, -1)
    assert torch.allclose(encoder(row), encoder(row, ids), atol=1e-6)


def test_order_of_position_ids_does_not_matter():
    encoder, row = make_encoder(), make_row()
    ids = torch.tensor([[1, 4, 7, 10], [0, 3, 5, 11]])
    order = torch.tensor([[2, 0, 3, 1], [3, 2, 1, 0]])
    one = encoder(gather_tokens(row, ids), ids)
    other = encoder(gather_tokens(row, ids.gather(1, order)), ids.gather(1, order))
    assert torch.allclose(gather_tokens(one[:, 1:], order), other[:, 1:], atol=1e-5)
    assert torch.allclose(one[:, 0], other[:, 0], atol=1e-5)
    moved = encoder(gather_tokens(row, ids), ids.roll(1, dims=1))
    assert not torch.allclose(one, moved, atol=1e-2)  # the same tokens at other places


def test_layers_are_the_outputs_of_shallower_encoders():
    encoder, row = make_encoder(), make_row()
    first, last = encoder(row, layers=[1, 3])
    assert torch.equal(last, encoder(row))
    second = encoder.blocks[1](first, None, None)
    assert torch.allclose(encoder.norm(encoder.blocks[2](second, None, None)), last, atol=1e-6)
    for wrong in ([0], [4], []):
        with pytest.raises(ValueError, match="layers 1 to 3"):
            encoder(row, layers=wrong)


# --- geometry ---


def test_invalid_tokens_have_no_effect():
    encoder, row = make_encoder(), make_row()
    valid = torch.ones(2, LAYOUT.length, dtype=torch.bool)
    valid[0, 4:] = False
    changed = torch.where(valid.unsqueeze(-1), row, row + 3)
    ids = torch.arange(4).expand(2, -1)
    one, other = encoder(row, geometry=Geometry(valid)), encoder(changed, geometry=Geometry(valid))
    assert torch.allclose(one[0, :5], other[0, :5], atol=1e-6)
    assert torch.allclose(one[0, :5], encoder(row[:, :4], ids)[0], atol=1e-5)  # as if they were not there
    assert torch.allclose(encoder.pool(one, valid)[0], one[0, 1:5].mean(dim=0), atol=1e-6)


def test_coordinates_replace_the_places_of_the_grid():
    encoder, row = make_encoder(), make_row()
    coords = LAYOUT.coordinates.expand(2, -1, -1)
    assert torch.allclose(encoder(row), encoder(row, geometry=Geometry(coords=coords)), atol=1e-4)
    assert not torch.allclose(encoder(row), encoder(row, geometry=Geometry(coords=coords + 1)), atol=1e-2)
    ids = torch.tensor([[2, 9], [5, 0]])
    part = gather_tokens(row, ids)
    assert torch.allclose(encoder(part, ids), encoder(part, ids, Geometry(coords=coords)), atol=1e-4)


def test_bias_forbids_pairs():
    """With one block, a token depends on the tokens that the bias allows and on no other."""
    encoder, row = make_encoder(depth=1), make_row(1).requires_grad_()
    bias = torch.full((1, LAYOUT.length, LAYOUT.length), -torch.inf)
    bias[:, range(LAYOUT.length), range(LAYOUT.length)] = 0
    bias[:, 2, 7] = 0
    encoded = encoder(row, geometry=Geometry(bias=bias))
    (gradient,) = torch.autograd.grad(encoded[0, 1 + 2].sum(), row)
    assert set(gradient[0].abs().sum(dim=-1).nonzero().flatten().tolist()) == {2, 7}


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="encoder.dim=32 is not a multiple of encoder.heads=5"):
        ParallelEncoder(ParallelEncoder.Options(dim=32, heads=5), LAYOUT)


# --- training ---


class Waves(GridTokenizer):
    """Patches of a small image."""

    name = "waves"

    def __init__(self):
        options = self.Options(normalise="none")
        super().__init__(options, {}, 32, field="image", channels=1, shape=(8, 8), patch=(2, 2))


def make_waves(rows):
    """Plane waves, (rows, 1, 8, 8), each with its own direction, length and phase."""
    generator = torch.Generator().manual_seed(0)
    y, x, phase = torch.rand(3, rows, 1, 1, generator=generator)
    place = torch.arange(8.0)
    return torch.sin(1.5 * (y * place[:, None] + x * place) + 6 * phase).unsqueeze(1)


@pytest.mark.parametrize("objective", [MAE, MetaMAE, Capri, DabsMAE, EMix, M3AE, ShED])
def test_every_objective_trains_it(objective):
    torch.manual_seed(0)
    tokenizer, inputs = Waves(), {"image": make_waves(16)}
    layout = tokenizer.layout
    encoder = make_encoder(layout)
    maskings = {
        name: MASKINGS[choice.name](MASKINGS[choice.name].Options(**choice.values), layout)
        for name, choice in objective.masking_choices().items()
    }
    learner = Learner(tokenizer, encoder, objective(objective.Options(), layout, 32, maskings))
    optimiser = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    losses = []
    for step in range(30):
        outcome = learner(inputs, learner.draw(16, torch.Generator().manual_seed(step % 3)))
        optimiser.zero_grad()
        outcome.loss.backward()
        if step == 0:
            assert all(parameter.grad.abs().max() > 0 for parameter in encoder.parameters())
        optimiser.step()
        losses.append(outcome.loss.item())
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3]), losses
    assert learner.eval().embed(inputs).shape == (16, 32)
