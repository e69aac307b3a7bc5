"""The command `sslx embed`: features of files as a table."""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        yield folder


def frame(count=60, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    table = pd.DataFrame({"a": y + 0.3 * rng.standard_normal(count), "b": rng.standard_normal(count)})
    return table.assign(color=rng.choice(["red", "blue"], count), label=np.where(y, "yes", "no"))


@pytest.fixture(scope="module")
def run(place):
    frame().to_csv(place / "x.csv", index=False)
    choice = {"objective": "mae", "modality": "tabular", "steps": 3, "batch_size": 16, "preset": "none", "set": SMALL}
    return sslx.pretrain(place / "x.csv", out=place / "run", **choice)


def embed(*arguments):
    return CliRunner().invoke(app, ["embed", *map(str, arguments)])


def test_a_table_of_features_with_ids_and_labels(run, place):
    other = frame(10, seed=1)
    other.loc[3, "label"] = None
    other[["label", "color", "b", "a"]].to_csv(place / "other.csv", index=False)
    done = embed(run.folder, place / "other.csv")
    assert done.exit_code == 0, done.output
    table = pd.read_parquet(run.folder / "embed" / "other.parquet")
    assert list(table.columns) == ["id", "label", *(f"f{i}" for i in range(16))]
    assert table.id.tolist() == [f"{place / 'other.csv'} row {i + 1}" for i in range(10)]
    assert table.label.isna().tolist() == [i == 3 for i in range(10)]
    assert table.label.dropna().tolist() == other.label.dropna().tolist()
    np.testing.assert_allclose(table.iloc[:, 2:].to_numpy(), sslx.embed(run, other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ending", ["csv", "npz", "parquet"])
def test_formats_batches_and_layers(run, place, ending):
    frame(10, seed=1).drop(columns="label").to_csv(place / "bare.csv", index=False)
    out = place / f"features.{ending}"
    done = embed(run.folder, place / "bare.csv", "--out", out, "--layers", "1,2", "--batch-size", 3)
    assert done.exit_code == 0, done.output
    expected = sslx.embed(run, frame(10, seed=1), layers=[1, 2])
    assert expected.shape == (10, 32)
    if ending == "npz":
        with np.load(out) as file:
            features, ids = file["features"], file["id"]
            assert file["label"].tolist() == [""] * 10
    else:
        table = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
        features, ids = table.iloc[:, 2:].to_numpy(), table.id.to_numpy()
        assert table.label.isna().all()
    assert len(set(ids)) == 10
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in place.iterdir() if path.name.startswith(".")) == []


def test_readouts(run, place):
    out = place / "readout.csv"
    done = embed(run.folder, place / "x.csv", "--out", out, "--readout", "layers+stats")
    assert done.exit_code == 0, done.output
    features = pd.read_csv(out).iloc[:, 2:].to_numpy()
    assert features.shape == (60, 64)
    np.testing.assert_allclose(features, sslx.embed(run, frame(), readout="layers+stats"), rtol=1e-4, atol=1e-5)
    refused = embed(run.folder, place / "x.csv", "--out", place / "no.csv", "--readout", "mean")
    assert refused.exit_code == 1
    assert "unknown read-out 'mean'; use one of last, layers, layers+stats" in " ".join(refused.output.split())
    assert not (place / "no.csv").exists()


def test_token_features(run, place):
    out = place / "tokens.parquet"
    assert embed(run.folder, place / "x.csv", "--out", out, "--per-token").exit_code == 0
    table = pd.read_parquet(out)
    length = run.learner.tokenizer.layout.length
    assert table.token.tolist() == list(range(length)) * 60
    expected = sslx.embed(run, frame(), per_token=True)
    np.testing.assert_allclose(table.iloc[:, 3:].to_numpy(), expected.reshape(60 * length, 16), rtol=1e-4, atol=1e-5)


def test_data_of_another_unit_are_doubted(run, place):
    table = frame(20)
    table.assign(a=10_000 * table.a).to_csv(place / "unit.csv", index=False)
    done = embed(run.folder, place / "unit.csv", "--out", place / "unit.parquet")
    assert done.exit_code == 0
    assert "doubt      'a' ranges from" in done.output


def test_a_bad_row_is_skipped_or_refused(run, place):
    table = frame(10)
    table.loc[4, "a"] = np.inf
    table.to_csv(place / "bad.csv", index=False)
    done = embed(run.folder, place / "bad.csv", "--out", place / "bad.parquet")
    assert done.exit_code == 0
    assert "skipped" in done.output
    assert "bad.csv row 5" in done.output
    assert len(pd.read_parquet(place / "bad.parquet")) == 9
    (place / "bad.parquet").unlink()
    done = embed(run.folder, place / "bad.csv", "--out", place / "bad.parquet", "--strict")
    assert done.exit_code == 1
    assert not (place / "bad.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.txt"], "must end in .parquet, .csv, .npz"),
        (["--layers", "0"], "give numbers of encoder layers from 1"),
        (["--layers", "3"], "layers=(3,)"),
        (["--set", "train.lr=1"], "takes options of the data set"),
        (["--set", "dataset.nope=1"], "unknown option 'dataset.nope'"),
    ],
)
def test_wrong_arguments_are_one_line(run, place, arguments, message, monkeypatch):
    monkeypatch.chdir(place)
    done = embed(run.folder, place / "x.csv", *arguments)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    errors = [line for line in done.output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1


def test_a_table_that_is_replaced_is_named(run, place):
    for said in ("(24 samples)", "(24 samples, in place of an earlier file)"):
        done = embed(run.folder, place / "x.csv", "--out", place / "twice.csv")
        assert said.split()[1] in done.output.replace("\n", "")
        assert ("in place of an earlier file" in done.output.replace("\n", "")) == ("place" in said)


def test_a_folder_that_is_no_run(place):
    done = embed(place, place / "x.csv")
    assert done.exit_code == 1
    assert "error:" in done.output


def test_pictures_of_another_size_and_without_labels(place):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (24, 3, 16, 16), dtype=np.uint8)
    np.savez(place / "images.npz", images=x, labels=np.arange(24) % 2)
    choice = {"objective": "mae", "modality": "image", "steps": 2, "batch_size": 8, "preset": "none", "set": SMALL}
    run = sslx.pretrain(place / "images.npz", out=place / "images", **choice)
    np.savez(place / "large.npz", images=x.repeat(2, axis=2).repeat(2, axis=3))
    done = embed(run.folder, place / "large.npz", "--out", place / "large.npz.parquet")
    if not type(run.learner.tokenizer).fits_sizes:
        pytest.skip("the tokenizer takes one size")
    assert done.exit_code == 0, done.output
    assert "32 x 32" in done.output
    assert len(pd.read_parquet(place / "large.npz.parquet")) == 24
