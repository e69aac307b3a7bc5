"""The reader of tables: detection beyond the first rows, styles of numbers, forms of JSON, sheets."""

from __future__ import annotations

import importlib
import json
import lzma
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_core import ConfigError, DataError
from ssl_core.options import Options
from ssl_plugins.datasets._io.files import kind as file_kind
from ssl_plugins.datasets._io.tables import dialect as table_dialect
from ssl_plugins.datasets._io.tables import formats as table_formats
from ssl_plugins.datasets._io.tables import records as table_records
from ssl_plugins.datasets._io.tables.columns import NumberStyle, number_options, shared_number_options
from ssl_plugins.datasets._io.tables.options import TableOptions
from ssl_plugins.datasets._io.tables.table import Table


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path, **options):
    """All columns of a table as lists of texts."""
    table = Table.open(path, TableOptions(**options))
    blocks = list(table.blocks(table.columns))
    return {name: [value for block in blocks for value in block[name].to_pylist()] for name in table.columns}


def refusal(path, **options):
    with pytest.raises(DataError) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def small_head(monkeypatch):
    """Detection from the first kilobyte."""
    monkeypatch.setattr(file_kind, "HEAD_BYTES", 1024)
    monkeypatch.setattr(file_kind.read_head, "__defaults__", (1024,))
    monkeypatch.setattr(table_dialect, "SAMPLE_CHARACTERS", 1024)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("12", {}),
        ("-1.5e-3", {}),
        ("1,234.50", {"thousands": ","}),
        ("1.234,5", {"thousands": ".", "decimal": ","}),
        ("1.234.567", {"thousands": "."}),
        ("0,5", {"decimal": ","}),
        ("-3,14159", {"decimal": ","}),
        ("1 234,5", {"thousands": " ", "decimal": ","}),
        ("1\u202f234", {"thousands": " "}),
        ("1'234.5", {"thousands": "'"}),
        ("$5", {"units": "$"}),
        ("-$1,000", {"units": "$", "thousands": ","}),
        ("US$ 7", {"units": "US$"}),
        ("12 %", {"units": "%"}),
        ("3,5 €", {"units": "€", "decimal": ","}),
    ],
)
def test_options_make_numbers(text, options):
    assert number_options(text) == options
    style = NumberStyle(
        options.get("decimal", "."), options.get("thousands"), tuple(filter(None, [options.get("units")]))
    )
    (plain,) = style.convert(pa.array([text])).to_pylist()
    float(plain)


@pytest.mark.parametrize(
    "text", ["", "a", "12A", "s1", "1-2", "2024-01-31", "12:30", "1,2,3", "$", "5$5", "1.2.3", "%%"]
)
def test_other_texts_are_no_numbers(text):
    assert number_options(text) is None


@given(
    st.floats(-1e9, 1e9),
    st.sampled_from([(".", ","), (",", "."), (",", " "), (".", "'")]),
    st.sampled_from(["", "$", "%"]),
)
def test_styles_round_trip(value, signs, unit):
    decimal, thousands = signs
    text = f"{value:,.3f}".translate(str.maketrans({",": thousands, ".": decimal}))
    text = f"{unit}{text}" if unit == "$" else f"{text}{unit}"
    style = NumberStyle(decimal, thousands, (unit,) if unit else ())
    (plain,) = style.convert(pa.array([text])).to_pylist()
    assert float(plain) == float(f"{value:.3f}")


def test_a_group_of_three_is_decimal_if_others_are():
    assert shared_number_options(["1,234", "5,678"]) == (1.0, {"thousands": ","})
    assert shared_number_options(["1,234", "0,5"]) == (1.0, {"decimal": ","})


def test_texts_beside_numbers_of_a_style_stay(tmp_path):
    path = write(tmp_path / "t.csv", "a;b\n1,5;x,5\n2,5;1,5\n3,5;y\n")
    assert read(path) == {"a": ["1.5", "2.5", "3.5"], "b": ["x,5", "1,5", "y"]}


