"""Rows of tables: how they are written, what their columns hold."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import json
import lzma
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from corpus import Fault, Read

ROWS = 40


def frame(rows: int = ROWS) -> pd.DataFrame:
    """Two columns of numbers, one of categories, a label."""
    random = np.random.RandomState(0)
    return pd.DataFrame(
        {
            "a": random.normal(size=rows).round(3),
            "b": random.normal(100, 10, rows).round(2),
            "color": random.choice(["blue", "green", "red"], rows),
            "label": np.where(np.arange(rows) % 2, "no", "yes"),
        }
    )


def text(content: str | bytes, name: str = "x.csv") -> Callable[[Path], Path]:
    """Writes one file."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def csv(table: pd.DataFrame, name: str = "x.csv", encoding: str = "utf-8", **options: Any) -> Callable[[Path], Path]:
    """Writes a table as CSV."""
    return text(table.to_csv(index=options.pop("index", False), **options).encode(encoding), name)


def saved(write: Callable[[Path], Any], name: str) -> Callable[[Path], Path]:
    """Writes one file by a function."""

    def make(folder: Path) -> Path:
        write(folder / name)
        return folder / name

    return make


def folder_of(tables: Mapping[str, pd.DataFrame]) -> Callable[[Path], None]:
    """Writes several tables as CSV."""

    def make(folder: Path) -> None:
        for name, table in tables.items():
            table.to_csv(folder / name, index=False)

    return make


def plain(read: Read) -> None:
    """The table of `frame`, as if it had been a plain CSV file."""
    assert read.columns == {"a": "input", "b": "input", "color": "input", "label": "label"}
    assert read.sizes == {"train": 32, "test": 8}
    assert set(read.train.fields) == {"numeric", "color"}
    assert read.train.task.names == ("no", "yes")
    rows = [int(read.train.describe(index).rsplit(" ", 1)[1]) - 1 for index in range(len(read.train))]
    np.testing.assert_allclose(read.array("numeric"), frame()[["a", "b"]].to_numpy()[rows], rtol=1e-6)
    assert read.train.summary.columns[2].categories == ("blue", "green", "red")


def fact(name: str, value: str, more: Callable[[Read], None] = plain) -> Callable[[Read], None]:
    """As `more`, with a fact in the summary."""

    def expect(read: Read) -> None:
        more(read)
        assert read.train.summary.facts[name] == value, read.train.summary.facts

    return expect


def inputs(*names: str) -> Callable[[Read], None]:
    """The columns that are inputs."""

    def expect(read: Read) -> None:
        assert [name for name, role in read.columns.items() if role == "input"] == list(names)

    return expect


def values(column: int, expected: Any) -> Callable[[Read], None]:
    """All numbers of a column, in any order."""

    def expect(read: Read) -> None:
        found = np.concatenate([read.array("numeric", split)[:, column] for split in read.sizes])
        np.testing.assert_allclose(np.sort(found), np.sort(np.asarray(expected, float)), rtol=1e-5)

    return expect


def money(pattern: str, numbers: Any) -> pd.DataFrame:
    """A table with numbers written in a pattern."""
    return frame(len(numbers)).assign(price=[pattern.format(number) for number in numbers])


BIG = np.arange(1, 41) * 1234.5
GERMAN = [f"{x:,.2f}".translate(str.maketrans(",.", ".,")) for x in BIG]
NAMED = frame().assign(name=[["Müller", "Özgür", "Köln", "Straße"][i % 4] for i in range(ROWS)])
CYRILLIC = frame().assign(name=[["красный", "зелёный", "синий", "жёлтый"][i % 4] for i in range(ROWS)])
UCI = "".join(f"{x:8.3f}  {y:8.2f}\t{c}\n" for x, y, c, _ in frame().itertuples(index=False))
TABS = frame().assign(color=[('"' if i % 10 == 0 else "") + f"word {i % 3}" for i in range(ROWS)])
TSV = "\t".join(TABS.columns) + "\n" + "".join("\t".join(map(str, row)) + "\n" for row in TABS.itertuples(index=False))


def quotes(read: Read) -> None:
    assert read.sizes == {"train": 32, "test": 8}
    assert read.train.summary.columns[2].categories == ('"word 0', '"word 1', '"word 2', "word 0", "word 1", "word 2")


