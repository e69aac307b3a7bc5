"""Presets of published protocols start, train and probe as published, and say where they do not.

Expected numbers come from the papers' tables and from facts about the published codes, not from the presets.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor, nn
from typer.testing import CliRunner

from ssl_core import ConfigError, Continuous, Discrete, Learner, Task, Text, plugins
from ssl_core.cli import app
from ssl_core.config.resolve import plugins_of, resolve
from ssl_core.config.schema import RunConfig
from ssl_core.evaluation import fit_layer, fit_logistic
from ssl_core.evaluation.lars import Lars
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.runs.build import build_learner
from ssl_core.training.optim import make_optimizer
from ssl_core.training.schedule import rate_at
from ssl_plugins.probes.linear import LinearProbe

FIELDS: dict[str, dict[str, Any]] = {
    "image": {"image": Continuous((3, None, None))},
    "medical-image": {"image": Continuous((1, None, None))},
    "image-text": {"image": Continuous((3, None, None)), "caption": Text()},
    "speech": {"waveform": Continuous((1, None), 16_000.0)},
    "time-series": {"series": Continuous((52, 320))},
    "tabular": {"numeric": Continuous((28,))},
    "multispectral": {"image": Continuous((13, 64, 64))},
    "wafer": {"map": Continuous((1, None, None))},
    "genomics": {"sequence": Discrete(250, 4)},
    "protein": {"sequence": Text()},
    "text": {"text": Text()},
    "multilingual-text": {"text": Text()},
}
# By modality with patches: numbers of a patch in DABS.
PATCHES = {
    "image": 768, "medical-image": 768, "image-text": 768, "speech": 256, "time-series": 260, "tabular": 1,
    "multispectral": 832, "wafer": 48,
}  # fmt: skip
TOKENS = ("genomics", "protein", "image-text", "text", "multilingual-text")


@pytest.fixture(scope="module")
def catalogue() -> plugins.Catalogue:
    return plugins.load()


def config_of(catalogue: plugins.Catalogue, preset: str, modality: str, objective: str, **more: Any) -> RunConfig:
    values = {"objective.name": objective, "modality": modality, "preset": preset}
    return resolve(catalogue, values | {key.replace("__", "."): value for key, value in more.items()})[0]


def learner_of(catalogue: plugins.Catalogue, preset: str, modality: str, objective: str, **more: Any) -> Learner:
    config = config_of(catalogue, preset, modality, objective, **more)
    return build_learner(config, plugins_of(config, catalogue), FIELDS[modality])


def table_of(learner: Learner) -> Tensor:
    (table,) = (value for name, value in learner.tokenizer.named_parameters() if name.rpartition(".")[2] == "table")
    return table.detach()


def patch_map(learner: Learner) -> tuple[Tensor, Tensor]:
    """Weight and bias of the map of a patch."""
    values = dict(learner.tokenizer.named_parameters())
    weight = next(v for name, v in values.items() if name.endswith(("embed.weight", "0.weight")))
    bias = next(v for name, v in values.items() if name.endswith(("embed.bias", "0.bias")))
    return weight.detach(), bias.detach()


def torch_std(inputs: int) -> float:
    """Standard deviation of PyTorch's linear maps and biases: uniform up to 1 / sqrt(inputs)."""
    return 1 / math.sqrt(3 * inputs)


def xavier_std(inputs: int, outputs: int) -> float:
    return math.sqrt(2 / (inputs + outputs))


# --- initial weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", TOKENS)
def test_embedding_tables_of_dabs_are_standard_normal(catalogue, modality):
    table = table_of(learner_of(catalogue, "dabs", modality, "shed"))
    assert float(table.std()) == pytest.approx(1.0, rel=0.08)


@pytest.mark.parametrize(
    ("preset", "modality"),
    [
        *(("metamae", modality) for modality in TOKENS),
        *((preset, modality) for preset in ("metamae-shared2", "metamae-shared3", "metamae-shared-modality")
          for modality in ("genomics", "protein")),
    ],
)  # fmt: skip
def test_embedding_tables_of_metamae_are_xavier(catalogue, preset, modality):
    table = table_of(learner_of(catalogue, preset, modality, "metamae"))
    assert float(table.std()) == pytest.approx(xavier_std(*table.shape), rel=0.06)
    assert float(table.abs().max()) <= math.sqrt(6 / sum(table.shape))


