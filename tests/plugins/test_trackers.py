"""Trackers: silent unless asked for, and what they wrote read back with their own libraries."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from ssl_core import ConfigError
from ssl_plugins.trackers import _common, mlflow, tensorboard, wandb

TRACKERS = (tensorboard, wandb, mlflow)
CONFIG = SimpleNamespace(model_dump=lambda mode: {"seed": 3, "train": {"rate": 0.5, "betas": [0.9, 0.99]}})


def score(features, value):
    return SimpleNamespace(task="digit", probe="linear", metric="accuracy", features=features, value=value)


REPORT = SimpleNamespace(steps=20, scores=(score("trained", 0.75), score("raw_input", None)))
SCORE = "score/digit/linear_accuracy/trained"


def pretend(tracker, folder, steps, finish):
    """The notices of a run: one loss per step, which is the step halved."""
    tracker.run_started(CONFIG, folder)
    for step in steps:
        tracker.metrics_logged(folder, step, {"train/loss": step / 2})
    if finish:
        tracker.run_finished(folder, REPORT)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SSLX_TRACKERS", raising=False)
    path = tmp_path / "a-run"
    path.mkdir()
    (path / "report.html").write_text("<p>report</p>")
    return path


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda one: one.NAME)
@pytest.mark.parametrize("named", [None, "", "another"])
def test_nothing_happens_unless_asked(tracker, named, folder, monkeypatch):
    if named is not None:
        monkeypatch.setenv("SSLX_TRACKERS", named)
    monkeypatch.setattr(_common.importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    pretend(tracker, folder, [10], finish=True)
    assert [path.name for path in folder.iterdir()] == ["report.html"]


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda one: one.NAME)
def test_missing_library_is_named_once_with_the_cure(tracker, folder, monkeypatch):
    monkeypatch.setenv("SSLX_TRACKERS", f"other, {tracker.NAME}")
    for name in ("torch.utils.tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"pip install 'sslx\[{tracker.NAME}\]'"):
        tracker.run_started(CONFIG, folder)
    tracker.metrics_logged(folder, 10, {"train/loss": 1.0})  # and then it keeps quiet
    tracker.run_finished(folder, REPORT)


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda one: one.NAME)
def test_misspelling_is_noticed(tracker, folder, monkeypatch):
    monkeypatch.setenv("SSLX_TRACKERS", tracker.NAME[:-1])
    with pytest.raises(ConfigError, match=f"did you mean '{tracker.NAME}'"):
        tracker.run_started(CONFIG, folder)


def test_configuration_is_flattened():
    assert _common.flat(CONFIG.model_dump("json")) == {"seed": 3, "train.rate": 0.5, "train.betas": "[0.9, 0.99]"}


def test_id_is_made_once(tmp_path):
    made = iter(("first", "second"))
    assert _common.run_id(tmp_path, "x", lambda: next(made)) == ("first", True)
    assert _common.run_id(tmp_path, "x", lambda: next(made)) == ("first", False)


def test_tensorboard(folder, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("SSLX_TRACKERS", "tensorboard")
    pretend(tensorboard, folder, [5, 10, 15], finish=False)
    tensorboard._close(folder)  # as the end of a killed process does
    pretend(tensorboard, folder, [10, 15, 20], finish=True)  # resumed from the checkpoint at step 5
    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("train/loss")] == [(n, n / 2) for n in (5, 10, 15, 20)]
    assert [(one.step, one.value) for one in read.Scalars(SCORE)] == [(20, 0.75)]
    assert {"config/text_summary", "report/text_summary"} <= set(read.Tags()["tensors"])
    assert folder not in tensorboard._writers


def test_wandb_offline(folder, monkeypatch):
    pytest.importorskip("wandb")
    datastore = pytest.importorskip("wandb.sdk.internal.datastore")
    from wandb.proto import wandb_internal_pb2 as proto

    for name, value in {"SSLX_TRACKERS": "wandb", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    pretend(wandb, folder, [10, 20], finish=True)
    first = (folder / "trackers" / "wandb.txt").read_text().strip()
    written = list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(written) == 1
    assert first in written[0].name
    store = datastore.DataStore()
    store.open_for_scan(str(written[0]))
    losses, summary, configs = {}, {}, {}
    while (data := store.scan_data()) is not None:
        record = proto.Record()
        record.ParseFromString(data)
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "train/loss" in row:
            losses[row["_step"]] = row["train/loss"]
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for item in record.run.config.update:
            configs[item.key] = json.loads(item.value_json)
    assert losses == {10: 5.0, 20: 10.0}
    assert summary[SCORE] == 0.75
    assert configs["seed"] == 3
    pretend(wandb, folder, [30], finish=True)
    assert all(first in path.name for path in folder.glob("wandb/offline-run-*/*.wandb"))


def test_mlflow_local_files(folder, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("SSLX_TRACKERS", "mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer releases want to be told
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    pretend(mlflow, folder, [10], finish=False)
    mlflow._runs.clear()  # as the end of a killed process does
    client = MlflowClient()
    identity = (folder / "trackers" / "mlflow.txt").read_text().strip()
    assert client.get_run(identity).info.status == "RUNNING"
    pretend(mlflow, folder, [20], finish=True)
    run = client.get_run(identity)
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "train.rate": "0.5", "train.betas": "[0.9, 0.99]"}
    history = client.get_metric_history(identity, "train/loss")
    assert [(one.step, one.value) for one in history] == [(10, 5.0), (20, 10.0)]
    assert run.data.metrics[SCORE] == 0.75
    assert [one.path for one in client.list_artifacts(identity)] == ["report.html"]
