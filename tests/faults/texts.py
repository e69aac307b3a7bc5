"""Rows of texts: encodings, scripts, JSON, compression."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Fault, Read

GERMAN = [f"Der Bär läuft über die große Straße Nummer {i}" for i in range(20)]
RUSSIAN = [f"Медведь идёт по большой улице номер {i} и смотрит на дома" for i in range(20)]
JAPANESE = [f"熊が大きな通りを歩いて、{i}番目の家を見ていますが、何も見つかりません。" for i in range(20)]
THAI = "ภาษาไทยเขียนติดกันโดยไม่มีช่องว่างระหว่างคำทำให้การตัดคำเป็นเรื่องยากสำหรับคอมพิวเตอร์ที่ต้องเข้าใจความหมาย"
KHMER = "ភាសាខ្មែរសរសេរជាប់គ្នាដោយគ្មានចន្លោះរវាងពាក្យធ្វើឱ្យការកាត់ពាក្យមានការលំបាកសម្រាប់កុំព្យូទ័រ"
BURMESE = "မြန်မာဘာသာစကားကိုစကားလုံးများအကြားနေရာလွတ်မပါဘဲရေးသားသောကြောင့်ကွန်ပျူတာအတွက်ခက်ခဲသည်"
HINDI = "मैं घर में किताबें पढ़ता हूँ और चाय पीता हूँ"


def texts(read: Read, split: str = "train") -> list[str]:
    return [str(inputs["text"]) for inputs in read.samples(split)]  # type: ignore[arg-type]


def all_texts(read: Read) -> list[str]:
    return sorted(text for split in read.datasets for text in texts(read, split))


def lines(name: str, content: list[str], encoding: str = "utf-8", end: str = "\n") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes((end.join(content) + end).encode(encoding))
        return path

    return make


def same(content: list[str], encoding: str | None = None) -> Callable[[Read], None]:
    def expect(read: Read) -> None:
        assert all_texts(read) == sorted(content)
        assert encoding is None or read.train.summary.facts["encoding"] == encoding

    return expect


def json_lines(entries: list[Any], name: str = "x.jsonl", encoding: str = "utf-8") -> Callable[[Path], Path]:
    return lines(name, [json.dumps(entry, ensure_ascii=False) for entry in entries], encoding)


def beside_a_table(table: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for i, text in enumerate(GERMAN):
            (folder / f"{i:02d}.txt").write_text(text, encoding="utf-8")
        (folder / "about.csv").write_text(table)

    return make


def books(folder: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("\n".join(GERMAN * 70), encoding="utf-8")


def tables_of_texts(name: str) -> Callable[[Path], None]:
    """Two tables of texts with labels, and one without. name: of the last."""

    def make(folder: Path) -> None:
        for table, label in (("a", ",{}"), ("b", ",{}"), (name, "")):
            rows = [f"text {i} of {table}" + label.format("xy"[i % 2]) for i in range(20)]
            (folder / f"{table}.csv").write_text("\n".join(["text" + (label and ",label"), *rows]))

    return make


def labelled(read: Read, count: int) -> None:
    """Forty texts have a label, of all that were read."""
    labels = [label for split in read.datasets for label in read.labels(split)]
    assert len(labels) == count
    assert sum(label is not None for label in labels) == 40


def whole(value: Any, name: str = "x.json") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_text(json.dumps(value, indent=1))
        return path

    return make


def packed(module: Any, name: str, content: list[str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(module.compress("\n".join(content).encode()))
        return path

    return make


def documents(folder: Path) -> None:
    for i, text in enumerate(GERMAN):
        path = folder / ("plain", "marked")[i % 2] / f"{i}{('.txt', '.md')[i % 2]}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode("cp1252" if i % 4 else "utf-8"))


def cut_short(folder: Path) -> Path:
    path = folder / "a.txt.gz"
    path.write_bytes(gzip.compress("\n".join(GERMAN).encode())[:-40])
    return path


def imdb(folder: Path) -> None:
    for split in ("train", "test"):
        for label in ("pos", "neg"):
            (folder / split / label).mkdir(parents=True)
            for i in range(6):
                (folder / split / label / f"{i}_7.txt").write_text(f"a {label} film, number {i} of {split}")


def few_unknown(*parts: str) -> Callable[[Read], None]:
    """All rows differ, and next to nothing is unknown."""

    def expect(read: Read) -> None:
        rows = np.array([sample["text"] for sample in read.prepared(length=128)])
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert (rows == 1).sum() == 0
        for part in parts:
            assert any(part in text for text in texts(read))

    return expect


def rotated(text: str, count: int = 16) -> list[str]:
    """Different long texts without blanks in one script."""
    return [(text[i:] + text)[: 160 + i] for i in range(count)]


def marks_matter(first: str, second: str) -> Callable[[Read], None]:
    """Words that differ in a mark only have other ids."""

    def expect(read: Read) -> None:
        from ssl_plugins.tokenizers.text import TextTokenizer

        tokenizer = TextTokenizer(TextTokenizer.Options(length=16), read.train.fields, 8)
        tokenizer.fit(read.samples())
        one, other = (tokenizer.preprocess({"text": np.array(word)})["text"] for word in (first, second))
        assert one.tolist() != other.tolist()

    return expect


def several_labels(*names: str) -> Callable[[Read], None]:
    """Samples with several labels; their texts begin with the numbers of their labels."""

    def expect(read: Read) -> None:
        assert read.train.task is not None
        assert (read.train.task.kind, read.train.task.names) == ("labels", names)
        for inputs, label in zip(read.samples(), read.labels(), strict=True):
            expected = [number in str(inputs["text"]).split()[0] for number in map(str, range(len(names)))]
            assert np.asarray(label).tolist() == [int(value) for value in expected]

    return expect


def film_reviews(read: Read) -> None:
    assert read.sizes == {"train": 12, "test": 12}
    assert sorted(read.labels("test")) == ["neg"] * 6 + ["pos"] * 6


def unlabelled(place: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        imdb(folder)
        (folder / place).mkdir()
        for i in range(9):
            (folder / place / f"{i}_0.txt").write_text(f"something else, number {i}")

    return make


def for_pretraining(read: Read) -> None:
    """The nine texts without a class are in training, and are no class."""
    assert read.sizes == {"train": 21, "test": 12}
    assert read.train.task is not None
    assert read.train.task.names == ("neg", "pos")
    assert read.labels().count(None) == 9


def with_readme(folder: Path) -> None:
    imdb(folder)
    (folder / "README.md").write_text("# About these films")
    (folder / "train" / "License.txt").write_text("Free.")


TOPICS = [("0", "2"), ("1",), (), ("0", "1", "2")] * 6


def parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("art", "law", "war")
    table = {"text": [f"{''.join(t)}. text {i}" for i, t in enumerate(TOPICS)]}
    pq.write_table(pa.table({**table, "label": [[names[int(n)] for n in t] for t in TOPICS]}), folder / "x.parquet")
    return folder / "x.parquet"


def numbers(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.kind == "classes"
    assert read.train.task.names == ("1", "2", "10")
    assert read.columns == {"text": "input", "label": "label", "source": "left out"}


def damaged(folder: Path) -> Path:
    path = folder / "a.txt"
    path.write_bytes("\n".join(GERMAN).encode() + b"\nStra\xdfe\n")
    return path


def unread(read: Read, message: str) -> None:
    bad = [line for split in read.datasets for line in read.bad(split)]
    assert len(bad) == 1
    assert message in bad[0]


RECORDS = [{"text": text, "label": i % 2} for i, text in enumerate(GERMAN)]

FAULTS = [
    Fault("encoding: cp1252 lines", "text", lines("a.txt", GERMAN, "cp1252"), same(GERMAN), doubt=r"encoding=cp1252"),
    Fault(
        "encoding: cp1252 lines by option", "text", lines("a.txt", GERMAN, "cp1252"), same(GERMAN, "cp1252"),
        options={"encoding": "cp1252"},
    ),
    Fault("encoding: UTF-16 with a mark", "text", lines("a.txt", GERMAN, "utf-16"), same(GERMAN, "utf-16")),
    Fault("encoding: UTF-16 without a mark", "text", lines("a.txt", GERMAN, "utf-16-le"), same(GERMAN), doubt="utf-16"),
    Fault("encoding: UTF-8 with a mark", "text", lines("a.txt", GERMAN, "utf-8-sig"), same(GERMAN, "utf-8")),
    Fault("encoding: UTF-8", "text", lines("a.txt", GERMAN), same(GERMAN, "utf-8")),
    Fault(
        "encoding: cp1251 lines", "multilingual-text", lines("a.txt", RUSSIAN, "cp1251"), same(RUSSIAN), doubt="cp1251"
    ),
    Fault(
        "encoding: Shift JIS lines by option", "multilingual-text", lines("a.txt", JAPANESE, "shift_jis"),
        same(JAPANESE), options={"encoding": "shift_jis"},
    ),
    Fault(
        "encoding: an option that is wrong", "text", lines("a.txt", GERMAN, "cp1252"),
        error="a.txt cannot be read as text: .*UTF-16.*dataset.encoding",
        options={"encoding": "utf-16"},
    ),
    Fault("encoding: UTF-16 JSON lines", "text", json_lines(RECORDS, encoding="utf-16"), same(GERMAN, "utf-16")),
    Fault("encoding: documents, some of them cp1252", "text", documents, same(GERMAN), doubt="cp1252"),
    Fault("encoding: a damaged line", "text", damaged, lambda read: unread(read, "is not UTF-8 text")),
    Fault("line ends: CR", "text", lines("a.txt", GERMAN, end="\r"), same(GERMAN)),
    Fault("endings: md and txt in class folders", "text", documents, same(GERMAN), doubt="cp1252"),
    Fault("endings: log", "text", lines("a.log", GERMAN), same(GERMAN)),
    Fault("endings: text", "text", lines("a.text", GERMAN), same(GERMAN)),
    Fault("compression: bz2", "text", packed(bz2, "a.txt.bz2", GERMAN), same(GERMAN)),
    Fault("compression: gz that is called txt", "text", packed(gzip, "a.txt", GERMAN), same(GERMAN)),
    Fault("compression: cut short", "text", cut_short, error="a.txt.gz cannot be read"),
    Fault("compression: xz", "text", packed(lzma, "a.txt.xz", GERMAN), same(GERMAN)),
    Fault("compression: gz JSON lines", "text",
          packed(gzip, "a.jsonl.gz", [json.dumps(record) for record in RECORDS]), same(GERMAN)),
    Fault("json: an array", "text", whole(RECORDS), same(GERMAN)),
    Fault("json: an array in an object", "text", whole({"version": 1, "data": RECORDS}), same(GERMAN)),
    Fault("json: columns of pandas", "text", whole({"text": {str(i): t for i, t in enumerate(GERMAN)}}), same(GERMAN)),
    Fault("json: lines in a .json", "text", json_lines(RECORDS, "x.json"), same(GERMAN)),
    Fault("json: neither", "text", whole([1, 2]), error="entry 1 is no JSON object but a int"),
    Fault("json: nested keys", "text", json_lines([{"a": {"b": t}, "label": "x"} for t in GERMAN]),
          same(GERMAN), error="no key 'text'.*a.b", options={}, cure={"text": "a.b"}),
    Fault("json: a nested label", "text",
          json_lines([{"text": t, "meta": {"stars": i % 3}} for i, t in enumerate(GERMAN)]), same(GERMAN),
          options={"label": "meta.stars"}),
    Fault("json: numbers as labels", "text",
          json_lines([{"text": t, "label": (1, 2.0, 10)[i % 3], "source": "web"} for i, t in enumerate(GERMAN)]),
          numbers),
    Fault("labels: lists of names", "text",
          json_lines([{"text": f"{''.join(t)}. text {i}", "label": [("art", "law", "war")[int(n)] for n in t]}
                      for i, t in enumerate(TOPICS)]), several_labels("art", "law", "war")),
    Fault("labels: lists of numbers", "text",
          json_lines([{"text": f"{''.join(t)}. text {i}", "label": [int(n) + 7 for n in t]}
                      for i, t in enumerate(TOPICS)]), several_labels("7", "8", "9")),
    Fault("labels: vectors of 0 and 1", "text",
          whole([{"text": f"{''.join(t)}. text {i}", "label": [int(n in t) for n in "012"]}
                 for i, t in enumerate(TOPICS)]), several_labels("0", "1", "2")),
    Fault("labels: lists of a Parquet file", "text", parquet, several_labels("art", "law", "war")),
    Fault("labels: an object", "text", json_lines([{"text": t, "label": {"a": i % 2}} for i, t in enumerate(GERMAN)]),
          same(GERMAN), error="line 1: the label is .*dataset.label=label.a ", cure={"label": "label.a"}),
    Fault("labels: a list of objects", "text", json_lines([{"text": t, "label": [{"a": 1}]} for t in GERMAN]),
          error="line 1: the label .* is no list of names"),
    Fault("labels: each its own", "text", json_lines([{"text": t, "label": f"c{i}"} for i, t in enumerate(GERMAN)]),
          error=r"each of the 20 classes has one sample \(e.g. .*(csv|txt|jsonl|parquet)"),
    Fault("labels: a key called Class", "text",
          json_lines([{"text": t, "Class": i % 2} for i, t in enumerate(GERMAN)]),
          doubt="did you mean dataset.label=Class"),
    Fault("labels: a key called Class that is none", "text",
          json_lines([{"text": t, "Class": i % 2} for i, t in enumerate(GERMAN)]), same(GERMAN),
          options={"drop_columns": ("Class",)}),
    Fault("labels: one class", "text", json_lines([{"text": t, "label": "same"} for t in GERMAN]), same(GERMAN),
          warning="all samples have the label 'same'"),
    Fault("labels: some texts have none", "text",
          json_lines([{"text": t, "label": "ab"[i % 2] if i < 12 else None} for i, t in enumerate(GERMAN)]),
          same(GERMAN)),
    Fault("folders: train/{pos,neg} and test/{pos,neg}", "text", imdb, film_reviews),
    Fault("folders: train/{pos,neg,unsup}", "text", unlabelled("train/unsup"), for_pretraining),
    Fault("folders: train, test, unlabeled", "text", unlabelled("unlabeled"), for_pretraining),
    Fault("folders: a README beside them", "text", with_readme, film_reviews),
    Fault("folders: a README alone", "text", lines("README.md", GERMAN), same(GERMAN)),
    Fault("labels: nearly as many as texts", "text",
          json_lines([{"text": t, "label": f"c{i % 22}"} for i, t in enumerate(GERMAN * 2)]),
          doubt="22 classes in 40 samples; set dataset.label"),
    Fault("labels: a class of one text", "text",
          json_lines([{"text": t, "label": "ab"[i % 2] if i else "rare"} for i, t in enumerate(GERMAN)]),
          same(GERMAN), warning="1 of 3 classes of the label 'label' have a single sample.*rare"),
    Fault("a table in a .txt", "text", lines("a.txt", [f"ham\t{text}" for text in GERMAN]), doubt="dataset.columns"),
    Fault("a table in a .txt by option", "text",
          lines("a.txt", [f"{('ham', 'spam')[i % 2]}\t{text}" for i, text in enumerate(GERMAN)]), same(GERMAN),
          options={"columns": ("label", "text")}),
    Fault("scripts: Thai", "text", lines("a.txt", rotated(THAI)), few_unknown("ภาษา")),
    Fault("scripts: Khmer", "text", lines("a.txt", rotated(KHMER)), few_unknown("ខ្មែរ")),
    Fault("scripts: Burmese", "text", lines("a.txt", rotated(BURMESE)), few_unknown("မြန်မာ")),
    Fault("scripts: Japanese", "text", lines("a.txt", rotated("".join(JAPANESE))), few_unknown("大きな")),
    Fault("scripts: kana", "text", lines("a.txt", rotated("あいうえおカキクケコー" * 16, 10)), few_unknown()),
    Fault("scripts: a word of 300 letters", "text", lines("a.txt", rotated("abcdefghijklmnopq" * 30)), few_unknown()),
    Fault("marks: Hindi", "text", lines("a.txt", rotated(HINDI)), marks_matter("में", "म")),
    Fault("marks: Thai vowels", "text", lines("a.txt", rotated(THAI)), marks_matter("ที่", "ท")),
    Fault("marks: Hebrew points", "text", lines("a.txt", rotated("שָׁלוֹם עוֹלָם שלום")), marks_matter("שָׁלוֹם", "שלום")),
    Fault("columns: the only one beside the label", "text",
          lines("x.tsv", ["sentence\tlabel", *(f"{text}\t{i % 2}" for i, text in enumerate(GERMAN))]), same(GERMAN),
          warning="column 'sentence' is read as the text; dataset.text names another"),
    Fault("columns: the only one beside a number of the row", "text",
          lines("x.csv", ["id,review", *(f"{i},{text}" for i, text in enumerate(GERMAN))]), same(GERMAN),
          warning="column 'review' is read as the text"),
    Fault("columns: a choice of two", "text",
          lines("x.csv", ["title,review,label", *(f"t{i},{text},{i % 2}" for i, text in enumerate(GERMAN))]),
          same(GERMAN), error="no column 'text'; set dataset.text to its name", cure={"text": "review"}),
    Fault("folder: a table that describes the files", "text", beside_a_table("name,year\na,2001\n"), same(GERMAN),
          warning="about.csv has no column 'text' and is left out; dataset.text names"),
    Fault("folder: a table without the label of the others", "text", tables_of_texts("c"),
          lambda read: labelled(read, 40), error="c.csv has no label column 'label', which .* has; add it, or set",
          cure={"exclude": "c.csv"}),
    Fault("folder: a table of unlabelled texts", "text", tables_of_texts("unlabeled"), lambda read: labelled(read, 60)),
    Fault("folder: two books", "text", books, lambda read: same(["\n".join(GERMAN * 70)] * 2)(read),
          options={"document": "file"}),
    Fault("folder: two books without a word", "text", books, doubt="each of the 2 files is one sample.*document=line"),
]  # fmt: skip
