"""The commands `sslx finetune` and `sslx predict`."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import sslx
from ssl_core.cli.app import app

SMALL = {
    "encoder": {"dim": 16, "depth": 2, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32",
}  # fmt: skip
CHOICE = {"objective": "mae", "steps": 2, "batch_size": 16, "preset": "none", "set": SMALL}
QUICK = ("--steps", 4, "--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        patch.setenv("COLUMNS", "200")
        yield folder


def frame(count=60, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    table = pd.DataFrame({"a": y + 0.3 * rng.standard_normal(count), "b": rng.standard_normal(count)})
    return table.assign(color=rng.choice(["red", "blue"], count), label=np.where(y, "yes", "no"))


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def run(place):
    frame().to_csv(place / "x.csv", index=False)
    return sslx.pretrain(place / "x.csv", modality="tabular", out=place / "run", **CHOICE).folder


@pytest.fixture(scope="module")
def fine(run):
    done = call("finetune", run, *QUICK, "--metrics", "auroc", "--set", "finetune.evaluations=2")
    assert done.exit_code == 0, done.output
    return run / "finetune" / "own", done.output


def test_own_data_are_fine_tuned_on_with_the_three_rows(fine):
    folder, output = fine
    assert sorted(path.name for path in folder.iterdir()) == ["finetune.json", "model"]
    report = json.loads((folder / "finetune.json").read_text())
    assert [(s["method"], s["metric"]) for s in report["scores"]] == [
        (method, metric)
        for method in ("linear probe", "fine-tuned", "from scratch")
        for metric in ("accuracy", "auroc")
    ]
    for text in ("fine-tuned", "from scratch", "linear probe", "accuracy %", "AUROC", "validation split:"):
        assert text in output
    assert report["samples"] == {"train": 38, "validation": 10, "test": 12}
    assert report["schema_of_data"]["classes"] == ["no", "yes"]
    assert report["stats"]["numeric"]["low"]


def test_predictions_of_a_table_with_labels_and_their_score(fine, place):
    folder, _ = fine
    other = frame(10, seed=1)
    other.loc[3, "label"] = None
    other.loc[4, "label"] = "maybe"
    other[["label", "color", "b", "a"]].to_csv(place / "other.csv", index=False)
    done = call("predict", folder, place / "other.csv")
    assert done.exit_code == 0, done.output
    table = pd.read_csv(folder / "predictions" / "other.csv")
    assert list(table.columns) == ["id", "label", "prediction", "probability_no", "probability_yes"]
    assert table.id.tolist() == [f"{place / 'other.csv'} row {i + 1}" for i in range(10)]
    np.testing.assert_allclose(table.probability_no + table.probability_yes, 1)
    assert table.prediction.tolist() == np.where(table.probability_yes > 0.5, "yes", "no").tolist()
    assert "1 labels are none that the model knows, and not scored: maybe" in done.output
    assert "fine-tuned on these files" not in done.output
    known = table[table.label.isin(["yes", "no"])]
    expected = 100 * (known.label == known.prediction).mean()
    assert f"accuracy %: {expected:.1f}" in done.output
    assert "on 8 labelled samples" in done.output


def test_the_label_fine_tuned_on_is_known_when_predicting(place):
    """A column of which the encoder has read the values is no input of its own prediction, and is scored."""
    table = frame().rename(columns={"label": "answer"})
    table.to_csv(place / "answers.csv", index=False)
    run = sslx.pretrain(place / "answers.csv", modality="tabular", out=place / "answers", **CHOICE).folder
    done = call("finetune", run, *QUICK, "--data", place / "answers.csv", "--set", "dataset.label=answer")
    assert done.exit_code == 0, done.output
    other = frame(10, seed=1).rename(columns={"label": "answer"})
    files = {
        "with": other,
        "without": other.drop(columns="answer"),
        "wrong": other.assign(answer=other.answer.map({"yes": "no", "no": "yes"})),
    }
    shares = {}
    for name, rows in files.items():
        rows.to_csv(place / f"{name}.csv", index=False)
        done = call("predict", run / "finetune" / "answers", place / f"{name}.csv", "--out", place / f"{name}-p.csv")
        assert done.exit_code == 0, done.output
        assert ("on 10 labelled samples" in done.output) == (name != "without")
        found = pd.read_csv(place / f"{name}-p.csv")
        assert ("label" in found) == (name != "without")
        shares[name] = found.probability_yes.to_numpy()
    np.testing.assert_array_equal(shares["with"], shares["without"])
    np.testing.assert_array_equal(shares["with"], shares["wrong"])
    model = sslx.load_model(run / "finetune" / "answers")
    np.testing.assert_allclose(model.predict_proba(other)[:, 1], shares["with"], atol=1e-6)


def test_labels_of_one_class_and_a_model_in_place_of_a_run(fine, place):
    folder, _ = fine
    frame().assign(label="yes").to_csv(place / "one.csv", index=False)
    done = call("finetune", folder.parent.parent, *QUICK, "--data", place / "one.csv")
    assert done.exit_code == 1
    assert "all samples have the label 'yes'" in done.output
    done = call("embed", folder, place / "one.csv")
    assert done.exit_code == 1
    assert f"it holds a fine-tuned model; name its encoder {folder / 'model' / 'encoder'}" in done.output
    assert call("embed", folder / "model" / "encoder", place / "one.csv", "--out", place / "e.csv").exit_code == 0


def test_the_score_of_a_number_comes_with_one_that_knows_its_offset(place):
    table = frame().assign(label=lambda rows: rows.a * 2 + 0.5)
    table.to_csv(place / "numbers.csv", index=False)
    run = sslx.pretrain(place / "numbers.csv", modality="tabular", out=place / "numbers", **CHOICE).folder
    done = call("finetune", run, *QUICK)
    assert done.exit_code == 0, done.output
    done = call("predict", run / "finetune" / "own", place / "numbers.csv")
    assert "fine-tuned on these files; finetune.json has its score on held-out samples" in done.output
    assert "Spearman: " in done.output
    assert "R²: " in done.output


def test_a_data_frame_gets_the_same_predictions_as_its_file(fine, place):
    folder, _ = fine
    table = frame(10, seed=1)
    table.to_csv(place / "same.csv", index=False)
    assert call("predict", folder, place / "same.csv", "--out", place / "same.parquet").exit_code == 0
    model = sslx.load_model(folder)
    expected = pd.read_parquet(place / "same.parquet")
    shares = model.predict_proba(table[["label", "color", "b", "a"]], batch_size=3)
    np.testing.assert_allclose(shares[:, 1], expected.probability_yes, atol=1e-6)
    assert model.predict(table).tolist() == expected.prediction.tolist()
    tuned = sslx.finetune(folder.parent.parent, table.drop(columns="label"), y=np.arange(10) % 2, steps=2, device="cpu")
    assert set(tuned.predict(table)) <= {0, 1}


def test_predictions_without_labels_of_one_class_and_as_parquet(fine, place):
    folder, _ = fine
    frame(6, seed=2).drop(columns="label").to_csv(place / "bare.csv", index=False)
    done = call("predict", folder / "model", place / "bare.csv", "--out", place / "p.parquet", "--batch-size", 4)
    assert done.exit_code == 0, done.output
    table = pd.read_parquet(place / "p.parquet")
    assert list(table.columns) == ["id", "prediction", "probability_no", "probability_yes"]
    assert len(table) == 6
    assert "accuracy" not in done.output
    # one row gives the same as among others
    frame(6, seed=2).drop(columns="label").iloc[2:3].to_csv(place / "one.csv", index=False)
    assert call("predict", folder, place / "one.csv", "--out", place / "one.parquet").exit_code == 0
    one = pd.read_parquet(place / "one.parquet")
    np.testing.assert_allclose(one.probability_yes, table.probability_yes[2:3], atol=1e-6)


def test_other_files_with_a_number_to_predict(run, place):
    table = frame(40, seed=3)
    table.assign(label=table.a * 3 + 0.5).to_csv(place / "number.csv", index=False)
    done = call("finetune", run, "--data", place / "number.csv", *QUICK, "--train", "last:1")
    assert done.exit_code == 0, done.output
    folder = run / "finetune" / "number"
    assert "Spearman" in done.output
    done = call("predict", folder, place / "number.csv", "--out", place / "n.parquet")
    assert done.exit_code == 0, done.output
    predicted = pd.read_parquet(place / "n.parquet")
    assert list(predicted.columns) == ["id", "label", "prediction"]
    np.testing.assert_allclose(predicted.label, table.a * 3 + 0.5)
    assert f"{np.corrcoef(predicted.label.rank(), predicted.prediction.rank())[0, 1]:.3f}" in done.output
    assert call("predict", folder, place / "x.csv", "--out", place / "n.csv").exit_code == 0
    assert list(pd.read_csv(place / "n.csv").columns) == ["id", "label", "prediction"]


def test_predictions_for_each_token(place):
    sizes = {"dataset.n_train": 24, "dataset.n_test": 12, "dataset.label": "structure", "dataset.length": 32}
    choice = {**CHOICE, "set": {**SMALL, **sizes, "tokenizer.length": 32}}
    folder = sslx.pretrain(modality="protein", out=place / "protein", **choice).folder
    assert call("finetune", folder, *QUICK).exit_code == 0
    (place / "p.fasta").write_text(">one\nMKVLAAGIVGLLLAQWERTY\n>two\nMKVLAAGIVGLLLAQWERTYMKVLAAGIVGLLLAQWERTY\n")
    done = call("predict", folder / "finetune" / "own", place / "p.fasta", "--out", place / "p.csv")
    assert done.exit_code == 0, done.output
    table = pd.read_csv(place / "p.csv")
    assert table.token.tolist() == [*range(32), *range(32)]
    first = table[:32]
    assert 19 <= first.prediction.notna().sum() <= 23  # twenty letters, and the tokenizer's own tokens
    assert first.prediction.notna().tolist() == first.iloc[:, -1].notna().tolist()
    assert table[32:].prediction.notna().all()


def test_results_are_kept_unless_overwritten(fine, run, place):
    folder, _ = fine
    before = (folder / "finetune.json").read_bytes()
    done = call("finetune", run, *QUICK)
    assert done.exit_code == 1
    assert "is not empty" in done.output
    assert (folder / "finetune.json").read_bytes() == before
    out = place / "again"
    assert call("finetune", run, *QUICK, "--out", out).exit_code == 0
    assert call("finetune", run, *QUICK, "--out", out, "--overwrite", "--seed", 5).exit_code == 0
    assert json.loads((out / "finetune.json").read_text())["options"]["seed"] == 5
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "first:2"], "give all, last:N with N from 1, lora or head"),
        (["--train", "last:9"], "the encoder has 2 blocks; give --train last:2 or less"),
        (["--label-fractions", "a,1"], "--label-fractions a,1: give shares above 0 and up to 1"),
        (["--label-fractions", "0,1"], "0 is no share"),
        (["--class-weights", "even"], "option 'finetune.class_weights'"),
        (["--set", "evaluate.k=3"], "see sslx show finetune"),
        (["--set", "dataset.nope=1"], "unknown option 'dataset.nope'"),
        (["--dataset", "nope"], "nope"),
        (["--data", "gone.csv"], "gone.csv"),
        (["--data", "bare.csv"], "has no labels; name their column with --set dataset.label=NAME"),
        (["--budget", "soon"], "write it as 90s, 10m, 1.5h or 30d"),
        (["--metrics", "r2"], "does not fit kind 'classes'"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(run, place, arguments, message, monkeypatch):
    monkeypatch.chdir(place)
    frame(6).drop(columns="label").to_csv(place / "bare.csv", index=False)
    done = call("finetune", run, *QUICK, "--out", place / "wrong", *arguments)
    assert done.exit_code == 1
    assert message in done.output
    assert len([line for line in done.output.splitlines() if line.startswith("error:")]) == 1
    assert not (place / "wrong").exists()


def test_wrong_arguments_of_predict(fine, run, place, monkeypatch):
    monkeypatch.chdir(place)
    folder, _ = fine
    for arguments, message in (
        ([folder, "x.csv", "--out", "p.npz"], "must end in .csv, .parquet"),
        ([run, "x.csv"], f"holds no fine-tuned model; name one of its own: {run / 'finetune'}"),
        ([place, "x.csv"], "holds no fine-tuned model; make one with sslx finetune RUN"),
        ([folder, "x.csv", "--set", "train.lr=1"], "sslx predict takes options of the data set"),
        ([folder / "model" / "encoder", "x.csv"], "holds a saved encoder, not a saved fine-tuned model"),
    ):
        done = call("predict", *arguments)
        assert done.exit_code == 1, done.output
        assert message in done.output
    done = call("embed", folder / "model", "x.csv", "--out", place / "e.csv")
    assert done.exit_code == 1
    assert "holds a saved fine-tuned model, not a saved encoder" in done.output


def test_options_are_explained():
    done = call("show", "finetune")
    assert done.exit_code == 0
    for option in ("finetune.train", "finetune.layer_decay", "finetune.patience"):
        assert option in done.output
