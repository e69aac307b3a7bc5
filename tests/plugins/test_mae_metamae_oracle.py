"""MAE and MetaMAE against the reference implementation of their equations: the loss and all gradients.

In float64 and with perturbed weights: near initialisation the second-order term changes gradients by only 2e-6, so that
a test in float32 would pass without it. Negative controls show that the tests detect wrong implementations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core import ConfigError
from ssl_core.nn.attention import LONG_TOKENS
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.objectives.metamae import MetaMAE

RTOL = 1e-9
LAYOUTS = ("1d", "2d", "wide", "3d", "discrete", "joint")
SMALL = {"projector_hidden": 24, "projector_out": 6}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "three steps": {"inner_steps": 3},
    "first order": {"first_order": True},
    "three first-order steps": {"inner_steps": 3, "first_order": True},
    "nearby_count hidden": {"nearby_count": "hidden"},
    "sample mean": {"inner_mean": "sample"},
    "no contrast": {"contrast_weight": 0.0},
    "other constants": {"alpha": 0.07, "contrast_weight": 1.7, "temperature": 0.2, "nearby_ratio": 1.0},
    "no nearby": {"nearby_ratio": 0.0},
    "one block": {"depth": 1},
}


def gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), grads, strict=True)
    }


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest entry of b."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() if (a != b).any() else 0.0


def oracle(case: Any, draws: Mapping[str, Tensor], chosen: Tensor | None = None, **changes: Any) -> Any:
    options = case.objective.options
    settings = {
        "alpha": options.alpha, "contrast_weight": options.contrast_weight,
        "temperature": options.temperature, "steps": options.inner_steps,
        "first_order": options.first_order, "mean": options.inner_mean,
    }  # fmt: skip
    chosen = case.chosen(draws) if chosen is None else chosen
    batch, visible = case.batch, draws["visible"]
    return case.plain.metamae_loss(case.parameters, batch, visible, chosen, case.sizes, **(settings | changes))


def metamae(make_case: Callable[..., Any], kind: str, **options: Any) -> Any:
    return make_case(kind, MetaMAE, **(SMALL | {"nearby_ratio": 0.5} | options))


def test_parameters_match_the_reference_implementation(make_case: Callable[..., Any], plain: ModuleType) -> None:
    for kind in LAYOUTS:
        case = metamae(make_case, kind)
        assert {name: tuple(p.shape) for name, p in case.parameters.items()} == plain.parameter_shapes(case.sizes)
        case = make_case(kind, MAE)
        shapes = plain.parameter_shapes(case.sizes, metamae=False)
        assert {name: tuple(p.shape) for name, p in case.parameters.items()} == shapes


@pytest.fixture(params=["math", "double_backward"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention kernels of short and of long rows."""
    if request.param == "double_backward":
        monkeypatch.setitem(LONG_TOKENS, "cpu", 1)


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_mae_equals_reference_implementation(make_case: Callable[..., Any], kind: str, depth: int) -> None:
    case = make_case(kind, MAE, depth=depth)
    draws = case.draws()
    loss = case.learner(case.inputs, draws).loss
    expected = case.plain.mae_loss(case.parameters, case.batch, draws["visible"], case.sizes)
    assert distance(loss, expected) < RTOL
    actual, reference = gradients(loss, case.parameters), gradients(expected, case.parameters)
    for name in actual:
        assert reference[name].abs().max() > 0, name
        assert distance(actual[name], reference[name]) < RTOL, name


PUBLISHED = {"mlp_ratio": 4.0, "qkv_bias": True, "norm_eps": 1e-2}  # a large epsilon, whose effect is no rounding error
MAE_VARIANTS: dict[str, dict[str, Any]] = {
    "normalised targets": {"norm_targets": True},
    "decoder of He et al.": PUBLISHED,
    "all of He et al.": PUBLISHED | {"norm_targets": True, "encoder_options": PUBLISHED},
    "encoder with tanh": {"encoder_options": {"act": "gelu_tanh"}},
}


@pytest.mark.parametrize("variant", MAE_VARIANTS)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_mae_of_he_et_al_equals_reference_implementation(
    make_case: Callable[..., Any], kind: str, variant: str
) -> None:  # fmt: skip
    options = MAE_VARIANTS[variant]
    case = make_case(kind, MAE, **options)
    assert {name: tuple(p.shape) for name, p in case.parameters.items()} == case.plain.parameter_shapes(
        case.sizes, metamae=False
    )
    draws, normalise = case.draws(), options.get("norm_targets", False)
    loss = case.learner(case.inputs, draws).loss
    expected = case.plain.mae_loss(case.parameters, case.batch, draws["visible"], case.sizes, normalise)
    assert distance(loss, expected) < RTOL
    actual, reference = gradients(loss, case.parameters), gradients(expected, case.parameters)
    # a bias of keys alone adds the same to all logits of a query, so its gradient is zero and rounding errors remain
    largest = max(float(gradient.abs().max()) for gradient in reference.values())
    for name in actual:
        if name.endswith("qkv.bias"):
            torch.testing.assert_close(actual[name], reference[name], rtol=RTOL, atol=1e-12 * largest)
        assert distance(actual[name], reference[name]) < RTOL, name


