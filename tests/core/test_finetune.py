"""Fine-tuning: heads, parts that train, early stopping, shares of labels, the model and its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F

import sslx
from ssl_core import ConfigError, DataError, Task, plugins
from ssl_core.errors import CheckpointError
from ssl_core.evaluation.linear import fit_logistic
from ssl_core.nn.task_head import TaskHead, balanced_weights, probabilities
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.preprocess import sample_digest
from ssl_core.runs.finetune import ABSENT_MARGIN, affine_map, fresh_encoder
from ssl_core.runs.finetuned import FineTuned
from ssl_core.runs.labelled import DataRequest, hold_out_rows, open_labelled, share_of_labels
from ssl_core.training import supervised
from ssl_core.training.optim import parameter_groups
from ssl_core.training.options import FinetuneOptions, TrainOptions
from ssl_core.training.supervised import (
    Evaluation,
    FitSetting,
    LabelledRows,
    Parts,
    _key,
    choose_trained,
    fit,
    rate_of,
    rate_share,
)
from ssl_core.utils.console import Console

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "encoder": {"dim": 16, "depth": 2, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32",
}  # fmt: skip
CHOICE = {"objective": "mae", "steps": 2, "batch_size": 8, "preset": "none"}
QUICK = {"steps": 4, "precision": "fp32", "device": "cpu"}
CLASSES = Task("classes", 3, "accuracy", names=("a", "b", "c"))
CPU = FitSetting(0, torch.device("cpu"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One cache of preprocessed data for all tests here."""
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "finetune-cache"))


