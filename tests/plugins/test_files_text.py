"""Data set `files` for text: lines, documents, JSON lines, tables, pairs, errors."""

from __future__ import annotations

import gzip
import json
import pickle

import numpy as np
import pytest

from ssl_plugins.datasets._io.texts.lines import scan_lines
from ssl_plugins.datasets.user.files_text import MultilingualTextFiles, TextFiles


def texts(dataset):
    return [dataset[i]["inputs"]["text"].tolist() for i in range(len(dataset))]


def corrupt_gzip(body):
    """A gzip file with an invalid block type."""
    compressed = bytearray(gzip.compress(body))
    compressed[10] |= 6  # the byte after the header
    return bytes(compressed)


def entries(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_one_text_per_line(tmp_path, open_both, compressed):
    lines = [f"Satz {i} über Vögel" for i in range(20)]
    body = ("\n\n  \n".join(lines) + "\r\n").encode()
    path = tmp_path / ("a.txt.gz" if compressed else "a.txt")
    path.write_bytes(gzip.compress(body) if compressed else body)
    train, test = open_both(TextFiles, path)
    assert sorted(texts(train) + texts(test)) == sorted(lines)
    assert (len(train), len(test)) == (16, 4)
    samples = {train.describe(i): text for i, text in enumerate(texts(train))}
    index = next(i for i in range(20) if f"{path} line {1 + 3 * i}" in samples)
    assert samples[f"{path} line {1 + 3 * index}"] == lines[index]


def test_lines_across_scan_blocks(monkeypatch):
    from ssl_plugins.datasets._io.texts import lines as text_lines

    data = np.frombuffer(b"\n abc\n  \n\nde\nf g", np.uint8)
    whole = [part.tolist() for part in scan_lines(data)]
    monkeypatch.setattr(text_lines, "SCAN_BYTES", 3)
    assert [part.tolist() for part in scan_lines(data)] == whole
    assert whole == [[1, 10, 13], [5, 12, 16], [2, 5, 6]]


def test_folder_of_documents_with_classes(tmp_path, open_both):
    for i in range(20):
        path = tmp_path / ("de", "fr")[i % 2] / f"{i}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"line one of {i}\nline two")
    train, test = open_both(MultilingualTextFiles, tmp_path)
    assert train.task.names == ("de", "fr")
    assert (len(train), len(test)) == (16, 4)
    assert "\n" in texts(train)[0]
    assert train.describe(0).endswith(".txt")
    assert len(open_both(MultilingualTextFiles, tmp_path, document="line")[0]) == 32


def test_folder_of_gzipped_documents(tmp_path, open_both, bad_samples):
    for i in range(9):
        (tmp_path / f"{i}.txt.gz").write_bytes(gzip.compress(f"line one of {i}\r\nline two".encode()))
    (tmp_path / "9.txt.gz").write_bytes(corrupt_gzip(b"line one"))
    datasets = open_both(TextFiles, tmp_path)
    (samples,) = bad_samples(datasets).items()
    assert samples[0] == str(tmp_path / "9.txt.gz")
    assert samples[1].startswith("cannot be read: ")
    valid = next(i for i in range(8) if not datasets[0].describe(i).endswith("9.txt.gz"))
    assert datasets[0][valid]["inputs"]["text"].item().endswith("\nline two")


@pytest.mark.parametrize("compressed", ["", ".gz"])
@pytest.mark.parametrize(("name", "first"), [("a.jsonl", 1), ("a.txt", 2)])
def test_byte_order_mark_is_not_text(tmp_path, open_both, name, first, compressed):
    expected = [f"Vögel {i}" for i in range(10)]
    lines = [json.dumps({"text": text}) for text in expected] if name == "a.jsonl" else ["", *expected]
    body = ("\ufeff" + "\n".join(lines)).encode()
    path = tmp_path / (name + compressed)
    path.write_bytes(gzip.compress(body) if compressed else body)
    train, test = open_both(TextFiles, path)
    samples = {d.describe(i): text for d in (train, test) for i, text in enumerate(texts(d))}
    assert samples == {f"{path} line {first + i}": text for i, text in enumerate(expected)}


@pytest.mark.parametrize("options", [{}, {"task": "number"}, {"label": "label"}])
def test_empty_file_does_not_decide_the_task(tmp_path, open_both, options):
    (tmp_path / "a.jsonl").write_text("\n")
    entries(tmp_path / "b.jsonl", [{"text": f"text {i}", "label": i + 0.5} for i in range(10)])
    train, test = open_both(TextFiles, tmp_path, **options)
    assert (train.task.kind, len(train), len(test)) == ("number", 8, 2)


def test_json_lines_with_labels_groups_and_pairs(tmp_path, open_both):
    path = entries(
        tmp_path / "a.jsonl",
        [{"q": f"question {i}", "a": f"answer {i}", "label": i % 2, "group": f"g{i % 5}"} for i in range(20)],
    )
    train, test = open_both(TextFiles, path, text="q", pair="a", test_groups="g2")
    assert texts(test) == [[f"question {i}", f"answer {i}"] for i in (2, 7, 12, 17)]
    assert [test[i]["label"] for i in range(4)] == [0, 1, 0, 1]
    assert train.task.names == ("0", "1")
    assert texts(pickle.loads(pickle.dumps(test))) == texts(test)


def test_table_with_line_breaks_in_texts(tmp_path, open_both):
    (tmp_path / "a.csv").write_text("sentence,label\n" + "".join(f'"row {i}\nbroken",{i % 2}\n' for i in range(10)))
    train, test = open_both(TextFiles, tmp_path / "a.csv", text="sentence")
    assert sorted(texts(train) + texts(test)) == [f"row {i}\nbroken" for i in range(10)]


def test_error_messages(tmp_path, assert_refused, open_both, bad_samples):
    path = entries(tmp_path / "a.jsonl", [{"text": "x", "label": 1}, {"txt": "x", "label": 2}])
    assert_refused(TextFiles, path, "a.jsonl line 2 has no key 'text'", "dataset.text", "did you mean 'txt'")
    path.write_text('{"text": "x"}\n{"text": \n')
    assert_refused(TextFiles, path, "a.jsonl line 2 is no JSON")
    assert_refused(TextFiles, entries(path, [{"text": "x"}] * 4), "no key 'stars'", "dataset.label", label="stars")
    (tmp_path / "c.csv").write_text("words,more\nhello,x\n")
    assert_refused(TextFiles, tmp_path / "c.csv", "c.csv has no column 'text'", "dataset.text", "words")
    (tmp_path / "c.csv").write_text("text;label\nhello;a\nhello\n")
    assert_refused(TextFiles, tmp_path / "c.csv", "c.csv has a single column 'text;label'", 'dataset.delimiter=";"')
    (tmp_path / "h.txt.gz").write_bytes(corrupt_gzip(b"fine\n"))
    assert_refused(TextFiles, tmp_path / "h.txt.gz", "h.txt.gz cannot be read")
    (tmp_path / "d.txt").write_text(" \n")
    assert_refused(TextFiles, tmp_path / "d.txt", "holds no text")
    assert_refused(TextFiles, tmp_path / "e.txt", "does not exist")
    bad = entries(tmp_path / "f.jsonl", [{"text": "fine"}] * 8 + [{"text": " "}, {"text": 7}])
    samples = bad_samples(open_both(TextFiles, bad))
    assert samples == {f"{bad} line 9": "holds no text", f"{bad} line 10": "'text' is 7, not text"}
    (tmp_path / "g.txt").write_bytes("füne\n".encode() * 8 + b"\xff\xfe\n")
    assert bad_samples(open_both(TextFiles, tmp_path / "g.txt")) == {
        f"{tmp_path / 'g.txt'} line 9": "is not UTF-8 text"
    }


def test_samples_without_a_label_are_for_pretraining(tmp_path, open_both):
    labels = [0.0, 1.0, float("nan"), None] * 5
    path = entries(tmp_path / "b.jsonl", [{"text": f"x {i}", "label": label} for i, label in enumerate(labels)])
    train, test = open_both(TextFiles, path)
    assert train.task.names == ("0", "1")
    found = {text: dataset[i]["label"] for dataset in (train, test) for i, text in enumerate(texts(dataset))}
    assert found == {f"x {i}": label if label in (0.0, 1.0) else None for i, label in enumerate(labels)}


def test_missing_numeric_labels(tmp_path, assert_refused, open_both):
    (tmp_path / "b.txt").write_text("one\ntwo\n")
    assert_refused(
        TextFiles, tmp_path, "b.txt has no label that is a number", "leave dataset.task=number out", task="number"
    )
    for name in ("a.csv", "c.csv"):
        (tmp_path / name).write_text("text,label\none,0.5\ntwo,1.5\nthree,2.5\nfour,3.5\nfive,4.5\n")
        train, test = open_both(TextFiles, tmp_path)
        found = {text: d[i]["label"] for d in (train, test) for i, text in enumerate(texts(d))}
        assert found == {"one": 0.5, "two": 1.5, "three": 2.5, "four": 3.5, "five": 4.5, "one\ntwo\n": None}
        (tmp_path / name).unlink()


def test_classes_have_the_numbers_of_training(tmp_path, open_both):
    def opened(name, labels, **options):
        records = [{"text": f"x {i}", "label": label} for i, label in enumerate(labels * 10)]
        return open_both(TextFiles, entries(tmp_path / name, records), **options)[0]

    trained = opened("a.jsonl", ["a", "b", "c"])
    other = opened("b.jsonl", ["c", "a", None])
    assert other.task.names == ("a", "c")
    before = other.fingerprint()
    other.conform(trained.schema())
    assert other.fingerprint() != before
    assert (other.task.names, other.task.size) == (("a", "b", "c"), 3)
    assert {other[i]["label"] for i in range(len(other))} == {0, 2, None}
    assert other.warnings == ()
    unknown = opened("c.jsonl", ["c", "d"])
    unknown.conform(trained.schema())
    assert unknown.task.names == ("c", "d")
    assert unknown.warnings == ("classes that the data of the encoder did not have: d",)
    lists = opened("d.jsonl", [["a", "c"], [], ["b"], None])
    few = opened("e.jsonl", [["c"], ["a"], None])
    few.conform(lists.schema())
    assert few.task.names == ("a", "b", "c")
    labels = [few[i]["label"] for i in range(len(few))]
    assert {tuple(label.tolist()) for label in labels if label is not None} == {(0, 0, 1), (1, 0, 0)}
    assert any(label is None for label in labels)
    paired = opened("f.jsonl", ["a", "b"], pair="text")
    paired.conform(trained.schema())
    assert "the samples are pairs of texts, and the encoder was trained on single texts" in paired.warnings[0]


@pytest.mark.parametrize("modality", ["text", "multilingual-text"])
def test_runs(tmp_path, run_files, modality):
    path = entries(
        tmp_path / "a.jsonl", [{"text": f"a {('bad', 'good')[i % 2]} {i}", "label": i % 2} for i in range(40)]
    )
    assert run_files(modality, path, "--set", "tokenizer.length=16", "--set", "tokenizer.vocab_size=300")["scores"]


def test_real_sst2(shared_data, open_both):
    folder = shared_data / "sst2" / "SST-2"
    train, test = open_both(TextFiles, folder / "train.tsv", test_root=str(folder / "test.tsv"), text="sentence")
    assert (len(train), len(test)) == (60614, 872)
    assert train.task.names == ("0", "1")