@pytest.mark.parametrize("objective", ["shed", "dabs-mae"])
def test_encoder_of_dabs_starts_as_pytorch_does(catalogue, objective):
    """Measured deviations of the published encoder: 0.021 of the patch map, 0.026 of the attention output, biases."""
    learner = learner_of(catalogue, "dabs", "image", objective, encoder__depth=2).requires_grad_(False)
    weight, bias = patch_map(learner)
    assert float(weight.std()) == pytest.approx(0.0208, abs=0.0002)
    assert float(bias.std()) == pytest.approx(torch_std(768), rel=0.15)
    for block in learner.encoder.transformer.blocks:  # type: ignore[union-attr,operator]
        assert float(block.attn.proj.weight.std()) == pytest.approx(0.0255, abs=0.0003)
        assert float(block.attn.qkv.weight.std()) == pytest.approx(torch_std(256), rel=0.02)
        assert float(block.mlp.fc1.weight.std()) == pytest.approx(torch_std(256), rel=0.02)
        assert float(block.mlp.fc2.weight.std()) == pytest.approx(torch_std(512), rel=0.02)
        for layer, inputs in ((block.attn.proj, 512), (block.mlp.fc1, 256), (block.mlp.fc2, 512)):
            assert float(layer.bias.std()) == pytest.approx(torch_std(inputs), rel=0.15)
        assert block.attn.qkv.bias is None
        assert (block.norm1.weight == 1).all()
    assert float(learner.encoder.cls_token.std()) == pytest.approx(1.0, rel=0.15)
    assert float(learner.encoder.positions.table.std()) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("modality", PATCHES)
def test_patch_maps_start_as_published(catalogue, modality):
    """DABS: PyTorch's default. MetaMAE: Xavier uniform with PyTorch's default bias."""
    weight, bias = patch_map(learner_of(catalogue, "dabs", modality, "shed", encoder__depth=1))
    assert float(weight.std()) == pytest.approx(torch_std(PATCHES[modality]), rel=0.1)
    assert float(weight.abs().max()) <= 1 / math.sqrt(PATCHES[modality])
    assert float(bias.std()) == pytest.approx(torch_std(PATCHES[modality]), rel=0.15)
    if modality != "medical-image":
        weight, bias = patch_map(learner_of(catalogue, "metamae", modality, "metamae", encoder__depth=1))
        inputs = weight.numel() // 256
        assert float(weight.std()) == pytest.approx(xavier_std(inputs, 256), rel=0.1)
        assert float(bias.std()) == pytest.approx(torch_std(inputs), rel=0.15)


def test_encoder_without_preset_starts_as_metamae(catalogue):
    learner = learner_of(catalogue, "none", "image", "mae", encoder__depth=1).requires_grad_(False)
    (block,) = learner.encoder.transformer.blocks  # type: ignore[union-attr,misc]
    assert float(block.attn.proj.weight.std()) == pytest.approx(xavier_std(256, 256), rel=0.02)
    assert (block.attn.proj.bias == 0).all()
    assert float(learner.encoder.cls_token.std()) == pytest.approx(0.02, rel=0.15)


def test_random_init_row_of_dabs_is_its_encoder(catalogue):
    """Of two encoders alike but for `encoder.init`, the features differ, as does their scale."""
    inputs = {"image": torch.rand(8, 3, 224, 224)}
    outputs = []
    for init in ("torch", "xavier"):
        learner = learner_of(catalogue, "dabs", "image", "shed", encoder__depth=3, encoder__init=init).eval()
        outputs.append(learner.embed(inputs))
    assert float((outputs[0] - outputs[1]).norm() / outputs[0].norm()) > 0.1


# --- probes -------------------------------------------------------------------------------------------------------


