"""The order of the table, its two forms, and what the command refuses."""

import json
from datetime import UTC, datetime

import pytest
from ssl_core import ConfigError
from ssl_core.report import LayoutRow, Report, Score, write_json
from typer.testing import CliRunner

from sslx_leaderboard.command import app


def score(value, metric="accuracy", features="trained", **values):
    form = {"dataset": "tabular/synthetic", "task": "habit", "probe": "linear", "n_train": 100, "n_test": 50, "seed": 0}
    higher = metric != "mae"
    return Score(metric=metric, value=value, features=features, higher_is_better=higher, **form | values)


def write_run(folder, scores, objective="mae"):
    folder.mkdir(parents=True)
    report = Report(
        run=str(folder), created=datetime(2026, 1, 1, tzinfo=UTC), objective=objective, modality="tabular",
        dataset="synthetic", tokenizer="tabular", seed=0, steps=1000, wall_seconds=1, pretrain_seconds=1,
        samples_per_second=1, peak_memory_bytes=1, parameters={}, device="cpu", precision="fp32",
        layout=(LayoutRow(name="numeric", grid=(4,), target="continuous", size=1),), scores=tuple(scores), config={},
        versions={}, origins={},
    )  # fmt: skip
    write_json(report, folder)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


def rows_of(*arguments):
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_best_run_is_first(tmp_path):
    for name, value in {"a": 0.5, "deep/b": 0.7, "c": 0.6}.items():
        write_run(tmp_path / name, [score(value), score(0.9, features="random_init"), score(0.8, features="raw_input")])
    rows = rows_of(tmp_path)
    assert [(row["rank"], row["run"], row["value"]) for row in rows] == [
        (1, "deep/b", 0.7),
        (2, "c", 0.6),
        (3, "a", 0.5),
    ]


def test_smallest_error_is_first(tmp_path):
    for name, value in {"a": 0.5, "b": 0.7, "c": 0.6}.items():
        write_run(tmp_path / name, [score(value), score(value, metric="mae")])
    assert [row["run"] for row in rows_of(tmp_path, "--metric", "mae")] == ["a", "c", "b"]
    assert "by mae of trained features: smaller is better" in call(tmp_path, "--metric", "mae").stdout


def test_most_frequent_metric_is_the_default(tmp_path):
    write_run(tmp_path / "a", [score(0.5, "auroc"), score(0.4)])
    write_run(tmp_path / "b", [score(0.6, "auroc")])
    assert {row["metric"] for row in rows_of(tmp_path)} == {"auroc"}


def test_each_task_has_its_own_ranks(tmp_path):
    write_run(tmp_path / "a", [score(0.5), score(0.6, probe="knn")])
    write_run(tmp_path / "b", [score(0.9, dataset="speech/synthetic", task="word")])
    rows = rows_of(tmp_path)
    assert [(row["data"], row["probe"], row["rank"]) for row in rows] == [
        ("speech/synthetic", "linear", 1), ("tabular/synthetic", "knn", 1), ("tabular/synthetic", "linear", 2),
    ]  # fmt: skip


def test_ties_share_a_rank_and_undefined_scores_have_none(tmp_path):
    for name, value in {"a": 0.7, "b": None, "c": 0.7, "d": 0.2}.items():
        write_run(tmp_path / name, [score(value)])
    rows = rows_of(tmp_path)
    assert [(row["run"], row["rank"]) for row in rows] == [("a", 1), ("c", 1), ("d", 3), ("b", None)]
    assert "undefined" in call(tmp_path).stdout


def test_table_shows_value_and_standard_error(tmp_path):
    write_run(tmp_path / "[first]", [score(0.6789, standard_error=0.0123)], objective="metamae")
    output = call(tmp_path).stdout
    for text in ("[first]", "metamae", "tabular/synthetic", "habit", "0.679 ±0.012", "1,000", "larger is better"):
        assert text in output


def test_evaluations_inside_a_run_are_left_out(tmp_path):
    write_run(tmp_path / "run", [score(0.5)])
    write_run(tmp_path / "run" / "eval" / "other", [score(0.9)])
    assert [row["run"] for row in rows_of(tmp_path)] == ["run"]
    assert [row["run"] for row in rows_of(tmp_path / "run")] == ["."]


def test_damaged_report_is_named_and_left_out(tmp_path):
    write_run(tmp_path / "good", [score(0.5)])
    write_run(tmp_path / "bad", [score(0.9)])
    (tmp_path / "bad" / "report.json").write_text("{")
    done = call(tmp_path)
    assert done.exit_code == 0
    assert "warning:" in done.stderr
    assert "bad" in done.stderr
    assert "bad" not in done.stdout


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda folder: None, (), "has no finished run; make one with sslx run --objective mae"),
        (lambda folder: folder.rmdir(), (), "is no folder"),
        (lambda folder: write_run(folder / "a", []), (), "no run has scores"),
        (lambda folder: write_run(folder / "a", [score(0.5)]), ("--metric", "acuracy"), "did you mean 'accuracy'?"),
    ],
)
def test_what_it_refuses(make, arguments, message, tmp_path):
    """`sslx` prints this error as one line and exits with 1."""
    folder = tmp_path / "runs"
    folder.mkdir()
    make(folder)
    error = call(folder, *arguments).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)
    assert "\n" not in str(error)
