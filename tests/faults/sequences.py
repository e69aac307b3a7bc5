"""Rows of sequences: formats, letters, lengths, windows."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Fault, Read

BASES, RESIDUES = "ACGT", "ARNDCQEGHILKMFPSTWYV"


def random_letters(letters: str, count: int, seed: int) -> str:
    return "".join(np.random.RandomState(seed).choice(list(letters), count))


DNA = [random_letters(BASES, 250 + i, i) for i in range(20)]
PROTEINS = [random_letters(RESIDUES, 100 + i, i) for i in range(20)]


def fasta(sequences: list[str], end: str = "\n", width: int = 60) -> str:
    out = []
    for i, sequence in enumerate(sequences):
        out += [f">s{i} {'AB'[i % 2]}", *(sequence[at : at + width] for at in range(0, len(sequence), width))]
    return end.join(out) + end


def fastq(sequences: list[str], end: str = "\n") -> str:
    return "".join(f"@s{i} {'AB'[i % 2]}{end}{s}{end}+{end}{'I' * len(s)}{end}" for i, s in enumerate(sequences))


def genbank(sequences: list[str], kind: str = "bp") -> str:
    out = []
    for i, sequence in enumerate(sequences):
        rows = [
            f"{at + 1:>9} " + " ".join(sequence[at + j : at + j + 10] for j in range(0, 60, 10)).strip()
            for at in range(0, len(sequence), 60)
        ]
        out.append(
            f"LOCUS       S{i}      {len(sequence)} {kind}    DNA     linear   BCT 01-JAN-2020\n"
            f"DEFINITION  Sample {i} of a\n            long name.\nACCESSION   S{i}\nSOURCE      x\n"
            f"  ORGANISM  Genus {'AB'[i % 2]}\n            Bacteria; X.\nFEATURES             Location/Qualifiers\n"
            f"ORIGIN      \n" + "\n".join(rows).lower() + "\n//\n"
        )
    return "".join(out)


def written(name: str, content: str, compress: Callable[[bytes], bytes] = bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(compress(content.encode()))
        return path

    return make


def files(**contents: str) -> Callable[[Path], None]:
    """Files of a folder; in the names "_" is the dot."""

    def make(folder: Path) -> None:
        for name, content in contents.items():
            (folder / name.replace("_", ".")).write_text(content)

    return make


def sequences(read: Read) -> list[str]:
    return sorted(str(inputs["sequence"]) for split in read.datasets for inputs in read.samples(split))


def same(expected: list[str], **facts: str) -> Callable[[Read], None]:
    def expect(read: Read) -> None:
        assert sequences(read) == sorted(expected)
        for name, fact in facts.items():
            assert fact in read.train.summary.facts[name], read.train.summary.facts

    return expect


def prepared(count: int, length: int, **options: Any) -> Callable[[Read], None]:
    """Number of training samples that the tokenizer accepts, and their length."""

    def expect(read: Read) -> None:
        samples = [sample for sample in read.prepared(**options) if not isinstance(sample, str)]
        assert [sample["sequence"].shape for sample in samples] == [(length,)] * count

    return expect


def refused(message: str, cure: dict[str, str]) -> Callable[[Read], None]:
    """The tokenizer refuses a sample, and the options that its message names let it accept all."""

    def expect(read: Read) -> None:
        messages = [sample for sample in read.prepared(length=100) if isinstance(sample, str)]
        assert messages
        command = " ".join(f"--set tokenizer.{name}={value}" for name, value in cure.items())
        assert message in messages[0]
        assert command in messages[0]
        assert not any(isinstance(sample, str) for sample in read.prepared(length=100, **cure))

    return expect


def short(read: Read) -> None:
    """Each of the two cures that the message names works."""
    messages = [sample for sample in read.prepared() if isinstance(sample, str)]
    assert "fewer than 250" in messages[0]
    assert "tokenizer.length=" in messages[0]
    assert "tokenizer.pad=T" in messages[0]
    assert not any(isinstance(sample, str) for sample in read.prepared(pad="T"))
    assert not any(isinstance(sample, str) for sample in read.prepared(length=80))


def rna_is_dna(read: Read) -> None:
    from ssl_plugins.tokenizers.genomics import GenomicsTokenizer

    tokenizer = GenomicsTokenizer(GenomicsTokenizer.Options(length=8), read.train.fields, 8)
    one, other = (tokenizer.preprocess({"sequence": np.array(text)}) for text in ("ACGUUGCA", "ACGTTGCA"))
    assert one["sequence"].tolist() == other["sequence"].tolist()
    prepared(16, 250)(read)


def windows_apart(read: Read) -> None:
    """No window of the test split shares a letter with one of training."""
    assert read.sizes == {"train": 64, "test": 16}
    assert read.train.summary.facts["windows"] == "80 of 250 letters"
    prepared(64, 250)(read)
    spans = {
        split: [
            [int(word) for word in dataset.describe(index).split(" letters ")[1].split(" to ")]
            for index in range(len(dataset))
        ]
        for split, dataset in read.datasets.items()
    }
    assert max(stop for _, stop in spans["train"]) < min(start for start, _ in spans["test"])


def sizes(**expected: int) -> Callable[[Read], None]:
    def expect(read: Read) -> None:
        assert read.sizes == expected

    return expect


def long_stop(read: Read) -> None:
    """A mark after letter 400, of which 128 are used."""
    prepared(16, 128)(read)


def classes(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.names == ("A", "B")


GENOME = random_letters(BASES, 20_000, 7)
N_AT_THE_END = [sequence[:60] + "NNNN" + sequence[64:] for sequence in DNA]
LONG_PROTEINS = [random_letters(RESIDUES, 400 + i, i) + "*" for i in range(20)]
SHORT = [random_letters(BASES, 80 + i, i) for i in range(20)]


def beside_a_table(folder: Path) -> None:
    (folder / "x.fa").write_text(fasta(DNA))
    (folder / "genomes.csv").write_text("file,bases\nx.fa,5000\n")


FAULTS = [
    Fault("folder: a table that describes the files", "genomics", beside_a_table, same(DNA),
          warning="genomes.csv has no column 'sequence' and is left out; dataset.sequence names"),
    Fault("columns: the only one beside the label", "protein",
          written("x.csv", "seq,label\n" + "".join(f"{s},{i % 2}\n" for i, s in enumerate(PROTEINS))), same(PROTEINS),
          warning="column 'seq' is read as the sequence"),
    *(
        Fault(f"endings: {name}", "genomics", written(f"x.{name}", fasta(DNA)), same(DNA))
        for name in ("fas", "fsa", "fna", "ffn", "frn", "seq", "FASTA", "mpfa")
    ),
    Fault("endings: faa", "protein", written("x.faa", fasta(PROTEINS)), same(PROTEINS)),
    Fault("compression: bz2", "genomics", written("x.fa.bz2", fasta(DNA), bz2.compress), same(DNA)),
    Fault("compression: xz", "genomics", written("x.fas.xz", fasta(DNA), lzma.compress), same(DNA)),
    Fault("compression: gz", "genomics", written("x.frn.gz", fasta(DNA), gzip.compress), same(DNA)),
    Fault("line ends: CR", "genomics", written("x.fa", fasta(DNA, "\r")), same(DNA)),
    Fault("line ends: CR LF", "genomics", written("x.fa", fasta(DNA, "\r\n")), same(DNA)),
    Fault("fastq", "genomics", written("x.fastq", fastq(DNA)), same(DNA, FASTQ="quality")),
    Fault("fastq: CR LF and gz", "genomics", written("x.fq.gz", fastq(DNA, "\r\n"), gzip.compress), same(DNA)),
    Fault("fastq: labels in the header", "genomics", written("x.fq", fastq(DNA)), classes,
          options={"label_pattern": r">s\d+ (?P<label>[AB])"}),
    Fault("fastq: cut short", "genomics", written("x.fq", fastq(DNA)[:-400]), error=r"x.fq line \d+ .*FASTQ"),
    Fault("fastq: in a .txt", "genomics", written("x.txt", fastq(DNA)), same(DNA)),
    Fault("genbank", "genomics", written("x.gb", genbank(DNA)), same(DNA)),
    Fault("genbank: organisms as labels", "genomics", written("x.gbk", genbank(DNA)), classes,
          options={"label_pattern": r"Genus (?P<label>[AB])"}),
    Fault("genbank: bz2", "genomics", written("x.gbff.bz2", genbank(DNA), bz2.compress), same(DNA)),
    Fault("genpept", "protein", written("x.gp", genbank(PROTEINS, "aa")), same(PROTEINS)),
    Fault("empty file among others", "genomics", files(a_fa=fasta(DNA), b_fa="", c_fna="\n \n"), same(DNA),
          warning="2 of 3 files hold no sequence: b.fa, c.fna"),
    Fault("empty file alone", "genomics", files(b_fa=""), error="holds no sequence"),
    Fault("no header", "genomics", files(b_fa="ACGT\n"), error="b.fa line 1 is no FASTA header"),
    Fault("one sequence", "genomics", written("x.fa", fasta([GENOME])), windows_apart,
          error="20,000 letters.*dataset.window=250", cure={"window": 250}),
    Fault("one sequence, short", "genomics", written("x.fa", fasta([GENOME[:300]])), error="the only sequence, of 300"),
    Fault("long sequences", "genomics", written("x.fa", fasta([GENOME, GENOME[::-1]])),
          warning="1.2 % of all letters; --set dataset.window=250"),
    Fault("windows without a test split", "genomics", written("x.fa", fasta([GENOME])), sizes(train=80),
          options={"window": 250, "test_fraction": 0}),
    Fault("windows of short sequences", "genomics", written("x.fa", fasta(SHORT)), sizes(train=64, test=16),
          options={"window": 20}, warning="too short to hold out windows of 20 letters"),
    Fault("window longer than all", "genomics", written("x.fa", fasta(SHORT)), error="the longest has 99",
          options={"window": 100}, cure={"window": 20}),
    Fault("letters: N", "genomics", written("x.fa", fasta(N_AT_THE_END)),
          refused("letter 61 of the sequence is 'N'", {"alphabet": "ACGTN", "unknown": "N"})),
    Fault("letters: R and Y", "genomics", written("x.fa", fasta([s[:5] + "RY" + s[7:] for s in DNA])),
          refused("letter 6 of the sequence is 'R'", {"alphabet": "ACGTN", "unknown": "N"})),
    Fault("letters: N after those used", "genomics", written("x.fa", fasta([s + "NNN" for s in DNA])),
          prepared(16, 250)),
    Fault("letters: lower case", "genomics", written("x.fa", fasta([s.lower() for s in DNA])), prepared(16, 250)),
    Fault("letters: RNA", "genomics", written("x.fa", fasta([s.replace("T", "U") for s in DNA])), rna_is_dna),
    Fault("letters: * at the end", "protein", written("x.faa", fasta([s + "*" for s in PROTEINS])), prepared(16, 128)),
    Fault("letters: * at letter 401 of which 128 are used", "protein", written("x.faa", fasta(LONG_PROTEINS)),
          long_stop),
    Fault("letters: * inside", "protein", written("x.faa", fasta([s[:9] + "*" + s[9:] for s in PROTEINS])),
          refused("letter 10 of the sequence is '*'", {"unknown": "X"})),
    Fault("kind: DNA as protein", "protein", written("x.fa", fasta(DNA)), doubt="DNA.*--modality genomics"),
    Fault("kind: RNA as protein", "protein", written("x.fa", fasta([s.replace("T", "U") for s in DNA])),
          doubt="RNA.*--modality genomics"),
    Fault("kind: protein as DNA", "genomics", written("x.fa", fasta(PROTEINS)), doubt="protein.*--modality protein"),
    Fault("kind: fna and faa", "protein", files(a_faa=fasta(PROTEINS), b_fna=fasta(DNA)), same(PROTEINS),
          doubt="1 files ending in .fna.*dataset.extensions=.faa"),
    Fault("kind: fna and faa for genomics", "genomics", files(a_faa=fasta(PROTEINS), b_fna=fasta(DNA)), same(DNA),
          doubt="dataset.extensions=.fna"),
    Fault("kind: fna and faa by option", "protein", files(a_faa=fasta(PROTEINS), b_fna=fasta(DNA)), same(PROTEINS),
          options={"extensions": (".faa",)}),
    Fault("kind: a .fa of DNA among proteins", "protein", files(a_fa=fasta(PROTEINS), b_fa=fasta(DNA)),
          doubt="1 of 2 files .*b.fa"),
    Fault("lengths: shorter than the default", "genomics", written("x.fa", fasta(SHORT)), short),
    Fault("lengths: all the same", "genomics", written("x.fa", fasta([s[:80] for s in SHORT])), prepared(16, 80)),
    Fault("lengths: in words", "genomics", written("x.fa", fasta(SHORT)),
          same(SHORT, sequences="20 of 80 to 99 letters, median 89", letters="A, C, G, T")),
]  # fmt: skip