@pytest.mark.parametrize(("sign", "stop"), [("\t", 302), ("\t", 301), (",", 330)])
def test_quote_far_down_is_refused_and_cured(tmp_path, small_head, sign, stop):
    rows = [f"word {i}{sign}{i % 2}\n" for i in range(400)]
    rows[300], rows[stop] = f'"word{sign}0\n', f'"a word{sign}1\n'
    path = write(tmp_path / "t.csv", f"text{sign}label\n" + "".join(rows))
    message = refusal(path)
    assert "t.csv row 301: a double quote opens a text of column 'text'" in message
    assert "dataset.quoting=none" in message
    assert len(read(path, quoting="none")["text"]) == 400


def test_texts_of_several_lines_are_kept(tmp_path, small_head):
    texts = ["one, two\nthree, four\nfive", "a, b\nc", "one\n\nthree, four\n", "x"] * 100
    frame = pd.DataFrame({"text": texts, "n": ["1", "2"] * 200})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert read(tmp_path / "t.csv")["text"] == texts
    assert Table(tmp_path / "t.csv").doubts == {}
    frame[["n", "text"]].to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    assert read(tmp_path / "t.tsv")["text"] == texts


def test_encoding_far_down_is_refused_and_cured(tmp_path, small_head):
    path = write(tmp_path / "t.csv", b"a,b\n" + b"x,1\n" * 400 + "ü,2\n".encode("cp1252"))
    assert "dataset.encoding" in refusal(path)
    assert read(path, encoding="cp1252")["a"][-1] == "ü"


def test_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="no known encoding"):
        TableOptions(encoding="utf-9")


@pytest.mark.parametrize(
    ("word", "sign"), [("tab", "\t"), (r"\t", "\t"), ("space", " "), ("semicolon", ";"), (";", ";")]
)
def test_words_of_delimiters(word, sign):
    assert TableOptions(delimiter=word).delimiter == sign
    assert issubclass(TableOptions, Options)
    with pytest.raises(ValueError, match="one character"):
        TableOptions(delimiter=";;")


@pytest.mark.parametrize("orient", ["records", "columns", "split", "list"])
def test_forms_of_json(tmp_path, orient):
    frame = pd.DataFrame({"a": [1.5, None, 3.0], "b": ["x", "y", None], "c": [True, False, True]})
    path = write(
        tmp_path / "t.json", json.dumps(frame.to_dict("list")) if orient == "list" else frame.to_json(orient=orient)
    )
    if orient == "list":
        path.write_text(path.read_text().replace("NaN", "null"))
    assert read(path) == {"a": ["1.5", None, "3.0"], "b": ["x", "y", None], "c": ["True", "False", "True"]}


def test_json_under_one_key(tmp_path):
    path = write(tmp_path / "t.json", json.dumps({"version": 1, "data": [{"a": 1}, {"a": 2, "b": "x"}]}))
    assert read(path) == {"a": ["1", "2"], "b": [None, "x"]}


def test_late_key_of_json_lines_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(table_records, "KEY_LINES", 2)
    path = write(
        tmp_path / "t.jsonl", "".join(json.dumps({"a": i} | ({"b": 1} if i == 8 else {})) + "\n" for i in range(9))
    )
    table = Table(path)
    assert sum(len(block["a"]) for block in table.blocks(table.columns)) == 9
    assert table.columns == ["a"]
    assert "line 9: key 'b'" in table.warnings["keys"]


def test_lists_of_json_keep_their_type(tmp_path):
    path = write(tmp_path / "t.json", json.dumps([{"a": [1, 2]}, {"a": [3]}]))
    (block,) = Table(path).blocks(["a"])
    assert block["a"].to_pylist() == [[1, 2], [3]]