@pytest.fixture(scope="module")
def series():
    """Series of two channels whose frequency is their class."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    times, phase = np.arange(32), rng.uniform(0, 1, (90, 1, 1))
    x = np.sin(times * (1 + y[:, None, None]) / 4 + phase) + 0.1 * rng.standard_normal((90, 2, 32))
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def encoder(series, tmp_path_factory):
    """A small encoder of series."""
    folder = tmp_path_factory.mktemp("finetune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        sslx.pretrain(series[0], modality="time-series", out=folder / "run", set=SMALL, **CHOICE)
    return sslx.load(folder / "run")


@pytest.fixture
def make(encoder):
    """make(task): a model on a copy of the encoder, the same each time."""

    def build(task: Task = CLASSES) -> FineTuned:
        torch.manual_seed(0)
        return FineTuned(fresh_encoder(encoder, 0), TaskHead(encoder.dim, task))

    return build


@pytest.fixture
def rows(encoder, series):
    """Training and validation rows."""
    x, y = series
    arrays = {name: value.numpy() for name, value in encoder.preprocess(x).items()}
    split = PreprocessedSplit(arrays, y)
    return LabelledRows(split, np.arange(60)), LabelledRows(split, np.arange(60, 90))


# --- heads -----------------------------------------------------------------------------------------------------------


def test_balanced_weights_of_classes_are_scikit_learns_and_of_labels_the_ratio_of_counts():
    labels = np.array([0, 0, 0, 0, 2, 2])
    weights = balanced_weights(CLASSES, labels)
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels)
    np.testing.assert_allclose(weights, [expected[0], 1, expected[1]], rtol=1e-6)
    task = Task("labels", 3, "auroc")
    many = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_allclose(balanced_weights(task, many), [3, 1, 1 / 3], rtol=1e-6)


def test_loss_of_classes_is_torchs_mean_without_ignored_entries():
    head = TaskHead(4, Task("classes", 3, "accuracy", ignore=3), label_smoothing=0.1)
    head.fit_labels(np.array([0, 0, 1, 2]), balanced=True)
    scores, labels = torch.randn(6, 3), torch.tensor([0, 1, 3, 2, 0, 3])
    kept = labels != 3
    expected = F.cross_entropy(scores[kept], labels[kept], head.weights, label_smoothing=0.1)
    torch.testing.assert_close(head.loss(scores, labels), expected)
    assert head.loss(scores, torch.full((6,), 3)) == 0


def test_loss_of_labels_and_of_numbers():
    head = TaskHead(4, Task("labels", 2, "auroc"))
    head.fit_labels(np.array([[1, 0], [0, 0], [0, 1], [0, 1]]), balanced=True)
    scores, labels = torch.randn(5, 2), torch.randint(2, (5, 2))
    expected = F.binary_cross_entropy_with_logits(scores, labels.float(), pos_weight=torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(head.loss(scores, labels), expected)
    head = TaskHead(4, Task("number", 1, "spearman"))
    y = np.array([10.0, 20.0, 30.0])
    head.fit_labels(y)
    assert float(head.loss(torch.full((3,), 20.0), torch.from_numpy(y))) == pytest.approx(1.0)
    x, weight = np.random.default_rng(0).standard_normal((9, 4)), np.arange(4.0)[:, None]
    normed = F.layer_norm(torch.from_numpy(x), (4,)).numpy()
    head.fit_features(normed)
    head.set_linear(weight, np.array([25.0]))
    np.testing.assert_allclose(head(torch.from_numpy(x).float()).detach(), (normed @ weight)[:, 0] + 25, rtol=1e-3)


def test_first_weights_of_the_head_are_those_of_the_probe():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 5)), np.arange(60) % 2 * 2  # class 1 does not occur
    predict = fit_logistic(CLASSES, x + y[:, None], y).predict_scores
    weight, bias = affine_map(predict, 5, CLASSES)
    test = rng.standard_normal((20, 5)) + 1
    found, expected = probabilities(CLASSES, test @ weight + bias), np.exp(predict(test))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert not (found.argmax(axis=1) == 1).any()
    number = Task("number", 1, "spearman")
    weight, bias = affine_map(fit_logistic(number, x, x[:, 0]).predict_scores, 5, number)
    np.testing.assert_allclose((test @ weight + bias)[:, 0], fit_logistic(number, x, x[:, 0]).predict_scores(test))


def test_a_label_that_never_occurs_gets_a_small_offset():
    """Its probe predicts it with certainty, which as the first weights of a head no training would undo."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((40, 5)), np.stack([np.arange(40) % 2, np.zeros(40), np.ones(40)], axis=1)
    task = Task("labels", 3, "auroc")
    predict = fit_logistic(task, x, labels.astype(np.int64)).predict_scores
    weight, bias = affine_map(predict, 5, task)
    np.testing.assert_allclose(x @ weight[:, 0] + bias[0], predict(x)[:, 0], atol=1e-6)
    assert not weight[:, 1:].any()
    assert bias[1:].tolist() == [-ABSENT_MARGIN, ABSENT_MARGIN]


@pytest.mark.parametrize(
    ("task", "better"),
    [(Task("number", 1, "spearman"), 0), (Task("classes", 2, "accuracy"), 1), (Task("number", 1, "mae"), 0)],
)
def test_of_numbers_the_loss_chooses_the_weights(task, better):
    """A correlation is as good for predictions that are all too large."""
    points = [Evaluation(0, 0.0, None, 0.1, 0.90), Evaluation(5, 1.0, 0.2, 1.5, 0.95)]
    assert max(points, key=lambda point: _key(task, point)).step == points[better].step


# --- what trains -----------------------------------------------------------------------------------------------------


def test_rate_falls_from_the_head_down_by_the_decay(make):
    parts = Parts(make())
    groups = parameter_groups(parts, TrainOptions(layer_decay=0.5, no_decay=True, weight_decay=0.1))
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    names = dict(parts.named_parameters())
    expected = {"head.linear.weight": 1.0, "encoder.transformer.norm.weight": 1.0, "encoder.cls_token": 0.125}
    expected |= {f"encoder.transformer.blocks.{i}.attn.qkv.weight": 0.25 * 2**i for i in range(2)}
    assert {name: scale[id(names[name])] for name in expected} == expected
    assert {scale[id(p)] for name, p in names.items() if name.startswith("tokenizer.")} == {0.125}


