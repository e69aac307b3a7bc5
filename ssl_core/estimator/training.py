"""Train an encoder without a run folder, probes and report."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssl_core import plugins as installed
from ssl_core.config.resolve import resolve
from ssl_core.contracts import Dataset
from ssl_core.data import Discrete, Fields
from ssl_core.pipeline.memory import MEMORY, ORIGIN, memory_dataset
from ssl_core.plugins import Origin
from ssl_core.runs.build import announce, build_run
from ssl_core.runs.encoder import PretrainedEncoder
from ssl_core.runs.memory_data import MemoryPlugin
from ssl_core.runs.pretrain import training_plan
from ssl_core.runs.run import RunContext
from ssl_core.training.loop import Interrupted, train
from ssl_core.utils.cache import cache_in
from ssl_core.utils.console import Console

FITTING = threading.RLock()
"""Held while an encoder is trained: torch has one random generator for all threads of a process."""


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder, the losses that were logged, the steps done, and lines on what may have been misread."""

    encoder: PretrainedEncoder
    losses: list[float]
    steps: int
    doubts: list[str]


def train_encoder(
    samples: Any, modality: str, options: Mapping[str, Any], vocabularies: Mapping[str, int], rate: float | None,
    console: Console,
) -> TrainedEncoder:  # fmt: skip
    """Train on all samples in a temporary folder, which is removed. torch's random generators stay as they are.

    Args:
        samples: in any form that `sslx.pretrain` takes in memory.
        modality: the kind of data.
        options: options of the run by dotted path.
        vocabularies: number of ids of fields whose samples may not show all.
        rate: samples per second of recordings.
        console: where lines go.

    Raises:
        SslxError: an option, or samples that cannot be used.
        KeyboardInterrupt: a signal stopped it.
    """
    catalogue = installed.load()
    with (
        FITTING, torch.random.fork_rng(), tempfile.TemporaryDirectory(prefix="sslx-") as name, cache_in(Path(name)),
    ):  # fmt: skip
        folder = Path(name) / "run"
        folder.mkdir()
        default: type[Dataset] = catalogue.default_dataset(modality)
        template: Fields = default(default.Options(), "train").fields
        dataset, digest = memory_dataset(samples, None, modality, template, rate)
        fields = dict(dataset.known_fields)
        for field, size in vocabularies.items():
            fields[field] = replace(one, vocab=size) if isinstance(one := fields[field], Discrete) else one
        dataset.known_fields = fields
        catalogue.add(Origin(ORIGIN), MemoryPlugin(dataset))
        own = {"modality": modality, "dataset.name": MEMORY, "dataset.digest": digest, "dataset.test_fraction": 0.0}
        config, classes = resolve(catalogue, {**options, **own})
        run = build_run(config, classes, RunContext(catalogue, folder, console))
        announce(run)
        plan = replace(training_plan(run, None), probe_every=0, listener=None)
        try:
            result = train(run.learner, run.data["train"], plan)
        except Interrupted:
            raise KeyboardInterrupt from None
        run.steps = result.steps
        encoder = run.encoder.eval()
        encoder.zero_grad(set_to_none=True)
        losses = [line["train/loss"] for line in result.log.lines if "train/loss" in line]
    encoder.provenance = replace(encoder.provenance, folder=Path("SelfSupervisedEncoder"))
    return TrainedEncoder(encoder, losses, result.steps, run.doubts)
