"""Masks in proportion to valid tokens, geometry, views and teachers, as the contracts promise them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_core import (
    Choice,
    ConfigError,
    ContinuousTarget,
    Ema,
    Geometry,
    Layout,
    Learner,
    Mask,
    Objective,
    Outcome,
    PluginError,
    Segment,
    Tokenizer,
    Tokens,
    plugins,
)
from ssl_core.nn import (
    Decoder,
    EncoderOptions,
    Positions,
    ReconstructionHead,
    TransformerEncoder,
    gather_tokens,
    masked_mean,
)
from ssl_core.testing.harness import Setting
from ssl_core.testing.layouts import make_tokenizer, sample
from ssl_core.tokenizers import JointTokenizer

CATALOGUE = plugins.load()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- masks -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(2, 40), ratio=st.floats(0.05, 0.95), rows=st.integers(1, 6), seed=st.integers(0, 2**20),
    share=st.floats(0.0, 1.0),
)  # fmt: skip
def test_each_row_hides_its_share_of_the_valid_tokens(length, ratio, rows, seed, share):
    hidden = min(math.ceil(length * ratio - 1e-9), length - 1)
    order = torch.rand(rows, length, generator=seeded(seed)).argsort(dim=1)
    valid = torch.rand(rows, length, generator=seeded(seed + 1)) < share
    mask = Mask.from_order(order, hidden, Geometry(valid=valid), ratio)
    assert mask.visible.shape == (rows, length - hidden)
    assert torch.equal(mask.visible, mask.visible.sort(dim=1).values)
    assert torch.equal(torch.ones(rows, length, dtype=torch.bool).scatter(1, mask.visible, False), mask.hidden)
    for row in range(rows):
        count = int(valid[row].sum())
        expected = hidden if count == length else min(math.ceil(count * ratio - 1e-9), max(count - 1, 0))
        chosen = [i for i in order[row].tolist() if valid[row, i]][:expected]  # the first valid tokens of the order
        assert sorted(chosen) == (mask.hidden[row] & valid[row]).nonzero().flatten().tolist()


@pytest.mark.parametrize("name", sorted(CATALOGUE.maskings))
def test_no_masking_hides_a_row_whole(name):
    """Ten valid tokens of 128: once such a row was hidden whole in about one of five."""
    cls = CATALOGUE.masking(name)
    layout = Layout([Segment("a", (128,), "continuous", 1)])
    valid = torch.arange(128).expand(200, -1) < 10
    mask = cls(cls.Options(), layout)(200, seeded(), Geometry(valid=valid))
    visible = valid.gather(1, mask.visible).sum(dim=1)
    assert visible.min() >= 1
    assert visible.max() == visible.min()
    share = 1 - visible[0].item() / 10
    full = cls(cls.Options(), layout)(1, seeded())
    assert share == pytest.approx(full.hidden.float().mean().item(), abs=0.1)


@pytest.mark.parametrize("name", sorted(CATALOGUE.maskings))
def test_a_geometry_without_padding_changes_no_mask(name):
    cls = CATALOGUE.masking(name)
    layout = Layout([Segment("a", (6, 6), "continuous", 1), Segment("b", (9,), "discrete", 5)])
    masking = cls(cls.Options(), layout)
    plain, empty = masking(4, seeded(3)), masking(4, seeded(3), Geometry())
    assert torch.equal(plain.visible, empty.visible)
    whole = masking(4, seeded(3), Geometry(valid=torch.ones(4, 45, dtype=torch.bool)))
    assert whole.visible.shape == plain.visible.shape


# --- geometry --------------------------------------------------------------------------------------------------------


def test_coordinates_on_the_grid_are_the_grids_positions():
    layout = Layout([Segment("a", (3, 4), "continuous", 1), Segment("b", (5,), "discrete", 7)])
    positions = Positions(layout, 24)
    plane = Layout([layout.segments[0]])
    own = Positions(plane, 24)
    torch.testing.assert_close(own.from_coords(plane.coordinates[None]), own()[None, 1:], rtol=1e-5, atol=1e-5)
    ids = torch.tensor([[13, 2, 5]])
    coords = torch.zeros(1, 3, 2)
    typed = positions.from_coords(coords, ids)  # with the vector of each token's own segment
    assert positions.types is not None
    torch.testing.assert_close(typed[0, 0] - typed[0, 1], positions.types[1] - positions.types[0])


def test_learned_positions_refuse_coordinates():
    layout = Layout([Segment("a", (4,), "continuous", 2)])
    with pytest.raises(ConfigError, match="encoder.positions=sincos"):
        Positions(layout, 16, "learned").from_coords(torch.zeros(1, 4, 3))


def encoder_of(layout: Layout, depth: int = 2) -> TransformerEncoder:
    torch.manual_seed(0)
    return TransformerEncoder(EncoderOptions(dim=16, depth=depth, heads=2), layout).double()


def random_geometry(rows: int, length: int) -> Geometry:
    valid = torch.rand(rows, length, generator=seeded(1)) < 0.8
    coords = torch.rand(rows, length, 3, generator=seeded(2), dtype=torch.float64)
    bias = torch.randn(rows, length, length, generator=seeded(3), dtype=torch.float64)
    return Geometry(valid, coords, None, bias.masked_fill(bias > 1.5, -torch.inf))


def test_an_encoder_is_equivariant_to_the_order_of_its_tokens():
    layout = Layout([Segment("a", (9,), "continuous", 2)])
    encoder, x = encoder_of(layout), torch.randn(2, 9, 16, dtype=torch.float64)
    geometry = random_geometry(2, 9)
    order = torch.stack([torch.randperm(9, generator=seeded(i)) for i in range(2)])
    whole = encoder(x, geometry=geometry)
    turned = encoder(gather_tokens(x, order), order, geometry)
    torch.testing.assert_close(turned[:, 1:], gather_tokens(whole[:, 1:], order), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(turned[:, 0], whole[:, 0], rtol=1e-6, atol=1e-7)


def test_bias_is_added_to_the_logits_of_every_head():
    """Against attention written out, with the cls token attending to every token without a bias."""
    layout = Layout([Segment("a", (5,), "continuous", 2)])
    encoder, x = encoder_of(layout, depth=1), torch.randn(1, 5, 16, dtype=torch.float64)
    bias = torch.randn(1, 5, 5, dtype=torch.float64)
    row = torch.cat([(encoder.cls_token + encoder.positions()[0])[None, None], x + encoder.positions()[1:]], dim=1)
    block = encoder.transformer.blocks[0]
    q, k, v = block.attn.qkv(block.norm1(row)).chunk(3, dim=-1)
    heads = [part.view(1, 6, 2, 8).transpose(1, 2) for part in (q, k, v)]
    logits = heads[0] @ heads[1].transpose(-2, -1) / math.sqrt(8)
    logits[:, :, 1:, 1:] += bias[:, None]
    mixed = (logits.softmax(-1) @ heads[2]).transpose(1, 2).reshape(1, 6, 16)
    out = row + block.attn.proj(mixed)
    expected = encoder.transformer.norm(out + block.mlp(block.norm2(out)))
    torch.testing.assert_close(encoder(x, geometry=Geometry(bias=bias)), expected, rtol=1e-9, atol=1e-10)


def test_forbidden_pairs_carry_nothing():
    layout = Layout([Segment("a", (4,), "continuous", 2)])
    encoder, x = encoder_of(layout, depth=1), torch.randn(1, 4, 16, dtype=torch.float64)
    bias = torch.full((1, 4, 4), -torch.inf, dtype=torch.float64)
    bias[0].fill_diagonal_(0.0)
    other = x.clone()
    other[0, 3] += torch.randn(16, dtype=torch.float64)
    changed = (encoder(x, geometry=Geometry(bias=bias)) - encoder(other, geometry=Geometry(bias=bias))).abs().amax(-1)
    assert (changed[0, 1:4] == 0).all()
    assert changed[0, 4] > 0
    assert changed[0, 0] > 0  # the cls token attends to all


def test_a_decoder_takes_coordinates():
    layout = Layout([Segment("a", (6,), "continuous", 2)])
    torch.manual_seed(0)
    decoder = Decoder(layout, 12, 16, 1, 2).double()
    latent = torch.randn(1, 3, 16, dtype=torch.float64)
    order = torch.tensor([[4, 1, 0, 2, 3, 5]])
    grid = decoder(latent, order)
    on_grid = decoder(latent, order, geometry=Geometry(coords=layout.coordinates[None]))
    torch.testing.assert_close(on_grid, grid, rtol=1e-5, atol=1e-5)
    moved = decoder(latent, order, geometry=Geometry(coords=layout.coordinates[None] + 3.0))
    assert not torch.allclose(moved, grid, rtol=1e-3)


def test_neighbours_of_each_row_replace_the_grids():
    layout = Layout([Segment("a", (5,), "continuous", 2)])
    mask = torch.tensor([[True, False, False, False, False]])
    assert layout.dilate(mask).tolist() == [[True, True, False, False, False]]
    ring = torch.tensor([[[4, 1], [0, 2], [1, 3], [2, 4], [3, 0]]])
    assert Geometry(neighbours=ring).dilate(mask, layout).tolist() == [[True, True, False, False, True]]


def test_joined_parts_join_their_geometry():
    class Part(make_tokenizer("discrete").__class__):
        def geometry(self, inputs):
            rows, length = inputs[self.field].shape
            return Geometry(
                valid=inputs[self.field] > 0,
                coords=torch.ones(rows, length, 2),
                neighbours=torch.zeros(rows, length, 1, dtype=torch.long),
                bias=torch.ones(rows, length, length),
            )

    grid, text = make_tokenizer("continuous_2d"), Part("text", 5, 7)
    joint = JointTokenizer(grid.Options(), {}, 32, parts=[grid, text])
    inputs = {**sample(grid, 2), "text": torch.tensor([[0, 1, 2, 3, 0], [1, 1, 1, 1, 1]])}
    geometry = joint.geometry(inputs)
    first = grid.layout.length
    assert geometry.valid.shape == (2, first + 5)
    assert geometry.valid[0].tolist() == [True] * first + [False, True, True, True, False]
    assert torch.equal(geometry.coords[0, :first], grid.layout.coordinates)
    assert (geometry.coords[:, first:] == 1).all()
    assert torch.equal(geometry.neighbours[0, :first], grid.layout.neighbours)
    assert geometry.neighbours[1, first + 2].tolist() == [first, *[first + 2] * 3]
    assert (geometry.bias[:, :first] == 0).all()
    assert (geometry.bias[:, first:, first:] == 1).all()
    torch.testing.assert_close(joint(inputs).geometry.valid, geometry.valid)


def test_geometry_gathers_rows_and_columns():
    geometry = random_geometry(2, 6)
    ids = torch.tensor([[3, 0], [5, 5]])
    picked = geometry.gather(ids)
    for row in range(2):
        for i, a in enumerate(ids[row].tolist()):
            assert picked.valid[row, i] == geometry.valid[row, a]
            assert torch.equal(picked.coords[row, i], geometry.coords[row, a])
            for j, b in enumerate(ids[row].tolist()):
                assert picked.bias[row, i, j] == geometry.bias[row, a, b]


# --- targets ---------------------------------------------------------------------------------------------------------


def absolute_error(prediction, target):
    return (prediction - target).abs().sum(dim=-1)


def test_a_segments_own_score_replaces_the_usual_one():
    layout = Layout([Segment("a", (3,), "continuous", 2, absolute_error)])
    head = ReconstructionHead(layout, 8, 8)
    with torch.no_grad():
        head.maps[0].weight.zero_()
        head.maps[0].bias.copy_(torch.tensor([1.0, -1.0]))
    target = ContinuousTarget(torch.tensor([[[1.0, -1.0], [0.0, 0.0], [3.0, 1.0]]]))
    assert head.errors(torch.zeros(1, 3, 8), (target,)).tolist() == [[0.0, 2.0, 4.0]]


def test_an_unknown_target_kind_is_refused():
    with pytest.raises(ValueError, match="unknown target kind 'points'; use 'continuous' or 'discrete', and score="):
        Segment("a", (3,), "points", 2)


# --- teachers and views ----------------------------------------------------------------------------------------------


class Distil(Objective):
    """Predict the teacher's encoding of the whole row from the visible tokens, two maskings, two views."""

    name = "distil"
    default_maskings = {  # noqa: RUF012
        "near": Choice("random", {"ratio": 0.5}),
        "far": Choice("block", {"ratio": 0.5}),
    }
    views = 2
    teacher = Ema(start=0.9, end=1.0, of=("tokenizer", "encoder", "objective.head"))

    def __init__(self, options, layout, dim, maskings):
        super().__init__(options, layout, dim, maskings)
        self.head = torch.nn.Linear(dim, dim)

    def forward(self, tokens, encoder, draws, teacher=None):
        visible = draws["near.visible"]
        encoded = self.head(encoder(gather_tokens(tokens.embeddings, visible), visible, tokens.geometry))
        with torch.no_grad():
            target = teacher.modules["head"](
                teacher.encoder(teacher.tokens.embeddings, geometry=teacher.tokens.geometry)
            )
        return Outcome((encoded.mean(1) - target.mean(1)).square().mean(), {"progress": draws["progress"]})


