"""Data set `files` for text: lines, documents, JSON lines, tables, pairs, and refusals that name file and line."""

from __future__ import annotations

import gzip
import json
import pickle

import numpy as np
import pytest

from ssl_plugins.datasets._io.texts import scan_lines
from ssl_plugins.datasets.user.files_text import MultilingualTextFiles, TextFiles


def texts(dataset):
    return [dataset[i]["inputs"]["text"].tolist() for i in range(len(dataset))]


def damaged(body):
    """Packed, but for one bit that the unpacker needs."""
    packed = bytearray(gzip.compress(body))
    packed[10] |= 6  # behind the header: a block of no known kind
    return bytes(packed)


def entries(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_text_a_line(tmp_path, both, packed):
    lines = [f"Satz {i} über Vögel" for i in range(20)]
    body = ("\n\n  \n".join(lines) + "\r\n").encode()
    path = tmp_path / ("a.txt.gz" if packed else "a.txt")
    path.write_bytes(gzip.compress(body) if packed else body)
    train, test = both(TextFiles, path)
    assert sorted(texts(train) + texts(test)) == sorted(lines)
    assert (len(train), len(test)) == (16, 4)
    found = {train.describe(i): text for i, text in enumerate(texts(train))}
    place = next(i for i in range(20) if f"{path} line {1 + 3 * i}" in found)
    assert found[f"{path} line {1 + 3 * place}"] == lines[place]


def test_lines_that_cross_windows(monkeypatch):
    from ssl_plugins.datasets._io import texts

    data = np.frombuffer(b"\n abc\n  \n\nde\nf g", np.uint8)
    whole = [part.tolist() for part in scan_lines(data)]
    monkeypatch.setattr(texts, "WINDOW", 3)
    assert [part.tolist() for part in scan_lines(data)] == whole
    assert whole == [[1, 10, 13], [5, 12, 16], [2, 5, 6]]


def test_a_folder_of_documents_with_classes(tmp_path, both):
    for i in range(20):
        path = tmp_path / ("de", "fr")[i % 2] / f"{i}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"line one of {i}\nline two")
    train, test = both(MultilingualTextFiles, tmp_path)
    assert train.task.names == ("de", "fr")
    assert (len(train), len(test)) == (16, 4)
    assert "\n" in texts(train)[0]
    assert train.describe(0).endswith(".txt")
    assert len(both(MultilingualTextFiles, tmp_path, document="line")[0]) == 32


def test_a_folder_of_packed_documents(tmp_path, both, bad_samples):
    for i in range(9):
        (tmp_path / f"{i}.txt.gz").write_bytes(gzip.compress(f"line one of {i}\r\nline two".encode()))
    (tmp_path / "9.txt.gz").write_bytes(damaged(b"line one"))
    datasets = both(TextFiles, tmp_path)
    (found,) = bad_samples(datasets).items()
    assert found[0] == str(tmp_path / "9.txt.gz")
    assert found[1].startswith("cannot be read as UTF-8 text (")
    sound = next(i for i in range(8) if not datasets[0].describe(i).endswith("9.txt.gz"))
    assert datasets[0][sound]["inputs"]["text"].item().endswith("\nline two")


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(("name", "first"), [("a.jsonl", 1), ("a.txt", 2)])
def test_the_mark_of_utf8_is_no_text(tmp_path, both, name, first, packed):
    said = [f"Vögel {i}" for i in range(10)]
    lines = [json.dumps({"text": text}) for text in said] if name == "a.jsonl" else ["", *said]
    body = ("\ufeff" + "\n".join(lines)).encode()
    path = tmp_path / (name + packed)
    path.write_bytes(gzip.compress(body) if packed else body)
    train, test = both(TextFiles, path)
    found = {d.describe(i): text for d in (train, test) for i, text in enumerate(texts(d))}
    assert found == {f"{path} line {first + i}": text for i, text in enumerate(said)}


@pytest.mark.parametrize("options", [{}, {"task": "number"}, {"label": "label"}])
def test_an_empty_file_does_not_decide_what_the_labels_are(tmp_path, both, options):
    (tmp_path / "a.jsonl").write_text("\n")
    entries(tmp_path / "b.jsonl", [{"text": f"text {i}", "label": i + 0.5} for i in range(10)])
    train, test = both(TextFiles, tmp_path, **options)
    assert (train.task.kind, len(train), len(test)) == ("number", 8, 2)


def test_json_lines_with_labels_groups_and_pairs(tmp_path, both):
    path = entries(
        tmp_path / "a.jsonl",
        [{"q": f"question {i}", "a": f"answer {i}", "label": i % 2, "group": f"g{i % 5}"} for i in range(20)],
    )
    train, test = both(TextFiles, path, text="q", pair="a", test_groups="g2")
    assert texts(test) == [[f"question {i}", f"answer {i}"] for i in (2, 7, 12, 17)]
    assert [test[i]["label"] for i in range(4)] == [0, 1, 0, 1]
    assert train.task.names == ("0", "1")
    assert texts(pickle.loads(pickle.dumps(test))) == texts(test)


def test_a_table_with_line_breaks_in_a_text(tmp_path, both):
    (tmp_path / "a.csv").write_text("sentence,label\n" + "".join(f'"row {i}\nbroken",{i % 2}\n' for i in range(10)))
    train, test = both(TextFiles, tmp_path / "a.csv", text="sentence")
    assert sorted(texts(train) + texts(test)) == [f"row {i}\nbroken" for i in range(10)]


def test_refusals(tmp_path, refused, both, bad_samples):
    path = entries(tmp_path / "a.jsonl", [{"text": "x", "label": 1}, {"txt": "x", "label": 2}])
    refused(TextFiles, path, "a.jsonl line 2 has no key 'text'", "dataset.text", "did you mean 'txt'")
    path.write_text('{"text": "x"}\n{"text": \n')
    refused(TextFiles, path, "a.jsonl line 2 is no JSON")
    refused(TextFiles, entries(path, [{"text": "x"}] * 4), "no key 'stars'", "dataset.label", label="stars")
    half = entries(tmp_path / "b.jsonl", [{"text": "x", "label": "a"}] * 3 + [{"text": "x"}])
    refused(TextFiles, half, "b.jsonl line 4 has no label")
    (tmp_path / "c.csv").write_text("words\nhello\n")
    refused(TextFiles, tmp_path / "c.csv", "c.csv has no column 'text'", "dataset.text", "words")
    (tmp_path / "c.csv").write_text("text;label\nhello;a\n")
    refused(TextFiles, tmp_path / "c.csv", "c.csv has a single column 'text;label'", 'dataset.delimiter=";"')
    nan = entries(tmp_path / "b.jsonl", [{"text": "x", "label": label} for label in (0.0, 1.0, float("nan"), 1.0)])
    refused(TextFiles, nan, "b.jsonl line 3 has no label")
    (tmp_path / "h.txt.gz").write_bytes(damaged(b"fine\n"))
    refused(TextFiles, tmp_path / "h.txt.gz", "h.txt.gz cannot be read")
    (tmp_path / "d.txt").write_text(" \n")
    refused(TextFiles, tmp_path / "d.txt", "holds no text")
    refused(TextFiles, tmp_path / "e.txt", "does not exist")
    bad = entries(tmp_path / "f.jsonl", [{"text": "fine"}] * 8 + [{"text": " "}, {"text": 7}])
    found = bad_samples(both(TextFiles, bad))
    assert found == {f"{bad} line 9": "holds no text", f"{bad} line 10": "'text' is 7, no text"}
    (tmp_path / "g.txt").write_bytes(b"fine\n" * 8 + b"\xff\xfe\n")
    assert bad_samples(both(TextFiles, tmp_path / "g.txt")) == {f"{tmp_path / 'g.txt'} line 9": "is not UTF-8 text"}


def test_labels_that_are_to_be_numbers_are_never_left_out_in_silence(tmp_path, refused):
    (tmp_path / "b.txt").write_text("one\ntwo\n")
    refused(TextFiles, tmp_path, "b.txt has no label that is a number", "leave dataset.task=number out", task="number")
    (tmp_path / "a.csv").write_text("text,label\none,0.5\ntwo,1.5\n")
    refused(TextFiles, tmp_path, "b.txt has no label, others have a number")
    (tmp_path / "a.csv").rename(tmp_path / "c.csv")
    refused(TextFiles, tmp_path, "b.txt has no label, others have a number")


@pytest.mark.parametrize("modality", ["text", "multilingual-text"])
def test_runs(tmp_path, run_files, modality):
    path = entries(
        tmp_path / "a.jsonl", [{"text": f"a {('bad', 'good')[i % 2]} {i}", "label": i % 2} for i in range(40)]
    )
    assert run_files(modality, path, "--set", "tokenizer.length=16", "--set", "tokenizer.vocab_size=300")["scores"]


def test_sst2(shared_data, both):
    folder = shared_data / "sst2" / "SST-2"
    train, test = both(TextFiles, folder / "train.tsv", test_root=str(folder / "test.tsv"), text="sentence")
    assert (len(train), len(test)) == (60614, 872)
    assert train.task.names == ("0", "1")
