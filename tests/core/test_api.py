"""sslx from Python: pretrain, load, embed and evaluate."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import sslx
from ssl_core import ConfigError, DataError, hookimpl, plugins
from ssl_core.data import Continuous, Discrete, Text
from ssl_core.errors import CheckpointError
from ssl_core.pipeline.memory import memory_dataset
from ssl_core.report import read
from ssl_core.runs import build, run_dir
from ssl_core.runs.fields import fields_from_json, fields_to_json
from ssl_core.training import checkpoint
from ssl_core.training.learner import Learner
from ssl_core.training.metrics_log import read_metrics
from ssl_core.utils.console import Console

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32", "train.log_every": 2,
}  # fmt: skip
EMBEDDED = {"dataset.n_train": 40, "dataset.n_test": 20}
CHOICE = {"objective": "mae", "steps": 4, "batch_size": 8, "preset": "none"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One cache of preprocessed data for all tests here."""
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "api-cache"))


@pytest.fixture(scope="module")
def series():
    """Sixty series of two channels, and their class."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    times = np.arange(32)
    x = np.sin(times * (1 + y[:, None, None]) / 3 + rng.uniform(0, 6, (60, 1, 1))) + 0.1 * rng.standard_normal(
        (60, 2, 32)
    )
    return x.astype(np.float32), y


@pytest.fixture
def trained(tmp_path):
    """A run on embedded data."""
    return sslx.pretrain(modality="time-series", out=tmp_path / "run", set={**SMALL, **EMBEDDED}, **CHOICE)


def test_pretraining_on_embedded_data_gives_a_run_with_its_report(trained, tmp_path):
    assert trained.folder == tmp_path / "run"
    assert trained.steps == trained.report.steps == 4
    assert read(trained.folder) == trained.report
    assert trained.report.dataset == "synthetic"
    assert trained.report.split == "test"
    assert set(trained.splits) == {"train", "validation", "test"}


def test_pretraining_is_silent_unless_given_a_console(tmp_path, capfd):
    class Lines(Console):
        def __init__(self):
            self.lines = []

        def info(self, text):
            self.lines.append(text)

    console = Lines()
    options = {"modality": "time-series", "set": {**SMALL, **EMBEDDED}, **CHOICE}
    sslx.pretrain(out=tmp_path / "silent", **options)
    assert capfd.readouterr() == ("", "")
    sslx.pretrain(out=tmp_path / "loud", console=console, **options)
    assert any(line.startswith("data       time-series/synthetic") for line in console.lines)


def test_an_array_is_trained_on_and_its_features_survive_reloading(series, tmp_path):
    x, y = series
    run = sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "run", set=SMALL, **CHOICE)
    assert run.report.dataset == "memory"
    assert {score.metric for score in run.report.scores} == {"accuracy"}
    assert {score.n_test for score in run.report.scores} == {12}
    features = sslx.embed(run, x)
    assert features.shape == (60, 16)
    assert features.dtype == np.float32
    loaded = sslx.load(tmp_path / "run")
    for again in (sslx.embed(tmp_path / "run", x), sslx.embed(loaded, x), loaded.embed(x, batch_size=7)):
        np.testing.assert_allclose(again, features, rtol=1e-5, atol=1e-6)
    assert sslx.embed(run, x, per_token=True).shape == (60, run.learner.tokenizer.layout.length, 16)


def test_embed_equals_the_learners_own(trained):
    data, dataset = trained.data["test"], trained.splits["test"]
    raw = np.stack([dataset[i]["inputs"]["series"] for i in range(len(dataset))])
    expected = trained.learner.eval().embed(data.take(np.arange(len(data))).inputs)
    assert np.array_equal(sslx.embed(trained, raw), expected.numpy())
    as_tensor = sslx.embed(trained, torch.from_numpy(raw))
    assert torch.equal(as_tensor, expected)
    assert isinstance(sslx.embed(trained, {"series": torch.from_numpy(raw)}), torch.Tensor)
    assert np.array_equal(sslx.embed(trained, list(raw)), expected.numpy())


def test_embed_leaves_the_training_mode(trained, series):
    encoder = trained.encoder.train()
    x = np.zeros((3, 4, 320), np.float32)
    encoder.embed(x)
    assert encoder.training


def test_evaluate_gives_the_scores_of_the_run_and_of_sslx_eval(trained, tmp_path):
    report = sslx.evaluate(trained.folder, out=tmp_path / "again")
    assert report.scores == trained.report.scores
    assert report == read(tmp_path / "again")
    command = [sys.executable, "-m", "ssl_core.cli", "eval", str(trained.folder), "--out", str(tmp_path / "command")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    theirs = read(tmp_path / "command")
    of_the_process = {"created", "command", "wall_seconds", "peak_memory_bytes", "device"}  # `device` counts threads
    exclude = dict.fromkeys(of_the_process, True) | {"figures": {"seconds"}}
    assert report.model_dump(exclude=exclude) == theirs.model_dump(exclude=exclude)


def test_evaluate_on_other_data_in_memory(series, tmp_path):
    x, y = series
    run = sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "run", set=SMALL, **CHOICE)
    names = np.array(["slow", "fast"])[y]
    report = sslx.evaluate(tmp_path / "run", x, names, set={"dataset.test_fraction": 0.5})
    assert {score.n_test for score in report.scores} == {30}
    assert (tmp_path / "run" / "eval" / "memory" / "report.json").exists()
    assert read(tmp_path / "run") == run.report
    assert sslx.evaluate(run, out=tmp_path / "own").scores == run.report.scores  # its own data is still at hand
    with pytest.raises(ConfigError, match="was trained on data in memory; give the data"):
        sslx.evaluate(tmp_path / "run")
    with pytest.raises(DataError, match="the encoder was trained on 2 channels of 32"):
        sslx.evaluate(tmp_path / "run", x[:, :1], y)


def test_a_gradient_flows_through_a_loaded_encoder_in_a_loop_of_ones_own(trained):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((24, 4, 320)).astype(np.float32)
    y = torch.from_numpy(np.arange(24) % 2)
    x[::2] += np.sin(np.arange(320))
    torch.manual_seed(0)
    encoder = sslx.load(trained.folder)
    model = torch.nn.Linear(encoder.dim, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *model.parameters()], lr=1e-2)
    before = {name: value.clone() for name, value in encoder.named_parameters()}
    inputs, losses = encoder.preprocess(x), []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(encoder.train()(inputs)), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(not torch.equal(before[name], value) for name, value in encoder.named_parameters())


def test_load_needs_neither_the_data_nor_the_objective_nor_the_command_line(series, tmp_path, monkeypatch):
    x, y = series
    run = sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "run", set=SMALL, **CHOICE)
    catalogue = plugins.load()
    catalogue.objectives.clear()
    catalogue.datasets.clear()
    monkeypatch.setattr(plugins, "load", lambda: catalogue)
    chance = torch.get_rng_state()
    encoder = sslx.load(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), chance)
    np.testing.assert_allclose(encoder.embed(x), run.encoder.embed(x), rtol=1e-5, atol=1e-6)
    assert encoder.provenance.steps == 4
    assert encoder.provenance.origins["objectives"]["mae"].startswith("sslx:objectives.mae")
    code = f"import sys, sslx\nsslx.load({str(tmp_path / 'run')!r})\nassert 'typer' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_run_is_loaded_and_resumed_from_its_folder(series, tmp_path):
    x, y = series
    options = {"y": y, "modality": "time-series", "set": SMALL, **CHOICE}
    whole = sslx.pretrain(x, out=tmp_path / "whole", **(options | {"steps": 6}))
    sslx.pretrain(x, out=tmp_path / "halved", **options)
    resumed = sslx.pretrain(x, out=tmp_path / "halved", resume=True, **(options | {"steps": 6}))
    first, second = whole.learner.state_dict(), resumed.learner.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.report.scores == resumed.report.scores
    with pytest.raises(ConfigError, match="dataset.digest was"):
        sslx.pretrain(x + 1, out=tmp_path / "halved", resume=True, **options)


def test_a_run_loaded_from_its_folder_is_the_run(trained):
    loaded = sslx.Run.load(trained.folder)
    first, second = trained.learner.state_dict(), loaded.learner.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert loaded.steps == 4
    assert all(torch.equal(trained.initial[name], loaded.initial[name]) for name in trained.initial)


def test_a_random_init_baseline_is_the_learner_before_training_and_leaves_no_trace(trained):
    fresh = build.build_learner(trained.config, trained.plugins, trained.splits["train"].fields).eval()
    for mine, theirs in zip(fresh.tokenizer.buffers(), trained.learner.tokenizer.buffers(), strict=True):
        mine.copy_(theirs)
    inputs = trained.data["test"].take(np.arange(5)).inputs
    before = trained.learner.eval().embed(inputs)
    with trained.random_init_baseline() as baseline:
        assert torch.equal(baseline.embed(inputs), fresh.embed(inputs))
    assert torch.equal(trained.learner.embed(inputs), before)
    assert not torch.equal(fresh.embed(inputs), before)


@pytest.fixture
def counts(monkeypatch):
    """How often a model is built, a checkpoint's files are read, and metrics.jsonl is read."""
    seen = {"builds": 0, "states": 0, "tensors": 0, "metrics": 0}

    def counted(module, name, key):
        real = getattr(module, name)

        def wrapper(*args, **kwargs):
            seen[key] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, wrapper)

    counted(Learner, "__init__", "builds")
    counted(checkpoint, "_read", "states")
    counted(checkpoint, "_read_tensors", "tensors")
    metrics_log = importlib.import_module("ssl_core.training.metrics_log")
    counted(metrics_log, "parsed_lines", "metrics")
    return seen


