"""Evaluation and resume on data that differ from those trained on: the table of outcomes in docs/own-data.md."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import sslx
from ssl_core import DataError
from ssl_core.utils.console import Console

SMALL = {
    "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32", "train.schedule": "constant", "evaluate.probes": ["linear"],
}  # fmt: skip
CHOICE = {"objective": "mae", "modality": "tabular", "batch_size": 16, "preset": "none", "set": SMALL}


class Lines(Console):
    def __init__(self):
        self.lines: list[str] = []

    def info(self, text):
        self.lines.append(text)


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    frame = pd.DataFrame({"a": y + 0.3 * rng.standard_normal(120), "b": rng.standard_normal(120)})
    frame["color"] = np.where(rng.random(120) < 0.8, np.where(y, "red", "blue"), "green")
    return frame.assign(label=np.where(y, "yes", "no"))


CHANGES = {
    "same": lambda t: t,
    "permuted": lambda t: t[["color", "label", "b", "a"]],
    "added": lambda t: t.assign(more=np.linspace(0, 1, 120) ** 2, note="x"),
    "dropped": lambda t: t.drop(columns="b"),
    "renamed": lambda t: t.rename(columns={"b": "B"}),
    "categories": lambda t: t.assign(color=t.color.replace({"green": "cyan"})),
    "units": lambda t: t.assign(a=10_000 * t.a),
    "swapped": lambda t: t.assign(a=t.b, b=t.a),
    "rows": lambda t: t.iloc[::-1],
    "labels": lambda t: t.assign(label=t.label.replace({"yes": "sure"})),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(cache, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(cache))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """A trained run on x.csv, and its scores."""
    folder = tmp_path_factory.mktemp("trained")
    table().to_csv(folder / "x.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(cache))
        run = sslx.pretrain(folder / "x.csv", out=folder / "run", steps=20, **CHOICE)
    return folder / "run", [score.value for score in run.report.scores]


def evaluate(trained, tmp_path, change):
    """Scores of the trained features and the lines that were printed."""
    CHANGES[change](table()).to_csv(tmp_path / "other.csv", index=False)
    console = Lines()
    report = sslx.evaluate(trained[0], tmp_path / "other.csv", out=tmp_path / "report", console=console)
    return [score.value for score in report.scores], console.lines


@pytest.mark.parametrize("change", ["same", "permuted", "added"])
def test_the_same_columns_give_the_same_scores(trained, tmp_path, change):
    scores, lines = evaluate(trained, tmp_path, change)
    assert scores == trained[1]
    said = [line for line in lines if "not trained are left out" in line]
    assert [("more" in line, "note" in line) for line in said] == ([(True, True)] if change == "added" else [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("dropped", "columns on which the encoder was trained are absent, and count as missing"),
        ("categories", "cyan"),
        ("units", "doubt      'a' ranges from"),
    ],
)
def test_what_was_adapted_is_said(trained, tmp_path, change, said):
    _, lines = evaluate(trained, tmp_path, change)
    assert any(said in line for line in lines), lines


def test_a_renamed_column_is_refused_with_the_nearest_name(trained, tmp_path):
    with pytest.raises(DataError, match="no column 'b', on which the encoder was trained; .*B; rename it"):
        evaluate(trained, tmp_path, "renamed")


def test_a_label_that_was_an_input_is_not_taken_for_a_renamed_column(trained, tmp_path):
    table().assign(more=1.5).to_csv(tmp_path / "other.csv", index=False)
    console = Lines()
    choice = {"steps": 2, "precision": "fp32", "device": "cpu", "console": console}
    sslx.finetune(trained[0], tmp_path / "other.csv", set={"dataset.label": "color"}, **choice)
    assert any("absent, and count as missing" in line and "color" in line for line in console.lines), console.lines
    assert any("left out: label, more" in line or "left out: more, label" in line for line in console.lines)


def test_the_cure_for_a_renamed_column_keeps_the_columns_that_are_dropped(trained, tmp_path):
    table().assign(id=range(120)).rename(columns={"b": "B"}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(DataError, match=r"set dataset.drop_columns=id,B to use missing values"):
        sslx.evaluate(trained[0], tmp_path / "other.csv", set={"dataset.drop_columns": ["id"]}, out=tmp_path / "report")
    sslx.evaluate(trained[0], tmp_path / "other.csv", set={"dataset.drop_columns": ["id", "B"]}, out=tmp_path / "out")


def test_messages_on_a_data_frame_do_not_name_the_file_that_holds_it(trained):
    with pytest.raises(DataError, match="^the table has no column 'b', on which the encoder was trained"):
        sslx.embed(trained[0], table().rename(columns={"b": "B"}))


def test_series_with_other_steps_of_time_are_doubted(tmp_path):
    rng = np.random.default_rng(0)

    def series(step):
        path = tmp_path / f"{step}.csv"
        pd.DataFrame({"time": np.arange(600) * step, "a": rng.standard_normal(600)}).to_csv(path, index=False)
        return path

    choice = {**CHOICE, "modality": "time-series"}
    choice["set"] = {**SMALL, "dataset.window": 32, "tokenizer.patch": 8}
    run = sslx.pretrain(series(0.02), out=tmp_path / "run", steps=2, **choice)
    for step, doubted in ((0.02, False), (0.0201, False), (0.05, True), (0.01, True)):
        console = Lines()
        sslx.embed(run, series(step), console=console)
        assert any("a window covers another span of time" in line for line in console.lines) == doubted


def test_other_classes_are_probed_anew(trained, tmp_path):
    scores, _ = evaluate(trained, tmp_path, "labels")
    assert scores == pytest.approx(trained[1], abs=1e-6)


@pytest.mark.parametrize("change", CHANGES)
def test_resume(tmp_path, change):
    """Only what leaves samples and labels as they were goes on."""
    path, choice = tmp_path / "x.csv", CHOICE

    def go(frame, steps):
        frame.to_csv(path, index=False)
        return sslx.pretrain(path, out=tmp_path / "run", steps=steps, resume=steps > 3, **choice)

    go(table(), 3)
    if change in ("same", "permuted", "added"):
        assert go(CHANGES[change](table()), 4).steps == 4
        return
    with pytest.raises(DataError) as error:
        go(CHANGES[change](table()), 4)
    expected = "no column 'b'" if change == "renamed" else "put the data back to go on, or start anew"
    assert expected in str(error.value)