def distil() -> Learner:
    return Setting(Distil, {}, "continuous_1d").build()


def test_named_maskings_give_named_draws():
    draws = distil().draw(4, seeded())
    assert {name.rpartition(".")[2] for name in draws} == {"visible", "hidden"}
    assert {name.partition(".")[0] for name in draws} == {"near", "far"}
    assert draws["far.visible"].shape[0] == 8  # two views of four samples


def test_the_teacher_follows_the_student():
    learner = distil()
    before = {name: p.clone() for name, p in learner.teacher.parts["encoder"].named_parameters()}
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0 if not parameter.requires_grad else 1)
    learner.update_teacher(torch.tensor(0.5))
    momentum = 0.9 + 0.1 * 0.5
    for name, parameter in learner.teacher.parts["encoder"].named_parameters():
        torch.testing.assert_close(parameter, before[name] + (1 - momentum) * 1)
    assert not any(p.requires_grad for p in learner.teacher.parameters())


def test_momentum_schedules():
    linear, cosine = Ema(0.9, 1.0), Ema(0.9, 1.0, schedule="cosine")
    assert [round(float(linear.momentum(torch.tensor(p))), 6) for p in (0.0, 0.25, 1.0)] == [0.9, 0.925, 1.0]
    assert float(cosine.momentum(torch.tensor(0.25))) == pytest.approx(1 - 0.05 * (math.cos(math.pi * 0.25) + 1))


