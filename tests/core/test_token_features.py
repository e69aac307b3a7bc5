"""Token features that a run hands to probes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from ssl_core import Geometry, Probe, hookimpl
from ssl_core.plugins import Catalogue
from ssl_core.runs.pretrain import RunRequest, plan_run, pretrain
from ssl_core.runs.run import RunContext
from ssl_core.utils.console import Console
from ssl_plugins.encoders import transformer
from ssl_plugins.maskings import random
from ssl_plugins.objectives import mae

OPTIONS = {
    "objective.name": "mae", "modality": "toy", "encoder.dim": 16, "encoder.depth": 1, "encoder.heads": 2,
    "objective.depth": 1, "objective.width": 8, "objective.heads": 1, "train.steps": 1, "train.batch_size": 8,
    "device": "cpu", "evaluate.probes": ["recording"],
}  # fmt: skip


def test_token_features_of_padding_are_zero(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    received = []

    class Padded(toy.Tokenizer):
        """Rows whose first value is negative have two of four tokens."""

        def geometry(self, inputs):
            return Geometry((inputs["x"][:, 0, :1] >= 0) | (torch.arange(4) < 2))

    class Recording(Probe):
        """Records the features that it gets."""

        name = "recording"
        per_token = True

        def fit(self, features, labels, task):
            received.append(features)
            return SimpleNamespace(predict_scores=self.predict_scores)

        def predict_scores(self, features):
            received.append(features)
            return np.zeros((len(features), 2))

    class Plugin:
        @hookimpl
        def register_tokenizers(self):
            return [Padded]

        @hookimpl
        def register_datasets(self):
            return [toy.Data]

        @hookimpl
        def register_probes(self):
            return [Recording]

    modules = {"a:mae": mae, "a:random": random, "a:transformer": transformer, "a:plugin": Plugin()}
    catalogue = Catalogue.from_plugins(modules)
    plan = plan_run(RunRequest(OPTIONS, out=tmp_path / "run"), catalogue)
    (tmp_path / "run").mkdir()
    pretrain(plan, RunContext(catalogue, tmp_path / "run", Console()))
    assert [features.shape for features in received] == [(40, 4, 16), (20, 4, 16)] * 2 + [(40, 4, 8), (20, 4, 8)]
    for features, split in zip(received, ("train", "test") * 3, strict=True):
        data = toy.Data(toy.Data.Options(), split)
        whole = np.array([data[index]["inputs"]["x"][0, 0] >= 0 for index in range(len(data))])
        assert 0 < whole.sum() < len(whole)
        assert (features[whole] != 0).any(axis=-1).all()
        assert (features[~whole, :2] != 0).any(axis=-1).all()
        assert (features[~whole, 2:] == 0).all()
