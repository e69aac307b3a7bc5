"""A data set that exceeds the budget of the evaluation, from the command line to the report."""

import json

from ssl_core.evaluation import sample_limits

SMALL = [
    "--set", "dataset.n_train=48", "--set", "dataset.n_test=24", "--set", "encoder.dim=32",
    "--set", "encoder.depth=1", "--set", "encoder.heads=2", "--set", "objective.width=16",
    "--set", "objective.heads=1", "--set", "objective.depth=1", "--batch-size", "16", "--preset", "none",
]  # fmt: skip


def rows(report):
    return {(row["probe"], row["features"], row["n_train"], row["n_test"]) for row in report["scores"]}


def everywhere(**counts):
    """The same rows for every kind of features."""
    return {(probe, kind, *few) for probe, few in counts.items() for kind in ("trained", "random_init", "raw_input")}


def test_the_bound_is_said_at_the_terminal_and_in_the_report(quick, tmp_path, monkeypatch):
    run = ("run", "--objective", "mae", "--modality", "speech", *SMALL, "--steps", 4, "--probe-every", 2)
    code, _, err = quick(*run, "--out", "whole")
    assert code == 0, err
    whole = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert rows(whole) == everywhere(linear=(48, 24), knn=(48, 24))
    assert "evaluation takes" not in err

    raw = 4096  # values of a spectrogram, wider than the 32 of the encoder
    size = 10  # words
    monkeypatch.setattr(sample_limits, "TRAIN_BYTES", 30 * (4 * raw + 8 * size))
    monkeypatch.setattr(sample_limits, "TEST_BYTES", 20 * (4 * raw + 8 * size))
    monkeypatch.setattr(sample_limits, "WORK", 20 * 15 * raw)
    monkeypatch.setattr(sample_limits, "MIN_KNN_TRAIN", 1)
    code, _, err = quick(*run, "--out", "bounded")
    assert code == 0, err
    line = "evaluation takes 30 of 48 training samples; 20 of 24 test samples; kNN 15 of 30 training samples: drawn"
    assert err.replace("\n", " ").count(line) == 1
    limit_samples = json.loads((tmp_path / "bounded" / "report.json").read_text())
    assert len([note for note in limit_samples["notes"] if note.startswith(line)]) == 1
    assert rows(limit_samples) == everywhere(linear=(30, 20), knn=(15, 20))
    # what was asked for stays on record as it was, so that another data set is bounded by its own size
    assert json.loads((tmp_path / "bounded" / "config.json").read_text())["evaluate"]["max_train"] is None

    code, _, err = quick("eval", "bounded", "--out", "again")
    assert code == 0, err
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert [row["value"] for row in again["scores"]] == [row["value"] for row in limit_samples["scores"]]
    assert line in err.replace("\n", " ")
    given = [f"evaluate.{key}={count}" for key, count in (("max_train", 48), ("max_test", 24))]
    code, _, err = quick("eval", "bounded", "--out", "given", *(word for one in given for word in ("--set", one)))
    assert code == 0, err
    assert "evaluation takes" not in err
    assert rows(json.loads((tmp_path / "given" / "report.json").read_text())) == everywhere(
        linear=(48, 24), knn=(48, 24)
    )
