"""sslx.compare, and sslx.evaluate of an encoder: the numbers of the command and of the run."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch

import sslx
from ssl_core.errors import ConfigError, DataError, SslxError
from ssl_core.report import read
from ssl_core.utils.console import Console, Progress

SMALL = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32", "evaluate.probes": ["linear"],
}  # fmt: skip
EMBEDDED = {"dataset.n_train": 40, "dataset.n_test": 20}
TABLE = [
    {"name": "often", "objective": "mae", "set": {"masking.ratio": 0.5}},
    {"name": "rarely", "objective": "mae", "set": {"masking.ratio": 0.2}},
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One cache of preprocessed data for all tests here."""
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "api-cache"))


@pytest.fixture(scope="module")
def series():
    """Sixty series of two channels, and their class."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = np.sin(np.arange(32) * (1 + y[:, None, None]) / 3 + rng.uniform(0, 6, (60, 1, 1)))
    return (x + 0.1 * rng.standard_normal((60, 2, 32))).astype(np.float32), y


class Lines(Console):
    """Keeps lines and counts what progress bars are given."""

    def __init__(self):
        self.lines, self.totals, self.done = [], [], 0

    def info(self, text):
        self.lines.append(text)

    def progress(self, title, total, done=0):
        outer = self
        outer.totals.append((title, total))

        class Bar(Progress):
            def __enter__(self):
                return self

            def __exit__(self, *unused):
                pass

            def advance(self, by=1, **figures):
                outer.done += by

        return Bar()


# --- compare ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compare_on_data_in_memory_is_a_row_of_runs(series, tmp_path):
    x, y = series
    options = {"y": y, "modality": "time-series", "steps": 3, "batch_size": 8, "preset": "none", "set": SMALL}
    console = Lines()
    out = tmp_path / "comparison"
    made = sslx.compare(x, objectives=TABLE, seeds=[1], out=out, console=console, **options)
    assert isinstance(made, sslx.Comparison)
    assert made.methods == ["often", "rarely"]
    assert made.failures == []
    assert made.folder == out
    assert console.totals == [("comparing", 2)]
    own = dict(options) | {"set": {**SMALL, "masking.ratio": 0.2, "label": "rarely", "data_label": "memory"}}
    alone = sslx.pretrain(x, objective="mae", seed=1, out=tmp_path / "alone", **own)
    there = read(out / "cells" / "memory" / "rarely" / "seed-1")
    assert there.scores == alone.report.scores
    frame = made.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["method"].tolist() == ["often", "rarely", "random init", "raw input"]
    row = frame[frame["method"] == "rarely"].iloc[0]
    assert row["values"]["1"] == next(score.value for score in there.scores if score.features == "trained")
    assert row["mean"] == pytest.approx(np.mean([*row["values"].values()]))
    assert made.to_dict() == json.loads((out / "comparison.json").read_text())
    before = (out / "cells" / "memory" / "rarely" / "seed-1" / "report.json").stat().st_mtime_ns
    again = sslx.compare(x, objectives=TABLE, seeds=[1], out=out, **options)
    assert again.to_dict() == made.to_dict()
    assert (out / "cells" / "memory" / "rarely" / "seed-1" / "report.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="was made with"):
        sslx.compare(x + 1, objectives=TABLE, seeds=[1], out=out, **options)


@pytest.mark.release
def test_compare_gives_the_numbers_of_the_command(tmp_path):
    common = {**EMBEDDED, "encoder.dim": 16, "encoder.depth": 1, "encoder.heads": 2, "train.batch_size": 8}
    made = sslx.compare(
        objectives=["mae", "shed"], modality="tabular", seeds=1, steps=2, preset="none", jobs=1, out=tmp_path / "a",
        set=common,
    )  # fmt: skip
    flags = [part for path, value in common.items() for part in ("--set", f"{path}={value}")]
    command = [sys.executable, "-m", "ssl_core.cli", "compare", "--objectives", "mae,shed", "--modality", "tabular"]
    command += ["--seeds", "1", "--steps", "2", "--preset", "none", "--jobs", "1", "--out", str(tmp_path / "b"), *flags]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    assert made.to_dict() == json.loads((tmp_path / "b" / "comparison.json").read_text())
    assert set(made.to_frame()["method"]) == {"mae", "shed", "random init", "raw input"}


@pytest.mark.slow
def test_a_run_that_fails_is_listed_and_if_all_fail_an_error(series, tmp_path):
    x, y = series
    options = {"y": y, "modality": "time-series", "steps": 2, "batch_size": 8, "preset": "none", "set": SMALL}
    table = [TABLE[0], {"name": "alone", "objective": "metamae", "set": {"train.batch_size": 1}}]
    made = sslx.compare(x, objectives=table, seeds=1, out=tmp_path / "one", **options)
    assert made.methods == ["often"]
    assert made.failures == [f"failed: alone on memory, seed 0: {made.failures[0].partition('seed 0: ')[2]}"]
    assert "needs a batch of at least 2" in made.failures[0]
    with pytest.raises(SslxError, match="no run succeeded; failed: alone on memory, seed 0"):
        sslx.compare(x, objectives=table[1:], seeds=1, out=tmp_path / "all", **options)


def test_compare_refuses_what_it_cannot_do(series):
    with pytest.raises(ConfigError, match="objectives is a text; give a list"):
        sslx.compare(objectives="mae", modality="tabular")
    with pytest.raises(ConfigError, match="data is of one modality, and 2 are named"):
        sslx.compare(series[0], objectives=["mae"], modality=["tabular", "image"])
    with pytest.raises(ConfigError, match="names nothing to compare; give"):
        sslx.compare(objectives=["mae"])
    with pytest.raises(ConfigError, match="two of .*are called 'mae'"):
        sslx.compare(objectives=["mae", "mae"], modality="tabular")
    with pytest.raises(TypeError, match="unknown keyword 'step'; did you mean 'steps'"):
        sslx.compare(objectives=["mae"], modality="tabular", step=3)


# --- evaluate and embed an encoder ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(series, tmp_path_factory):
    """A run on the series."""
    x, y = series
    return sslx.pretrain(
        x, y=y, modality="time-series", objective="mae", steps=4, batch_size=8, preset="none", set=SMALL,
        out=tmp_path_factory.mktemp("trained") / "run",
    )  # fmt: skip


def test_an_encoder_has_the_scores_of_its_run(trained, series, tmp_path):
    x, y = series
    state = torch.get_rng_state()
    for encoder in (trained.encoder, sslx.load(trained.folder), trained.encoder.save(tmp_path / "saved")):
        report = sslx.evaluate(encoder, x, y)
        assert report.scores == trained.report.scores
        assert report.steps == 4
    assert torch.equal(torch.get_rng_state(), state)
    assert not (trained.folder / "eval").exists()
    sslx.evaluate(sslx.load(trained.folder), x, y, out=tmp_path / "report")
    assert read(tmp_path / "report").scores == trained.report.scores
    with pytest.raises(
        ConfigError, match=r"trained on data in memory; give the data, as sslx.evaluate\(encoder, x, y\)"
    ):
        sslx.evaluate(sslx.load(trained.folder))
    with pytest.raises(ConfigError, match="the data has no labels"):
        sslx.evaluate(sslx.load(trained.folder), x)
    with pytest.raises(DataError, match="the encoder was trained on 2 channels"):
        sslx.evaluate(sslx.load(trained.folder), x[:, :1], y)


def test_the_weights_that_an_encoder_has_now_are_evaluated(trained, series):
    x, y = series
    encoder = sslx.load(trained.folder)
    with torch.no_grad():
        for weights in encoder.encoder.parameters():
            weights.zero_()
    report = sslx.evaluate(encoder, x, y)
    scores = {score.features: score.value for score in report.scores}
    before = {score.features: score.value for score in trained.report.scores}
    assert scores["trained"] <= 0.5  # constant features: the class that most training samples have
    assert scores["random_init"] == before["random_init"]
    assert all(not weights.any() for weights in encoder.encoder.parameters())


def test_an_encoder_trains_in_a_loop_of_ones_own_and_is_scored_after_it(trained, series):
    x, y = series
    encoder = sslx.load(trained.folder).train()
    head = torch.nn.Linear(encoder.dim, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-2)
    inputs, labels = encoder.preprocess(x), torch.from_numpy(y)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(head(encoder(inputs)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(weights.grad is not None for weights in encoder.parameters())
    tuned = {score.features: score.value for score in sslx.evaluate(encoder, x, y).scores}
    assert tuned["trained"] >= {score.features: score.value for score in trained.report.scores}["trained"]


def test_embedding_shows_its_progress_and_reads_a_batch_at_a_time(trained):
    class Counting:
        """Samples that are made when they are read."""

        read = 0

        def __len__(self):
            return 50

        def __getitem__(self, index):
            type(self).read += 1
            if index >= 50:
                raise IndexError(index)
            return np.full((2, 32), index, np.float32)

    encoder, console, sizes = trained.encoder, Lines(), []
    encoder.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0]["series"])))
    features = encoder.embed(Counting(), batch_size=8, console=console)
    assert features.shape == (50, 16)
    assert console.totals == [("embedding", 50)]
    assert console.done == 50
    assert sizes == [8] * 6 + [2]
    assert Counting.read <= 52  # each once, and the first to see its form
    frame_console = Lines()
    sslx.embed(encoder, Counting(), console=frame_console)
    assert frame_console.done == 50


def test_options_of_every_run_may_also_be_those_with_a_keyword(series, tmp_path):
    x, y = series
    options = {**SMALL, "train.steps": 3, "preset": "none"}
    sslx.compare(x, objectives=["mae"], y=y, modality="time-series", seeds=1, out=tmp_path / "c", set=options)
    assert [read(path.parent).steps for path in (tmp_path / "c").rglob("report.json")] == [3]


def test_a_run_that_fails_for_any_reason_is_a_line_and_the_others_go_on(series, tmp_path, monkeypatch):
    from ssl_plugins.objectives.capri import Capri

    def forward(*unused):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Capri, "forward", forward)
    x, y = series
    options = {"y": y, "modality": "time-series", "seeds": 1, "steps": 2, "preset": "none"}
    options["set"] = {name: value for name, value in SMALL.items() if not name.startswith("objective.")}
    result = sslx.compare(x, objectives=["mae", "capri"], out=tmp_path / "c", **options)
    assert result.methods[0] == "mae"
    assert ["OutOfMemoryError: out of memory" in line for line in result.failures] == [True]
