"""Probes of other packages: options, the features that they read, and their scores in reports and tables."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import Field

from ssl_core import ConfigError, PluginError, Probe, Task, hookimpl
from ssl_core.config.resolve import resolve
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import FeatureSpec, group_by_features, make_probes, score
from ssl_core.plugins import Catalogue
from ssl_core.report import read, score_table
from ssl_core.report.comparison import compare
from ssl_core.report.comparison_tables import csv_text
from ssl_core.runs.pretrain import RunPlan, RunRequest, pretrain
from ssl_core.runs.run import RunContext
from ssl_core.utils.console import Console
from ssl_plugins.encoders import transformer
from ssl_plugins.maskings import random
from ssl_plugins.objectives import mae
from ssl_plugins.objectives.mae import MAE
from ssl_plugins.probes import knn, linear

CLASSES = Task("classes", 2, "accuracy", title="word")


class Nearest(Probe):
    """Nearest centroid of the classes."""

    name = "nearest-centroid"
    evaluate_options = ("seed",)

    class Options(Probe.Options):
        """Options of the probe."""

        seed: int
        shrink: float = Field(0.0, ge=0, le=1)

    def fit(self, features, labels, task):
        centroids = np.stack([features[labels == label].mean(axis=0) for label in range(task.size)])
        centroids *= 1 - self.options.shrink
        distances = lambda x: ((x[:, None] - centroids) ** 2).sum(axis=-1)  # noqa: E731
        return SimpleNamespace(predict_scores=lambda x: -distances(x), details={"shrink": self.options.shrink})


class TokenMaximum(Nearest):
    """Nearest centroid of the largest value over tokens, of two layers."""

    name = "token-maximum"
    per_token = True
    layers = (1, 2)

    def fit(self, features, labels, task):
        fitted = super().fit(features.max(axis=1), labels, task)
        return SimpleNamespace(predict_scores=lambda x: fitted.predict_scores(x.max(axis=1)))


@pytest.fixture
def catalogue(toy):
    class Plugin:
        @hookimpl
        def register_tokenizers(self):
            return [toy.Tokenizer]

        @hookimpl
        def register_datasets(self):
            return [toy.Data]

        @hookimpl
        def register_probes(self):
            return [Nearest, TokenMaximum]

    shipped = {"a:mae": mae, "a:random": random, "a:linear": linear, "a:knn": knn}
    shipped["a:transformer"] = transformer
    return Catalogue.from_plugins({**shipped, "other:probes": Plugin()}, version="3")


def config_of(catalogue, **evaluate):
    small = {"encoder.dim": 16, "encoder.depth": 2, "encoder.heads": 2, "train.steps": 3, "train.batch_size": 8}
    small |= {"objective.depth": 1, "objective.width": 8, "objective.heads": 1, "device": "cpu"}
    chosen = {f"evaluate.{key}": value for key, value in evaluate.items()}
    return resolve(catalogue, {"objective.name": "mae", "modality": "toy", **small, **chosen})


@pytest.mark.slow
def test_scores_of_other_probes_and_metrics_are_in_report_tables_and_page(catalogue, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    config, plugins = config_of(
        catalogue, probes=["linear", "nearest-centroid", "token-maximum"], metrics=["macro_f1"], every=2,
        probe_options={"nearest-centroid": {"shrink": 0.25}},
    )  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    pretrain(RunPlan(RunRequest({}), config, plugins), RunContext(catalogue, folder, Console()))
    report = read(folder)
    known = {(score.probe, score.metric, score.features) for score in report.scores}
    probes = ("linear", "nearest-centroid", "token-maximum")
    kinds = ("trained", "random_init", "raw_input")
    assert known == {(p, m, f) for p in probes for m in ("accuracy", "macro_f1") for f in kinds}
    assert {s.details["shrink"] for s in report.scores if s.probe == "nearest-centroid"} == {0.25}
    assert {point.step for point in report.curve} == {0, 2, 3}
    assert "nearest-centroid_macro_f1" in report.curve[0].scores
    assert any(str(cell).startswith("nearest-centroid") for cell in score_table(report).columns[1].cells)
    page = (folder / "report.html").read_text()
    assert "nearest-centroid probe" in page
    assert "<td><code>other:probes 3</code></td>" in page
    rows = list(csv.DictReader(io.StringIO(csv_text(compare([report])))))
    assert {"nearest-centroid", "token-maximum"} <= {row["probe"] for row in rows}
    saved = json.loads((folder / "config.json").read_text())["evaluate"]
    assert saved["probe_options"] == {"nearest-centroid": {"shrink": 0.25}}


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"probes": ["nearest-centroit"]}, "unknown probe 'nearest-centroit'; did you mean 'nearest-centroid'"),
        ({"probe_options": {"nearest-centroid": {}}}, "'nearest-centroid', which evaluate.probes does not name"),
        (
            {"probes": ["nearest-centroid"], "probe_options": {"nearest-centroid": {"shrinc": 1}}},
            r"unknown option 'evaluate\.probe_options\.nearest-centroid\.shrinc'; did you mean .*shrink'",
        ),
        (
            {"probes": ["nearest-centroid"], "probe_options": {"nearest-centroid": {"shrink": 2}}},
            r"option 'evaluate\.probe_options\.nearest-centroid\.shrink': input should be less than or equal to 1",
        ),
        ({"metrics": ["acuracy"]}, r"evaluate\.metrics: unknown metric 'acuracy'; did you mean 'accuracy'"),
    ],
)  # fmt: skip
def test_a_bad_probe_option_or_metric_is_refused_before_the_run(catalogue, evaluate, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config_of(catalogue, **evaluate)
    assert "\n" not in str(caught.value)


def test_options_come_from_the_section_evaluate_and_are_overridden():
    options = EvaluateOptions(probe_options={"nearest-centroid": {"shrink": 0.5}})
    assert make_probes({Nearest.name: Nearest}, options, 7)[Nearest.name].options == Nearest.Options(seed=7, shrink=0.5)
    seeded = EvaluateOptions(seed=3)
    assert make_probes({Nearest.name: Nearest}, seeded, 7)[Nearest.name].options.seed == 3
    overridden = EvaluateOptions(seed=3, probe_options={"nearest-centroid": {"seed": 5}})
    assert make_probes({Nearest.name: Nearest}, overridden, 7)[Nearest.name].options.seed == 5


@pytest.mark.parametrize(
    "options",
    [
        {"probe_options.nearest-centroid.shrink": 0.25},
        {"probe_options": {"nearest-centroid": {"seed": 5}}, "probe_options.nearest-centroid.shrink": 0.25},
    ],
)
def test_an_option_of_a_probe_is_set_by_its_path(catalogue, options):
    config, _ = config_of(catalogue, probes=["nearest-centroid"], **options)
    expected = {"shrink": 0.25} | options.get("probe_options", {}).get("nearest-centroid", {})
    assert config.evaluate.probe_options == {"nearest-centroid": expected}
    with pytest.raises(ConfigError, match=r"unknown option 'evaluate\.seed\.shrink'"):
        config_of(catalogue, **{"seed.shrink": 1})


def test_features_are_computed_once_for_probes_that_read_the_same():
    classes = {"linear": linear.LinearProbe, "knn": knn.KNNProbe, TokenMaximum.name: TokenMaximum}
    probes = make_probes(classes, EvaluateOptions(), 0)
    groups = group_by_features(probes, CLASSES)
    assert {spec: list(group) for spec, group in groups.items()} == {
        FeatureSpec(False, None): ["linear", "knn"],
        FeatureSpec(True, (1, 2)): ["token-maximum"],
    }


def test_features_of_layers_are_outputs_of_blocks(toy):
    learner = toy.make_learner(MAE, encoder_depth=2).eval()
    inputs = {"x": torch.randn(3, 2, 16)}
    last = learner.embed(inputs)
    first = learner.encoder.transformer.blocks[0]
    outputs = []
    handle = first.register_forward_hook(lambda module, args, output: outputs.append(output))
    learner.embed(inputs)
    handle.remove()
    tokens = learner.embed(inputs, per_token=True, layers=(1, 1))
    assert torch.equal(tokens, outputs[0][:, 1:].repeat(1, 1, 2))
    assert torch.equal(learner.embed(inputs, layers=(1,)), outputs[0][:, 1:].mean(dim=1))
    assert torch.equal(learner.embed(inputs, layers=(2,)), last)
    with pytest.raises(ConfigError, match=r"a probe reads layers .*: the encoder has layers 1 to 2"):
        learner.embed(inputs, layers=(3,))


class Fixed(Probe):
    """Predicts what it is told to."""

    name = "fixed"

    def __init__(self, scores, details):
        self.scores, self.details = scores, details

    def fit(self, features, labels, task):
        return SimpleNamespace(predict_scores=lambda x: self.scores, details=self.details)


@pytest.mark.parametrize(
    ("scores", "details", "message"),
    [
        (np.zeros(4), {}, r"probe 'fixed': predict_scores returned the shape \(4,\).*return \(4, 2\)"),
        (np.full((4, 2), np.nan), {}, "probe 'fixed': predict_scores returned numbers that are not finite"),
        (np.zeros((4, 2)), {"model": object()}, "probe 'fixed': details must be values of JSON"),
    ],
)
def test_scores_and_details_that_cannot_be_used_are_refused(scores, details, message):
    x, y = np.zeros((4, 3), dtype=np.float32), np.array([0, 1, 0, 1])
    with pytest.raises(PluginError, match=message):
        score(CLASSES, (x, y), (x, y), {"fixed": Fixed(scores, details)})


def test_rows_of_token_features_are_samples():
    x, y = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32), np.array([0, 1, 0, 1, 0, 1])
    shapes = []

    class Recorder(Fixed):
        per_token = True

        def fit_groups(self, features, labels, task, groups):
            shapes.append((features.shape, labels.shape, groups.tolist()))
            return super().fit_groups(features, labels, task, groups)

    (row,) = score(CLASSES, (x, y), (x, y), {"fixed": Recorder(np.zeros((6, 2)), {})})
    assert shapes == [((6, 5, 3), (6,), [0, 1, 2, 3, 4, 5])]
    assert (row["n_train"], row["n_test"]) == (6, 6)