def optimum(x: np.ndarray, y: np.ndarray, c: float, size: int) -> np.ndarray:
    """Weights and offsets, (D + 1, size), of the penalised logistic regression, in float64 to a gradient of 1e-9."""
    n, dim = x.shape
    padded, target = np.concatenate([x, np.ones((n, 1))], axis=1), np.eye(size)[y]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(dim + 1, size)
        scores = log_softmax(padded @ w, axis=1)
        gradient = c * padded.T @ (np.exp(scores) - target)
        gradient[:-1] += w[:-1]
        return float(-c * (scores * target).sum() + 0.5 * (w[:-1] ** 2).sum()), gradient.ravel()

    found = minimize(
        loss, np.zeros((dim + 1) * size), jac=True, method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "gtol": 1e-9, "ftol": 0, "maxcor": 50},
    )  # fmt: skip
    return found.x.reshape(dim + 1, size)


def problem(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Training features, labels, test features, classes."""
    rng = np.random.default_rng(0)
    size, dim, n = {"correlated": (5, 32, 1200), "wide": (4, 300, 250), "noisy": (3, 40, 900)}[kind]
    y = rng.integers(size, size=2 * n)
    centres = rng.normal(size=(size, dim)) * {"correlated": 0.3, "wide": 0.15, "noisy": 0.08}[kind]
    x = centres[y] + rng.normal(size=(2 * n, dim))
    if kind == "correlated":  # as features of an encoder: a few directions hold almost all the variance
        x = x @ (np.linalg.qr(rng.normal(size=(dim, dim)))[0] * np.logspace(0, -2.5, dim)) @ rng.normal(size=(dim, dim))
    return x[:n].astype(np.float32), y[:n], x[n:].astype(np.float32), size


@pytest.mark.parametrize("kind", ["correlated", "wide", "noisy"])
def test_converged_logistic_probe_predicts_as_the_optimum(kind):
    x, y, test, size = problem(kind)
    predictor = fit_logistic(Task("classes", size, "accuracy"), x, y)
    assert predictor.details["converged"]
    scores = predictor.predict_scores(test)
    mean, std = x.astype(np.float64).mean(axis=0), x.astype(np.float64).std(axis=0)
    w = optimum((x - mean) / std, y, 1.0, size)
    expected = log_softmax((test - mean) / std @ w[:-1] + w[-1], axis=1)
    assert (scores.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(np.exp(scores) - np.exp(expected)).max() < 2e-3


def test_logistic_probe_states_its_distance_from_the_optimum():
    x, y, _, size = problem("correlated")
    task = Task("classes", size, "accuracy")
    stopped = fit_logistic(task, x, y, 1.0, 5).details
    assert stopped["converged"] is False
    assert stopped["gradient"] > 100 * fit_logistic(task, x, y).details["gradient"]


def sequences(per_sample: int = 6, samples: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=per_sample * samples)
    features = rng.normal(size=(len(labels), 5)) + labels[:, None]
    return features.astype(np.float32), labels, np.arange(samples).repeat(per_sample)


VALUES = {"epochs": 3, "lr": 1e-2, "weight_decay": 1e-3, "seed": 5}


def linear_probe(**more: Any) -> LinearProbe:
    values = {
        "linear": "adamw", "c": 1.0, "max_iter": 100, "batch_size": 8, "token_batches": "tokens",
        "schedule": "constant", "warmup_epochs": 0, "batch_norm": False,
    }  # fmt: skip
    return LinearProbe(LinearProbe.Options(**(values | VALUES | more)))


def by_hand(x: Tensor, y: Tensor, batches: list[Tensor], layer: nn.Linear, lr: float, decay: float) -> Tensor:
    """Logits after AdamW on these batches, written out."""
    weights = [layer.weight.detach().clone(), layer.bias.detach().clone()]
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for step, index in enumerate(batches, start=1):
        variables = [w.requires_grad_() for w in weights]
        loss = nn.functional.cross_entropy(x[index] @ variables[0].T + variables[1], y[index])
        gradients = torch.autograd.grad(loss, variables)
        for i, gradient in enumerate(gradients):
            first, second = moments[i]
            moments[i] = first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            size = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            weights[i] = (weights[i].detach() * (1 - lr * decay) - lr * size).detach()
    return x @ weights[0].T + weights[1]


@pytest.mark.parametrize("lengths", ["equal", "unequal"])
def test_per_token_batches_hold_whole_sequences(lengths):
    features, labels, groups = sequences()
    if lengths == "unequal":  # as after ignored tokens are left out
        kept = np.random.default_rng(2).random(len(groups)) < 0.7
        features, labels, groups = features[kept], labels[kept], groups[kept]
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    torch.manual_seed(VALUES["seed"])
    layer = nn.Linear(5, 3)
    generator = torch.Generator().manual_seed(int(VALUES["seed"]))
    batches = []
    for _ in range(3):
        order = torch.randperm(20, generator=generator)
        for chosen in (order[:8], order[8:16]):  # the last four of twenty sequences are dropped
            batches.append(torch.cat([torch.from_numpy(np.flatnonzero(groups == int(one))) for one in chosen]))
    expected = log_softmax(by_hand(x, y, batches, layer, 1e-2, 1e-3).numpy(), axis=1)
    task = Task("classes", 3, "accuracy", per_token=True)
    predictor = linear_probe(token_batches="samples").fit_groups(features, labels, task, groups)
    np.testing.assert_allclose(predictor.predict_scores(features), expected, atol=1e-5)
    assert predictor.details["batch_size"] == 8  # type: ignore[attr-defined]
    other = linear_probe().fit_groups(features, labels, task, groups)
    assert np.abs(other.predict_scores(features) - expected).max() > 1e-3


@pytest.mark.parametrize(("preset", "objective"), [("dabs", "shed"), ("metamae", "metamae"), ("metamae", "mae")])
def test_presets_of_per_token_tasks_take_whole_sequences(catalogue, preset, objective):
    assert config_of(catalogue, preset, "protein", objective).evaluate.token_batches == "samples"
    assert config_of(catalogue, "none", "protein", objective).evaluate.token_batches == "tokens"


def test_lars_scales_matrices_and_not_vectors():
    weight, bias = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([2.0]))
    solver = Lars([weight, bias], lr=0.5, weight_decay=0.1)
    momenta = [torch.zeros(1, 2), torch.zeros(1)]
    expected = [weight.detach().clone(), bias.detach().clone()]
    for gradient, other in (([[1.0, -2.0]], [0.3]), ([[0.5, 0.5]], [-1.0]), ([[0.0, 0.0]], [0.0])):
        weight.grad, bias.grad = torch.tensor(gradient), torch.tensor(other)
        solver.step()
        update = torch.tensor(gradient) + 0.1 * expected[0]
        update = update * 0.001 * expected[0].norm() / update.norm()
        momenta = [0.9 * momenta[0] + update, 0.9 * momenta[1] + torch.tensor(other)]
        expected = [value - 0.5 * momentum for value, momentum in zip(expected, momenta, strict=True)]
        torch.testing.assert_close(weight.detach(), expected[0])
        torch.testing.assert_close(bias.detach(), expected[1])


def test_lars_probe_of_mae():
    """BatchNorm without scale, rates that rise and fall, all weights by hand."""
    features, labels, _ = sequences()
    features = features * 100 + 7
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    epochs, warmup, peak = 5, 2, 0.8
    predictor = fit_layer(
        Task("classes", 3, "accuracy"), features, labels, optimizer="lars", epochs=epochs, batch_size=40, lr=peak,
        weight_decay=0.0, seed=3, batch_norm=True, schedule="cosine", warmup_epochs=warmup,
    )  # fmt: skip
    torch.manual_seed(3)
    nn.Linear(5, 3)
    weight, bias = 0.01 * torch.randn(3, 5), torch.zeros(3)
    momenta = torch.zeros(3, 5), torch.zeros(3)
    mean, variance = torch.zeros(5), torch.ones(5)
    generator = torch.Generator().manual_seed(3)
    for epoch in range(epochs):
        order = torch.randperm(120, generator=generator)
        for number in range(3):
            now = epoch + number / 3
            if now < warmup:
                rate = peak * now / warmup
            else:
                rate = peak * 0.5 * (1 + math.cos(math.pi * (now - warmup) / (epochs - warmup)))
            rows = x[order[40 * number : 40 * number + 40]]
            mean, variance = 0.9 * mean + 0.1 * rows.mean(dim=0), 0.9 * variance + 0.1 * rows.var(dim=0)
            z = (rows - rows.mean(dim=0)) / (rows.var(dim=0, unbiased=False) + 1e-6).sqrt()
            error = (z @ weight.T + bias).softmax(dim=1) - nn.functional.one_hot(
                y[order[40 * number : 40 * number + 40]], 3
            )
            gradient = error.T @ z / 40
            gradient = gradient * 0.001 * weight.norm() / gradient.norm()
            momenta = 0.9 * momenta[0] + gradient, 0.9 * momenta[1] + error.mean(dim=0)
            weight, bias = weight - rate * momenta[0], bias - rate * momenta[1]
    logits = (x - mean) / (variance + 1e-6).sqrt() @ weight.T + bias
    np.testing.assert_allclose(predictor.predict_scores(features), log_softmax(logits.numpy(), axis=1), atol=1e-4)
    assert predictor.details["solver"] == "lars"


def test_batch_norm_needs_two_rows_and_warmup_fewer_epochs():
    features, labels, _ = sequences()
    task = Task("classes", 3, "accuracy")
    with pytest.raises(ConfigError, match=r"evaluate\.batch_norm needs batches of two rows or more"):
        linear_probe(linear="lars", batch_norm=True, batch_size=1).fit(features, labels, task)
    with pytest.raises(ValueError, match=r"evaluate\.warmup_epochs=5 must be less than evaluate\.epochs"):
        EvaluateOptions(epochs=5, warmup_epochs=5)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lars"])
@pytest.mark.parametrize(
    "task", [Task("number", 1, "pearson"), Task("labels", 3, "accuracy"), Task("classes", 2, "accuracy")]
)
def test_layer_with_batch_norm_serves_every_task(optimizer, task):
    """Features of very different scale, which BatchNorm makes alike."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(400, 3)) * np.array([1e-3, 1.0, 1e3])).astype(np.float32)
    sign = x / np.array([1e-3, 1.0, 1e3])
    labels = {"number": sign.sum(axis=1), "labels": (sign > 0).astype(int), "classes": (sign[:, 0] > 0).astype(int)}
    y = labels[task.kind]
    rate = 0.05 if optimizer != "lars" else 1.0 if task.kind == "number" else 50.0
    values = {"epochs": 60, "batch_size": 20, "lr": rate, "weight_decay": 0.0}
    predictor = fit_layer(task, x, y, optimizer=optimizer, seed=0, batch_norm=True, schedule="cosine", **values)
    scores = predictor.predict_scores(x)
    if task.kind == "number":
        assert np.corrcoef(scores, y)[0, 1] > 0.95
    else:
        predicted = scores > 0 if task.kind == "labels" else scores.argmax(axis=1)
        assert (predicted == y).mean() > 0.9


# --- MAE and M3AE -------------------------------------------------------------------------------------------------

# He et al., Table 8, and sizes of the published code: width, depth, heads, patch, tokens.
VITS = {
    "mae-vit-b": (768, 12, 12, 16, 196), "mae-vit-l": (1024, 24, 16, 16, 196), "mae-vit-h": (1280, 32, 16, 14, 256),
}  # fmt: skip
# Parameters of a published encoder without its positions: by width d and depth n, with patches of p x p x 3:
# n (12 d d + 13 d) in the blocks, 2 d in the last norm, d in the cls token, (3 p p + 1) d in the patch map.


@pytest.mark.parametrize("preset", VITS)
def test_mae_presets_have_the_settings_of_table_8(catalogue, preset):
    config = config_of(catalogue, preset, "image", "mae")
    train, encoder, options = config.train, config.encoder, config.objective.options
    dim, depth, heads, patch, _ = VITS[preset]
    assert (train.optimizer, train.betas, train.weight_decay) == ("adamw", (0.9, 0.95), 0.05)
    assert train.batch_size * train.accumulate_steps == 4096
    assert train.lr == pytest.approx(1.5e-4 * 4096 / 256)
    assert (train.schedule, train.grad_clip, train.no_decay) == ("cosine", 0.0, True)
    assert train.warmup_steps / train.steps == 40 / 800
    assert train.steps == 800 * (1_281_167 // 4096)
    assert (encoder.dim, encoder.depth, encoder.heads) == (dim, depth, heads)
    assert (encoder.dropout, encoder.drop_path) == (0.0, 0.0)
    assert (options["width"], options["depth"], options["heads"], options["norm_targets"]) == (512, 8, 16, True)
    assert config.masking.options["ratio"] == 0.75
    tokenizer = config.tokenizer.options
    assert (tokenizer["size"], tokenizer["patch"]) == (224, patch)
    assert (tokenizer["augment"], tokenizer["crop_scale"]) == ("crop-flip", [0.2, 1.0])
    assert tokenizer["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("preset", VITS)
def test_mae_presets_build_the_published_model(catalogue, preset, monkeypatch):
    """Parameters of encoder and decoder; drawn at depth 1 and scaled, since ViT-H has 632 million."""
    dim, depth, _, patch, tokens = VITS[preset]
    learner = learner_of(catalogue, preset, "image", "mae", encoder__depth=1, objective__depth=1)
    counts = learner.parameter_counts()
    (block,) = learner.encoder.transformer.blocks
    of_block = sum(p.numel() for p in block.parameters())
    assert of_block == 12 * dim * dim + 13 * dim
    total = counts["tokenizer"] + counts["encoder"] + (depth - 1) * of_block
    assert total == depth * (12 * dim**2 + 13 * dim) + 2 * dim + dim + (3 * patch**2 + 1) * dim
    decoder_block = sum(p.numel() for p in learner.objective.decoder.transformer.blocks[0].parameters())
    assert decoder_block == 12 * 512**2 + 13 * 512
    assert learner.tokenizer.layout.length == tokens
    assert {m.eps for m in learner.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
    draws = learner.draw(2, torch.Generator().manual_seed(0))
    assert draws["visible"].shape[1] == tokens // 4


def test_mae_preset_trains_a_step(catalogue):
    """With augmented images, normalised targets and groups without weight decay."""
    more = {"encoder__depth": 1, "encoder__dim": 48, "encoder__heads": 3, "objective__depth": 1, "objective__width": 32}
    config = config_of(catalogue, "mae-vit-b", "image", "mae", **more)
    learner = build_learner(config, plugins_of(config, catalogue), FIELDS["image"])
    optimizer = make_optimizer(learner, config.train)
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.05]
    inputs = {"image": torch.randint(256, (4, 3, 224, 224), dtype=torch.uint8)}
    losses = []
    for step in range(2):
        draws = learner.draw(4, torch.Generator().manual_seed(step))
        assert set(draws) == {"visible", "order", "view.crop", "view.flip"}
        loss = learner(inputs, draws).loss
        loss.backward()
        losses.append(loss.item())
    optimizer.step()
    assert all(0.5 < loss < 10 for loss in losses)
    assert rate_at(config.train, 0) < config.train.lr / 1000


def test_m3ae_preset_has_the_published_settings(catalogue):
    config = config_of(catalogue, "m3ae", "image-text", "m3ae")
    train, encoder, options, evaluate = config.train, config.encoder, config.objective.options, config.evaluate
    assert (encoder.dim, encoder.depth, encoder.heads, encoder.mlp_ratio) == (1024, 24, 16, 4.0)
    assert (encoder.act, encoder.norm_eps, encoder.qkv_bias, encoder.pool) == ("gelu_tanh", 1e-6, True, "cls")
    assert (options["width"], options["depth"], options["heads"], options["mlp_ratio"]) == (512, 8, 16, 4.0)
    assert (options["discrete_weight"], options["absent"], options["unpaired_weight"]) == (0.5, "zero", 0.0)
    assert (train.betas, train.weight_decay, train.schedule) == ((0.9, 0.95), 0.05, "cosine")
    assert train.lr == pytest.approx(1.5e-4 * 16)
    assert train.batch_size * train.accumulate_steps == 4096
    assert config.masking.options == {"ratio": [0.75], "shared": True}
    assert (evaluate.linear, evaluate.batch_norm, evaluate.epochs, evaluate.batch_size) == ("lars", True, 90, 2048)
    assert (evaluate.lr, evaluate.weight_decay, evaluate.warmup_epochs) == (pytest.approx(0.8), 0.0, 10)
    learner = learner_of(catalogue, "m3ae", "image-text", "m3ae", encoder__depth=1, objective__depth=1)
    assert [s.length for s in learner.tokenizer.layout.segments] == [256, 64]
    assert float(table_of(learner).std()) == pytest.approx(1.0, rel=0.02)
    draws = learner.draw(3, torch.Generator().manual_seed(0))
    assert draws["visible"].shape == (3, 64 + 16)
    assert (draws["visible"] == draws["visible"][:1]).all()
    assert set(draws) == {"visible", "order", "view.0.crop", "view.0.flip"}


@pytest.mark.parametrize(("pool", "expected"), [("cls", 0), ("tokens", 1), ("all", 2)])
def test_pooled_feature(catalogue, pool, expected):
    learner = learner_of(catalogue, "none", "wafer", "mae", encoder__depth=1, encoder__pool=pool).eval()
    inputs = {"map": torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)}
    with torch.no_grad():
        encoded = learner.encoder(learner.tokenizer(inputs).embeddings)
    means = [encoded[:, 0], encoded[:, 1:].mean(dim=1), encoded.mean(dim=1)]
    torch.testing.assert_close(learner.embed(inputs), means[expected])


# --- deviations ---------------------------------------------------------------------------------------------------


def shown(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("NO_COLOR", "1")
    result = CliRunner().invoke(app.app, ["show", name])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("preset", "phrases"),
    [
        ("dabs", ["dropout stays on", "16-bit floats", "PAMAP2: windows", "AudioMNIST: resampled"]),
        ("metamae", ["100,000 steps", "Google Speech: test files", "secondary structure"]),
        ("metamae-shared3", ["image with text: published without code"]),
        ("metamae-shared-modality", ["TensorFlow Datasets"]),
        ("mae-vit-l", ["already resized to 224 x 224", "fine-tuning", "16 micro-batches of 256"]),
        ("m3ae", ["unpaired text", "special tokens", "VQGAN"]),
    ],
)
def test_show_prints_the_deviations_of_a_preset_once(preset, phrases, monkeypatch):
    output = shown(preset, monkeypatch)
    assert f"deviations of preset {preset} from its source" in output
    for phrase in phrases:
        assert output.count(phrase) == 1, phrase


def test_show_of_a_preset_without_source_has_no_deviations(monkeypatch):
    assert "deviations" not in shown("small", monkeypatch)


def test_options_that_deviations_name_exist(catalogue):
    import re

    from ssl_core.config.resolve import ENGINE_SECTIONS

    lines = {line for entry in catalogue.presets for line in entry.value.deviations}
    assert len(lines) > 30
    named = {found for line in lines for found in re.findall(r"\b(\w+)\.(\w+)\b(?==|[ ,;]|$)", line)}
    known = set(ENGINE_SECTIONS) | {"objective", "masking", "tokenizer", "dataset"}
    named = {(section, option) for section, option in named if section in known}
    assert ("dataset", "protocol") in named
    for section, option in named:
        classes = [ENGINE_SECTIONS[section]] if section in ENGINE_SECTIONS else [
            entry.value.Options for entry in catalogue.entries(section)
        ]  # fmt: skip
        assert any(option in cls.model_fields for cls in classes), (section, option)