def test_last_blocks_train_with_final_norm_and_head(make):
    parts = Parts(make())
    assert choose_trained(parts, FinetuneOptions(train="last:1")) is None
    tops = {".".join(name.split(".")[:4]) for name, p in parts.named_parameters() if p.requires_grad}
    assert tops == {
        "encoder.transformer.blocks.1", "encoder.transformer.norm.weight", "encoder.transformer.norm.bias",
        "head.norm.weight", "head.norm.bias", "head.linear.weight", "head.linear.bias",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--train last:3: the encoder has 2 blocks; give --train last:2 or less"):
        choose_trained(parts, FinetuneOptions(train="last:3"))


def test_head_alone_leaves_the_encoder(make, rows):
    model = make()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items() if value.is_floating_point()}
    fit(model, *rows, FinetuneOptions(train="head", steps=3, evaluations=1, lr=0.1), CPU)
    after = model.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_lora_trains_adapters_alone_and_leaves_a_plain_module(make, rows, monkeypatch):
    pytest.importorskip("peft")
    # each later weight is taken as better, so that those after the last step are kept
    values = iter(np.linspace(0.1, 0.9, 50))
    monkeypatch.setattr(supervised, "_evaluate", lambda model, v, s, at: Evaluation(*at, 1.0, next(values)))
    model, initial = make(), make()
    result = fit(model, *rows, FinetuneOptions(train="lora", lora_rank=2, steps=4, lr=0.01), CPU)
    assert result.best.step == 4
    assert [type(module) for module in model.modules()] == [type(module) for module in initial.modules()]
    before, changed = dict(initial.encoder.named_parameters()), {}
    for name, value in model.encoder.named_parameters():
        difference = (value - before[name]).detach()
        if difference.abs().max() > 1e-9:
            changed[name] = int(torch.linalg.matrix_rank(difference, atol=1e-6))
    maps = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert set(changed) == {f"encoder.transformer.blocks.{i}.{name}.weight" for i in range(2) for name in maps}
    assert max(changed.values()) <= 2
    adapters = 2 * 2 * ((16 + 48) + (16 + 16) + (16 + 32) + (32 + 16))
    assert result.trained == adapters + sum(p.numel() for p in model.head.parameters())


