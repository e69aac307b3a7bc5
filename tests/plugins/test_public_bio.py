"""Public genomics and protein sets on miniatures: rows, splits and labels."""

from __future__ import annotations

import json
import pickle
import runpy
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ssl_core import BadSample, DataError, Text
from ssl_core.plugins import load
from ssl_plugins.datasets.public import _tape, genomics_ood, pfam, tape

MINIATURES = runpy.run_path(str(Path(__file__).parents[1] / "miniatures" / "bio.py"))
WRITERS = MINIATURES["WRITERS"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data folder with all of the sets. Tests do not change it."""
    folder = tmp_path_factory.mktemp("data")
    for writer in dict.fromkeys(WRITERS.values()):
        writer(folder)
    return folder


def both(cls: type, root: Path, **options: Any) -> tuple[Any, Any]:
    """The training and the test split."""
    values = cls.Options(root=str(root), **options)
    return cls(values, "train"), cls(values, "test")


def text_of(sample: dict[str, Any]) -> str:
    return str(sample["inputs"]["sequence"])


def content(folder: Path) -> dict[str, bytes]:
    """Path and content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ninety_ten(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The published rule: shuffle with pandas, take the first 90 % (rounded up) and the last 10 % (rounded down)."""
    shuffled = frame.sample(frac=1, random_state=42)
    return shuffled.head(int(np.ceil(len(shuffled) * 9 / 10))), shuffled.tail(int(np.floor(len(shuffled) / 10)))


# --- Genomics --------------------------------------------------------------------------------------------------------

GENOMICS = (genomics_ood.Genomics, genomics_ood.GenomicsTransferID, genomics_ood.GenomicsTransferOOD)


@pytest.mark.parametrize("cls", GENOMICS)
def test_genomics_follows_the_published_split(cls, root):
    frame = pd.read_csv(root / "genomics" / f"{cls.stem}.txt", sep="\t")
    for dataset, expected in zip(both(cls, root), ninety_ten(frame), strict=True):
        samples = [dataset[index] for index in range(len(dataset))]
        assert [text_of(sample) for sample in samples] == expected["seq"].tolist()
        assert [dataset.task.names[sample["label"]] for sample in samples] == expected["label"].tolist()
        assert isinstance(dataset.fields["sequence"], Text)
        assert dataset.describe(3).endswith(f"{cls.stem}.txt row {expected.index[3] + 1}")


def test_genomics_classes(root):
    pretraining, in_distribution, out_of_distribution = (both(cls, root)[0].task for cls in GENOMICS)
    assert pretraining == in_distribution
    assert (pretraining.size, out_of_distribution.size) == (10, 60)
    assert not set(pretraining.names) & set(out_of_distribution.names)
    for task in (pretraining, out_of_distribution):
        assert list(task.names) == sorted(task.names)


def test_genomics_arrays_do_not_depend_on_the_chunk_size(root, tmp_path, monkeypatch):
    shutil.copy(root / "genomics" / "before_2011_in_tr.txt", tmp_path)
    monkeypatch.setattr(genomics_ood, "CHUNK", 7)
    genomics_ood.Genomics.convert(tmp_path)
    arrays = tmp_path / "arrays" / "before_2011_in_tr"
    assert content(arrays) == content(root / "genomics" / "arrays" / "before_2011_in_tr")
    assert np.load(arrays / "letters.npy", mmap_mode="r").shape == (120, 250)


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (8, "label", "Homo", r"in_tr\.txt row 9: an unknown genus, 'Homo'"),
        (70, "seq", "ACGT", r"in_tr\.txt row 71: a sequence of another length than 250, 'ACGT'"),
        (None, "seq", None, r"in_tr\.txt has no column 'seq', only label, seq_info, domain"),
    ],
)
def test_message_for_a_bad_genomics_table_names_the_row(root, tmp_path, monkeypatch, row, column, value, message):
    frame = pd.read_csv(root / "genomics" / "before_2011_in_tr.txt", sep="\t")
    if row is None:
        frame = frame.drop(columns=column)
    else:
        frame.loc[row, column] = value
    frame.to_csv(tmp_path / "before_2011_in_tr.txt", sep="\t", index=False)
    monkeypatch.setattr(genomics_ood, "CHUNK", 50)
    with pytest.raises(DataError, match=message):
        genomics_ood.Genomics.convert(tmp_path)
    assert list((tmp_path / "arrays").iterdir()) == []  # no partial output


def test_message_for_a_truncated_table_names_the_row(root, tmp_path):
    text = (root / "genomics" / "before_2011_in_tr.txt").read_text()
    (tmp_path / "before_2011_in_tr.txt").write_text(text[:-400])
    with pytest.raises(DataError, match=r"in_tr\.txt row 119: a"):
        genomics_ood.Genomics.convert(tmp_path)


def test_unknown_base_is_a_bad_sample(root, tmp_path):
    lines = (root / "genomics" / "between_2011-2016_in_val.txt").read_text().splitlines()
    lines[5] = lines[5][:10] + "N" + lines[5][11:]
    (tmp_path / "between_2011-2016_in_val.txt").write_text("\n".join(lines))
    genomics_ood.GenomicsTransferID.convert(tmp_path)
    train, test = both(genomics_ood.GenomicsTransferID, tmp_path)
    tokenizer = load().tokenizers["genomics"].value
    tokenizer = tokenizer(tokenizer.Options(), train.fields, 8)
    bad = []
    for dataset in (train, test):
        for index in range(len(dataset)):
            try:
                tokenizer.preprocess(dataset[index]["inputs"])
            except BadSample as error:
                bad.append(f"{dataset.describe(index)}: {error}")
    assert len(bad) == 1
    assert "between_2011-2016_in_val.txt row 5: letter 11 of the sequence is 'N'" in bad[0]


# --- Pfam ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def domains(root) -> dict[str, list[tuple[str, int]]]:
    """Sequence and class of every record of Pfam's two files. The class is the clan's rank in the training file."""
    folder = root / "proteins" / "pfam"
    files = {stem: json.loads((folder / f"pfam_{stem}.json").read_text()) for stem in ("train", "valid")}
    ranks = {clan: rank for rank, clan in enumerate(sorted({record["clan"] for record in files["train"]}))}
    assert len(ranks) > 3
    return {stem: [(record["primary"], ranks[record["clan"]]) for record in records] for stem, records in files.items()}


def check_rows(dataset: Any, file: str, records: list[tuple[str, int]], rows: Any) -> None:
    """Check that a split holds these records of a file, in this order."""
    assert len(dataset) == len(rows)
    for index in (*range(0, len(dataset), max(1, len(dataset) // 97)), len(dataset) - 1):
        sample, row = dataset[index], int(rows[index])
        assert (text_of(sample), sample["label"]) == records[row]
        assert dataset.describe(index).endswith(f"{file} record {row + 1}")


def shuffled_rows(count: int) -> np.ndarray:
    return pd.Series(np.arange(count)).sample(frac=1, random_state=42).to_numpy()


def test_pfam_splits(root, domains):
    train, test = both(pfam.Pfam, root)
    check_rows(train, "pfam_train.json", domains["train"], np.arange(60))
    check_rows(test, "pfam_valid.json", domains["valid"], shuffled_rows(200_300)[:-200_000])
    assert train.task.size == 623
    assert len(test) == 300


def test_pfam_transfer_is_the_last_200_000_validation_records(root, domains):
    train, test = both(pfam.PfamTransfer, root)
    last = shuffled_rows(200_300)[-200_000:]
    assert (len(train), len(test)) == (180_000, 20_000)
    check_rows(train, "pfam_valid.json", domains["valid"], last[:180_000])
    check_rows(test, "pfam_valid.json", domains["valid"], last[180_000:])
    pretraining_test = both(pfam.Pfam, root)[1]
    assert len(np.unique(np.concatenate([train.rows, test.rows, pretraining_test.rows]))) == 200_300


def test_pfam_is_pickled_without_its_arrays(root):
    _, test = both(pfam.Pfam, root)
    unpickled = pickle.loads(pickle.dumps(test))
    assert text_of(unpickled[7]) == text_of(test[7])
    assert len(pickle.dumps(both(pfam.Pfam, root)[0])) < 10_000


def write_pfam(folder: Path, train: list[dict[str, Any]], valid: list[dict[str, Any]]) -> None:
    (folder / "pfam").mkdir(parents=True)
    for stem, records in (("train", train), ("valid", valid)):
        (folder / "pfam" / f"pfam_{stem}.json").write_text(json.dumps(records))


def test_pfam_refuses_unknown_clans_too_many_clans_and_small_files(root, tmp_path):
    records, unknown = [{"primary": "ACD", "clan": clan} for clan in (3, 9)], [{"primary": "ACD", "clan": 4}]
    write_pfam(tmp_path / "a", records, [*records, *unknown])
    with pytest.raises(DataError, match=r"pfam_valid\.json record 3: clan 4 is not in pfam/pfam_train\.json"):
        pfam.Pfam.convert(tmp_path / "a")
    assert list((tmp_path / "a" / "arrays").iterdir()) == []
    write_pfam(tmp_path / "b", [{"primary": "A", "clan": clan} for clan in range(624)], records)
    with pytest.raises(DataError, match=r"pfam_train\.json holds 624 clans, more than 623"):
        pfam.Pfam.convert(tmp_path / "b")
    write_pfam(tmp_path / "c" / "proteins", records, records)
    pfam.Pfam.convert(tmp_path / "c" / "proteins")
    for cls in (pfam.Pfam, pfam.PfamTransfer):
        with pytest.raises(DataError, match=r"pfam_valid\.json holds 2 records; the last 200,000"):
            cls(cls.Options(root=str(tmp_path / "c")), "test")


def test_conversion_needs_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(_tape, "READ", 1 << 15)
    monkeypatch.setattr(_tape, "BATCH", 20)
    text = np.random.default_rng(0).choice(MINIATURES["LETTERS"], 2000).tolist()
    records = [{"primary": "".join(text[number:]), "clan": number, "other": "0" * 1500} for number in range(1500)]
    MINIATURES["json_array"](tmp_path / "a.json", records)
    size = (tmp_path / "a.json").stat().st_size
    tracemalloc.start()
    try:
        _tape.write_arrays(tmp_path / "a.json", tmp_path, "clan", np.int32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 6
    arrays = _tape.SequenceArrays(tmp_path)
    assert [str(arrays.text(row)) for row in range(len(arrays))] == [record["primary"] for record in records]
    assert arrays.labels.array.tolist() == list(range(1500))


# --- TAPE's tasks ----------------------------------------------------------------------------------------------------

TASKS = {
    tape.Scop: ("remote_homology", "fold_label"),
    tape.SecondaryStructure: ("secondary_structure", "ss3"),
    tape.Stability: ("stability", "stability_score"),
    tape.Fluorescence: ("fluorescence", "log_fluorescence"),
}


def upstream(root: Path, cls: type) -> list[list[dict[str, Any]]]:
    name, _ = TASKS[cls]
    folder = root / "proteins" / name
    return [json.loads((folder / f"{name}_{stem}.json").read_text()) for stem in ("train", "valid")]


@pytest.mark.parametrize("cls", [tape.Scop, tape.Stability, tape.Fluorescence])
def test_tape_sequences_and_labels(cls, root):
    for dataset, records in zip(both(cls, root), upstream(root, cls), strict=True):
        assert len(dataset) == len(records)
        for index, record in enumerate(records):
            sample = dataset[index]
            assert text_of(sample) == record["primary"]
            assert sample["label"] == pytest.approx(np.ravel(record[TASKS[cls][1]])[0], rel=1e-6)


def test_tape_tasks(root):
    scop, stability, fluorescence = (both(cls, root)[0].task for cls in (tape.Scop, tape.Stability, tape.Fluorescence))
    assert (scop.kind, scop.size, scop.metric) == ("classes", 1195, "accuracy")
    for task in (stability, fluorescence):
        assert (task.kind, task.size, task.metric, task.per_token) == ("number", 1, "spearman", False)


@pytest.mark.parametrize("length", [128, 50])
def test_secondary_structure_labels_residues_and_ignores_padding(root, length):
    lengths = set()
    opened = both(tape.SecondaryStructure, root, length=length)
    for dataset, records in zip(opened, upstream(root, tape.SecondaryStructure), strict=True):
        for index, record in enumerate(records):
            sample = dataset[index]
            assert text_of(sample) == record["primary"]
            assert sample["label"].shape == (length,)
            states = record["ss3"][:length]
            assert sample["label"].tolist() == states + [3] * (length - len(states))
            lengths.add(len(states))
        task = dataset.task
        assert (task.size, task.per_token, task.ignore) == (3, True, 3)
    assert min(lengths) < length
    assert max(lengths) == length


def test_secondary_structure_as_published_counts_padding_as_a_class(root):
    fixed, published = (
        both(tape.SecondaryStructure, root)[0],
        both(tape.SecondaryStructure, root, protocol="published")[0],
    )
    assert (published.task.size, published.task.ignore) == (4, None)
    np.testing.assert_array_equal(fixed[0]["label"], published[0]["label"])


def test_secondary_structure_labels_align_with_the_tokens(root):
    """As many labels are scored as there are valid tokens."""
    train, _ = both(tape.SecondaryStructure, root)
    tokenizer = load().tokenizers["protein"].value
    tokenizer = tokenizer(tokenizer.Options(), train.fields, 8)
    assert tokenizer.layout.length == train.options.length
    for index in range(len(train)):
        prepared = tokenizer.preprocess(train[index]["inputs"])
        used = min(int(prepared["letters"]), tokenizer.layout.length)
        assert used == int((train[index]["label"] != train.task.ignore).sum())


@pytest.mark.parametrize("cls", TASKS)
def test_tape_arrays_do_not_depend_on_the_chunk_size(cls, root, tmp_path, monkeypatch):
    name = TASKS[cls][0]
    shutil.copytree(root / "proteins" / name, tmp_path / name)
    monkeypatch.setattr(_tape, "READ", 37)
    monkeypatch.setattr(_tape, "BATCH", 4)
    cls.convert(tmp_path)
    for stem in ("train", "valid"):
        arrays = tmp_path / "arrays" / f"{name}_{stem}"
        assert content(arrays) == content(root / "proteins" / "arrays" / f"{name}_{stem}")
    modified = max(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    cls.convert(tmp_path)  # does nothing
    assert max(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == modified


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_records_do_not_depend_on_the_chunk_size(tmp_path, monkeypatch, size, indent):
    rows = [{"primary": 'A]"},{\\[é', "x": [1, [2.5, -3e-7]], "y": None}, {}, {"z": {"deep": "}"}}, {"last": True}]
    (tmp_path / "a.json").write_text("\n " + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n")
    monkeypatch.setattr(_tape, "READ", size)
    if size == 1:
        with pytest.raises(DataError, match="not a JSON array"):
            list(_tape.read_records(tmp_path / "a.json"))
        return
    if size > 2:
        assert list(_tape.read_records(tmp_path / "a.json")) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"primary": "AC", "v": 1}, {"primary": "AC", "v"', r"a\.json record 2: no JSON, or cut off"),
        ('[{"primary": "AC", "v": 1}', r"a\.json record 2: no JSON, or cut off"),
        ('[{"primary": "AC", "v": 1}, 5]', r"a\.json record 2: not an object"),
        ('{"primary": "AC"}', r"a\.json is not a JSON array of records"),
        ("", r"a\.json is not a JSON array of records"),
        ("[]", r"a\.json holds no record"),
        ('[{"primary": "AC", "v": 1}, {"primary": "AC", "w": 1}]', r"record 2 has no 'v', only primary, w"),
        ('[{"primary": "", "v": 1}]', r"record 1: 'primary' is no sequence but ''"),
        ('[{"primary": "AC", "v": [1, 2]}]', r"record 1: 'v' holds 2 numbers, not 1"),
        ('[{"primary": "AC", "v": 1}, {"primary": "AC", "v": NaN}]', r"record 2: 'v' holds no finite numbers"),
        ('[{"primary": "AC", "v": "high"}]', r"record 1: 'v' holds no finite numbers"),
    ],
)
def test_message_for_a_bad_file_names_the_record(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        _tape.write_arrays(tmp_path / "a.json", tmp_path, "v", np.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("states", "message"),
    [([0, 1, 2], "record 2: 'ss3' holds 3 numbers, not 4"), ([0, 1, 3, 2], "record 2: 'ss3' holds 3, outside 0..2")],
)
def test_message_for_bad_states_names_the_record(tmp_path, states, message):
    records = [{"primary": "ACDE", "ss3": [0, 1, 2, 2]}, {"primary": "ACDE", "ss3": states}]
    MINIATURES["json_array"](tmp_path / "secondary_structure" / "secondary_structure_train.json", records)
    with pytest.raises(DataError, match=message):
        tape.SecondaryStructure.convert(tmp_path)
    assert list((tmp_path / "arrays").iterdir()) == []


# --- all data sets ---------------------------------------------------------------------------------------------------

ALL = [pytest.param(entry.value, id=entry.name) for entry in load().entries("dataset") if entry.value.source]
ALL = [param for param in ALL if param.values[0].modality in ("genomics", "protein")]


def test_every_data_set_has_a_miniature():
    assert {(param.values[0].modality, param.values[0].name) for param in ALL} == set(WRITERS)


@pytest.mark.parametrize("cls", ALL)
def test_message_for_missing_data_names_the_command(cls, root, tmp_path):
    command = f"`sslx data prepare {cls.modality}/{cls.name} --root {tmp_path}`"
    with pytest.raises(DataError, match=command):
        both(cls, tmp_path)
    raw = root / cls.source.folder / cls.source.archives[0].produces
    target = tmp_path / cls.source.folder / cls.source.archives[0].produces
    target.parent.mkdir(parents=True)
    target.symlink_to(raw)
    with pytest.raises(DataError, match=f"there is no .*/arrays/.*{command}"):
        both(cls, tmp_path)


@pytest.mark.parametrize("cls", [genomics_ood.GenomicsTransferID, tape.Stability])
def test_fingerprint_changes_with_the_arrays(cls, root, tmp_path):
    folder = cls.source.folder
    shutil.copytree(root / folder, tmp_path / folder)
    before = both(cls, tmp_path)[0].fingerprint()
    shutil.rmtree(tmp_path / folder / "arrays")
    cls.convert(tmp_path / folder)
    assert both(cls, tmp_path)[0].fingerprint() != before
