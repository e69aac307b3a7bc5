"""Option `dataset.id`: ids of samples in tables of features and predictions."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ssl_plugins.datasets.user.files_captions import CaptionFiles
from ssl_plugins.datasets.user.files_sequences import SequenceFiles
from ssl_plugins.datasets.user.files_tables import TableFiles
from ssl_plugins.datasets.user.files_text import TextFiles

COUNT = 40


@pytest.fixture
def rows():
    """A table whose ids are not in alphabetical order; the value of a row is found from its id."""
    rng = np.random.default_rng(0)
    numbers = rng.permutation(COUNT)
    return pd.DataFrame(
        {
            "patient": [f"P{number}" for number in numbers],
            "visit": 100 + numbers,
            "a": numbers.astype(float) ** 2,
            "sequence": ["ACGT"[number % 4] * (number + 1) for number in numbers],
            "label": numbers % 2,
        }
    )


def number_of(sample):
    """The number that the content of a sample tells."""
    inputs = sample["inputs"]
    if "numeric" in inputs:
        return round(float(inputs["numeric"][-1]) ** 0.5)
    return len(next(iter(inputs.values())).item()) - 1


def check(datasets, prefix, offset=0):
    found = {
        d.identify(i): number_of(d[i]) for d in map(pickle.loads, map(pickle.dumps, datasets)) for i in range(len(d))
    }
    assert found == {f"{prefix}{number + offset}": number for number in range(COUNT)}


@pytest.mark.parametrize(("column", "prefix", "offset"), [("patient", "P", 0), ("visit", "", 100)])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_ids_of_tables_and_of_tables_of_sequences(tmp_path, rows, open_both, column, prefix, offset, ending):
    path = tmp_path / f"a.{ending}"
    table = rows.drop(columns=["sequence", {"patient": "visit", "visit": "patient"}[column]])
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    datasets = open_both(TableFiles, path, id=column)
    check(datasets, prefix, offset)
    assert list(datasets[0].fields) == ["numeric"]
    assert datasets[0].describe(0).startswith(f"{path} row ")
    assert [one.role for one in datasets[0].summary.columns if one.name == column] == ["left out"]
    rows.to_csv(path, index=False) if ending == "csv" else rows.to_parquet(path)
    check(open_both(SequenceFiles, path, id=column), prefix, offset)
    check(open_both(TextFiles, path, id=column, text="sequence"), prefix, offset)


def test_ids_of_json(tmp_path, rows, open_both):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in json.loads(rows.to_json(orient="records"))))
    check(open_both(TextFiles, path, id="patient", text="sequence"), "P")
    check(open_both(TextFiles, path, id="visit", text="sequence"), "", 100)


def test_ids_of_fasta_are_the_first_words_of_its_headers(tmp_path, rows, open_both):
    path = tmp_path / "a.fasta"
    path.write_text("".join(f">{row.patient} of visit {row.visit}\n{row.sequence}\n" for row in rows.itertuples()))
    datasets = open_both(SequenceFiles, path)
    check(datasets, "P")
    assert datasets[0].describe(0).startswith(f"{path} record ")
    windows = open_both(SequenceFiles, path, window=4)[0]
    assert windows.identify(0) == windows.describe(0)


def test_rows_without_an_id_have_their_place(tmp_path, rows, open_both):
    rows.loc[rows.index[3], "patient"] = None
    rows.drop(columns=["sequence", "visit"]).to_csv(tmp_path / "a.csv", index=False)
    datasets = open_both(TableFiles, tmp_path / "a.csv", id="patient")
    names = [dataset.identify(i) for dataset in datasets for i in range(len(dataset))]
    assert [name for name in names if not name.startswith("P")] == [f"{tmp_path / 'a.csv'} row 4"]
    plain = open_both(TableFiles, tmp_path / "a.csv", drop_columns=("patient",))[0]
    assert plain.identify(0) == plain.describe(0)


def test_a_column_that_is_not_there_is_refused(tmp_path, rows, assert_refused):
    rows.to_csv(tmp_path / "a.csv", index=False)
    assert_refused(TableFiles, tmp_path / "a.csv", "no column 'patientt'; set dataset.id", "'patient'", id="patientt")


def test_ids_of_captions_are_those_of_their_rows(tmp_path, rows, open_both):
    for number in range(COUNT):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    numbers = rows.visit - 100
    table = pd.DataFrame({"image": [f"{n}.png" for n in numbers], "caption": rows.sequence, "patient": rows.patient})
    table.to_csv(tmp_path / "captions.csv", index=False)
    datasets = open_both(CaptionFiles, tmp_path / "captions.csv", id="patient")
    found = {one.identify(i): int(one[i]["inputs"]["image"].max()) for one in datasets for i in range(len(one))}
    assert found == {f"P{number}": number for number in range(COUNT)}
