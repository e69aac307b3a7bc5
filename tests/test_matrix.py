"""Every shipped objective on every modality: twelve steps on the embedded data, as the engine takes them.

Batches and draws are the engine's own, the encoder is small. What is asserted of each cell: losses are finite; the
loss of fixed batches under fixed draws falls; a gradient reaches every parameter of the tokenizer; features are finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_core import Learner, plugins
from ssl_core.config.resolve import Plugins, resolve
from ssl_core.config.schema import RunConfig
from ssl_core.evaluation.features import features
from ssl_core.pipeline.cache import PreprocessedSplit, RawSamples, preprocess_dataset
from ssl_core.pipeline.prefetch import BatchStream
from ssl_core.runs import build
from ssl_core.runs.data import open_splits
from ssl_core.training.optim import make_optimizer
from ssl_core.utils.console import Console
from ssl_core.utils.seeds import seed_torch

CATALOGUE = plugins.load()
OBJECTIVES = [e.name for e in CATALOGUE.entries("objective") if e.origin.plugin.startswith("sslx:")]
MODALITIES = sorted({e.value.name for e in CATALOGUE.entries("tokenizer") if e.origin.plugin.startswith("sslx:")})
ALL_OBJECTIVES = {"capri", "dabs-mae", "emix", "ijepa", "m3ae", "mae", "metamae", "shed"}
ALL_MODALITIES = {
    "genomics", "image", "image-text", "medical-image", "multilingual-text", "multispectral", "protein", "speech",
    "tabular", "text", "time-series", "wafer",
}  # fmt: skip
STEPS = 12
CPU = torch.device("cpu")
SMALL = {
    "dataset.n_train": 96, "dataset.n_test": 8, "encoder.dim": 32, "encoder.depth": 1, "encoder.heads": 2,
    "train.steps": STEPS, "train.batch_size": 16, "train.lr": 3e-3, "train.warmup_steps": 0, "train.precision": "fp32",
    "train.compile": "off",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A learner, what it is made from, and its data."""

    config: RunConfig
    plugins: Plugins
    learner: Learner
    data: PreprocessedSplit


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, shared by the objectives of a modality."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(params=[pytest.param((m, o), id=f"{m}-{o}") for m in MODALITIES for o in OBJECTIVES])
def cell(request: pytest.FixtureRequest, cache: Path) -> Cell:
    modality, objective = request.param
    config, chosen = resolve(CATALOGUE, {"modality": modality, "objective.name": objective, **SMALL})
    splits = open_splits(config, chosen).splits
    learner = build.build_learner(config, chosen, splits["train"].fields)
    learner.tokenizer.fit(RawSamples(splits["train"]))
    data = preprocess_dataset(splits["train"], learner.tokenizer, cache, Console())
    learner.tokenizer.fit_normalization(data.chunks())
    config, _ = build.resolve_runtime(config, learner, CPU, data)
    return Cell(config, chosen, learner, data)


def fixed_loss(cell: Cell) -> float:
    """The mean loss of the first batches, under the draws that they get in training."""
    options, total = cell.config.train, 0.0
    feed = BatchStream(cell.learner, cell.data, options.batch_size, 0, CPU, range(4))
    for step in range(4):
        seed_torch(0, "step", step)
        total += cell.learner(*feed.take()).loss.item()
    return total / 4


def test_no_objective_and_no_modality_is_left_out() -> None:
    """The axes are what the catalogue offers; a plugin that does not load would take its cells with it."""
    assert set(OBJECTIVES) >= ALL_OBJECTIVES
    assert set(MODALITIES) >= ALL_MODALITIES


def test_matrix(cell: Cell) -> None:
    options, learner = cell.config.train, cell.learner.train()
    learner.start_teacher()
    before = fixed_loss(cell)
    optimizer = make_optimizer(learner, options)
    reached: set[str] = set()
    feed = BatchStream(learner, cell.data, options.batch_size, 0, CPU, range(STEPS))
    for step in range(STEPS):
        seed_torch(0, "step", step)
        loss = learner(*feed.take()).loss
        assert torch.isfinite(loss), f"step {step}"
        loss.backward()
        reached |= {
            name
            for name, parameter in learner.tokenizer.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        optimizer.step()
        optimizer.zero_grad()
    assert fixed_loss(cell) < before
    assert reached == {name for name, _ in learner.tokenizer.named_parameters()}
    learner.eval()
    taken, _ = features(learner.embed, iter([cell.data.take(range(32))]))
    assert taken.shape == (32, cell.config.encoder.dim)
    assert np.isfinite(taken).all()
    assert taken.std(axis=0).any()