@pytest.mark.parametrize("change", ["targets", "epsilon", "decoder epsilon", "tanh", "decoder tanh", "bias"])
def test_control_details_of_he_et_al_matter(make_case: Callable[..., Any], change: str) -> None:
    case = make_case("2d", MAE, norm_targets=True, encoder_options=PUBLISHED, **PUBLISHED)
    draws, sizes, parameters = case.draws(), case.sizes, dict(case.parameters)
    loss = case.learner(case.inputs, draws).loss
    form = case.plain.Form
    sizes = {
        "epsilon": dataclasses.replace(sizes, form=form()),
        "decoder epsilon": dataclasses.replace(sizes, decoder_form=form()),
        "tanh": dataclasses.replace(sizes, form=form(sizes.form.eps, True)),
        "decoder tanh": dataclasses.replace(sizes, decoder_form=form(sizes.form.eps, True)),
    }.get(change, sizes)
    if change == "bias":
        parameters = {name: value for name, value in parameters.items() if not name.endswith("qkv.bias")}
    wrong = case.plain.mae_loss(parameters, case.batch, draws["visible"], sizes, change != "targets")
    assert distance(loss, wrong) > 1e-6


def test_pictures_of_normalised_targets_are_in_the_unit_of_the_data(make_case: Callable[..., Any]) -> None:
    """A prediction of p for a normalised patch is p times the patch's deviation plus its mean."""
    case = make_case("joint", MAE, norm_targets=True)
    draws = case.draws()
    tokens = case.learner.tokenizer(case.inputs)
    shown = case.objective.reconstruct(tokens, case.learner.encoder, draws)
    plain, parameters = case.plain, case.parameters
    targets = plain.targets_of(case.batch, case.sizes)
    latent = plain.encode(parameters, plain.embed(parameters, targets, case.sizes), draws["visible"], case.sizes)
    decoded = plain.decode(parameters, latent, draws["visible"], case.sizes)
    patches, logits = plain.predict(parameters, decoded, case.sizes)
    mean, variance = targets[0].mean(dim=-1, keepdim=True), targets[0].var(dim=-1, keepdim=True)
    assert distance(shown[0], patches * (variance + 1e-6).sqrt() + mean) < RTOL
    assert distance(shown[1], logits) < RTOL


def test_normalised_targets_of_single_numbers_are_refused(make_case: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"objective\.norm_targets .* set objective\.norm_targets=false"):
        make_case("long", MAE, norm_targets=True)


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_metamae_equals_reference_implementation(make_case: Callable[..., Any], kind: str, variant: str) -> None:
    case = metamae(make_case, kind, **VARIANTS[variant])
    draws = case.draws(seed=3)
    outcome = case.learner(case.inputs, draws)
    expected = oracle(case, draws)
    assert distance(outcome.loss, expected.loss) < RTOL
    assert distance(outcome.metrics["reconstruction"], expected.outer) < RTOL
    has_contrast = case.objective.options.contrast_weight > 0
    if has_contrast:
        assert distance(outcome.metrics["contrast"], expected.contrast) < RTOL
    actual, reference = gradients(outcome.loss, case.parameters), gradients(expected.loss, case.parameters)
    for name in actual:
        assert reference[name].abs().max() > 0 or (name.startswith("projector.") and not has_contrast), name
        assert distance(actual[name], reference[name]) < RTOL, name


def test_rows_of_these_tests_contain_nearby_tokens_and_unused_support(make_case: Callable[..., Any]) -> None:
    for kind in LAYOUTS:
        case = metamae(make_case, kind)
        draws = case.draws(seed=3)
        assert case.chosen(draws).any()
        assert (draws["support"] == 0).any()


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("kind", LAYOUTS)
def test_control_second_derivative_matters(make_case: Callable[..., Any], kind: str) -> None:
    case = metamae(make_case, kind)
    draws = case.draws(seed=3)
    outcome = case.learner(case.inputs, draws)
    first_order = oracle(case, draws, first_order=True)
    assert distance(outcome.loss, first_order.loss) < RTOL  # the loss is equal, only its gradient differs
    actual, reference = gradients(outcome.loss, case.parameters), gradients(first_order.loss, case.parameters)
    for name in ("encoder.cls_token", "encoder.blocks.0.attn.qkv.weight", "encoder.blocks.1.mlp.fc2.weight",
                 "decoder.project.weight", "decoder.mask_token", "decoder.blocks.0.attn.qkv.weight"):  # fmt: skip
        assert distance(actual[name], reference[name]) > 1e-3, name


@pytest.mark.parametrize("kind", LAYOUTS)
def test_control_nearby_tokens_matter(make_case: Callable[..., Any], kind: str) -> None:
    case = metamae(make_case, kind)
    draws = case.draws(seed=3)
    loss = case.learner(case.inputs, draws).loss
    without_nearby = oracle(case, draws, chosen=torch.zeros_like(case.chosen(draws)))
    assert distance(loss, without_nearby.loss) > 1e-4


