"""Optimisers: parameter groups, values of one step against torch, exact resume, and names that are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_core.errors import ConfigError
from ssl_core.nn.encoder import EncoderOptions, TransformerEncoder
from ssl_core.tokens import Layout, Segment
from ssl_core.training import checkpoint
from ssl_core.training.optim import layer_scales, make_optimizer, no_decay_names, parameter_groups
from ssl_core.training.options import TrainOptions
from ssl_core.training.plan import is_graphed
from ssl_core.training.schedule import set_rate


def make_learner(positions: str = "learned", seed: int = 0) -> nn.Module:
    """A tokenizer, an encoder of two blocks and a head; the values are those of the seed."""
    torch.manual_seed(seed)
    layout = Layout((Segment("x", (4,), "continuous", 3),))
    options = EncoderOptions(dim=8, depth=2, heads=2, positions=positions)
    objective = nn.Module()
    objective.mask_token = nn.Parameter(torch.randn(1, 8))
    objective.head = nn.Linear(8, 3)
    parts = {"tokenizer": nn.Linear(3, 8), "encoder": TransformerEncoder(options, layout), "objective": objective}
    return nn.ModuleDict(parts)


def set_gradients(learner: nn.Module, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in learner.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_default_is_one_group_of_all_parameters_in_order():
    learner = make_learner()
    (group,) = parameter_groups(learner, TrainOptions(weight_decay=0.5))
    assert all(one is other for one, other in zip(group["params"], learner.parameters(), strict=True))
    assert (group["weight_decay"], group["lr_scale"]) == (0.5, 1.0)


def test_parameters_without_decay_are_biases_norms_tokens_and_position_tables():
    exempt = no_decay_names(make_learner())
    assert {
        "tokenizer.bias", "encoder.cls_token", "encoder.positions.table", "encoder.transformer.blocks.0.norm1.weight",
        "encoder.transformer.blocks.1.mlp.fc2.bias", "objective.mask_token", "objective.head.bias",
    } <= exempt  # fmt: skip
    matrices = {"tokenizer.weight", "encoder.transformer.blocks.0.attn.qkv.weight", "objective.head.weight"}
    assert not matrices & exempt


def test_groups_without_decay_hold_every_parameter_once():
    learner = make_learner()
    groups = parameter_groups(learner, TrainOptions(no_decay=True, weight_decay=0.1))
    assert {group["weight_decay"] for group in groups} == {0.1, 0.0}
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in learner.parameters())
    exempt = no_decay_names(learner)
    (undecayed,) = [group["params"] for group in groups if group["weight_decay"] == 0]
    assert {id(p) for p in undecayed} == {id(p) for name, p in learner.named_parameters() if name in exempt}


def test_layer_decay_by_hand():
    # two blocks: layers 0 (embeddings), 1, 2 (blocks), 3 (norm and objective), and the scale 0.5 ** (3 - layer)
    scales = layer_scales(make_learner(), 0.5)
    expected = {
        "tokenizer.weight": 0.125, "encoder.cls_token": 0.125, "encoder.positions.table": 0.125,
        "encoder.transformer.blocks.0.attn.qkv.weight": 0.25, "encoder.transformer.blocks.1.norm2.bias": 0.5,
        "encoder.transformer.norm.weight": 1.0, "objective.mask_token": 1.0, "objective.head.weight": 1.0,
    }  # fmt: skip
    assert {name: scales[name] for name in expected} == expected
    assert scales.keys() == dict(make_learner().named_parameters()).keys()


def test_layer_decay_needs_numbered_blocks():
    learner = nn.ModuleDict({"tokenizer": nn.Linear(2, 2), "encoder": nn.Linear(2, 2)})
    with pytest.raises(ConfigError, match=r"train\.layer_decay needs an encoder with numbered blocks"):
        make_optimizer(learner, TrainOptions(layer_decay=0.7))


def test_schedule_is_multiplied_by_the_scale_of_each_group():
    options = TrainOptions(layer_decay=0.5, lr=1.0)
    for graphed in (False, True):
        optimizer = make_optimizer(make_learner(), options, graphed)
        set_rate(optimizer, 0.2)
        rates = {group["lr_scale"]: float(group["lr"]) for group in optimizer.param_groups}
        assert rates == pytest.approx({1.0: 0.2, 0.5: 0.1, 0.25: 0.05, 0.125: 0.025})


def reference(name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """torch's own optimiser, in its plain implementation, with the values of `OPTIONS`."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.8, weight_decay=0.3, foreach=False)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, lr=0.1, betas=(0.7, 0.95), weight_decay=0.3, foreach=False)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_native_optimizers_step_as_torch(name):
    mine, theirs = make_learner(), make_learner()
    options = TrainOptions(optimizer=name, lr=0.1, betas=(0.7, 0.95), momentum=0.8, weight_decay=0.3)
    pairs = [(mine, make_optimizer(mine, options)), (theirs, reference(name, list(theirs.parameters())))]
    for number in range(3):
        for learner, optimizer in pairs:
            set_gradients(learner, number)
            optimizer.step()
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_default_is_bit_for_bit_fused_adamw_without_groups():
    mine, theirs = make_learner(), make_learner()
    plain = torch.optim.AdamW(list(theirs.parameters()), lr=3e-4, weight_decay=1e-4, fused=True)
    optimizer = make_optimizer(mine, TrainOptions())
    for number in range(3):
        set_gradients(mine, number)
        set_gradients(theirs, number)
        set_rate(optimizer, 3e-4)
        optimizer.step()
        plain.step()
    assert all(torch.equal(one, other) for one, other in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_no_decay_and_layer_decay_reach_the_step():
    """One step of SGD by hand: w - rate * scale * (gradient + decay * w)."""
    learner = make_learner()
    before = {name: value.detach().clone() for name, value in learner.named_parameters()}
    options = TrainOptions(optimizer="sgd", momentum=0.0, lr=0.1, weight_decay=0.5, no_decay=True, layer_decay=0.5)
    optimizer = make_optimizer(learner, options)
    set_gradients(learner, 0)
    gradients = {name: parameter.grad.clone() for name, parameter in learner.named_parameters()}
    set_rate(optimizer, 0.1)
    optimizer.step()
    after = dict(learner.named_parameters())
    for name, rate, decay in (("tokenizer.weight", 0.0125, 0.5), ("tokenizer.bias", 0.0125, 0.0),
                              ("encoder.transformer.blocks.1.attn.qkv.weight", 0.05, 0.5),
                              ("objective.head.weight", 0.1, 0.5), ("objective.mask_token", 0.1, 0.0)):  # fmt: skip
        expected = before[name] - rate * (gradients[name] + decay * before[name])
        torch.testing.assert_close(after[name].detach(), expected)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lamb", "lion", "adafactor", "madgrad", "nadamw"])
def test_a_resumed_run_has_the_same_weights(name, tmp_path):
    """Four steps in one go, and two with a restart from a checkpoint after the second."""
    options = TrainOptions(optimizer=name, lr=1e-2, no_decay=True, layer_decay=0.7)

    def steps(learner, optimizer, numbers):
        for number in numbers:
            set_gradients(learner, number)
            set_rate(optimizer, 1e-2 / (1 + number))
            optimizer.step()
            optimizer.zero_grad()

    whole = make_learner()
    start = [parameter.detach().clone() for parameter in whole.parameters()]
    optimizer = make_optimizer(whole, options)
    steps(whole, optimizer, range(2))
    checkpoint.save(tmp_path, 2, whole, optimizer, {})
    steps(whole, optimizer, range(2, 4))
    resumed = make_learner(seed=9)
    again = make_optimizer(resumed, options)
    saved = checkpoint.latest(tmp_path)
    checkpoint.load_model(saved, resumed)
    checkpoint.load_optimizer(saved, resumed, again)
    steps(resumed, again, range(2, 4))
    for one, other, old in zip(whole.parameters(), resumed.parameters(), start, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, old)


def test_an_optimizer_whose_state_is_not_saved_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"train\.optimizer=kron keeps state that a checkpoint cannot hold") as caught:
        make_optimizer(make_learner(), TrainOptions(optimizer="kron"))
    assert "\n" not in str(caught.value)


def test_an_optimizer_that_needs_more_than_gradients_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"train\.optimizer=adahessian cannot be used"):
        make_optimizer(make_learner(), TrainOptions(optimizer="adahessian"))


def test_making_an_optimizer_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    learner = make_learner()
    after_learner = torch.get_rng_state()
    make_optimizer(learner, TrainOptions(optimizer="lion"))
    assert torch.equal(torch.get_rng_state(), after_learner)
    assert not torch.equal(before, after_learner)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown optimizer; did you mean .*'lamb'"):
        TrainOptions(optimizer="lambb")


@pytest.mark.parametrize("betas", [(0.9, 1.0), (-0.1, 0.9)])
def test_betas_outside_the_unit_interval_are_refused(betas):
    with pytest.raises(ValueError, match="at least 0 and less than 1"):
        TrainOptions(betas=betas)


@pytest.mark.parametrize(("name", "graphed"), [("adamw", True), ("adam", True), ("sgd", False), ("lion", False)])
def test_only_capturable_optimizers_are_recorded(name, graphed):
    assert is_graphed(TrainOptions(optimizer=name), torch.device("cuda")) is graphed