def test_lora_without_peft_names_the_extra(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'sslx\[lora\]'"):
        choose_trained(Parts(make()), FinetuneOptions(train="lora"))


def test_lora_and_last_need_numbered_blocks(make):
    model = make()
    model.encoder.encoder = nn.Linear(4, 4)
    with pytest.raises(ConfigError, match="the encoder has no numbered blocks; use --train all or head"):
        choose_trained(Parts(model), FinetuneOptions(train="last:1"))
    if pytest.importorskip("peft"):
        with pytest.raises(ConfigError, match="use --train all"):
            choose_trained(Parts(model), FinetuneOptions(train="lora"))


# --- the loop --------------------------------------------------------------------------------------------------------


def test_rates_and_steps():
    options = FinetuneOptions(warmup=0.2)
    assert [round(rate_share(options, at), 6) for at in (0.0, 0.1, 0.2, 0.6, 1.0)] == [0, 0.5, 1, 0.5, 0]
    assert rate_of(options, scratch=True) == rate_of(options, scratch=False)
    lora = FinetuneOptions(train="lora")
    assert (rate_of(lora, False), rate_of(lora, True)) == (2e-3, 5e-4)
    assert rate_of(FinetuneOptions(train="lora", lr=1.0, scratch_lr=0.1), True) == 0.1
    assert FinetuneOptions(epochs=10).count_steps(320) == 200  # 100 are too few
    assert FinetuneOptions(epochs=10).count_steps(3200) == 1000
    assert FinetuneOptions(epochs=10).count_steps(960) == 300
    assert FinetuneOptions(steps=7).count_steps(960) == 7


def test_early_stopping_keeps_the_weights_of_the_validation_optimum(make, rows, monkeypatch):
    values, losses, weights = [0.5, 0.6, 0.7, 0.7, 0.6, 0.9], [1, 1, 1, 0.5, 0, 0], []

    def evaluate(model, validation, setting, at):
        weights.append(model.head.linear.weight.detach().clone())
        return Evaluation(*at, losses[len(weights) - 1], values[len(weights) - 1])

    monkeypatch.setattr(supervised, "_evaluate", evaluate)
    model = make()
    result = fit(model, *rows, FinetuneOptions(steps=40, evaluations=20, patience=1), CPU)
    # 0.7 with the lower loss is the best; one evaluation that is not better ends the training
    assert (result.best.step, result.steps) == (6, 8)
    assert torch.equal(model.head.linear.weight, weights[3])
    assert not torch.equal(weights[3], weights[4])


@pytest.mark.parametrize(
    ("values", "steps", "best"),
    [
        ([0.9, 0.3, 0.5, 0.5, 0.7, 0.8, 0.95], 12, 12),  # worse than the probe's head for long, and better at last
        ([0.9, 0.3, 0.5, 0.4, 0.4, 0.8, 0.95], 8, 0),  # two evaluations that are not better than 0.5
        ([0.9, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1], 6, 0),
    ],
)
def test_patience_is_with_the_training_and_not_with_the_head_of_the_probe(make, rows, monkeypatch, values, steps, best):
    left = iter(values)
    monkeypatch.setattr(
        supervised, "_evaluate", lambda model, validation, setting, at: Evaluation(*at, 1.0, next(left))
    )
    result = fit(make(), *rows, FinetuneOptions(steps=12, evaluations=6, patience=2), CPU)
    assert (result.steps, result.best.step) == (steps, best)


def test_a_fit_is_a_function_of_its_seed_and_leaves_the_generators(make, rows):
    def trained(seed: int) -> torch.Tensor:
        model = make()
        fit(model, *rows, FinetuneOptions(steps=5, evaluations=1), FitSetting(seed, torch.device("cpu")))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    state = torch.get_rng_state()
    first = trained(0)
    torch.manual_seed(1)
    assert torch.equal(first, trained(0))
    assert not torch.equal(first, trained(1))
    torch.set_rng_state(state)
    model = make()
    state = torch.get_rng_state()
    fit(model, *rows, FinetuneOptions(steps=2, evaluations=1), CPU)
    assert torch.equal(state, torch.get_rng_state())


def test_from_scratch_is_the_same_network_with_other_weights_and_the_same_constants(encoder):
    fresh = fresh_encoder(encoder, 0)
    shapes = {name: value.shape for name, value in encoder.state_dict().items()}
    assert {name: value.shape for name, value in fresh.state_dict().items()} == shapes
    for name in ("encoder.transformer.blocks.0.attn.qkv.weight", "tokenizer.embed.weight"):
        assert not torch.equal(fresh.get_parameter(name), encoder.get_parameter(name))
    constants = dict(encoder.tokenizer.named_buffers())
    assert constants
    assert all(torch.equal(value, constants[name]) for name, value in fresh.tokenizer.named_buffers())
    again, other = fresh_encoder(encoder, 0), fresh_encoder(encoder, 1)
    assert torch.equal(again.encoder.cls_token, fresh.encoder.cls_token)
    assert not torch.equal(other.encoder.cls_token, fresh.encoder.cls_token)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_shares_of_labels_are_stratified_and_nested():
    labels = np.array([0] * 100 + [1] * 40 + [2] * 3)
    few, more = share_of_labels(CLASSES, labels, 0.1, 0), share_of_labels(CLASSES, labels, 0.3, 0)
    assert np.bincount(labels[few]).tolist() == [10, 4, 1]
    assert np.bincount(labels[more]).tolist() == [30, 12, 1]
    assert set(few) <= set(more)
    assert set(few) != set(share_of_labels(CLASSES, labels, 0.1, 1))
    assert len(share_of_labels(CLASSES, labels, 1.0, 0)) == len(labels)
    assert len(share_of_labels(Task("number", 1, "mae"), np.zeros(50), 0.1, 0)) == 5


def test_held_out_rows_are_a_share_of_each_class_and_leave_one_of_each():
    labels = np.array([0] * 50 + [1] * 10 + [2])
    held = hold_out_rows(CLASSES, labels, 0.2, 0)
    assert np.bincount(labels[held], minlength=3).tolist() == [10, 2, 0]
    assert np.array_equal(held, hold_out_rows(CLASSES, labels, 0.2, 0))
    assert hold_out_rows(CLASSES, np.array([0, 1]), 0.2, 0).sum() == 1
    with pytest.raises(DataError, match="one labelled sample is too few"):
        hold_out_rows(CLASSES, np.array([0]), 0.2, 0)


def test_validation_is_cut_from_training_and_shares_no_sample_with_test(encoder, series, tmp_path):
    x, y = series
    np.savez(tmp_path / "x.npz", x=x, y=y, groups=np.arange(90) // 10)
    catalogue = plugins.load()
    request = DataRequest({"name": "files", "root": str(tmp_path / "x.npz")}, 0.3)
    data = open_labelled(encoder, request, catalogue, Console())
    digests = [set(part.split.digests[part.rows].tolist()) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, digests)) == len(set().union(*digests)) == 90
    inputs = {name: value.numpy() for name, value in encoder.preprocess(x).items()}
    place = {sample_digest({name: value[i] for name, value in inputs.items()}): i for i in range(90)}
    groups = [{place[digest] // 10 for digest in part} for part in digests]
    assert [len(part) for part in groups] == [5, 2, 2]  # whole groups of ten samples
    assert len(set().union(*groups)) == 9
    assert "finetune.validation_fraction=0.3" in data.held_out


def table(folder, **columns):
    """The folder of a CSV file of two numbers and further columns."""
    numbers = {name: np.random.default_rng(0).standard_normal(60) for name in ("a", "b")}
    pandas.DataFrame(numbers | columns).to_csv(folder / "x.csv", index=False)
    return str(folder / "x.csv")


@pytest.mark.parametrize(
    ("columns", "options", "opened", "held_out"),
    [
        ({}, {}, ["train", "validation", "test"], "finetune.validation_fraction=0.3"),
        ({}, {"validation_fraction": 0.1}, ["train", "validation", "test"], "the data's own"),
        ({"split": ["train", "val", "test"] * 20}, {}, ["train", "train", "validation", "test"], "the data's own"),
        ({"group": ["a", "b"] * 30}, {}, ["train", "train", "test"], "30% of the training samples"),
    ],
    ids=["no split", "an option", "its own split", "too few groups"],
)
def test_data_are_opened_once_a_split(tmp_path, monkeypatch, columns, options, opened, held_out):
    """Once more where the data set refuses to cut a validation split."""
    path = table(tmp_path, label=["yes", "yes", "no", "no"] * 15, **columns)
    small = {"encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.heads": 1}
    run = sslx.pretrain(
        path, modality="tabular", objective="mae", steps=1, preset="none", set=small, out=tmp_path / "r"
    )
    seen, catalogue = [], plugins.load()
    kind = catalogue.dataset("files", "tabular")
    init = kind.__init__

    def counted(self, given, split):
        seen.append(split)
        init(self, given, split)

    monkeypatch.setattr(kind, "__init__", counted)
    request = DataRequest({"name": "files", "root": path, **options}, 0.3)
    data = open_labelled(run.encoder, request, catalogue, Console())
    assert seen == opened
    assert held_out in data.held_out


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int", "str", "labels", "number"])
def test_every_kind_of_label_is_predicted_in_its_own_form_and_survives_saving(encoder, series, tmp_path, kind):
    x, y = series
    labels = {
        "int": 10 * y, "str": np.array(["no", "yes", "maybe"])[y], "labels": np.stack([y == 0, y > 1], 1).astype(int),
        "number": y + 0.25,
    }[kind]  # fmt: skip
    model = sslx.finetune(encoder, x, labels, **QUICK)
    predicted = model.predict(x)
    if kind != "labels":  # labels beside their samples
        pairs = sslx.finetune(encoder, list(zip(x, labels, strict=True)), **QUICK)
        np.testing.assert_array_equal(pairs.predict(x), predicted)
    if kind == "number":
        assert predicted.shape == (90,)
        with pytest.raises(ConfigError, match="use predict"):
            model.predict_proba(x)
    else:
        shares = model.predict_proba(x)
        assert shares.shape == (90, 2 if kind == "labels" else 3)
        assert ((shares >= 0) & (shares <= 1)).all()
        if kind == "labels":
            assert np.array_equal(predicted, (shares > 0.5).astype(int))
        else:
            np.testing.assert_allclose(shares.sum(axis=1), 1)
            assert np.array_equal(predicted, model.classes[shares.argmax(axis=1)])
            assert set(predicted) <= set(labels)
            assert predicted.dtype.kind == labels.dtype.kind
    methods = [score.method for score in model.report.scores if score.metric == model.task.metric]
    assert sorted(methods) == ["fine-tuned", "from scratch", "linear probe"]
    assert {score.metric for score in model.report.scores} - {model.task.metric} == (
        {"r2"} if kind == "number" else set()
    )
    model.save(tmp_path / "model")
    loaded = sslx.load_model(tmp_path / "model")
    assert np.array_equal(loaded.predict(x), predicted)
    np.testing.assert_allclose(loaded.predict_scores(x, batch_size=7), model.predict_scores(x), rtol=1e-4, atol=1e-4)


def test_labels_of_tokens(tmp_path):
    sizes = {"dataset.n_train": 24, "dataset.n_test": 12, "dataset.label": "structure", "dataset.length": 32}
    sizes |= {"tokenizer.length": 32}
    run = sslx.pretrain(modality="protein", out=tmp_path / "run", set={**SMALL, **sizes}, **CHOICE)
    model = sslx.finetune(run, out=tmp_path / "fine", **QUICK)
    dataset = run.splits["test"]
    x = [dataset[i]["inputs"] for i in range(4)]
    predicted, shares = model.predict(x), model.predict_proba(x)
    length = run.learner.tokenizer.layout.length
    assert predicted.shape == (4, length)
    assert shares.shape == (4, length, model.task.size)
    known = ~np.isnan(shares[..., 0])
    assert set(predicted[known]) <= set(model.classes)
    assert (predicted[~known] == "").all()
    again = sslx.load_model(tmp_path / "fine").predict_proba(x)
    assert np.array_equal(again, shares, equal_nan=True)
    counted = sum(int((dataset[i]["label"] != dataset.task.ignore).sum()) for i in range(12))
    assert {score.n_test for score in model.report.scores} == {counted}


@pytest.mark.slow
def test_a_model_learns_and_predicts_the_same_in_a_fresh_process(encoder, series, tmp_path):
    x, y = series
    model = sslx.finetune(
        encoder, x, y, steps=60, lr=5e-3, out=tmp_path / "fine", device="cpu", precision="fp32",
        set={"finetune.evaluations": 6, "finetune.head_init": "random"},
    )  # fmt: skip
    found = {score.method: score.value for score in model.report.scores}
    assert found["fine-tuned"] > 0.8  # chance is a third
    assert (model.predict(x) == y).mean() > 0.8
    code = "import sys, numpy, sslx; p = sslx.load_model(sys.argv[1]).predict_proba(numpy.load(sys.argv[2]))"
    np.save(tmp_path / "x.npy", x)
    place = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", f"{code}; numpy.save(sys.argv[3], p)", "fine", "x.npy", "p.npy"], check=True,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": place, "SSLX_CACHE_DIR": str(tmp_path / "empty")},
    )  # fmt: skip
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), model.predict_proba(x), rtol=0, atol=1e-6)