def test_a_teacher_that_forward_does_not_take_is_refused_in_one_line():
    learner = distil()

    def forward(tokens, encoder, draws):
        raise AssertionError

    learner.objective.forward = forward
    with pytest.raises(PluginError, match="has a teacher, and its forward takes none; write `def forward"):
        learner.start_teacher()


def test_the_teacher_is_evaluated_unless_told_otherwise():
    learner = distil().eval()
    with torch.no_grad():
        learner.encoder.cls_token.add_(1.0)
        for block in learner.encoder.transformer.blocks:
            block.mlp.fc2.weight.add_(0.3)
    inputs = sample(learner.tokenizer, 3)
    student = learner.encoder(learner.tokenizer(inputs).embeddings)
    assert not torch.allclose(learner.embed(inputs), learner.encoder.pool(student))
    learner.teacher.ema = replace(learner.teacher.ema, evaluate=False)
    torch.testing.assert_close(learner.embed(inputs), learner.encoder.pool(student))


def test_the_teacher_stays_in_eval_mode_and_in_the_state_dict():
    learner = distil().train()
    assert learner.encoder.training
    assert not learner.teacher.training
    assert not learner.teacher.parts["encoder"].training
    names = {name.partition(".")[0] for name in learner.state_dict()}
    assert names == {"tokenizer", "encoder", "objective", "teacher"}