def test_invalid_json_line_is_named(tmp_path):
    path = write(tmp_path / "t.jsonl", '{"a": 1}\n{"a": \n')
    assert "t.jsonl line 2 is no JSON" in refusal(path)


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
def test_compressions_are_recognised_by_content(tmp_path, compression):
    if compression == "zstd":
        write(tmp_path / "t.csv", pa.Codec("zstd").compress(b"a,b\n1,x\n", asbytes=True))
    else:
        pd.DataFrame({"a": [1], "b": ["x"]}).to_csv(tmp_path / "t.csv", index=False, compression=compression)
    assert read(tmp_path / "t.csv") == {"a": ["1"], "b": ["x"]}


def test_arrow_stream(tmp_path):
    table = pa.table({"a": pa.array(["x", "y", "x"]).dictionary_encode(), "b": [1, 2, 3]})
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path / "t.arrow") == {"a": ["x", "y", "x"], "b": [1, 2, 3]}


def test_sheets_of_excel(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "t.xlsx"
    with pd.ExcelWriter(path) as book:
        pd.DataFrame().to_excel(book, sheet_name="empty")
        pd.DataFrame({"a": [1, 2], "b": ["x", None]}).to_excel(book, sheet_name="first", index=False)
        pd.DataFrame({"c": [1.5]}).to_excel(book, sheet_name="second", index=False)
    table = Table(path)
    assert (table.columns, table.facts) == (["a", "b"], {"sheet": "first"})
    assert "first, second" in table.doubts["sheet"]
    assert read(path, sheet="second") == {"c": ["1.5"]}
    assert "no sheet 'third', only empty, first, second" in refusal(path, sheet="third")


def test_excel_names_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "t.xlsx"
    pytest.importorskip("openpyxl")
    pd.DataFrame({"a": [1]}).to_excel(path)

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert "pip install 'sslx[excel]'" in refusal(path)


def test_header_options(tmp_path):
    path = write(tmp_path / "t.csv", "1,2\n3,4\n5,6\n")
    assert list(read(path)) == ["1", "2"]
    assert read(path, header="no") == {"column1": ["1", "3", "5"], "column2": ["2", "4", "6"]}
    assert read(path, columns="a,b") == {"a": ["1", "3", "5"], "b": ["2", "4", "6"]}
    assert read(path, columns="a,b", header="yes") == {"a": ["3", "5"], "b": ["4", "6"]}


def test_joined_files_keep_their_names(tmp_path):
    path = write(tmp_path / "t.csv", "a,b\nx,y\nz,y\na,b\nx,w\n")
    assert list(read(path)) == ["a", "b"]
    assert Table(path).doubts == {}


def test_path_that_is_not_utf8(tmp_path):
    frame = pd.DataFrame({"a": [1, 2]})
    for ending in ("csv", "parquet", "feather"):
        getattr(frame, f"to_{ending}")(tmp_path / f"t.{ending}")
        path = os.fsencode(tmp_path) + b"/\xe9." + ending.encode()
        os.rename(tmp_path / f"t.{ending}", path)
        table = Table(type(tmp_path)(os.fsdecode(path)))
        assert [value for block in table.blocks(["a"]) for value in block["a"].to_pylist()] in (["1", "2"], [1, 2])


def test_summary_counts_alike_tables(tmp_path):
    from ssl_plugins.datasets.user.files_tables import TableFiles

    for i in range(3):
        frame = pd.DataFrame({"a": np.arange(20) / 8, "Label": ["x", "y"] * 10})
        frame.to_csv(tmp_path / f"{i}.csv", index=False, sep=";" if i else ",")
    dataset = TableFiles(TableFiles.Options(root=str(tmp_path)), "train")
    assert dataset.summary.files == {".csv": 3}
    assert dataset.summary.facts == {"delimiter": "semicolon (2 of 3 files)"}
    assert sum("did you mean dataset.label=Label" in doubt for doubt in dataset.doubts) == 1


def test_pattern_of_label_column_is_no_config_error(tmp_path):
    write(tmp_path / "t.csv", "a,b\n" + "1.5,x\n" * 20)
    from ssl_plugins.datasets.user.files_tables import TableFiles

    with pytest.raises(ConfigError, match="no label that is a number"):
        TableFiles(TableFiles.Options(root=str(tmp_path / "t.csv"), task="number"), "train")


def test_comments_are_skipped(tmp_path):
    rows = "".join(f"{i},x{i % 2}\n" for i in range(20))
    for head in ("# made by hand\n# in 2024\na,b\n", "# made by hand\n# a,b\n", "#a,b\n", "## one, two, three\na,b\n"):
        table = Table(write(tmp_path / "t.csv", head + rows))
        assert table.columns == ["a", "b"], head
        assert sum(len(block["a"]) for block in table.blocks(["a", "b"])) == 20


def test_a_name_of_a_hash_is_kept(tmp_path):
    path = write(tmp_path / "t.csv", "#,name\n" + "".join(f"{i},x{i % 3}\n" for i in range(20)))
    assert list(read(path)) == ["#", "name"]


def test_file_of_savetxt(tmp_path):
    np.savetxt(tmp_path / "t.txt", np.arange(20).reshape(10, 2) / 8, header="a b")
    assert [float(value) for value in read(tmp_path / "t.txt")["b"]] == (np.arange(1, 20, 2) / 8).tolist()
    np.savetxt(tmp_path / "u.txt", np.arange(20).reshape(10, 2) / 8, header="a,b", delimiter=",")
    assert list(read(tmp_path / "u.txt")) == ["a", "b"]


def test_lines_above_the_header_are_named(tmp_path):
    rows = "".join(f"{i},x{i % 2},{i / 8}\n" for i in range(20))
    path = write(tmp_path / "t.csv", "Device 7\n\nRate: 50 Hz\na,b,c\n" + rows)
    assert "dataset.skip_rows=3" in refusal(path)
    assert list(read(path, skip_rows=3)) == ["a", "b", "c"]
    assert len(read(path, skip_rows=3)["a"]) == 20


def test_row_numbers_count_from_the_header(tmp_path):
    path = write(tmp_path / "t.csv", "# x\na,b\n" + "1,2\n" * 30 + "1\n" + "1,2\n" * 30)
    assert "t.csv row 31: expected 2 columns, got 1" in refusal(path)
    assert "t.csv row 31: expected 2 columns, got 1" in refusal(path, skip_rows=1)


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
@pytest.mark.parametrize("delimiter", [",", " "])
def test_a_compressed_table_unpacks_to_no_more_than_its_limit(tmp_path, monkeypatch, compression, delimiter):
    monkeypatch.setattr(file_kind, "BOMB_BYTES", 1 << 16)
    path = tmp_path / "x.csv"
    with lzma.open(path, "wb") if compression == "xz" else pa.CompressedOutputStream(str(path), compression) as file:
        file.write(f"a{delimiter}b\n".encode() + f"0{delimiter}1\n".encode() * 400_000)
    assert path.stat().st_size * file_kind.BOMB_RATIO < 400_000 * 4
    assert "unpacks to more than 0 GB, over 200 times its size" in refusal(path)
    assert "unpack it and name the unpacked file" in refusal(path)
    monkeypatch.setattr(file_kind, "BOMB_RATIO", 10**6)
    assert len(read(path)["a"]) == 400_000


def test_a_parquet_file_of_constants_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_formats, "BOMB_BYTES", 1 << 20)
    path = tmp_path / "x.parquet"
    pd.DataFrame({"a": np.zeros(3_000_000), "b": 1.0}).to_parquet(path, compression="zstd")
    message = refusal(path)
    assert "x.parquet holds 6,000,000 values, 0.0 GB and over 1,000 times the size of the file" in message
    assert "write it as CSV" in message
    monkeypatch.setattr(table_formats, "PARQUET_RATIO", 10**6)
    assert len(read(path)["a"]) == 3_000_000


def test_a_text_of_a_parquet_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"a": ["cafe"] * 3, "b": 1.0}).to_parquet(path, compression=None)
    path.write_bytes(path.read_bytes().replace(b"cafe", b"caf\xe9"))
    assert "x.parquet cannot be read as Parquet" in refusal(path)