def test_modes_of_all_parts_are_as_before(encoder, series):
    model = sslx.finetune(encoder, *series, **QUICK)
    model.train()
    model.encoder.tokenizer.eval()
    model.predict(series[0][:2])
    model.encoder.embed(series[0][:2])
    assert (model.training, model.encoder.encoder.training, model.encoder.tokenizer.training) == (True, True, False)


def test_labels_beside_files_are_refused(encoder, tmp_path):
    for x in (str(tmp_path / "x.csv"), None):
        with pytest.raises(ConfigError, match="y is for data in memory"):
            sslx.finetune(encoder, x, y=[0, 1], **QUICK)


def test_report_has_every_method_share_and_metric_and_the_optimum_of_each_curve(encoder, series, tmp_path):
    sslx.finetune(
        encoder, *series, label_fractions=[0.5, 1], seeds=2, metrics=["macro_f1"], out=tmp_path / "fine", **QUICK
    )  # fmt: skip
    report = json.loads((tmp_path / "fine" / "finetune.json").read_text())
    keys = {(s["method"], s["fraction"], s["seed"], s["metric"]) for s in report["scores"]}
    assert len(keys) == len(report["scores"]) == 3 * 2 * 2 * 2
    assert report["model"] == {"fraction": 1.0, "seed": 0}
    assert report["task"]["names"] == ["0", "1", "2"]
    assert {(s["fraction"], s["n_train"], s["n_validation"]) for s in report["scores"]} == {(1.0, 58, 14), (0.5, 29, 6)}
    assert len(report["curves"]) == 8
    for curve in report["curves"]:
        best = max(point["value"] for point in curve["points"])
        place = (curve["method"], curve["fraction"], curve["seed"])
        assert {s["validation"] for s in report["scores"] if (s["method"], s["fraction"], s["seed"]) == place} == {best}
    sslx.finetune(encoder, *series, out=tmp_path / "fine", overwrite=True, set={"finetune.max_validation": 6}, **QUICK)
    report = json.loads((tmp_path / "fine" / "finetune.json").read_text())
    assert {s["method"]: s["n_validation"] for s in report["scores"]}["fine-tuned"] == 6


