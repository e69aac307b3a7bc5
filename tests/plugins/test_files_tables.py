"""Data set `files` for tables: types of columns, missing values, labels, groups, errors."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssl_plugins.datasets._io.splitting import TEST, Codes, SampleMetadata, split_rows
from ssl_plugins.datasets._io.user_data import RowOptions
from ssl_plugins.datasets.user.files_tables import TableFiles
from ssl_plugins.tokenizers.tabular import TabularTokenizer


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "width": rng.normal(size=60).round(3),
            "count": rng.integers(0, 9, 60),
            "colour": rng.choice(["red", "blue", "green"], 60),
            "site": [f"s{i % 6}" for i in range(60)],
            "label": np.where(np.arange(60) % 3, "no", "yes"),
        }
    )


def write(path, frame):
    frame.to_csv(path, index=False)
    return path


def rows(dataset):
    return [dataset[i] for i in range(len(dataset))]


@pytest.mark.parametrize("ending", ["csv", "parquet", "tsv", "csv.gz"])
def test_values_round_trip(tmp_path, frame, open_both, ending):
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    datasets = open_both(TableFiles, path)
    assert datasets[0].task.names == ("no", "yes")
    seen = set()
    for dataset in datasets:
        for index, sample in enumerate(rows(dataset)):
            row = int(dataset.describe(index).rsplit(" ", 1)[1]) - 1
            seen.add(row)
            np.testing.assert_allclose(sample["inputs"]["numeric"], frame.loc[row, ["width", "count"]].astype("f4"))
            assert sample["inputs"]["colour"] == [1 + ["blue", "green", "red"].index(frame["colour"][row])]
            assert sample["label"] == ["no", "yes"].index(frame["label"][row])
    assert seen == set(range(60))
    assert [len(d) for d in datasets] == [48, 12]  # a fifth of each class
    assert sum(s["label"] for s in rows(datasets[1])) == 4


def test_missing_values(tmp_path, frame, open_both):
    text = frame.astype(str)
    text.loc[5, "width"], text.loc[7, "colour"] = "?", ""
    datasets = open_both(TableFiles, write(tmp_path / "t.csv", text))
    assert datasets[0].fields["missing"].length == 2
    assert datasets[0].fields["colour"].vocab == 4
    inputs = {d.describe(i): d[i]["inputs"] for d in datasets for i in range(len(d))}
    assert inputs[f"{tmp_path / 't.csv'} row 6"]["missing"].tolist() == [1, 0]
    assert inputs[f"{tmp_path / 't.csv'} row 8"]["colour"] == [0]
    assert sum(sample["missing"].sum() for sample in inputs.values()) == 1
    TabularTokenizer(TabularTokenizer.Options(), datasets[0].fields, 8)  # accepts the fields


def test_groups_are_not_divided(tmp_path, frame, open_both):
    train, test = open_both(TableFiles, write(tmp_path / "t.csv", frame), group="site", test_fraction=0.34)
    sites = [{frame["site"][int(d.describe(i).rsplit(" ", 1)[1]) - 1] for i in range(len(d))} for d in (train, test)]
    assert (len(sites[0]), len(sites[1])) == (4, 2)
    assert not sites[0] & sites[1]
    by_name = open_both(TableFiles, write(tmp_path / "t.csv", frame), group="site", test_groups="s0,s1")
    assert len(by_name[1]) == 20
    assert "site" not in by_name[0].fields


def test_label_with_decimals_is_numeric(tmp_path, frame, open_both):
    train, _ = open_both(TableFiles, write(tmp_path / "t.csv", frame), label="width")
    assert train.task.kind == "number"
    row = int(train.describe(0).rsplit(" ", 1)[1]) - 1
    assert train[0]["label"] == pytest.approx(frame["width"][row])
    assert open_both(TableFiles, tmp_path / "t.csv", label="count")[0].task.kind == "classes"
    assert open_both(TableFiles, tmp_path / "t.csv", label="count", task="number")[0].task.kind == "number"


def test_test_root_without_header(tmp_path, frame, open_both):
    for name, part in (("a.csv", frame[:40]), ("b.csv", frame[40:])):
        part.to_csv(tmp_path / name, index=False, header=False)
    train, test = open_both(
        TableFiles, tmp_path / "a.csv", test_root=str(tmp_path / "b.csv"), columns="w,c,colour,site,label",
        drop_columns="site", categorical="c",
    )  # fmt: skip
    assert (len(train), len(test)) == (40, 20)
    assert set(train.fields) == {"numeric", "c", "colour"}
    assert test.describe(0) == f"{tmp_path / 'b.csv'} row 1"
    assert pickle.loads(pickle.dumps(test))[3]["label"] == test[3]["label"]


def test_error_messages(tmp_path, frame, assert_refused):
    path = write(tmp_path / "t.csv", frame)
    assert_refused(
        TableFiles, path, "t.csv has no column 'labl'", "dataset.label", "did you mean 'label'", label="labl"
    )
    assert_refused(TableFiles, path, "no column 'site2'", drop_columns="site2")
    text = frame.astype(str)
    text.loc[11, "count"] = "many"
    assert_refused(TableFiles, write(tmp_path / "u.csv", text), "u.csv row 12", "'count'", "'many'", "dataset.missing")
    text = frame.copy()
    text["split"] = np.where(np.arange(60) < 45, "train", "test")
    text.loc[50, "label"] = "perhaps"
    assert_refused(TableFiles, write(tmp_path / "w.csv", text), "'perhaps' is only in the test split", "w.csv row 51")
    text.loc[3, "split"] = "exam"
    assert_refused(TableFiles, write(tmp_path / "x.csv", text), "x.csv row 4: split is 'exam'")
    (tmp_path / "y.csv").write_text("a,b\n1,2\n3\n")
    assert_refused(TableFiles, tmp_path / "y.csv", "y.csv row 2: expected 2 columns, got 1")
    (tmp_path / "z.parquet").write_bytes(b"nothing")
    assert_refused(TableFiles, tmp_path / "z.parquet", "z.parquet is no Parquet file")
    (tmp_path / "empty").mkdir()
    assert_refused(TableFiles, tmp_path / "empty", "holds no file ending in .csv")
    names = frame.assign(name=[f"n{i}" for i in range(60)])
    assert_refused(
        TableFiles, write(tmp_path / "n.csv", names), "'name' holds 60", "dataset.drop_columns", most_categories=20
    )


@pytest.mark.parametrize("task", ["auto", "classes", "number"])
@pytest.mark.parametrize("step", [1.0, 0.5])
def test_rows_without_a_label_are_kept(tmp_path, open_both, task, step):
    labels = np.where(np.arange(20) == 2, np.nan, np.arange(20) % 2 * step)
    pq.write_table(pa.table({"x": np.arange(20) / 8, "label": labels}), tmp_path / "t.parquet")
    datasets = open_both(TableFiles, tmp_path / "t.parquet", task=task)
    found = {d.describe(i).rsplit(" ", 1)[1]: d[i]["label"] for d in datasets for i in range(len(d))}
    assert len(found) == 20
    assert found["3"] is None
    is_number = task == "number" or (task == "auto" and step == 0.5)
    assert found["4"] == (step if is_number else 1)
    assert datasets[0].task.kind == ("number" if is_number else "classes")


def test_first_file_without_labels_does_not_decide_their_kind(tmp_path, frame, open_both):
    for name, part in (("a", frame.assign(label="")), ("b", frame.assign(label=frame["width"]))):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    train, test = open_both(TableFiles, tmp_path)
    assert train.task.kind == "number"
    labels = {d.describe(i).rsplit("/", 1)[1]: d[i]["label"] for d in (train, test) for i in range(len(d))}
    assert labels["a.csv row 1"] is None
    assert labels["b.csv row 1"] == frame["width"][0]


def test_nan_category_is_missing(tmp_path, open_both):
    kinds = np.where(np.arange(20) == 2, np.nan, np.arange(20) % 2)
    pq.write_table(pa.table({"x": np.arange(20.0), "kind": kinds}), tmp_path / "t.parquet")
    datasets = open_both(TableFiles, tmp_path / "t.parquet", categorical="kind", missing="?")
    ids = {d.describe(i): d[i]["inputs"]["kind"].item() for d in datasets for i in range(len(d))}
    assert [ids[f"{tmp_path / 't.parquet'} row {row}"] for row in (1, 2, 3)] == [1, 2, 0]


@pytest.mark.parametrize(("delimiter", "word"), [(";", "semicolon"), ("\t", "tab"), ("|", "vertical bar")])
def test_other_delimiter_is_detected(tmp_path, frame, open_both, delimiter, word):
    frame.to_csv(tmp_path / "t.csv", index=False, sep=delimiter)
    train, _ = open_both(TableFiles, tmp_path / "t.csv")
    assert (len(train.fields), train.summary.facts["delimiter"], train.doubts) == (3, word, ())
    assert len(open_both(TableFiles, tmp_path / "t.csv", delimiter=delimiter)[0].fields) == 3
    assert len(open_both(TableFiles, tmp_path / "t.csv", delimiter=",")[0].fields) == 1


@pytest.mark.parametrize(("delimiter", "escape"), [(";", ";"), ("\t", r"\t"), ("|", "|")])
def test_other_delimiter_of_uneven_rows_is_refused(tmp_path, assert_refused, delimiter, escape):
    (tmp_path / "t.csv").write_text(f"a{delimiter}b\n1{delimiter}2\n3\n")
    assert_refused(TableFiles, tmp_path / "t.csv", "t.csv has a single column 'a", f'dataset.delimiter="{escape}"')


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_empty_file_does_not_decide_column_types(tmp_path, frame, open_both, ending):
    for name, part in (("a", frame[:0]), ("b", frame)):
        if ending == "parquet":
            part.to_parquet(tmp_path / f"{name}.parquet")
        else:
            part.to_csv(tmp_path / f"{name}.csv", index=False)
    train, _ = open_both(TableFiles, tmp_path, label="width")
    assert train.task.kind == "number"
    assert train.fields["numeric"].shape == (1,)
    assert train.describe(0).startswith(f"{tmp_path / 'b'}.{ending} row ")


def test_options_that_look_like_numbers(tmp_path, frame, open_both):
    frame = frame.rename(columns={"label": "2019"})
    frame.loc[5, "count"] = -999
    train, _ = open_both(TableFiles, write(tmp_path / "t.csv", frame), label=2019, missing=-999, drop_columns="site")
    assert train.task.names == ("no", "yes")
    assert train.fields["missing"].length == 2


def test_split_of_a_million_rows():
    codes = np.arange(1_000_000, dtype=np.int32) % 3
    metadata = SampleMetadata(len(codes), str, Codes(codes, ("a", "b", "c")))
    split = split_rows(metadata, RowOptions(root="x", test_fraction=0.1))
    assert np.bincount(codes[split == TEST]).tolist() == [33333, 33333, 33333]


def test_runs(tmp_path, frame, run_files):
    report = run_files("tabular", write(tmp_path / "t.csv", frame))
    assert report["scores"]


def test_real_adult(shared_data, open_both):
    names = "age,workclass,fnlwgt,education,years,marital,job,relation,race,sex,gain,loss,hours,country,income"
    train, test = open_both(TableFiles, shared_data / "adult" / "adult.data", columns=names, label="income")
    assert len(train) + len(test) == 32561
    assert train.fields["numeric"].shape == (6,)
    assert len(train.fields) == 9
    assert train.task.names == ("<=50K", ">50K")
    assert train[0]["inputs"]["numeric"].sum() != 0


def test_test_file_without_the_label(tmp_path, frame, assert_refused, open_both):
    write(tmp_path / "a.csv", frame)
    write(tmp_path / "b.csv", frame.drop(columns="label"))
    assert_refused(
        TableFiles, tmp_path / "a.csv", "b.csv has no label column 'label'", "leave dataset.test_root out",
        test_root=str(tmp_path / "b.csv"),
    )  # fmt: skip
    assert len(open_both(TableFiles, tmp_path / "a.csv")[0]) == 48
