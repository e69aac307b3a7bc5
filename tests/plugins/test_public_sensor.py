"""Public sensor and tabular sets on miniatures: windows, rows, splits and labels."""

from __future__ import annotations

import gzip
import io
import pickle
import runpy
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ssl_core import ConfigError, DataError
from ssl_plugins.datasets.public import _numbers, _pamap2, higgs, pamap2, pamap2_spectrogram

MINIATURES = runpy.run_path(str(Path(__file__).parents[1] / "miniatures" / "sensor.py"))
WRITERS = MINIATURES["WRITERS"]
TRAINING = {1, 2, 3, 4, 7, 8, 9}


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


def content(folder: Path) -> dict[str, bytes]:
    """Name and content of every file below a folder."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- PAMAP2 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> dict[tuple[int, int], np.ndarray]:
    """Rows (n, 52) of each subject and activity, read and interpolated with pandas."""
    tables = {}
    for subject in MINIATURES["BOUTS"]:
        frame = pd.read_csv(io.StringIO(MINIATURES["recording"](subject)), sep=r"\s+", header=None).interpolate()
        for activity, part in frame.groupby(1):
            if activity != 0:
                tables[subject, int(activity)] = part.iloc[:, 2:].to_numpy(np.float32)
    return tables


def locate(window: np.ndarray, rows: dict[tuple[int, int], np.ndarray]) -> tuple[int, int, int]:
    """Subject, activity and first row of a window (52, n)."""
    for (subject, activity), table in rows.items():
        for start in np.flatnonzero(np.isclose(table[:, 5], window[5, 0], rtol=1e-6)):
            candidate = table[start : start + window.shape[1]]
            if candidate.shape[0] == window.shape[1] and np.allclose(candidate, window.T, rtol=1e-5, atol=1e-5):
                return subject, activity, int(start)
    raise AssertionError("no recording holds the window")


def test_windows_are_of_one_activity_of_the_subjects_of_the_split(root, rows):
    sizes = {"train_size": 300, "test_size": 100}
    for dataset, subjects in zip(both(pamap2.Pamap2, root, **sizes), (TRAINING, {5, 6}), strict=True):
        assert len(dataset) == sizes[f"{dataset.split}_size"]
        assert dataset.fields["series"].shape == (52, 320)
        assert dataset.fields["series"].rate == 100
        seen = set()
        for index in range(0, len(dataset), 3):
            sample = dataset[index]
            window = sample["inputs"]["series"]
            assert window.dtype == np.float32
            assert np.isfinite(window).all()
            subject, activity, _ = locate(window, rows)
            assert sample["label"] == sorted({a for _, a in rows}).index(activity)
            assert f"subject{100 + subject}.dat, {_pamap2.ACTIVITIES[activity]}" in dataset.describe(index)
            seen.add(subject)
        assert seen == subjects


def test_pairs_of_subject_and_activity_are_equally_frequent(root, rows):
    train, _ = both(pamap2.Pamap2, root, train_size=6000)
    counts = Counter(zip(train.subject_ids.tolist(), train.labels.tolist(), strict=True))
    long_pairs = [pair for pair, table in rows.items() if pair[0] in TRAINING and len(table) > 320]
    assert (3, 3) not in long_pairs  # exactly 320 rows
    assert len(counts) == len(long_pairs) == 10
    expected = 6000 / len(long_pairs)
    gaps = counts.pop((0, 0))  # 25 of 780 windows have gaps and are not drawn
    assert abs(gaps - expected * 755 / 780) < 5 * np.sqrt(expected)
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in counts.values())
    within = train.starts[(train.subject_ids == 1) & (train.labels == 1)]
    assert (within.min(), within.max()) == (0, 179)  # two bouts of sitting, concatenated: 500 - 320 starts


def test_windows_have_no_gaps(root, rows):
    train, test = both(pamap2.Pamap2, root, test_size=50_000)
    for dataset, subject, pause in ((train, 1, 30), (test, 5, 40)):
        table = rows[subject, 1]
        gaps = np.flatnonzero(np.isnan(table).any(axis=1))
        start = MINIATURES["START"][subject]
        assert gaps.tolist() == list(range(start - pause + (-start) % 11))  # every eleventh row has a heart rate
        of_subject = np.array(dataset.subjects)[dataset.subject_ids] == subject
        starts = dataset.starts[of_subject & (dataset.labels == 0)]
        assert starts.min() == len(gaps)


def test_windows_depend_only_on_the_seed(root):
    for split in (0, 1):
        first, same, other = (both(pamap2.Pamap2, root, seed=seed, test_size=50)[split] for seed in (0, 0, 1))
        assert first.starts.tolist() == same.starts.tolist()
        assert first.starts.tolist() != other.starts.tolist()
        assert first.fingerprint() == same.fingerprint() != other.fingerprint()


def test_published_protocol_draws_test_windows_anew(root):
    first, second = (both(pamap2.Pamap2, root, protocol="published", test_size=50) for _ in range(2))
    assert first[0].starts.tolist() == second[0].starts.tolist()
    assert first[1].starts.tolist() != second[1].starts.tolist()
    assert first[1].fingerprint() != second[1].fingerprint()
    np.testing.assert_array_equal(first[1][3]["inputs"]["series"], first[1][3]["inputs"]["series"])


def test_subjects_of_the_test_split(root):
    _, test = both(pamap2.Pamap2, root, test_subjects=(5,))
    assert set(test.labels) == {0, 10, 11}
    assert "subject106" not in "".join(test.describe(index) for index in range(100))
    for wrong in ((), (5, 9), (10,)):
        with pytest.raises(ConfigError, match="choose from 5 and 6"):
            both(pamap2.Pamap2, root, test_subjects=wrong)


def test_validation_is_the_held_out_subject_that_the_test_leaves_out(root, rows):
    options = pamap2.Pamap2.Options(root=str(root), test_subjects=(5,), test_size=40)
    validation = pamap2.Pamap2(options, "validation")
    assert validation.splits == ("train", "validation", "test")
    assert validation.subjects == (6,)
    assert len(validation) == 40
    assert {locate(validation.values(index), rows)[0] for index in range(10)} == {6}
    assert len({pamap2.Pamap2(options, split).fingerprint() for split in validation.splits}) == 3
    with pytest.raises(ConfigError, match="'time-series/pamap2' has no validation split; use one of train, test"):
        pamap2.Pamap2(pamap2.Pamap2.Options(root=str(root)), "validation")


def test_activities_of_dabs_lack_ironing(root):
    train, test = both(pamap2.Pamap2, root, activities="dabs")
    assert train.task.size == 12
    assert train.task.names[:11] == tuple(name for name in _pamap2.ACTIVITIES.values() if name != "ironing")
    assert {test.task.names[label] for label in set(test.labels)} == {
        "lying", "walking", "descending stairs", "rope jumping",
    }  # fmt: skip
    assert both(pamap2.Pamap2, root)[0].task.names == tuple(_pamap2.ACTIVITIES.values())


def test_window_option(root, rows):
    _, test = both(pamap2.Pamap2, root, window=375, test_size=60)
    assert test[0]["inputs"]["series"].shape == (52, 375)
    assert len(set(test.labels)) == 4  # 370 rows of walking are shorter than a window
    with pytest.raises(DataError, match=r"no activity of subjects .* has 5000 rows"):
        both(pamap2.Pamap2, root, window=5000)


def spectrogram_by_hand(series: np.ndarray) -> np.ndarray:
    """Computed frame by frame with numpy."""
    padded = np.pad(series.astype(np.float64), ((0, 0), (31, 31)), mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(63) / 63)
    frames = [np.abs(np.fft.rfft(padded[:, 32 * k : 32 * k + 63] * hann)) ** 2 for k in range(32)]
    power = np.stack(frames, axis=-1)
    mean, std = np.array(pamap2_spectrogram.MEAN), np.array(pamap2_spectrogram.STD)
    return (np.log(power + 1e-6) - mean[:, None, None]) / std[:, None, None]


def test_spectrograms(root, rows):
    train, test = both(pamap2_spectrogram.Pamap2Spectrogram, root)
    assert len(pamap2_spectrogram.MEAN) == len(pamap2_spectrogram.STD) == 52
    assert test.subjects == (5,)
    assert set(test.labels) == {0, 11}  # the activities with more than 1,000 rows
    for index in range(3):
        image = train[index]["inputs"]["image"]
        assert image.shape == train.fields["image"].shape == (52, 32, 32)
        assert image.dtype == np.float32
        series = train.values(index)
        assert locate(series, rows)[0] in (1, 2)
        np.testing.assert_allclose(image, spectrogram_by_hand(series), atol=2e-3)


def test_pamap2_arrays_do_not_depend_on_the_chunk_size(root, tmp_path, monkeypatch):
    recordings = "PAMAP2_Dataset/Protocol"
    shutil.copytree(root / "sensor" / "pamap2" / recordings, tmp_path / recordings)
    monkeypatch.setattr(_pamap2, "CHUNK", 400)
    pamap2.Pamap2.convert(tmp_path)
    assert content(tmp_path / "arrays") == content(root / "sensor" / "pamap2" / "arrays")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0 1 NaN 2.0", r"subject102\.dat row 201: 4 columns, not 54"),
        (" ".join(["1"] * 53), r"row 201: 53 columns, not 54"),
        (" ".join(["1"] * 55), r"row 201: 55 columns, not 54"),
        (" ".join(["1"] * 30 + ["x1"] + ["1"] * 23), r"row 201: column 31 is 'x1', not a number"),
        (" ".join(["1"] * 53 + ["high"]), r"row 201: column 54 is 'high', not a number"),
        (" ".join(["1"] * 5 + ["inf"] + ["1"] * 48), r"row 201: column 6 is 'inf'"),
    ],
)
def test_message_for_a_bad_recording_names_the_row(root, tmp_path, monkeypatch, line, message):
    recordings = tmp_path / "PAMAP2_Dataset" / "Protocol"
    shutil.copytree(root / "sensor" / "pamap2" / "PAMAP2_Dataset" / "Protocol", recordings)
    lines = (recordings / "subject102.dat").read_text().splitlines()
    lines.insert(200, line)
    (recordings / "subject102.dat").write_text("\n".join(lines))
    monkeypatch.setattr(_pamap2, "CHUNK", 150)
    with pytest.raises(DataError, match=message) as caught:
        pamap2.Pamap2.convert(tmp_path)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "PAMAP2_Dataset").parent.glob("arr*")) == []


def test_message_for_a_missing_or_empty_recording_names_it(root, tmp_path):
    recordings = tmp_path / "PAMAP2_Dataset" / "Protocol"
    shutil.copytree(root / "sensor" / "pamap2" / "PAMAP2_Dataset" / "Protocol", recordings)
    (recordings / "subject104.dat").write_text("")
    with pytest.raises(DataError, match=r"subject104\.dat cannot be read: No columns to parse"):
        pamap2.Pamap2.convert(tmp_path)
    (recordings / "subject104.dat").unlink()
    with pytest.raises(DataError, match=r"subject104\.dat cannot be read: .*No such file"):
        pamap2.Pamap2.convert(tmp_path)


# --- HIGGS -----------------------------------------------------------------------------------------------------------

PUBLISHED = (  # by name, as TensorFlow Datasets stores them
    *(f"jet_{k}_{what}" for k in range(1, 5) for what in ("b-tag", "eta", "phi", "pt")),
    "lepton_eta", "lepton_pT", "lepton_phi", "m_bb", "m_jj", "m_jjj", "m_jlv", "m_lv", "m_wbb", "m_wwbb",
    "missing_energy_magnitude", "missing_energy_phi",
)  # fmt: skip


@pytest.fixture(scope="module")
def collisions() -> pd.DataFrame:
    lines = io.StringIO("\n".join(MINIATURES["higgs_lines"]()))
    return pd.read_csv(lines, names=["label", *higgs.COLUMNS])


@pytest.mark.parametrize("columns", ["published", "upstream"])
@pytest.mark.parametrize("cls", [higgs.Higgs, higgs.HiggsTransfer])
def test_higgs_follows_the_published_split(cls, columns, root, collisions):
    count = len(collisions)  # 1003: a tenth is not a whole number
    part = collisions.iloc[:903] if cls is higgs.Higgs else collisions.iloc[903:]
    shuffled = part.sample(frac=1, random_state=42)
    cut = int(np.ceil(0.9 * len(part)))
    names = PUBLISHED if columns == "published" else higgs.COLUMNS
    seen = 0
    for dataset, expected in zip(both(cls, root, columns=columns), (shuffled[:cut], shuffled[cut:]), strict=True):
        samples = [dataset[index] for index in range(len(dataset))]
        numbers = np.stack([sample["inputs"]["numeric"] for sample in samples])
        assert numbers.dtype == np.float32
        np.testing.assert_array_equal(numbers, expected[list(names)].to_numpy(np.float32))
        assert [sample["label"] for sample in samples] == expected["label"].tolist()
        assert dataset.describe(2).endswith(f"HIGGS.csv.gz row {expected.index[2] + 1}")
        seen += len(dataset)
    assert seen == len(part)
    assert count == 1003


def test_higgs_sizes_and_task(root):
    counts = higgs.Higgs.source.sample_counts, higgs.HiggsTransfer.source.sample_counts
    first, stop = higgs.HiggsTransfer.part(11_000_000)
    assert higgs.Higgs.part(11_000_000) == (0, first) == (0, 9_900_000)
    assert stop == 11_000_000
    assert counts == ({"train": 8_910_000, "test": 990_000}, {"train": 990_000, "test": 110_000})
    train, _ = both(higgs.Higgs, root)
    assert (train.task.kind, train.task.size, train.task.metric) == ("classes", 2, "accuracy")


def test_higgs_arrays_do_not_depend_on_the_chunk_size(root, tmp_path, monkeypatch):
    shutil.copy(root / "particle_physics" / "HIGGS.csv.gz", tmp_path)
    monkeypatch.setattr(higgs, "CHUNK", 100)
    sizes = []
    read_numbers = higgs.read_numbers
    monkeypatch.setattr(
        higgs, "read_numbers", lambda *a: (sizes.append(len(chunk)) or chunk for chunk in read_numbers(*a))
    )
    higgs.Higgs.convert(tmp_path)
    assert sizes == [100] * 10 + [3]
    assert content(tmp_path / "arrays") == content(root / "particle_physics" / "arrays")
    train, _ = both(higgs.Higgs, tmp_path)
    assert isinstance(train.numbers.array.base, np.memmap)
    assert not train.numbers.array.flags.writeable
    shutil.rmtree(tmp_path / "arrays")
    higgs.HiggsTransfer.convert(tmp_path)  # both classes write the same arrays
    assert content(tmp_path / "arrays") == content(root / "particle_physics" / "arrays")


def test_higgs_is_pickled_without_its_arrays(root):
    train, _ = both(higgs.Higgs, root)
    train[0]
    data = pickle.dumps(train)
    assert len(data) < 4 * len(train) + 6000  # the row numbers of the split, not the values
    np.testing.assert_array_equal(pickle.loads(data)[5]["inputs"]["numeric"], train[5]["inputs"]["numeric"])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, "2.0", r"HIGGS\.csv\.gz row 78: class 2 is neither 0 nor 1"),
        (3, "signal", r"row 78: column 4 is 'signal', not a number"),
        (28, "", r"row 78: column 29 is '', not a number"),
        (5, "", r"row 78: column 6 is '', not a number"),
        (5, "nan", r"row 78: column 6 is 'nan'"),
        (None, "1.0", r"row 78: 28 columns, not 29"),
    ],
)
def test_message_for_a_bad_higgs_table_names_the_row(tmp_path, monkeypatch, column, value, message):
    lines = MINIATURES["higgs_lines"](200)
    cells = lines[77].split(",")
    if column is None:
        cells.pop()
    else:
        cells[column] = value
    lines[77] = ",".join(cells)
    with gzip.open(tmp_path / "HIGGS.csv.gz", "wt") as file:
        file.write("\n".join(lines))
    monkeypatch.setattr(higgs, "CHUNK", 30)
    with pytest.raises(DataError, match=message):
        higgs.Higgs.convert(tmp_path)
    assert list((tmp_path / "arrays").iterdir()) == []


def test_higgs_that_is_cut_off_or_no_gzip_is_one_line(tmp_path):
    whole = gzip.compress("\n".join(MINIATURES["higgs_lines"](300)).encode())
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    for content in (whole[: len(whole) // 2], bytes(damaged), b"no gzip at all"):
        (tmp_path / "HIGGS.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"HIGGS\.csv\.gz (cannot be read: |row \d+: )") as caught:
            higgs.Higgs.convert(tmp_path)
        assert "\n" not in str(caught.value)


def test_numbers_of_one_column_and_a_blank_line(tmp_path):
    (tmp_path / "a.txt").write_text("1\n\n2\n3.5\n")
    pieces = list(_numbers.read_numbers(tmp_path / "a.txt", 1, ",", 2))
    assert np.concatenate(pieces).tolist() == [[1.0], [2.0], [3.5]]
    (tmp_path / "a.txt").write_text("1\n\n2\nx\n")
    with pytest.raises(DataError, match=r"a\.txt row 3: column 1 is 'x'"):
        list(_numbers.read_numbers(tmp_path / "a.txt", 1, ",", 1))


# --- all data sets ---------------------------------------------------------------------------------------------------

ALL = (pamap2.Pamap2, pamap2_spectrogram.Pamap2Spectrogram, higgs.Higgs, higgs.HiggsTransfer)


def test_every_data_set_has_a_miniature():
    assert {(cls.modality, cls.name) for cls in ALL} == set(WRITERS)


@pytest.mark.parametrize("cls", ALL)
def test_message_for_missing_data_names_the_command(cls, root, tmp_path):
    command = f"`sslx data prepare {cls.modality}/{cls.name} --root {tmp_path}`"
    with pytest.raises(DataError, match=command):
        both(cls, tmp_path)
    target = tmp_path / cls.source.folder / cls.source.archives[0].produces
    target.parent.mkdir(parents=True)
    target.symlink_to(root / cls.source.folder / cls.source.archives[0].produces)
    with pytest.raises(DataError, match=f"there is no .*/arrays.*{command}"):
        both(cls, tmp_path)


@pytest.mark.parametrize("cls", ALL)
def test_fingerprint_changes_with_the_arrays(cls, root, tmp_path):
    folder = cls.source.folder
    shutil.copytree(root / folder, tmp_path / folder)
    before = both(cls, tmp_path)[0].fingerprint()
    shutil.rmtree(tmp_path / folder / "arrays")
    cls.convert(tmp_path / folder)
    assert both(cls, tmp_path)[0].fingerprint() != before
