"""Data set `files` for genomics and proteins: FASTA, lines, tables, windows, bad letters."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from ssl_core import DataError
from ssl_plugins.datasets._io.texts import encodings
from ssl_plugins.datasets.user.files_sequences import ProteinFiles, SequenceFiles
from ssl_plugins.tokenizers.genomics import GenomicsTokenizer


def letters(dataset):
    return [dataset[i]["inputs"]["sequence"].item() for i in range(len(dataset))]


def fasta(path, records, width=7):
    lines = []
    for name, sequence in records:
        lines += [f">{name}", *(sequence[i : i + width] for i in range(0, len(sequence), width))]
    body = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


def random_bases(count, seed):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), count))


@pytest.mark.parametrize("name", ["a.fasta", "a.fna.gz"])
def test_fasta_with_labels_from_the_header(tmp_path, open_both, name):
    records = [(f"r{i} family={'AB'[i % 2]} > x", random_bases(20 + i, i)) for i in range(20)]
    path = fasta(tmp_path / name, records)
    datasets = open_both(SequenceFiles, path, label_pattern=r"family=(?P<label>\w)")
    assert [len(d) for d in datasets] == [16, 4]
    assert datasets[0].task.names == ("A", "B")
    for dataset in datasets:
        for index, text in enumerate(letters(dataset)):
            number = int(dataset.describe(index).rsplit(" record ", 1)[1]) - 1
            assert text == records[number][1]
            assert dataset[index]["label"] == number % 2
    assert letters(pickle.loads(pickle.dumps(datasets[1]))) == letters(datasets[1])


@pytest.mark.parametrize("name", ["a.fasta", "a.fna.gz"])
def test_byte_order_mark_before_the_first_header(tmp_path, open_both, name):
    sequences = [random_bases(20, i) for i in range(10)]
    body = ("\ufeff" + "".join(f">{'AB'[i % 2]}{i}\n{s}\n" for i, s in enumerate(sequences))).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
    datasets = open_both(SequenceFiles, path, label_pattern=r">(?P<label>[AB])\d$")
    samples = {d.describe(i): (d[i]["label"], text) for d in datasets for i, text in enumerate(letters(d))}
    assert samples == {f"{path} record {i + 1}": (i % 2, s) for i, s in enumerate(sequences)}


def test_windows_at_the_end_of_each_sequence_are_the_test_split(tmp_path, open_both):
    genomes = {"one": random_bases(400, 1), "two": random_bases(300, 2)}
    for name, bases in genomes.items():
        fasta(tmp_path / f"{name}.fa", [(f"{name} whole", bases)], width=60)
    train, test = open_both(SequenceFiles, tmp_path, window=50, stride=10, label_pattern=r">(?P<label>\w+)")
    assert train.task.names == ("one", "two")
    assert set(letters(test)) == {
        g[i : i + 50] for g in genomes.values() for i in range(len(g) * 4 // 5, len(g) - 49, 10)
    }
    train_windows = {g[i : i + 50] for g in genomes.values() for i in range(0, len(g) * 4 // 5 - 49, 10)}
    assert set(letters(train)) == train_windows
    assert "record 1 letters 1 to 50" in train.describe(0)
    grouped = open_both(SequenceFiles, tmp_path, window=50, label_pattern=r">(?P<group>\w+)", test_groups="two")
    assert len(grouped[1]) == 6


def test_few_files_are_open_at_a_time(tmp_path, open_both, monkeypatch):
    monkeypatch.setattr(encodings, "MAX_OPEN", 4)
    sequences = [random_bases(30 + i, i) for i in range(30)]
    for i, sequence in enumerate(sequences):
        fasta(tmp_path / f"{i}.fa", [("a", sequence)])
    datasets = open_both(SequenceFiles, tmp_path)
    assert sorted(letters(datasets[0]) + letters(datasets[1])) == sorted(sequences)
    if Path("/proc/self/fd").is_dir():
        targets = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        assert 0 < sum(target.startswith(str(tmp_path)) for target in targets) <= 4


def test_unpacked_size_is_bounded(tmp_path, assert_refused, monkeypatch):
    monkeypatch.setattr(encodings, "MAX_UNPACKED", 1000)
    fasta(tmp_path / "a.fa.gz", [("a", "A" * 2000)])
    assert_refused(SequenceFiles, tmp_path / "a.fa.gz", "a.fa.gz unpacks to more than", "unpack it")


def test_lines_and_tables(tmp_path, open_both):
    sequences = [random_bases(12, i) for i in range(20)]
    (tmp_path / "a.txt").write_text("\n".join(sequences) + "\n")
    train, test = open_both(SequenceFiles, tmp_path / "a.txt")
    assert sorted(letters(train) + letters(test)) == sorted(sequences)
    rows = "".join(f"{s},{i / 8}\n" for i, s in enumerate(sequences))
    (tmp_path / "a.csv").write_text("bases,fitness\n" + rows)
    train, _ = open_both(ProteinFiles, tmp_path / "a.csv", sequence="bases", label="fitness")
    assert train.task.kind == "number"
    assert train[0]["label"] == sequences.index(letters(train)[0]) / 8


def test_errors_and_bad_letters(tmp_path, open_both, assert_refused, bad_samples):
    sequences = [random_bases(12, i) for i in range(20)]
    sequences[4] = "ACGTXACGTACG"
    path = fasta(tmp_path / "a.fasta", [(str(i), s) for i, s in enumerate(sequences)])
    datasets = open_both(SequenceFiles, path)
    tokenizer = GenomicsTokenizer(GenomicsTokenizer.Options(length=12), datasets[0].fields, 8)
    messages = bad_samples(datasets, tokenizer)
    assert list(messages) == [f"{path} record 5"]
    assert "letter 5 of the sequence is 'X'" in messages[f"{path} record 5"]
    fasta(path, [("a", "ACG"), ("b", ""), ("c", "ACG"), ("d", "GGG")])
    assert bad_samples(open_both(SequenceFiles, path)) == {f"{path} record 2": "holds no sequence"}
    (tmp_path / "b.fasta").write_text("ACGT\n")
    assert_refused(SequenceFiles, tmp_path / "b.fasta", "b.fasta line 1 is no FASTA header")
    (tmp_path / "c.fasta").write_text("")
    assert_refused(SequenceFiles, tmp_path / "c.fasta", "c.fasta holds no sequence")
    (tmp_path / "d.fna.gz").write_bytes(b"none")
    assert_refused(SequenceFiles, tmp_path / "d.fna.gz", "d.fna.gz line 1 is no FASTA header")
    corrupt = bytearray(gzip.compress(b">a\nACGT\n"))
    corrupt[10] |= 6  # the byte after the header: an invalid block type
    (tmp_path / "d.fna.gz").write_bytes(corrupt)
    assert_refused(SequenceFiles, tmp_path / "d.fna.gz", "d.fna.gz cannot be read")
    assert_refused(SequenceFiles, path, "label_pattern", "does not match 4 of 4", label_pattern=r"len=(?P<label>\d)")
    assert_refused(SequenceFiles, path, "no sequence has 50 letters", "dataset.window", window=50)
    (tmp_path / "e.pdf").write_text("x")
    assert_refused(SequenceFiles, tmp_path / "e.pdf", "e.pdf is no file of sequences")


def test_trained_on_the_other_kind_of_sequence(tmp_path, open_both):
    rng = np.random.default_rng(0)
    proteins = ["".join(rng.choice(list("ARNDCQEGHILKMFPSTWYV"), 60)) for _ in range(20)]
    for name, sequences in (("a.fa", [random_bases(60, i) for i in range(20)]), ("b.fa", proteins)):
        fasta(tmp_path / name, [(f"{'AB'[i % 2]}", s) for i, s in enumerate(sequences)])
    bases, residues = (open_both(SequenceFiles, tmp_path / name)[0] for name in ("a.fa", "b.fa"))
    assert bases.schema() == {"classes": [], "letters": "nucleotides"}
    assert residues.schema() == {"classes": [], "letters": "protein"}
    bases.conform(bases.schema())
    bases.conform({})
    with pytest.raises(DataError, match=r"b\.fa holds protein .* and the encoder was trained on nucleotides"):
        residues.conform(bases.schema())


@pytest.mark.parametrize("modality", ["genomics", "protein"])
def test_runs(tmp_path, run_files, modality):
    path = fasta(tmp_path / "a.fasta", [(f"{'AB'[i % 2]}{i}", random_bases(32, i)) for i in range(40)])
    more = ("--label-pattern", ">(?P<label>[AB])", "--set", "tokenizer.length=32")
    assert run_files(modality, path, *more)["scores"]


def test_length_of_the_tokenizer_follows_the_window(tmp_path, run_files):
    path = fasta(tmp_path / "a.fasta", [("chromosome", random_bases(4000, 0))])
    report = run_files("genomics", path, "--set", "dataset.window=40")
    assert report["layout"] == [{"name": "sequence", "grid": [40], "target": "discrete", "size": 4}]


def test_options_that_a_message_names_accept_unknown_bases(tmp_path, run_files, open_both, bad_samples):
    sequences = [random_bases(32 + i % 3, i) for i in range(40)]
    path = fasta(tmp_path / "a.fasta", [(str(i), f"ACGN{s}" if i % 2 else s) for i, s in enumerate(sequences)])
    cure = "--set tokenizer.alphabet=ACGTN --set tokenizer.unknown=N"
    datasets = open_both(SequenceFiles, path)
    tokenizer = GenomicsTokenizer(GenomicsTokenizer.Options(length=32), datasets[0].fields, 8)
    messages = bad_samples(datasets, tokenizer)
    assert len(messages) == 20
    assert all(f"; {cure} replaces letters" in message for message in messages.values())
    report = run_files("genomics", path, "--set", "tokenizer.length=32", *cure.split())
    assert report["layout"][0]["size"] == 5
    assert report["data"]["skipped"] == {"train": 0, "test": 0}


def test_real_bacteria_genomes(shared_data, open_both):
    train, test = open_both(
        SequenceFiles, shared_data / "bacteria_genomes" / "in_distribution", window=250, stride=5000
    )
    assert train.task.size == 10
    assert 3.5 < len(train) / len(test) < 4.5
    assert set(letters(test)[0]) <= set("ACGTN")