def names(*expected: str) -> Callable[[Read], None]:
    def expect(read: Read) -> None:
        (column,) = (each for each in read.train.summary.columns if each.name == "name")
        assert set(column.categories) == set(expected)

    return expect


def scaled(read: Read) -> None:
    found = np.concatenate([read.array("numeric", split)[:, 0] for split in read.sizes])
    assert np.isfinite(found).all()
    assert len(np.unique(found)) == ROWS
    assert not any(isinstance(row, str) for row in read.prepared())
    assert any("column 'x'" in line for line in read.train.warnings)


MANY = frame(120).assign(label=np.random.RandomState(0).randint(0, 1000, 120))


def many(classes: int) -> pd.DataFrame:
    """120 rows, with whole numbers as labels."""
    return frame(120).assign(label=np.arange(120) % classes)


def zip_of(path: Path, content: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner.csv", content)


PACKED = gzip.compress(frame().to_csv(index=False).encode())


def lines(path: Path) -> None:
    """The table of `frame` as JSON lines."""
    frame().to_json(path, orient="records", lines=True)


def excel(path: Path) -> None:
    """The table of `frame` as an Excel file of any name."""
    with path.open("wb") as file:
        frame().to_excel(file, index=False, engine="openpyxl")


def missing_share(share: float) -> Callable[[Read], None]:
    """The share of missing values of the column of numbers x."""

    def expect(read: Read) -> None:
        (column,) = (one for one in read.train.summary.columns if one.name == "x")
        assert column.kind == "number"
        assert abs((column.missing or 0) - share) < 0.1

    return expect


def infinity(read: Read) -> None:
    (message,) = (line for split in read.sizes for line in read.bad(split))
    assert "column 'b' holds infinity" in message


def twice_indexed(path: Path) -> None:
    """An index that was written, read and written again."""
    frame().to_csv(path)
    pd.read_csv(path).to_csv(path)


def sizes_of_many(read: Read) -> None:
    assert read.sizes == {"train": 96, "test": 24}
    assert read.train.task.kind == "number"


def by_file_name(read: Read) -> None:
    assert read.sizes == {"train": 40, "test": 20}


ENCODINGS = [
    Fault("UTF-16", "tabular", csv(frame(), encoding="utf-16"), fact("encoding", "utf-16")),
    Fault("UTF-16 without a mark", "tabular", csv(frame(), encoding="utf-16-le"), fact("encoding", "utf-16-le")),
    Fault("UTF-8 with a mark", "tabular", csv(frame(), encoding="utf-8-sig"), plain),
    Fault(
        "cp1252", "tabular", csv(NAMED, encoding="cp1252"), names("Müller", "Özgür", "Köln", "Straße"),
        doubt="read as cp1252, e.g. 'Müller'; set dataset.encoding",
    ),
    Fault(
        "cp1252, said", "tabular", csv(NAMED, encoding="cp1252"), names("Müller", "Özgür", "Köln", "Straße"),
        options={"encoding": "cp1252"},
    ),
    Fault(
        "cp1251", "tabular", csv(CYRILLIC, encoding="cp1251"), names("красный", "зелёный", "синий", "жёлтый"),
        doubt="read as cp1251",
    ),
    Fault(
        "wrong encoding", "tabular", csv(NAMED, encoding="cp1252"), error="is not utf-8 text",
        options={"encoding": "utf8"},
        cure={"encoding": "cp1252"},
    ),
]  # fmt: skip

SEPARATORS = [
    Fault("semicolons", "tabular", csv(frame(), sep=";"), fact("delimiter", "semicolon")),
    Fault("semicolons, decimal comma", "tabular", csv(frame(), sep=";", decimal=","), fact("decimal", "comma")),
    Fault("tabs in .csv", "tabular", csv(frame(), sep="\t"), fact("delimiter", "tab")),
    Fault("commas in .tsv", "tabular", csv(frame(), "x.tsv"), fact("delimiter", "comma")),
    Fault("carriage returns", "tabular", csv(frame(), lineterminator="\r"), plain),
    Fault("carriage returns and line feeds", "tabular", csv(frame(), lineterminator="\r\n"), plain),
    Fault("bars", "tabular", csv(frame(), sep="|"), fact("delimiter", "vertical bar")),
    Fault(
        "blanks, no header", "tabular", text(UCI, "x.data"), inputs("column1", "column2", "column3"),
        doubt="dataset.header=no",
    ),
    Fault(
        "decimal comma in one column", "tabular", csv(money("{}", GERMAN)[["price", "label"]], sep=";"), values(0, BIG)
    ),
    Fault(
        "semicolons in a text are no separator", "tabular",
        csv(frame().assign(tags=["x;y", "z;w"] * 20)), inputs("a", "b", "color", "tags"),
    ),
    Fault(
        "thousands", "tabular", csv(money("{:,.2f}", BIG)), values(2, BIG), error="column 'price' .*'1,234.50'",
        cure={"thousands": ","},
    ),
    Fault(
        "thousands in some rows", "tabular", csv(money("{:,.2f}", np.arange(1, 41) * 40.25)),
        values(2, np.arange(1, 41) * 40.25), error="row 25: column 'price' holds '1,006.25'", cure={"thousands": ","},
    ),
    Fault(
        "dollars", "tabular", csv(money("${}", BIG)), values(2, BIG), error="column 'price' .*'\\$1234.5'",
        cure={"units": "$"},
    ),
    Fault("percent", "tabular", csv(money("{}%", BIG)), values(2, BIG), error="'price'.*'1234.5%'",
        cure={"units": "%"}),
    Fault(
        "euros with thousands", "tabular", csv(money("{:,.2f} €", BIG)), values(2, BIG), error="'price'",
        cure={"units": "€", "thousands": ","},
    ),
    Fault(
        "quoted decimal commas", "tabular", csv(frame().assign(x=[f"{i},5" for i in range(ROWS)])),
        values(2, np.arange(ROWS) + 0.5), error="column 'x' .*'0,5'", cure={"decimal": ","},
    ),
    Fault(
        "codes with letters are categories", "tabular", csv(frame().assign(size=["10A", "12B"] * 20)),
        inputs("a", "b", "color", "size"),
    ),
    Fault(
        "quotes not in pairs", "tabular", text(TSV, "x.tsv"), quotes, doubt="dataset.quoting=none"
    ),
    Fault("quotes, said", "tabular", text(TSV, "x.tsv"), quotes, options={"quoting": "none"}),
    Fault(
        "quoted lines are kept", "tabular", csv(frame().assign(color=['a "b"\nc', "d"] * 20)),
        inputs("a", "b", "color"),
    ),
]  # fmt: skip

BODY = frame().to_csv(index=False)
ABOVE = [
    Fault("above: a blank line", "tabular", text("\n" + BODY), plain),
    Fault("above: blank lines of another system", "tabular", text("\r\n \r\n" + BODY.replace("\n", "\r\n")), plain),
    Fault("above: a comment and a blank line", "tabular", text("# made by x\n\n" + BODY), plain),
    Fault("above: a blank line and a comment", "tabular", text("\n# made by x\n" + BODY), plain),
    Fault("above: a blank line, blanks between columns", "tabular",
        text("\n" + BODY.replace(",", "  "), "x.dat"), plain),
    Fault("above: a title and a blank line", "tabular", text("Survey 2024\n\n" + BODY), plain,
        error="the first 2 lines have another number of columns than the 4", cure={"skip_rows": 2}),
    Fault("above: a title, skipped without the blank line", "tabular", text("Survey 2024\n\n" + BODY), plain,
        options={"skip_rows": 1}),
    Fault("above: a comment and a title", "tabular", text("# made by x\nSurvey 2024\n\n" + BODY), plain,
        error="dataset.skip_rows=3", cure={"skip_rows": 3}),
]  # fmt: skip


def sheet(*above: list[str]) -> Callable[[Path], Path]:
    """The table of `frame` in an Excel file below other rows."""

    def make(folder: Path) -> Path:
        import openpyxl

        book = openpyxl.Workbook()
        for row in [*above, list(frame().columns), *frame().itertuples(index=False)]:
            book.active.append(list(row))
        book.save(folder / "x.xlsx")
        return folder / "x.xlsx"

    return make


FORMATS = [
    Fault(
        "JSON lines", "tabular", saved(lines, "x.jsonl"), plain
    ),
    Fault("JSON array", "tabular", saved(lambda path: frame().to_json(path, orient="records"), "x.json"), plain),
    Fault("JSON of columns", "tabular", saved(lambda path: frame().to_json(path), "x.json"), plain),
    Fault(
        "JSON lines in .csv", "tabular", saved(lines, "x.csv"),
        fact("format", "JSON"),
    ),
    Fault(
        "JSON that is no table", "tabular", text(json.dumps({"a": 1, "b": {"c": 2}}), "x.json"),
        error="JSON, but no table; write an array of objects",
    ),
    Fault("feather", "tabular", saved(frame().to_feather, "x.feather"), plain),
    Fault("feather in .csv", "tabular", saved(frame().to_feather, "x.csv"), fact("format", "Feather")),
    Fault("Parquet in .csv", "tabular", saved(frame().to_parquet, "x.csv"), fact("format", "Parquet")),
    Fault("gzip", "tabular", text(PACKED, "x.csv.gz"), plain),
    Fault("gzip in .csv", "tabular", text(PACKED, "x.csv"), plain),
    Fault("bz2", "tabular", text(bz2.compress(frame().to_csv(index=False).encode()), "x.csv.bz2"), plain),
    Fault("xz", "tabular", text(lzma.compress(frame().to_csv(index=False).encode()), "x.csv.xz"), plain),
    Fault(
        "pickle in .csv", "tabular", text(pickle.dumps(frame()), "x.csv"), error="x.csv is a pickle.*df.to_parquet"
    ),
    Fault(
        "zip in .csv", "tabular",
        saved(lambda path: zip_of(path, frame().to_csv(index=False)), "x.csv"), plain,
    ),
    Fault("picture in .csv", "tabular", text(b"\x89PNG\r\n\x1a\n" + bytes(50)), error="x.csv is a picture"),
    Fault("CSV in .parquet", "tabular", csv(frame(), "x.parquet"), error="no Parquet file, .*rename it to .csv"),
    Fault("web page", "tabular", text("<!DOCTYPE html><html></html>"), error="web page, .*fetch"),
    Fault("empty", "tabular", text(""), error="x.csv is empty"),
    Fault("cut gzip", "tabular", text(PACKED[:-30], "x.csv.gz"), error="x.csv.gz cannot"),
]  # fmt: skip

if importlib.util.find_spec("openpyxl"):
    FORMATS += [
        Fault("Excel", "tabular", saved(excel, "x.xlsx"), plain),
        Fault("Excel in .csv", "tabular", saved(excel, "x.csv"), fact("format", "Excel")),
        Fault(
            "Excel: a title and an empty row",
            "tabular",
            sheet(["Survey 2024"], []),
            plain,
            error="the first 2 lines have another number of columns than the 4",
            cure={"skip_rows": 2},
        ),
        Fault(
            "Excel: a title, skipped without the empty row",
            "tabular",
            sheet(["Survey 2024"], []),
            plain,
            options={"skip_rows": 1},
        ),
        Fault("Excel: an empty row", "tabular", sheet([]), plain),
    ]


def two_columns_of_one_name(path: Path) -> None:
    pq.write_table(pa.table([pa.array(range(20)), pa.array(range(20))], names=["a", "a"]), path)


GAPS = frame().assign(
    x=np.where(np.arange(ROWS) % 4, 5 + np.arange(ROWS), -999),
    y=np.where(np.arange(ROWS) % 5, 1.25, -9.9).astype(np.float32),
)


def gaps(read: Read) -> None:
    """A quarter of x and a fifth of y are missing, and no range holds what stands for a missing value."""
    found = np.concatenate([read.array("numeric", split) for split in read.sizes])
    assert np.concatenate([read.array("missing", split) for split in read.sizes]).sum(axis=0).tolist() == [0, 0, 10, 8]
    assert found.min() > -5
    ranges = {column.name: column.range for column in read.train.summary.columns}
    assert ranges["x"][0] > 0
    assert ranges["y"] == (1.25, 1.25)


HEADER, *LINES = frame().to_csv(index=False).splitlines()
ENDED = "\n".join([HEADER, *(f"{line}," for line in LINES)])


def same_numbers(read: Read) -> None:
    """The table of `frame`, with an empty column more."""
    assert read.columns == {"a": "input", "b": "input", "color": "input", "label": "label", "column5": "left out"}
    values(0, frame()["a"])(read)
    assert read.train.task.names == ("no", "yes")


IDS = frame().assign(id=10**15 + np.arange(ROWS))[["id", "a", "b", "color", "label"]]
COLUMNS = [
    Fault("label: Label", "tabular", csv(frame().rename(columns={"label": "Label"})),
        doubt="did you mean dataset.label=Label"),
    Fault("label: class", "tabular", csv(frame().rename(columns={"label": "class"})),
        doubt="did you mean dataset.label=class"),
    Fault(
        "label: class, said", "tabular", csv(frame().rename(columns={"label": "class"})),
        inputs("a", "b", "color"), options={"label": "class"},
    ),
    Fault(
        "label: target as an input", "tabular", csv(frame().drop(columns="label").assign(target=np.arange(ROWS) % 7)),
        inputs("a", "b", "color", "target"), options={"numeric": "target"},
    ),
    Fault("label: blank before it", "tabular", text(frame().to_csv(index=False).replace(",label", ", label")), plain),
    Fault("index of to_csv", "tabular", csv(frame(), index=True), inputs("a", "b", "color")),
    Fault("index of to_csv, twice", "tabular", saved(twice_indexed, "x.csv"), inputs("a", "b", "color")),
    Fault("index of to_parquet", "tabular", saved(lambda path: frame().iloc[::2].sample(20, random_state=0).to_parquet(
        path), "x.parquet"), inputs("a", "b", "color")),
    Fault("R writes no name", "tabular", text(
        "a,b,color,label\n" + frame().to_csv(header=False)), inputs("a", "b", "color")),
    Fault("each row ends in a comma", "tabular", text(ENDED), same_numbers),
    Fault("no name for the first of the columns", "tabular", text("a,b,color,label\n" + frame().assign(
        z=2.5)[["z", "a", "b", "color", "label"]].to_csv(index=False, header=False)),
        inputs("column1", "a", "b", "color"), doubt="dataset.columns=FIRST,a,b,color,label' and dataset.header=yes"),
    Fault("no name for the first of the columns, said", "tabular", text("a,b,color,label\n" + frame().assign(
        z=2.5)[["z", "a", "b", "color", "label"]].to_csv(index=False, header=False)), inputs("z", "a", "b", "color"),
        options={"columns": "z,a,b,color,label", "header": "yes"}),
    Fault("ids", "tabular", csv(IDS), doubt="column 'id' .*dataset.drop_columns", warning="'id' is read as"),
    Fault("ids, dropped", "tabular", csv(IDS), inputs("a", "b", "color"),
        options={"drop_columns": "id"}),
    Fault("row numbers", "tabular", csv(frame().assign(nr=np.arange(ROWS))), doubt="column 'nr'"),
    Fault("counts are no ids", "tabular", csv(frame().assign(x=np.random.RandomState(1).permutation(ROWS * 9)[:ROWS])),
        inputs("a", "b", "color", "x")),
    Fault("no header", "tabular", csv(frame(), header=False), values(0, frame()["a"]),
        doubt="dataset.header=no"),
    Fault("no header, said", "tabular", csv(frame(), header=False), plain,
        options={"columns": "a,b,color,label"}),
    Fault("no header, only categories", "tabular", csv(frame()[["color", "label"]], header=False),
        doubt="dataset.header=no"),
    Fault("names are years", "tabular", csv(frame().rename(columns={"a": "1999", "b": "2004"})[["1999", "2004"]]),
        inputs("1999", "2004"), doubt="names of the columns are numbers"),
    Fault("names of pandas", "tabular", csv(pd.DataFrame(np.random.RandomState(0).normal(size=(20, 3)))),
        inputs("0", "1", "2")),
    Fault("Parquet: one name twice", "tabular", saved(two_columns_of_one_name, "x.parquet"),
        error="two columns 'a'; rename"),
    Fault("CSV: one name twice", "tabular", text("a,a,b\n" + "1,2,3\n" * 20), error="two columns 'a'; rename"),
    Fault("label of many numbers", "tabular", csv(MANY),
        doubt="classes in 120 samples; set dataset.task=number"),
    Fault("label of whole numbers with few samples each", "tabular", csv(many(24)),
        doubt="24 classes in 120 samples; set dataset.task=number"),
    Fault("label of whole numbers with many samples each", "tabular", csv(many(10))),
    Fault("rows of patients", "tabular", csv(frame().assign(Patient_ID=np.arange(40) // 5)),
        doubt="no column 'group', but 'Patient_ID' with 8 values in 32 rows; set dataset.group=Patient_ID"),
    Fault("rows of patients, said", "tabular", csv(frame().assign(Patient_ID=np.arange(40) // 5)),
        inputs("a", "b", "color"), options={"group": "Patient_ID"}),
    Fault("rows of patients, as a category", "tabular", csv(frame().assign(patient=np.arange(40) // 5)),
        inputs("a", "b", "color", "patient"), options={"categorical": ("patient",)}),
    Fault("a patient a row", "tabular", csv(frame().assign(patient=np.arange(40) % 39))),
    Fault("label of many numbers, said", "tabular", csv(MANY), sizes_of_many, options={"task": "number"}),
    Fault("a class of one sample", "tabular", csv(frame().assign(label=["x", *(["a", "b"] * 20)[1:]])),
        warning="1 of 3 classes of the label 'label' have a single sample.*: x"),
    Fault("column without values", "tabular", csv(frame().assign(x=np.nan)), inputs("a", "b", "color"),
        warning="without a value.*: x"),
    Fault("column of huge numbers", "tabular", csv(frame().assign(x=frame()["a"] * 1e300)[["x", "label"]]), scaled),
    Fault("column of tiny numbers", "tabular", csv(frame().assign(x=frame()["a"] * 1e-300)[["x", "label"]]), scaled),
    Fault("column of moments", "tabular", csv(frame().assign(x=1.7e9 + frame()["a"])[["x", "label"]]), scaled),
    Fault("infinite number", "tabular", csv(frame().assign(b=["inf", *["1.5"] * 39])),
        infinity),
    Fault("half of a column are numbers", "tabular", csv(frame().assign(x=["1.5", "low"] * 20)),
        doubt="column 'x' are numbers.*'low'.*dataset.missing"),
    Fault("the usual texts for missing values", "tabular", csv(frame().assign(x=["1.5", "n/a", "<NA>", "#N/A"] * 10)),
        missing_share(0.75)),
    Fault("further texts for missing values", "tabular", csv(frame().assign(x=["1.5", "2.5", "n/a", "low"] * 10)),
        missing_share(0.5), options={"missing": ("low",)}),
    *(
        Fault(f"numbers that stand for missing values: {name}", "tabular", saved(write, name), gaps,
            options={"missing": ("-999", "-9.9")})
        for name, write in {
            "x.csv": lambda path: GAPS.to_csv(path, index=False),
            "x.parquet": GAPS.to_parquet,
            "x.feather": GAPS.to_feather,
        }.items()
    ),
    Fault("only these texts for missing values", "tabular", csv(frame().assign(x=["1.5", "", "n/a", "low"] * 10)),
        options={"missing": ("", "low")}, doubt="column 'x'.*'n/a'"),
    Fault("half of a column are numbers, said", "tabular", csv(frame().assign(x=["1.5", "low"] * 20)),
        inputs("a", "b", "color", "x"), options={"categorical": "x"}),
    Fault("dates", "tabular", csv(frame().assign(day=[f"2024-01-{i % 28 + 1:02}" for i in range(ROWS)])),
        doubt="column 'day' holds dates such as '2024-01-01'"),
    Fault("dates with months", "tabular", csv(frame().assign(day=[f"{i % 28 + 1}-Sep-03" for i in range(ROWS)])),
        doubt="column 'day' holds dates such as '1-Sep-03'"),
    Fault("names", "tabular", csv(frame().assign(name=[f"person {i}" for i in range(ROWS)])),
        doubt="column 'name' holds a different text in each row"),
    Fault("large counts are no ids", "tabular", csv(frame().assign(
        volume=np.random.RandomState(3).randint(10**6, 10**9, ROWS))),
        inputs("a", "b", "color", "volume")),
    Fault("ids of one length", "tabular", csv(frame().assign(
        user=np.random.RandomState(3).randint(10**9, 2 * 10**9, ROWS))),
        doubt="column 'user'"),
    Fault("dates of Parquet", "tabular", saved(lambda path: frame().assign(
        day=pd.date_range("2024-01-01", periods=ROWS)).to_parquet(path), "x.parquet"),
        inputs("a", "b", "color"), error="column 'day' holds dates.*", cure={"drop_columns": "day"}),
    Fault("decimal commas and points", "tabular", csv(money("{}", GERMAN), sep=";"), error="'price' .*'1.234,50'",
        cure={"decimal": ",", "thousands": "."}),
]  # fmt: skip

DICTIONARY = pd.DataFrame({"variable": ["a", "b"], "description": ["width", "height"]})
FILES = [
    Fault("data dictionary beside", "tabular", folder_of({"data.csv": frame(), "dictionary.csv": DICTIONARY}), plain,
        error="dictionary.csv holds other columns", cure={"exclude": "dictionary.csv"}),
    Fault("data dictionary first", "tabular", folder_of({"a_dictionary.csv": DICTIONARY, "data.csv": frame()}), plain,
        error="a_dictionary.csv holds other columns", cure={"exclude": "a_dictionary.csv"}),
    Fault("test file without the label", "tabular",
        folder_of({"train.csv": frame(), "test.csv": frame(60).drop(columns="label")}), plain,
        error="test.csv has no label column 'label'", cure={"exclude": "test.csv"}),
    Fault("folder of a competition", "tabular", folder_of({"train.csv": frame(), "test.csv": frame(90).drop(
        columns="label"), "submission.csv": frame(90)[["label"]]}), plain,
        error="submission.csv has no column 'a'", cure={"exclude": "submission.csv,test.csv"}),
    Fault("files called train and test", "tabular", folder_of({"train.csv": frame(), "test.csv": frame(20)}),
        by_file_name),
    Fault("one column is missing in a part", "tabular",
        folder_of({"p1.csv": frame(), "p2.csv": frame(), "p3.csv": frame(80).drop(columns="b")}),
        error="p3.csv has no column 'b'", cure={"exclude": "p3.csv"}),
    Fault("parts in another order of columns", "tabular",
        folder_of({"p1.csv": frame(), "p2.csv": frame()[["label", "color", "b", "a"]]}),
        values(1, [*frame()["b"], *frame()["b"]])),
]  # fmt: skip

PROSE = pd.DataFrame({"text": TABS["color"] + " and more", "label": TABS["label"]})
PROSE_LINES = "text\tlabel\n" + "".join("\t".join(row) + "\n" for row in PROSE.itertuples(index=False))
LISTS = pa.table({"a": np.arange(20) / 8, "label": [["x"], ["y"]] * 10})


def prose(read: Read) -> None:
    assert sum(read.sizes.values()) == ROWS
    assert all("\n" not in str(inputs["text"]) for split in read.sizes for inputs in read.samples(split))
    assert read.train.task.names == ("no", "yes")


def reordered(read: Read) -> None:
    """Another table with its columns in another order, other categories and one column more gives the same arrays."""
    path = Path(read.train.options.root).with_name("used.csv")
    used = frame().replace({"color": {"red": "magenta"}}).assign(z=1.0)[["z", "label", "color", "b", "a"]]
    used.to_csv(path, index=False)
    dataset = type(read.train)(type(read.train).Options(root=str(path)), "train")
    dataset.conform(read.train.schema())
    assert dataset.fields == read.train.fields
    for index, row in enumerate(read.samples()):
        found = dataset[index]["inputs"]
        np.testing.assert_array_equal(found["numeric"], row["numeric"])
        assert found["color"] == (0 if row["color"] == 3 else row["color"])
    assert any("column 'color' are categories unknown in training" in line for line in dataset.warnings)
    assert any("left out: z" in line for line in dataset.warnings)


OTHER = [
    Fault("quotes not in pairs in a table of texts", "text", text(PROSE_LINES, "x.tsv"), prose, plain=False),
    Fault("text table in UTF-16 with semicolons", "text", csv(PROSE.replace('"', "", regex=True), sep=";",
        encoding="utf-16"), prose, plain=False),
    Fault("series table with decimal commas", "time-series", csv(frame(2000)[["a", "b"]], sep=";", decimal=","),
        lambda read: values_of_series(read), options={"window": 20}, plain=False),
    Fault("label of lists", "tabular", saved(lambda path: pq.write_table(LISTS, path), "x.parquet"),
        error="column 'label' holds lists"),
    Fault("columns change between training and use", "tabular", csv(frame()), reordered),
]  # fmt: skip


def values_of_series(read: Read) -> None:
    series = np.concatenate([read.array("series", split) for split in read.sizes])
    assert abs(series[:, 1].mean() - 100) < 1


FAULTS = [*OTHER, *ENCODINGS, *SEPARATORS, *ABOVE, *FORMATS, *COLUMNS, *FILES]