def test_without_a_test_split_the_probe_is_not_fitted_on_what_is_scored(encoder, series, tmp_path):
    """Labels at random: a probe that had seen the scored samples would know them, with more features than samples."""
    x, y = series
    labels = np.random.default_rng(1).permutation(y)[:30]
    model = sslx.finetune(encoder, x[:30], labels, set={"dataset.test_fraction": 0}, **QUICK)
    (row,) = [one for one in model.report.scores if one.method == "linear probe"]
    assert model.report.split == "validation"
    assert row.value == row.validation


def test_the_source_stays_and_nothing_is_written_unasked(encoder, series, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    sslx.finetune(encoder, *series, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_errors_name_culprit_and_cure(encoder, series, tmp_path):
    x, y = series
    for options, message in (
        ({"train": "some"}, "give all, last:N with N from 1, lora or head"),
        ({"label_fractions": [2]}, "2 is no share"),
        ({"seeds": 0}, "give at least 1"),
        ({"set": {"train.lr": 1}}, "not 'train.lr'; see sslx show finetune"),
        ({"set": {"finetune.rate": 1}}, "unknown option 'finetune.rate'"),
        ({"metrics": ["accurracy"]}, "--metrics: unknown metric 'accurracy'; did you mean 'accuracy'"),
        ({"budget": "soon"}, "write it as 90s, 10m, 1.5h or 30d"),
    ):
        with pytest.raises(ConfigError, match=message):
            sslx.finetune(encoder, x, y, **{**QUICK, **options})
    with pytest.raises(ConfigError, match="has no labels"):
        sslx.finetune(encoder, x, **QUICK)
    with pytest.raises(ConfigError, match="in memory, which are not in its folder; give x and y"):
        sslx.finetune(encoder, **QUICK)
    with pytest.raises(ConfigError, match="balanced is for classes and labels"):
        sslx.finetune(encoder, x, y + 0.5, class_weights="balanced", **QUICK)
    with pytest.raises(CheckpointError, match="holds no fine-tuned model"):
        sslx.load_model(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        sslx.finetune(encoder, x, y, out=tmp_path / "mine", **QUICK)
