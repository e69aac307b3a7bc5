"""Data set `files` for tables: kinds of columns, missing values, labels, groups, refusals."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssl_plugins.datasets._io.splitting import Marks, Said, divide_rows
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
def test_values_come_back_as_they_were_written(tmp_path, frame, both, ending):
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    datasets = both(TableFiles, path)
    assert datasets[0].task.names == ("no", "yes")
    seen = set()
    for dataset in datasets:
        for index, sample in enumerate(rows(dataset)):
            row = int(dataset.describe(index).rsplit(" ", 1)[1]) - 1
            seen.add(row)
            np.testing.assert_allclose(sample["inputs"]["numeric"], frame.loc[row, ["width", "count"]].astype("f4"))
            assert sample["inputs"]["colour"] == [["blue", "green", "red"].index(frame["colour"][row])]
            assert sample["label"] == ["no", "yes"].index(frame["label"][row])
    assert seen == set(range(60))
    assert [len(d) for d in datasets] == [48, 12]  # a fifth of each class
    assert sum(s["label"] for s in rows(datasets[1])) == 4


def test_missing_values_are_declared(tmp_path, frame, both):
    text = frame.astype(str)
    text.loc[5, "width"], text.loc[7, "colour"] = "?", ""
    datasets = both(TableFiles, write(tmp_path / "t.csv", text))
    assert datasets[0].fields["missing"].length == 2
    assert datasets[0].fields["colour"].vocab == 4
    gone = {d.describe(i): d[i]["inputs"] for d in datasets for i in range(len(d))}
    assert gone[f"{tmp_path / 't.csv'} row 6"]["missing"].tolist() == [1, 0]
    assert gone[f"{tmp_path / 't.csv'} row 8"]["colour"] == [0]
    assert sum(sample["missing"].sum() for sample in gone.values()) == 1
    TabularTokenizer(TabularTokenizer.Options(), datasets[0].fields, 8)  # which takes it as it is


def test_groups_are_held_out_whole(tmp_path, frame, both):
    train, test = both(TableFiles, write(tmp_path / "t.csv", frame), group="site", test_fraction=0.34)
    sites = [{frame["site"][int(d.describe(i).rsplit(" ", 1)[1]) - 1] for i in range(len(d))} for d in (train, test)]
    assert (len(sites[0]), len(sites[1])) == (4, 2)
    assert not sites[0] & sites[1]
    named = both(TableFiles, write(tmp_path / "t.csv", frame), group="site", test_groups="s0,s1")
    assert len(named[1]) == 20
    assert "site" not in named[0].fields


def test_a_label_with_decimals_is_a_number(tmp_path, frame, both):
    train, _ = both(TableFiles, write(tmp_path / "t.csv", frame), label="width")
    assert train.task.kind == "number"
    row = int(train.describe(0).rsplit(" ", 1)[1]) - 1
    assert train[0]["label"] == pytest.approx(frame["width"][row])
    assert both(TableFiles, tmp_path / "t.csv", label="count")[0].task.kind == "classes"
    assert both(TableFiles, tmp_path / "t.csv", label="count", task="number")[0].task.kind == "number"


def test_a_file_for_each_split_and_no_header(tmp_path, frame, both):
    for name, part in (("a.csv", frame[:40]), ("b.csv", frame[40:])):
        part.to_csv(tmp_path / name, index=False, header=False)
    train, test = both(
        TableFiles, tmp_path / "a.csv", test_root=str(tmp_path / "b.csv"), columns="w,c,colour,site,label",
        drop_columns="site", categorical="c",
    )  # fmt: skip
    assert (len(train), len(test)) == (40, 20)
    assert set(train.fields) == {"numeric", "c", "colour"}
    assert test.describe(0) == f"{tmp_path / 'b.csv'} row 1"
    assert pickle.loads(pickle.dumps(test))[3]["label"] == test[3]["label"]


def test_refusals_name_file_row_and_cure(tmp_path, frame, refused):
    path = write(tmp_path / "t.csv", frame)
    refused(TableFiles, path, "t.csv has no column 'labl'", "dataset.label", "did you mean 'label'", label="labl")
    refused(TableFiles, path, "no column 'site2'", drop_columns="site2")
    text = frame.astype(str)
    text.loc[11, "count"] = "many"
    refused(TableFiles, write(tmp_path / "u.csv", text), "u.csv row 12", "'count'", "'many'", "dataset.missing")
    text = frame.copy()
    text.loc[4, "label"] = ""
    refused(TableFiles, write(tmp_path / "v.csv", text), "v.csv row 5 has no label")
    text = frame.copy()
    text["split"] = np.where(np.arange(60) < 45, "train", "test")
    text.loc[50, "label"] = "perhaps"
    refused(TableFiles, write(tmp_path / "w.csv", text), "'perhaps' is only in the test split", "w.csv row 51")
    text.loc[3, "split"] = "exam"
    refused(TableFiles, write(tmp_path / "x.csv", text), "x.csv row 4: split is 'exam'")
    (tmp_path / "y.csv").write_text("a,b\n1,2\n3\n")
    refused(TableFiles, tmp_path / "y.csv", "y.csv row 2: expected 2 columns, got 1")
    (tmp_path / "z.parquet").write_bytes(b"nothing")
    refused(TableFiles, tmp_path / "z.parquet", "z.parquet cannot be read")
    (tmp_path / "empty").mkdir()
    refused(TableFiles, tmp_path / "empty", "holds no file ending in .csv")
    names = frame.assign(name=[f"n{i}" for i in range(60)])
    refused(TableFiles, write(tmp_path / "n.csv", names), "'name' holds 60", "dataset.drop_columns", most_categories=20)


@pytest.mark.parametrize("task", ["auto", "classes", "number"])
def test_a_label_that_is_nan_is_missing(tmp_path, refused, task):
    labels = np.where(np.arange(20) == 2, np.nan, np.arange(20) % 2)
    pq.write_table(pa.table({"x": np.arange(20.0), "label": labels}), tmp_path / "t.parquet")
    refused(TableFiles, tmp_path / "t.parquet", "t.parquet row 3 has no label; fill it in everywhere", task=task)


def test_a_category_that_is_nan_is_missing(tmp_path, both):
    kinds = np.where(np.arange(20) == 2, np.nan, np.arange(20) % 2)
    pq.write_table(pa.table({"x": np.arange(20.0), "kind": kinds}), tmp_path / "t.parquet")
    datasets = both(TableFiles, tmp_path / "t.parquet", categorical="kind", missing="?")
    found = {d.describe(i): d[i]["inputs"]["kind"].item() for d in datasets for i in range(len(d))}
    assert [found[f"{tmp_path / 't.parquet'} row {row}"] for row in (1, 2, 3)] == [1, 2, 0]


@pytest.mark.parametrize(("mark", "shown"), [(";", ";"), ("\t", r"\t"), ("|", "|")])
def test_a_header_of_another_delimiter_is_refused(tmp_path, frame, both, refused, mark, shown):
    frame.to_csv(tmp_path / "t.csv", index=False, sep=mark)
    refused(TableFiles, tmp_path / "t.csv", "t.csv has a single column 'width", f'dataset.delimiter="{shown}"')
    assert len(both(TableFiles, tmp_path / "t.csv", delimiter=mark)[0].fields) == 3
    assert len(both(TableFiles, tmp_path / "t.csv", delimiter=",")[0].fields) == 1


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_empty_file_decides_nothing(tmp_path, frame, both, ending):
    for name, part in (("a", frame[:0]), ("b", frame)):
        if ending == "parquet":
            part.to_parquet(tmp_path / f"{name}.parquet")
        else:
            part.to_csv(tmp_path / f"{name}.csv", index=False)
    train, _ = both(TableFiles, tmp_path, label="width")
    assert train.task.kind == "number"
    assert train.fields["numeric"].shape == (1,)
    assert train.describe(0).startswith(f"{tmp_path / 'b'}.{ending} row ")


def test_names_that_are_numbers(tmp_path, frame, both):
    frame = frame.rename(columns={"label": "2019"})
    frame.loc[5, "count"] = -999
    train, _ = both(TableFiles, write(tmp_path / "t.csv", frame), label=2019, missing=-999, drop_columns="site")
    assert train.task.names == ("no", "yes")
    assert train.fields["missing"].length == 2


def test_a_million_rows_divide_without_a_loop_over_rows():
    codes = np.arange(1_000_000, dtype=np.int32) % 3
    held = divide_rows(Said(len(codes), str, Marks(codes, ("a", "b", "c"))), 0.1, (), ())
    assert np.bincount(codes[held == 1]).tolist() == [33333, 33333, 33333]


def test_runs(tmp_path, frame, run_files):
    report = run_files("tabular", write(tmp_path / "t.csv", frame))
    assert report["scores"]


def test_adult(shared_data, both):
    names = "age,workclass,fnlwgt,education,years,marital,job,relation,race,sex,gain,loss,hours,country,income"
    train, test = both(TableFiles, shared_data / "adult" / "adult.data", columns=names, label="income")
    assert len(train) + len(test) == 32561
    assert train.fields["numeric"].shape == (6,)
    assert len(train.fields) == 9
    assert train.task.names == ("<=50K", ">50K")
    assert train[0]["inputs"]["numeric"].sum() != 0