def test_views_are_drawn_and_stacked():
    seen = {}

    class Shifted(make_tokenizer("continuous_1d").__class__):
        def draw_view(self, batch, generator):
            return {"shift": torch.arange(batch, dtype=torch.float32)}

        def view(self, inputs, draws):
            seen["rows"] = len(inputs["speech"])
            return {"speech": inputs["speech"] + draws["shift"].view(-1, 1, 1)}

    learner = distil()
    tokenizer = Shifted("speech", 1, (96,), (4,))
    learner.tokenizer = tokenizer
    learner.start_teacher()
    inputs = sample(tokenizer, 3)
    draws = learner.draw(3, seeded()) | {"progress": torch.tensor(0.0)}
    assert draws["view.shift"].tolist() == [0, 1, 2, 3, 4, 5]
    assert learner(inputs, draws).loss.isfinite()
    assert seen["rows"] == 6


def test_geometry_of_the_default_tokenizer_is_empty():
    assert Tokenizer.geometry(make_tokenizer("discrete"), {}) == Geometry()
    assert Geometry().tensors() == {}


def test_masked_mean_counts_valid_tokens_only():
    layout = Layout([Segment("a", (4,), "continuous", 1)])
    tokens = Tokens(torch.zeros(1, 4, 8), (), layout, Geometry(valid=torch.tensor([[True, True, False, True]])))
    assert masked_mean(torch.tensor([[1.0, 2.0, 100.0, 3.0]]), tokens.valid, layout).item() == 2.0