@pytest.mark.parametrize("mistake", ["anchor as a negative", "negatives of one kind only", "positive twice"])
def test_control_denominator_of_the_contrast_matters(
    make_case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, plain: ModuleType, mistake: str
) -> None:
    def wrong(z: Tensor, adapted: Tensor, temperature: float) -> Tensor:
        vectors = torch.nn.functional.normalize(torch.cat([z, adapted]), dim=1)
        count = len(z)
        similarity = vectors @ vectors.T / temperature
        positive = similarity.roll(-count, dims=1).diagonal()
        if mistake == "anchor as a negative":
            return (similarity.logsumexp(dim=1) - positive).mean()
        others = similarity.masked_fill(torch.eye(2 * count, dtype=torch.bool), -torch.inf)
        if mistake == "positive twice":
            return (torch.cat([others, positive[:, None]], dim=1).logsumexp(dim=1) - positive).mean()
        across = torch.cat([similarity[:count, count:], similarity[count:, :count]])
        return (across.logsumexp(dim=1) - positive).mean()

    case = metamae(make_case, "2d")
    draws = case.draws(seed=3)
    loss = case.learner(case.inputs, draws).loss
    assert distance(loss, oracle(case, draws).loss) < RTOL
    monkeypatch.setattr(plain, "task_contrast", wrong)
    assert distance(loss, oracle(case, draws).loss) > 1e-4


@pytest.mark.parametrize("change", [{"mean": "sample"}, {"steps": 2}, {"alpha": 0.4}, {"temperature": 0.4}])
def test_control_constants_matter(make_case: Callable[..., Any], change: dict[str, Any]) -> None:
    case = metamae(make_case, "1d")
    draws = case.draws(seed=3)
    assert distance(case.learner(case.inputs, draws).loss, oracle(case, draws, **change).loss) > 1e-5


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("objective", [MAE, MetaMAE])
def test_loss_under_no_grad_equals_the_training_loss(make_case: Callable[..., Any], kind: str, objective: Any) -> None:
    """The inner gradient of MetaMAE is computed under no_grad, too, as for a validation loss."""
    for options in ({}, {"inner_steps": 2}, {"first_order": True}) if objective is MetaMAE else ({},):
        case = make_case(kind, objective, **options)
        draws = case.draws()
        loss = case.learner(case.inputs, draws).loss
        with torch.no_grad():
            evaluated = case.learner(case.inputs, draws).loss
        assert not evaluated.requires_grad
        assert distance(evaluated, loss) < RTOL


@pytest.mark.parametrize("first_order", [False, True])
def test_long_rows_in_fp32(make_case: Callable[..., Any], first_order: bool) -> None:
    """Long rows use a fused kernel only if one derivative is enough, since no fused kernel has two."""
    case = metamae(make_case, "long", first_order=first_order, noise=0.1)
    case.learner.float()
    case.inputs = {name: x.float() for name, x in case.inputs.items()}
    draws = case.draws()
    loss, expected = case.learner(case.inputs, draws).loss, oracle(case, draws).loss
    assert distance(loss, expected) < 1e-5
    actual, reference = gradients(loss, case.parameters), gradients(expected, case.parameters)
    for name in actual:
        assert distance(actual[name], reference[name]) < 1e-2, name


@pytest.mark.parametrize("kind", LAYOUTS)
def test_reconstruct_equals_reference_implementation(make_case: Callable[..., Any], kind: str) -> None:
    for objective in (MAE, MetaMAE):
        case = make_case(kind, objective)
        draws = case.draws()
        predictions = case.objective.reconstruct(case.learner.tokenizer(case.inputs), case.learner.encoder, draws)
        plain, visible, parameters = case.plain, draws["visible"], case.parameters
        if objective is MetaMAE:
            latent = oracle(case, draws).adapted
        else:
            embeddings = plain.embed(parameters, plain.targets_of(case.batch, case.sizes), case.sizes)
            latent = plain.encode(parameters, embeddings, visible, case.sizes)
        expected = plain.predict(parameters, plain.decode(parameters, latent, visible, case.sizes), case.sizes)
        for actual, reference in zip(predictions, expected, strict=True):
            assert distance(actual, reference) < RTOL


@pytest.mark.parametrize("kind", LAYOUTS)
def test_fused_layers_of_the_reference_implementation_are_equivalent(make_case: Callable[..., Any], kind: str) -> None:
    """`explicit=False` is the baseline of speed measurements."""
    case = metamae(make_case, kind)
    draws = case.draws(seed=3)
    explicit = oracle(case, draws)
    expected = gradients(explicit.loss, case.parameters)
    case.sizes = dataclasses.replace(case.sizes, explicit=False)
    fused = oracle(case, draws)
    for name, gradient in gradients(fused.loss, case.parameters).items():
        assert distance(gradient, expected[name]) < RTOL, name
