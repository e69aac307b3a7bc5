"""A table read for an encoder that was trained on another table: columns, categories and classes go by name."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from ssl_core import DataError
from ssl_plugins.datasets.user.files_tables import TableFiles
from ssl_plugins.tokenizers.tabular import TabularTokenizer


def make(rows=40, seed=0):
    random = np.random.RandomState(seed)
    return pd.DataFrame(
        {
            "a": random.normal(size=rows).round(3),
            "b": random.normal(100, 10, rows).round(2),
            "color": np.resize(["blue", "green", "red"], rows),
            "label": np.resize(["no", "yes", "perhaps"], rows),
        }
    )


@pytest.fixture
def conform(tmp_path):
    """A function that reads a table as that of a schema, through JSON as a checkpoint holds it."""

    def read(trained, used, split="train", **options):
        opened = []
        for name, table in (("trained", trained), ("used", used)):
            path = tmp_path / f"{name}.csv"
            table.to_csv(path, index=False)
            opened.append(TableFiles(TableFiles.Options(root=str(path), **(options if name == "used" else {})), split))
        before = opened[1].fingerprint()
        opened[1].conform(json.loads(json.dumps(opened[0].schema())))
        assert opened[1].fingerprint() != before
        assert opened[1].fields == opened[0].fields
        return opened

    return read


def arrays(dataset):
    inputs = [dataset[index]["inputs"] for index in range(len(dataset))]
    return {name: np.stack([row[name] for row in inputs]) for name in inputs[0]}


def test_same_columns_change_nothing(conform):
    trained, used = conform(make(), make())
    assert used.warnings == trained.warnings == ()
    for name, array in arrays(trained).items():
        np.testing.assert_array_equal(arrays(used)[name], array)


def test_reordered_columns_give_the_same_arrays(conform):
    trained, used = conform(make(), make()[["label", "color", "b", "a"]])
    assert used.warnings == ()
    for name, array in arrays(trained).items():
        np.testing.assert_array_equal(arrays(used)[name], array)


def test_renamed_column_is_refused_by_name(conform):
    with pytest.raises(DataError, match=r"no column 'a'.*did you mean 'aa'\?.*dataset.drop_columns=aa"):
        conform(make(), make().rename(columns={"a": "aa"}))


def test_cure_of_a_renamed_column_works(conform):
    _, used = conform(make(), make().rename(columns={"a": "aa"}), drop_columns="aa")
    assert any(re.search("absent, and count as missing .*: a$", line) for line in used.warnings)


def test_other_table_is_refused(conform):
    with pytest.raises(DataError, match="no column 'a', on which the encoder was trained"):
        conform(make(), pd.DataFrame({"x": np.arange(20) / 8, "label": ["no", "yes"] * 10}))


def test_added_column_is_left_out(conform):
    trained, used = conform(make(), make().assign(c=np.arange(40) / 8, d="x"))
    assert any("left out: c, d" in line for line in used.warnings)
    np.testing.assert_array_equal(arrays(used)["numeric"], arrays(trained)["numeric"])
    assert {column.name: column.role for column in used.summary.columns}["c"] == "left out"


def test_absent_number_is_the_mean_without_a_mask(conform):
    trained, used = conform(make(), make().drop(columns="b"))
    mean = arrays(trained)["numeric"][:, 1].mean()
    np.testing.assert_allclose(arrays(used)["numeric"][:, 1], mean, rtol=1e-5)
    assert any("mean of training" in line for line in used.warnings)


def test_absent_number_is_missing_with_a_mask(conform):
    trained = make()
    trained.loc[3, "a"] = np.nan
    _, used = conform(trained, make().drop(columns="b"))
    assert arrays(used)["missing"].tolist() == [[0, 1]] * len(used)


def test_missing_numbers_are_filled_for_an_encoder_without_a_mask(conform):
    used_table = make()
    used_table.loc[::2, "a"] = np.nan
    trained, used = conform(make(), used_table)
    tokenizer = TabularTokenizer(TabularTokenizer.Options(), trained.fields, 8)
    assert all(np.isfinite(tokenizer.preprocess(used[i]["inputs"])["numeric"]).all() for i in range(len(used)))
    assert any("missing numbers of column 'a'" in line for line in used.warnings)


def test_absent_category_is_unknown(conform):
    _, used = conform(make(), make().drop(columns="color"))
    assert (arrays(used)["color"] == 0).all()


def test_unknown_categories_are_counted(conform):
    words = {"blue": "cyan", "green": "green", "red": "magenta"}
    trained, used = conform(make(), make().assign(color=make()["color"].map(words)))
    was, now = arrays(trained)["color"], arrays(used)["color"]
    np.testing.assert_array_equal(now, np.where(was == 2, 2, 0))
    count = int((was != 2).sum())
    assert any(f"{count} values of column 'color'" in line and "cyan, magenta" in line for line in used.warnings)


def test_fewer_categories_keep_their_ids(conform):
    used_table = make()[make()["color"] != "blue"]
    _, used = conform(make(), used_table)
    assert set(arrays(used)["color"].ravel().tolist()) == {2, 3}


def test_categories_that_are_numbers(conform, tmp_path):
    trained = make().assign(color=np.resize(["1", "2", "A", "B"], 40))
    used = make().assign(color=np.resize(["2", "1"], 40))
    _, used = conform(trained, used, label="label")
    assert set(arrays(used)["color"].ravel().tolist()) == {1, 2}


def test_texts_in_a_column_of_numbers_are_refused(conform):
    with pytest.raises(DataError, match="column 'b' holds texts such as 'high', and numbers when"):
        conform(make(), make().assign(b=["low", "high"] * 20))


def test_units_of_huge_numbers_are_those_of_training(conform):
    trained = make().assign(a=make()["a"] * 1e300)
    first, second = conform(trained, make().assign(a=make()["a"] * 2e300))
    np.testing.assert_allclose(arrays(second)["numeric"][:, 0], 2 * arrays(first)["numeric"][:, 0], rtol=1e-4)


def test_classes_go_by_name(conform):
    trained, used = conform(make(), make()[make()["label"] != "no"])
    assert used.task == trained.task
    names = {used.task.names[used[index]["label"]] for index in range(len(used))}
    assert names == {"yes", "perhaps"}


def test_unknown_classes_are_said(conform):
    _, used = conform(make(), make().assign(label=np.resize(["no", "never"], 40)))
    assert used.task.names == ("never", "no")
    assert any("classes that the data of the encoder did not have: never" in line for line in used.warnings)


def test_empty_schema_changes_nothing(tmp_path):
    make().to_csv(tmp_path / "t.csv", index=False)
    dataset = TableFiles(TableFiles.Options(root=str(tmp_path / "t.csv")), "train")
    before = dataset.fingerprint()
    dataset.conform({})
    assert dataset.fingerprint() == before
