"""A run from its configuration to its report: the ten stops, in order, on one page. Stops 1 to 3 are the caller's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ssl_core.assemble import Data, Splits, build, evaluate, header, open_splits, parameters, remarks, settle, versions
from ssl_core.config import Plugins, RunConfig, plugins_of
from ssl_core.engine import checkpoint
from ssl_core.engine.device import cache_root, describe, peak_memory, pick_device
from ssl_core.engine.files import write_json
from ssl_core.engine.journal import METRICS, append_metrics, read_metrics
from ssl_core.engine.learner import Learner
from ssl_core.engine.loader import prepare
from ssl_core.engine.pictures import rebuild
from ssl_core.engine.tell import Tell
from ssl_core.engine.train import train
from ssl_core.errors import CheckpointError
from ssl_core.plugins import Catalogue
from ssl_core.report import Report
from ssl_core.runfolder import CONFIG, load_config

PICTURES = 6


def run(
    config: RunConfig,
    plugins: Plugins,
    catalogue: Catalogue,
    folder: Path,
    tell: Tell,
    *,
    resume: bool = False,
    command: str = "",
) -> Report:
    """Pretrain, evaluate, report. The folder exists; with `resume` it holds what a stopped run left."""
    began = time.perf_counter()
    device = pick_device(config.device)

    # 4. data; 5. model
    splits = open_splits(config, plugins)
    learner = build(config, plugins, splits["train"]).to(device)
    data = {split: prepare(splits[split], learner.tokenizer, cache_root(), tell, config.strict) for split in splits}
    learner.tokenizer.measure(data["train"].chunks())
    config, notes = settle(config, plugins, device, data["train"])
    notes += remarks(splits, data)
    write_json(folder / CONFIG, config.model_dump(mode="json"))
    for line in (*header(config, learner, device, splits, data), *notes):
        tell.line(line)
    notify(catalogue, tell, "run_started", config=config, folder=folder)

    # 6. to 8. tokens, outcome, training
    origins = {"versions": versions(), "origins": catalogue.origins()}
    seconds = train(
        learner, data["train"], config.train, seed=config.seed, device=device,
        precision=config.train.precision, folder=folder, tell=tell,  # type: ignore[arg-type]
        log=lambda step, values: notify(catalogue, tell, "metrics_logged", folder=folder, step=step, metrics=values),
        state={"config": config.model_dump(mode="json"), **origins},
        start=checkpoint.latest(folder) if resume else None,
    )  # fmt: skip

    # 9. evaluation
    rows = evaluate(config, plugins, learner, splits, data, device, tell)
    log_scores(rows, folder, config.train.steps, catalogue, tell)

    # 10. report
    report = make_report(config, learner, splits, data, rows, device, notes, folder)
    return report