def test_a_model_is_built_once_and_a_checkpoint_read_once(tmp_path, counts):
    options = {"modality": "time-series", "out": tmp_path / "run", "set": {**SMALL, **EMBEDDED}, **CHOICE}

    def taken():
        seen = dict(counts)
        counts.update(dict.fromkeys(counts, 0))
        return seen

    sslx.pretrain(probe_every=2, **options)
    assert taken() == {"builds": 1, "states": 0, "tensors": 0, "metrics": 1}  # metrics: of the run before, if any
    sslx.pretrain(probe_every=2, resume=True, **(options | {"steps": 6}))
    assert taken() == {"builds": 1, "states": 1, "tensors": 2, "metrics": 1}  # tensors: of the model, of the optimiser
    sslx.evaluate(tmp_path / "run")
    assert taken() == {"builds": 1, "states": 1, "tensors": 1, "metrics": 1}
    sslx.load(tmp_path / "run")
    assert taken() == {"builds": 0, "states": 1, "tensors": 1, "metrics": 0}


# --- forms of data in memory ------------------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset):
    """A torch data set of pairs."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return torch.from_numpy(self.x[index]), int(self.y[index])


def test_a_torch_data_set_and_a_dict_are_the_array(series, tmp_path):
    x, y = series
    options = {"modality": "time-series", "set": SMALL, **CHOICE}
    array = sslx.pretrain(x, y=y, out=tmp_path / "a", **options)
    for name, run in (
        ("pairs", sslx.pretrain(Pairs(x, y), out=tmp_path / "b", **options)),
        ("dict", sslx.pretrain({"series": x}, y=y.tolist(), out=tmp_path / "c", **options)),
    ):
        assert run.report.scores == array.report.scores, name


def test_sequences_of_different_lengths(tmp_path):
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((2, length)).astype(np.float32) for length in rng.integers(40, 64, 30)]
    small = {**SMALL, "tokenizer.length": 64}
    run = sslx.pretrain(x, modality="time-series", out=tmp_path / "run", set=small, **CHOICE)
    assert run.splits["train"].fields == {"series": Continuous((2, None))}
    assert run.report.scores == ()
    assert sslx.embed(run, x).shape == (30, 16)


def test_texts(tmp_path):
    words = ["red", "green", "blue", "dark", "light"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 8)) for _ in range(40)]
    small = {**SMALL, "tokenizer.vocab_size": 300, "tokenizer.length": 16}
    run = sslx.pretrain(texts, modality="text", out=tmp_path / "run", set=small, **CHOICE)
    assert run.splits["train"].fields == {"text": Text()}
    np.testing.assert_allclose(sslx.embed(tmp_path / "run", texts), sslx.embed(run, texts), rtol=1e-5, atol=1e-6)


def test_a_table(tmp_path):
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": rng.standard_normal(50), "b": rng.choice(["x", "y"], 50)})
    run = sslx.pretrain(frame, y=np.arange(50) % 3, modality="tabular", out=tmp_path / "run", set=SMALL, **CHOICE)
    assert run.splits["train"].fields == {"numeric": Continuous((1,)), "b": Discrete(1, 3)}
    assert run.task is not None
    assert run.task.size == 3
    assert sslx.evaluate(tmp_path / "run").scores == run.report.scores  # a file in the cache holds the table
    features = sslx.embed(run, frame)
    assert features.shape == (50, 16)
    loaded = tmp_path / "run"
    for same in (frame.assign(label=0, split="test"), frame[["b", "a"]], frame.assign(more=1.5)):
        np.testing.assert_allclose(sslx.embed(loaded, same), features, rtol=1e-5, atol=1e-6)
    backwards = sslx.embed(loaded, frame.iloc[::-1])
    np.testing.assert_allclose(backwards[::-1], features, rtol=1e-5, atol=1e-6)
    assert not np.allclose(sslx.embed(loaded, frame.assign(b="new")), features)
    with pytest.raises(DataError, match="no column 'a', on which the encoder was trained"):
        sslx.embed(run, frame.rename(columns={"a": "A"}))
    with pytest.raises(ConfigError, match="sslx.embed"):
        run.encoder.embed(frame)


@pytest.fixture
def pictures(tmp_path):
    """Forty grey pictures of two classes, whose names tell them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = [tmp_path / "pictures" / f"{number % 2}_{number:02}.png" for number in range(40)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    return paths


def test_a_sequence_of_paths_is_the_files_in_their_order(tmp_path, pictures):
    small = {**SMALL, "tokenizer.patch": 4, "tokenizer.size": 8}
    choice = {"modality": "image", "set": small, "label_pattern": r"(?P<label>\d)_\d+", **CHOICE}
    run = sslx.pretrain(pictures, out=tmp_path / "run", **choice)
    assert run.task is not None
    assert run.task.names == ("0", "1")
    folder = sslx.pretrain(pictures[0].parent, out=tmp_path / "folder", **choice)
    assert [score.value for score in folder.report.scores] == [score.value for score in run.report.scores]
    chosen = [pictures[7], pictures[2], pictures[31]]
    features = sslx.embed(run, chosen)
    for given in (list(map(str, chosen)), tuple(chosen), pandas.Series(chosen), np.array(list(map(str, chosen)))):
        np.testing.assert_array_equal(sslx.embed(run, given), features)
    for path, row in zip(chosen, features, strict=True):
        np.testing.assert_allclose(sslx.embed(run, [path])[0], row, atol=1e-6)
    assert sslx.inspect(pictures).modality in ("image", "medical-image")
    assert np.isfinite(sslx.evaluate(run, pictures, label_pattern=r"(?P<label>\d)_").scores[0].value)
    model = sslx.finetune(run, pictures, label_pattern=r"(?P<label>\d)_", steps=2, device="cpu")
    np.testing.assert_array_equal(model.predict(pictures[0].parent), model.predict(sorted(pictures)))
    assert set(model.predict(chosen)) <= {"0", "1"}


def test_paths_that_cannot_be_read_in_their_order_are_refused(tmp_path, pictures):
    small = {**SMALL, "tokenizer.patch": 4, "tokenizer.size": 8}
    run = sslx.pretrain(pictures[0].parent, modality="image", out=tmp_path / "run", set=small, **CHOICE)
    text, train, test, comma = (tmp_path / name for name in ("notes.txt", "train.png", "test.png", "a,b.png"))
    text.write_text("no picture")
    for copy in (train, test, comma):
        copy.write_bytes(pictures[0].read_bytes())
    for given, message in [
        ([pictures[0], pictures[1], pictures[0]], "is given twice, as samples 0 and 2"),
        ([pictures[0], tmp_path / "none.png"], r"sample 1: .*none.png does not exist"),
        ([pictures[0], 3], "sample 1 is a int, sample 0 a path"),
        ([pictures[0], comma], "none may have a comma"),
        ([pictures[0], text], r"some are not read \(1 .txt\)"),
        (["none.png", "other.png"], "'image' holds 'none.png', and is of real numbers; give numbers, or paths"),
    ]:
        with pytest.raises((ConfigError, DataError), match=message):
            sslx.embed(run, given)
    assert len(sslx.embed(run, [comma])) == 1
    with pytest.raises(ConfigError, match="y is for data in memory; leave it out, and name .* or give a label_pattern"):
        sslx.pretrain(pictures, y=[0, 1] * 20, modality="image", out=tmp_path / "other", **CHOICE)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"data": np.zeros((4, 2, 32))}, ConfigError, "data in memory needs its modality"),
        ({"data": 3, "modality": "time-series"}, ConfigError, "x is a int; give an array"),
        ({"data": np.zeros((30, 2, 32)), "y": [1], "modality": "time-series"}, DataError, "30 samples and 1 labels"),
        ({"data": [], "modality": "time-series"}, DataError, "no sample to train on"),
        ({"data": {"series": np.zeros(3), "more": np.zeros(2)}, "modality": "time-series"}, ConfigError, "one length"),
        ({"modality": "time-serie"}, ConfigError, "unknown modality 'time-serie'; did you mean 'time-series'"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_line(tmp_path, given, error, message):
    with pytest.raises(error, match=message) as caught:
        sslx.pretrain(given.pop("data", None), out=tmp_path / "run", **CHOICE, **given)
    assert "\n" not in str(caught.value)


def test_labels_with_the_index_of_the_data_in_another_order_are_refused(tmp_path):
    frame = pandas.DataFrame({"a": np.arange(30.0), "b": np.arange(30.0) ** 2})
    labels = pandas.Series(np.arange(30) % 2)
    with pytest.raises(ConfigError, match=r"same index in different orders; give y.loc\[data.index\], or"):
        sslx.pretrain(frame, y=labels[::-1], modality="tabular", out=tmp_path / "run", **CHOICE)


def test_doubts_are_warnings_without_a_console(tmp_path):
    x = np.random.default_rng(0).standard_normal((40, 64, 3))
    choice = {"modality": "time-series", "set": SMALL, **CHOICE}
    with pytest.warns(UserWarning, match=r"is read as 64 channels of 3 steps.*\(a doubt; strict=True refuses"):
        sslx.pretrain(x, out=tmp_path / "run", **choice)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sslx.pretrain(x, out=tmp_path / "said", console=Console(), **choice)


def test_another_rate_is_refused(tmp_path, series):
    x, _ = series
    run = sslx.pretrain(x, modality="time-series", rate=50, out=tmp_path / "run", set=SMALL, **CHOICE)
    assert np.array_equal(sslx.embed(run, x[:2], rate=50), sslx.embed(run, x[:2]))
    with pytest.raises(ConfigError, match="rate=100: the encoder was trained on 'series' at 50 samples per second"):
        sslx.embed(run, x[:2], rate=100)


def test_an_unknown_keyword_is_refused_with_the_nearest():
    with pytest.raises(TypeError, match="unknown keyword 'step'; did you mean 'steps'"):
        sslx.pretrain(modality="time-series", step=3)


def test_a_sample_that_cannot_be_embedded_is_named(trained):
    x = np.zeros((3, 4, 320), np.float32)
    x[1, 0, 0] = np.inf
    with pytest.raises(DataError, match="sample 1: 'series' holds infinite values"):
        sslx.embed(trained, x)
    with pytest.raises(ConfigError, match="unknown field 'serie'; did you mean 'series'"):
        sslx.embed(trained, {"serie": np.zeros(3)})  # by its kind it is no series either
    with pytest.raises(DataError, match="nothing to embed"):
        sslx.embed(trained, x[:0])


def test_fields_as_json_and_back():
    fields = {"a": Continuous((2, None), 100.0, "uint8"), "b": Discrete(3, 5), "c": Text()}
    back = fields_from_json(json.loads(json.dumps(fields_to_json(fields))))
    assert back == fields
    assert back["a"].dtype == "uint8"


# --- notices, failures, and runs of earlier versions ------------------------------------------------------------------


class Listener:
    """Keeps the notices of the end of a run."""

    def __init__(self):
        self.heard = []

    @hookimpl
    def run_failed(self, folder, error):
        self.heard.append(("failed", folder, type(error).__name__))

    @hookimpl
    def run_finished(self, folder, report):
        self.heard.append(("finished", folder, report.steps))

    @hookimpl
    def eval_finished(self, folder, report):
        self.heard.append(("evaluated", folder, report.steps))


@pytest.fixture
def listener(monkeypatch):
    """A plugin that is installed beside the others."""
    real, one = plugins.load, Listener()

    def load(*args):
        catalogue = real(*args)
        catalogue.add(plugins.Origin("test:listener"), one)
        return catalogue

    monkeypatch.setattr(plugins, "load", load)
    return one


def test_the_end_of_a_run_and_of_an_evaluation_is_noticed(listener, tmp_path):
    folder = tmp_path / "run"
    options = {"modality": "time-series", "set": {**SMALL, **EMBEDDED}, **CHOICE}
    sslx.pretrain(out=folder, **options)
    sslx.evaluate(folder, out=tmp_path / "again")
    assert listener.heard == [("finished", folder, 4), ("evaluated", tmp_path / "again", 4)]
    assert run_dir.read_failure(folder) is None


def test_a_failed_run_is_noticed_and_leaves_its_message(listener, tmp_path):
    folder = tmp_path / "run"
    options = {"modality": "time-series", "set": {**SMALL, **EMBEDDED}, **(CHOICE | {"objective": "metamae"})}
    with pytest.raises(ConfigError, match="needs a batch of at least 2"):
        sslx.pretrain(out=folder, **(options | {"batch_size": 1}))
    assert listener.heard == [("failed", folder, "ConfigError")]
    assert "needs a batch of at least 2" in run_dir.read_failure(folder)
    sslx.pretrain(out=folder, **options)  # a folder that holds nothing but the message of a failure is free
    assert run_dir.read_failure(folder) is None


def test_an_unexpected_error_leaves_its_type_and_message(tmp_path):
    context = build.RunContext(plugins.load(), tmp_path)
    with pytest.raises(ZeroDivisionError), run_dir.record_failure(context):
        1 / 0  # noqa: B018
    assert run_dir.read_failure(tmp_path) == "ZeroDivisionError: division by zero"


def test_runs_of_the_first_version_are_refused_in_one_line(trained):
    config = trained.folder / run_dir.CONFIG
    saved = json.loads(config.read_text())
    state = next((trained.folder / checkpoint.FOLDER).iterdir()) / "state.json"
    entries = json.loads(state.read_text()) | {"format": 1}
    del entries[checkpoint.DIGEST]  # the first version wrote none
    state.write_text(json.dumps(entries))
    for use in (sslx.load, sslx.evaluate):
        with pytest.raises(
            CheckpointError, match="was written by sslx 0.1; make the run anew, or use it with sslx 0.1"
        ):
            use(trained.folder)
    config.write_text(json.dumps({key: value for key, value in saved.items() if key != "format"}))
    with pytest.raises(CheckpointError, match=r"config.json was written by sslx 0.1; make the run anew"):
        sslx.load(trained.folder)


# --- the validation split ---------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """The splits that are opened."""
    from ssl_core.pipeline.memory import MemoryDataset

    splits, real = [], MemoryDataset.__init__

    def init(self, options, split):
        splits.append(split)
        real(self, options, split)

    monkeypatch.setattr(MemoryDataset, "__init__", init)
    return splits


def test_scores_on_the_validation_split_never_open_the_test_split(series, tmp_path, opened):
    x, y = series
    options = {"y": y, "modality": "time-series", **CHOICE}
    fraction = {"dataset.validation_fraction": 0.25}
    chosen = {**SMALL, **fraction, "evaluate.split": "validation"}
    run = sslx.pretrain(x, out=tmp_path / "chosen", probe_every=2, set=chosen, **options)
    assert set(opened) == set(run.data) == {"train", "validation"}
    assert run.report.split == "validation"
    assert {score.n_test for score in run.report.scores} == {15}
    final = {row.probe: row.value for row in run.report.scores if row.features == "trained"}
    assert run.report.curve[-1].scores == {f"{probe}_accuracy": value for probe, value in final.items()}

    opened.clear()
    run = sslx.pretrain(x, out=tmp_path / "final", probe_every=2, set={**SMALL, **fraction}, **options)
    assert set(opened) == {"train", "validation", "test"}
    assert {score.n_test for score in run.report.scores} == {12}

    with pytest.raises(ConfigError, match="has no validation split; set dataset.validation_fraction"):
        sslx.pretrain(x, out=tmp_path / "none", set={**SMALL, "evaluate.split": "validation"}, **options)


def test_probes_during_training_use_a_part_of_the_training_split_where_there_is_no_validation_split(series, tmp_path):
    from ssl_core.runs.scores import online_data

    x, y = series
    run = sslx.pretrain(x, y=y, modality="time-series", out=tmp_path / "run", probe_every=2, set=SMALL, **CHOICE)
    data = online_data(run)
    fit, scored = set(data.fit[1].tolist()), set(data.scored[1].tolist())
    assert data.fit[0] is data.scored[0] is run.data["train"]
    assert (len(fit), len(scored), fit & scored) == (38, 10, set())
    steps = [
        line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "probe/linear_accuracy" in line
    ]
    assert steps == [0, 2, 4]
    assert [point.step for point in run.report.curve] == [0, 2, 4]


# --- import sslx ------------------------------------------------------------------------------------------------------


def test_import_sslx_loads_no_torch_and_its_names_are_those_of_the_api():
    code = (
        "import sys, sslx\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert dir(sslx) == sorted(sslx.__all__)\nassert all(getattr(sslx, name) is not None for name in dir(sslx))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    from ssl_core import api

    keywords = {name for name in api.__all__ if name.endswith("Keywords")}
    assert set(api.__all__) - keywords == set(sslx.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'pretrane'"):
        sslx.pretrane  # noqa: B018


def test_import_sslx_works_from_a_wheel(tmp_path):
    pytest.importorskip("hatchling")
    build_wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build_wheel, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("sslx-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sslx, ssl_core, ssl_plugins\nfrom pathlib import Path\n"
        "for module in (sslx, ssl_core, ssl_plugins):\n"
        f"    assert Path(module.__file__).is_relative_to({str(tmp_path / 'site')!r}), module.__file__\n"
        "assert callable(sslx.pretrain)\nprint(sslx.__version__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == sslx.__version__ == "0.2.0"


def test_a_data_set_in_memory_reaches_worker_processes(series):
    x, y = series
    cls, digest = memory_dataset(x, y, "time-series", {"series": Continuous((1, None))})
    dataset = cls(cls.Options(digest=digest), "train")
    other = pickle.loads(pickle.dumps(dataset))
    assert (other.modality, other.fields, other.task) == (dataset.modality, dataset.fields, dataset.task)
    assert other.fingerprint() == dataset.fingerprint()
    assert np.array_equal(other[3]["inputs"]["series"], dataset[3]["inputs"]["series"])
    _, other_digest = memory_dataset(x, 1 - y, "time-series", {"series": Continuous((1, None))})
    assert other_digest != digest
    assert len(dataset) + len(cls(cls.Options(), "test")) == len(x)
