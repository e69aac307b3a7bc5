"""Trackers: inactive unless enabled; what they write is read back with their own libraries."""

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


def send_notices(tracker, folder, steps, finish):
    """Send the notices of a run whose loss at each step is half of the step."""
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


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda tracker: tracker.NAME)
@pytest.mark.parametrize("variable", [None, "", "another"])
def test_nothing_happens_unless_enabled(tracker, variable, folder, monkeypatch):
    if variable is not None:
        monkeypatch.setenv("SSLX_TRACKERS", variable)
    monkeypatch.setattr(_common.importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    send_notices(tracker, folder, [10], finish=True)
    assert [path.name for path in folder.iterdir()] == ["report.html"]


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda tracker: tracker.NAME)
def test_missing_library_is_reported_once_with_the_extra(tracker, folder, monkeypatch):
    monkeypatch.setenv("SSLX_TRACKERS", f"other, {tracker.NAME}")
    for name in ("torch.utils.tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"pip install 'sslx\[{tracker.NAME}\]'"):
        tracker.run_started(CONFIG, folder)
    tracker.metrics_logged(folder, 10, {"train/loss": 1.0})  # later notices do nothing
    tracker.run_finished(folder, REPORT)


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda tracker: tracker.NAME)
def test_misspelled_tracker_is_refused(tracker, folder, monkeypatch):
    monkeypatch.setenv("SSLX_TRACKERS", tracker.NAME[:-1])
    with pytest.raises(ConfigError, match=f"did you mean '{tracker.NAME}'"):
        tracker.run_started(CONFIG, folder)


def test_configuration_is_flattened():
    assert _common.flatten_options(CONFIG.model_dump("json")) == {
        "seed": 3,
        "train.rate": 0.5,
        "train.betas": "[0.9, 0.99]",
    }


def test_run_id_is_created_once(tmp_path):
    ids = iter(("first", "second"))
    assert _common.load_or_create_run_id(tmp_path, "x", lambda: next(ids)) == ("first", True)
    assert _common.load_or_create_run_id(tmp_path, "x", lambda: next(ids)) == ("first", False)


def test_tensorboard_writes_metrics_scores_and_config(folder, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("SSLX_TRACKERS", "tensorboard")
    send_notices(tensorboard, folder, [5, 10, 15], finish=False)
    tensorboard._close(folder)  # as at the end of a process that is killed
    send_notices(tensorboard, folder, [10, 15, 20], finish=True)  # resumed from the checkpoint at step 5
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (n, n / 2) for n in (5, 10, 15, 20)
    ]
    assert [(event.step, event.value) for event in events.Scalars(SCORE)] == [(20, 0.75)]
    assert {"config/text_summary", "report/text_summary"} <= set(events.Tags()["tensors"])
    assert folder not in tensorboard._writers


def test_wandb_writes_metrics_scores_and_config_offline(folder, monkeypatch):
    pytest.importorskip("wandb")
    datastore = pytest.importorskip("wandb.sdk.internal.datastore")
    from wandb.proto import wandb_internal_pb2 as proto

    for name, value in {"SSLX_TRACKERS": "wandb", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    send_notices(wandb, folder, [10, 20], finish=True)
    run_id = (folder / "trackers" / "wandb.txt").read_text().strip()
    files = list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1
    assert run_id in files[0].name
    store = datastore.DataStore()
    store.open_for_scan(str(files[0]))
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
    send_notices(wandb, folder, [30], finish=True)
    assert all(run_id in path.name for path in folder.glob("wandb/offline-run-*/*.wandb"))


def test_mlflow_writes_metrics_scores_and_config(folder, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("SSLX_TRACKERS", "mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # required by newer releases
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    send_notices(mlflow, folder, [10], finish=False)
    mlflow._runs.clear()  # as at the end of a process that is killed
    client = MlflowClient()
    run_id = (folder / "trackers" / "mlflow.txt").read_text().strip()
    assert client.get_run(run_id).info.status == "RUNNING"
    send_notices(mlflow, folder, [20], finish=True)
    run = client.get_run(run_id)
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "train.rate": "0.5", "train.betas": "[0.9, 0.99]"}
    history = client.get_metric_history(run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 5.0), (20, 10.0)]
    assert run.data.metrics[SCORE] == 0.75
    assert [artifact.path for artifact in client.list_artifacts(run_id)] == ["report.html"]
