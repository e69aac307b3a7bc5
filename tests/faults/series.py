"""Rows of time series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from corpus import Fault, Read
from scipy.io import savemat

WINDOW = {"window": 32}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def _long(rows: int = 400, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"time": np.arange(rows), "a": np.arange(rows) + 0.5, "b": noise(rows), **columns})


def _save(folder: Path, frame: pd.DataFrame, name: str = "x.csv") -> Path:
    frame.to_csv(folder / name, index=False)
    return folder / name


def is_in_order(read: Read) -> None:
    """Channel a counts the rows."""
    for split in read.datasets:
        for inputs in read.samples(split):
            np.testing.assert_array_equal(np.diff(inputs["series"][0]), 1)


def sample_count(count: int, channels: int, steps: int | None = None):
    def check(read: Read) -> None:
        assert sum(read.sizes.values()) == count, read.sizes
        assert read.train.fields["series"].shape == (channels, steps)

    return check


# --- layouts --------------------------------------------------------------------------------------------------------


def _ucr(folder: Path, name: str = "x.tsv", delimiter: str = "\t") -> Path:
    """2,000 series of 64 steps, the label first."""
    label = np.arange(200) % 3 + 1
    rows = np.column_stack([label, noise(200, 64)])
    np.savetxt(folder / name, rows, delimiter=delimiter, fmt=["%d", *["%.5f"] * 64])
    return folder / name


def _is_ucr(read: Read) -> None:
    assert sum(read.sizes.values()) == 200
    assert read.train.fields["series"].shape == (1, 64)
    assert read.train.task.names == ("1", "2", "3")
    np.testing.assert_allclose(read.samples()[0]["series"][0, :3], noise(200, 64)[0, :3], atol=1e-4)


def _ucr_archive(folder: Path) -> None:
    _ucr(folder, "Coffee_TRAIN.txt", "  ")
    _ucr(folder, "Coffee_TEST.txt", "  ")
    (folder / "README.md").write_text("Coffee, 2 classes")


def _is_archive(read: Read) -> None:
    assert read.sizes == {"train": 200, "test": 200}
    assert read.train.fields["series"].shape == (1, 64)
    assert read.train.task.size == 3


def _wide_with_names(folder: Path) -> Path:
    frame = pd.DataFrame(noise(50, 32), columns=[f"t{i}" for i in range(32)])
    frame["label"] = ["a", "b"] * 25
    return _save(folder, frame)


def _is_wide_with_names(read: Read) -> None:
    assert sum(read.sizes.values()) == 50
    assert read.train.fields["series"].shape == (1, 32)
    assert read.train.task.names == ("a", "b")


def _wide_of_different_lengths(folder: Path) -> Path:
    """Missing values at the end of a row are padding."""
    rows = noise(50, 32)
    for i, row in enumerate(rows):
        row[20 + i % 10 :] = np.nan
    frame = pd.DataFrame(rows, columns=[str(i) for i in range(32)])
    return _save(folder, frame)


def _has_lengths(read: Read) -> None:
    assert read.train.fields["series"].shape == (1, None)
    lengths = {x["series"].shape[1] for split in read.datasets for x in read.samples(split)}
    assert lengths == set(range(20, 30))
    assert all(np.isfinite(x["series"]).all() for x in read.samples())


def _numbered_sensors(folder: Path) -> Path:
    """A table with a column of times has a row for each moment, whatever its columns are called."""
    return _save(folder, pd.DataFrame({"time": np.arange(200), **{f"x{i}": noise(200, seed=i) for i in range(20)}}))


def _maybe_wide(folder: Path) -> Path:
    return _save(folder, pd.DataFrame({f"x{i}": noise(200, seed=i) for i in range(20)}))


def _ts(folder: Path) -> None:
    for part in ("TRAIN", "TEST"):
        lines = ["# comment", "@problemName Toy", "@timestamps false", "@univariate false", "@classLabel true up down"]
        lines.append("@data")
        for i in range(10):
            channels = [",".join(f"{x:.3f}" for x in noise(12 + i % 3, seed=10 * i + c)) for c in range(2)]
            lines.append(":".join([*channels, ("up", "down")[i % 2]]))
        (folder / f"Toy_{part}.ts").write_text("\n".join(lines))


def _is_ts(read: Read) -> None:
    assert read.sizes == {"train": 10, "test": 10}
    assert read.train.fields["series"].shape == (2, None)
    assert read.train.task.names == ("down", "up")
    np.testing.assert_allclose(read.samples()[1]["series"][1], noise(13, seed=11), atol=1e-3)


def _arff(folder: Path) -> Path:
    lines = ["@relation toy", *[f"@attribute att{i} numeric" for i in range(24)], "@attribute target {1,2}", "@data"]
    lines += [",".join([*(f"{x:.4f}" for x in noise(24, seed=i)), str(i % 2 + 1)]) for i in range(20)]
    (folder / "toy.arff").write_text("\n".join(lines))
    return folder / "toy.arff"


def _is_arff(read: Read) -> None:
    assert sum(read.sizes.values()) == 20
    assert read.train.fields["series"].shape == (1, 24)
    assert read.train.task.names == ("1", "2")


STEPS = pd.DataFrame(noise(20, 24, seed=3), columns=[f"t{i}" for i in range(24)])


def _wide_beside(**columns: object):
    """Writes a table of 24 steps with other columns, the first before the steps."""

    def make(folder: Path) -> Path:
        frame = STEPS.assign(**columns)
        first = next(iter(columns))
        return _save(folder, frame[[first, *frame.columns.drop(first)]])

    return make


def _only_steps(read: Read) -> None:
    """Each sample is a row of `STEPS`, whatever lies beside them."""
    assert sum(read.sizes.values()) == 20
    for dataset in read.datasets.values():
        for index, row in enumerate(dataset.rows):
            series = dataset[index]["inputs"]["series"]
            np.testing.assert_allclose(series, STEPS.iloc[[row]], atol=1e-5)


def _without_id(read: Read) -> None:
    _only_steps(read)
    assert read.columns == {"ID": "left out", "label": "label"}


def _without_class(read: Read) -> None:
    _only_steps(read)
    assert read.columns == {"Class": "left out"}


def _two_tables(test: pd.DataFrame):
    def make(folder: Path) -> None:
        _save(folder, STEPS, "a_train.csv")
        _save(folder, test, "b_test.csv")

    return make


def _test_is_alike(read: Read) -> None:
    assert read.sizes == {"train": 20, "test": 20}
    for split in read.datasets:
        np.testing.assert_allclose(read.array("series", split)[:, 0], STEPS, atol=1e-5)


def _arff_numbers(folder: Path) -> Path:
    lines = ["@relation toy", *[f"@attribute att{i} numeric" for i in range(24)]]
    lines += ["@attribute sex {m,f}", "@attribute target numeric", "@data"]
    for i, row in enumerate(STEPS.to_numpy()):
        lines.append(",".join([*(f"{x:.6f}" for x in row), "mf"[i % 2], str(i + 0.5) if i else "?"]))
    (folder / "toy.arff").write_text("\n".join(lines))
    return folder / "toy.arff"


def _has_targets(read: Read) -> None:
    _only_steps(read)
    assert read.train.task.kind == "number"
    for dataset in read.datasets.values():
        for row, sample in zip(dataset.rows, dataset, strict=True):
            assert sample["label"] == (row + 0.5 if row else None)
    assert read.train.summary.facts["attributes not used"] == "sex"


def _ts_without_label(folder: Path) -> Path:
    lines = ["@problemName T", "@timestamps false", "@univariate true", "@classLabel true up down", "@data"]
    for i, row in enumerate(STEPS.to_numpy()):
        lines.append(",".join(f"{x:.6f}" for x in row) + ":" + ("?" if i == 3 else ("up", "down")[i % 2]))
    (folder / "x.ts").write_text("\n".join(lines))
    return folder / "x.ts"


def _one_has_no_label(read: Read) -> None:
    _only_steps(read)
    assert read.train.task.names == ("down", "up")
    assert [label for split in read.datasets for label in read.labels(split)].count(None) == 1


def _one_without_label(folder: Path) -> None:
    _save(folder, _long(id=["p", "q", "r", "s"] * 100, label=["x", "y"] * 200), "a.csv")
    _save(folder, _long(), "b.csv")


def _shifted(save, by: float = 1e9):
    """Writes 20 series of noise around a number that float32 holds in steps of 64."""

    def make(folder: Path) -> Path | None:
        return save(folder, noise(20, 40).astype(np.float64) + by)

    return make


def _save_npy(folder: Path, values: np.ndarray) -> Path:
    np.save(folder / "x.npy", values[:, np.newaxis])
    return folder / "x.npy"


def _save_npz(folder: Path, values: np.ndarray) -> Path:
    np.savez(folder / "x.npz", series=values)
    return folder / "x.npz"


def _save_recordings(folder: Path, values: np.ndarray) -> None:
    for i, row in enumerate(values):
        np.save(folder / f"{i}.npy", np.stack([row, row], axis=1))


def _save_wide(folder: Path, values: np.ndarray) -> Path:
    return _save(folder, pd.DataFrame(values, columns=[f"t{i}" for i in range(values.shape[1])]))


LOST = r"a series varies by .* around 1e\+09, where float32 has steps of 64, .*subtract the mean of each channel"


def smooth(*shape: int) -> np.ndarray:
    """Random walks along the last axis."""
    return np.cumsum(noise(*shape), axis=-1)


def _label_last(folder: Path) -> Path:
    """As the heartbeats of MIT-BIH are spread: 187 steps, the label last."""
    rows = np.column_stack([smooth(100, 60), np.arange(100) % 5])
    np.savetxt(folder / "x.csv", rows, delimiter=",")
    return folder / "x.csv"


def _is_label_last(read: Read) -> None:
    assert read.train.fields["series"].shape == (1, 60)
    assert read.train.task.size == 5


def _long_label_first(folder: Path) -> Path:
    """The activity first, and 20 sensors that change slowly: a row is a time point."""
    rows = np.column_stack([np.repeat([1, 2], 200), smooth(20, 400).T])
    np.savetxt(folder / "x.csv", rows, delimiter=",")
    return folder / "x.csv"


def _numbered_slow_channels(folder: Path) -> Path:
    return _save(folder, pd.DataFrame(smooth(20, 400).T, columns=[f"x{i}" for i in range(20)]))


def _steps_first(folder: Path) -> Path:
    np.save(folder / "x.npy", noise(40, 128, 9))
    return folder / "x.npy"


def _is_transposed(read: Read) -> None:
    assert sum(read.sizes.values()) == 40
    assert read.train.fields["series"].shape == (9, 128)
    number = int(read.train.describe(0).rsplit(" ", 1)[1]) - 1
    np.testing.assert_array_equal(read.samples()[0]["series"], noise(40, 128, 9)[number].T)


# --- long tables ----------------------------------------------------------------------------------------------------


def _sensors(folder: Path) -> Path:
    """Readings of three sensors at each moment, one below the other."""
    frame = pd.DataFrame(
        {
            "time": np.repeat(np.arange(200), 3),
            "sensor": np.tile(["hip", "arm", "leg"], 200),
            "value": np.repeat(np.arange(200), 3) + np.tile([0.0, 1000.0, 2000.0], 200),
        }
    )
    return _save(folder, frame)


def _three_channels(read: Read) -> None:
    assert read.train.fields["series"].shape == (3, 32)
    for inputs in read.samples():  # the sensors in alphabetical order
        np.testing.assert_array_equal(np.diff(inputs["series"], axis=1), 1)
        np.testing.assert_array_equal(np.diff(inputs["series"], axis=0).T, [[-1000, 2000]] * 32)
    assert read.columns["sensor"] == "left out"
    assert [name for name, role in read.columns.items() if role == "input"] == ["arm", "hip", "leg"]


def _sensors_that_fail(folder: Path) -> Path:
    frame = pd.read_csv(_sensors(folder))
    return _save(folder, frame.drop(index=[4, 30, 31]), "x.csv")


def _gaps_are_missing(read: Read) -> None:
    assert read.train.fields["series"].shape == (3, 32)
    assert sum(np.isnan(x["series"]).sum() for split in read.datasets for x in read.samples(split)) == 3


def _activities(folder: Path) -> Path:
    return _save(folder, _long(activity=["walk"] * 200 + ["sit"] * 200))


def _epoch_shuffled(folder: Path) -> Path:
    frame = _long()
    frame["timestamp"] = 1_700_000_000_000 + 20 * frame.pop("time")
    return _save(folder, frame.sample(frac=1, random_state=0))


def _is_sorted_by_time(read: Read) -> None:
    is_in_order(read)
    assert read.train.fields["series"].shape == (2, 32)
    assert {name for name, role in read.columns.items() if role == "time"}
    assert "sorted" in read.train.summary.facts["order"]


def _dates_shuffled(folder: Path) -> Path:
    frame = _long()
    frame["Date Time"] = pd.Timestamp("2024-02-28") + pd.to_timedelta(frame.pop("time"), unit="h")
    return _save(folder, frame.sample(frac=1, random_state=0))


def _date_and_time(folder: Path) -> Path:
    frame = _long()
    stamp = pd.Timestamp("2024-02-28") + pd.to_timedelta(frame.pop("time"), unit="h")
    frame["Date"], frame["Time"] = stamp.dt.strftime("%d/%m/%Y"), stamp.dt.strftime("%H:%M:%S")
    return _save(folder, frame.sample(frac=1, random_state=0))


def _parquet_timestamp(folder: Path) -> Path:
    frame = _long()
    frame["recorded"] = pd.Timestamp("2024-02-28") + pd.to_timedelta(frame.pop("time"), unit="ms")
    frame.sample(frac=1, random_state=0).to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


def _gap(folder: Path) -> Path:
    frame = _long()
    frame["time"] += np.where(frame["time"] >= 150, 3600, 0)
    frame.loc[frame.index >= 150, "a"] += 10_000
    return _save(folder, frame)


def _no_window_crosses(read: Read) -> None:
    is_in_order(read)
    assert sum(read.sizes.values()) >= 10
    assert "1 longer than 60" in read.train.summary.facts["gaps"]


def _repeated(folder: Path) -> Path:
    frame = _long()
    return _save(folder, pd.concat([frame, frame.iloc[[7, 8]]]))


def _two_people(folder: Path) -> Path:
    """Two series one below the other, without an id."""
    frame = pd.concat([_long(), _long()])
    frame["person"] = np.repeat(["p", "q"], 400)
    return _save(folder, frame)


def _people_apart(read: Read) -> None:
    is_in_order(read)
    assert read.train.summary.facts["series"].startswith("2 of 400")


def _times_overlap(folder: Path) -> Path:
    """The second series starts half a step later: no moment is repeated, and sorting would interleave the rows."""
    later = _long()
    later["time"] += 0.5
    return _save(folder, pd.concat([_long(), later]))


def _empty_channel(folder: Path) -> Path:
    return _save(folder, _long(heart_rate=np.full(400, np.nan)))


def _without_empty(read: Read) -> None:
    assert read.train.fields["series"].shape == (2, 32)
    assert read.columns["heart_rate"] == "left out"


def _empty_in_a_window(folder: Path) -> Path:
    frame = _long(heart_rate=noise(400) + 70)
    frame.loc[32:63, "heart_rate"] = np.nan
    return _save(folder, frame)


def _walks(folder: Path) -> Path:
    """Series of several people, each with one label, whose times are the same."""
    parts = [_long(60, person=f"p{n}", label=f"l{n % 3}").assign(a=noise(60, seed=n)) for n in range(12)]
    return _save(folder, pd.concat(parts))


def _sparse_window(folder: Path) -> Path:
    """24 of the 32 rows of the third window lack a value, and 8 of the fourth."""
    frame = _long()
    frame.loc[72:103, "b"] = np.nan
    return _save(folder, frame)


def _window_is_named(read: Read) -> None:
    (message,) = read.bad()
    assert "column 'heart_rate' has no value" in message
    assert "dataset.empty_channel=mean" in message


def _window_is_filled(read: Read) -> None:
    assert read.bad() == []
    filled = read.samples()[1]["series"][2]
    assert filled.std() == 0
    assert 69 < filled[0] < 71
    assert all(isinstance(prepared, dict) for prepared in read.prepared())


def _huge(folder: Path) -> Path:
    return _save(folder, _long(power=noise(400).astype(np.float64) * 1e300))


def _index_column(folder: Path) -> Path:
    _long().drop(columns="time").to_csv(folder / "x.csv")
    return folder / "x.csv"


def _european(folder: Path) -> Path:
    _long().to_csv(folder / "x.csv", sep=";", decimal=",", index=False)
    return folder / "x.csv"


def _utf16(folder: Path) -> Path:
    _long().rename(columns={"b": "µ"}).to_csv(folder / "x.csv", encoding="utf-16", index=False)
    return folder / "x.csv"


def _json_lines(folder: Path) -> Path:
    _long().to_json(folder / "x.jsonl", orient="records", lines=True)
    return folder / "x.jsonl"


def _blanks(folder: Path) -> Path:
    (folder / "x.txt").write_text(_long().to_string(index=False))
    return folder / "x.txt"


def _two_channels(read: Read) -> None:
    is_in_order(read)
    assert read.train.fields["series"].shape == (2, 32)
    assert sum(read.sizes.values()) == 12
    assert read.columns["time"] == "time"


def _capital_label(folder: Path) -> Path:
    return _save(folder, _long(Label=["walk"] * 200 + ["sit"] * 200))


def _without_names(folder: Path) -> Path:
    np.savetxt(folder / "x.csv", np.column_stack([np.arange(400), noise(400, 3)]), delimiter=",")
    return folder / "x.csv"


def _short(folder: Path) -> Path:
    return _save(folder, _long(100))


# --- arrays ---------------------------------------------------------------------------------------------------------


def _recordings(folder: Path) -> None:
    for i in range(8):
        np.save(folder / f"{i}.npy", noise(500 + 10 * i, 3, seed=i))


def _eight_recordings(read: Read) -> None:
    assert read.train.fields["series"].shape == (3, 32)
    files = [
        {read.datasets[s].describe(i).split(" step ")[0] for i in range(len(read.datasets[s]))} for s in read.sizes
    ]
    assert sum(map(len, files)) == 8
    assert files[0].isdisjoint(files[1])
    name = read.train.describe(0).split(" step ")[0]
    np.testing.assert_array_equal(read.samples()[0]["series"], np.load(name)[:32].T)


def _channels_first(folder: Path) -> None:
    for i in range(8):
        np.save(folder / f"{i}.npy", np.ascontiguousarray(noise(500 + 10 * i, 3, seed=i).T))


def _flat_arrays(folder: Path) -> None:
    for i in range(8):
        np.save(folder / f"{i}.npy", noise(100 + i, seed=i))


def _many_channels(folder: Path) -> None:
    for i in range(8):
        np.save(folder / f"{i}.npy", noise(100 + i, 64, seed=i))


def _samples(folder: Path) -> Path:
    np.save(folder / "x.npy", noise(40, 3, 64))
    return folder / "x.npy"


def _one_recording(folder: Path) -> Path:
    np.save(folder / "x.npy", noise(5000, 3))
    return folder / "x.npy"


def _objects(folder: Path) -> Path:
    ragged = np.empty(5, object)
    ragged[:] = [noise(10 + i) for i in range(5)]
    np.save(folder / "x.npy", ragged)
    return folder / "x.npy"


def _mat(folder: Path) -> None:
    for i in range(6):
        savemat(folder / f"{i}.mat", {"data": noise(4, 300 + i, seed=i), "fs": 100.0, "subject": f"s{i}"})


def _mat_of_unknown_name(folder: Path) -> None:
    for i in range(6):
        savemat(folder / f"{i}.mat", {"eeg": noise(4, 300 + i, seed=i), "eog": noise(2, 300 + i)})


def _hdf5(folder: Path) -> None:
    try:
        import h5py
    except ImportError:
        (folder / "0.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        return
    for i in range(6):
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file["run/data"] = noise(300 + i, 4, seed=i)


def _edf(folder: Path) -> None:
    try:
        import edfio
    except ImportError:
        (folder / "0.edf").write_bytes(b"0       " + bytes(300))
        return
    for i in range(4):
        signals = [
            edfio.EdfSignal(noise(1000, seed=i), 100, label="EEG Fpz", physical_dimension="uV"),
            edfio.EdfSignal(np.repeat(np.arange(10.0), 10), 10, label="Resp", physical_dimension="mV"),
        ]
        edfio.Edf(signals).write(folder / f"{i}.edf")


def _is_edf(read: Read) -> None:
    assert read.train.fields["series"].shape == (2, 32)
    assert read.train.fields["series"].rate == 100
    assert [(column.name, column.why) for column in read.train.summary.columns] == [("EEG Fpz", "uV"), ("Resp", "mV")]


def _with(extra: str, found: Fault, missing: str) -> Fault:
    """The row where the optional library is installed; where it is not, it is named."""
    try:
        __import__(extra)
    except ImportError:
        return Fault(found.id, found.modality, found.make, error=missing)
    return found


TS = "time-series"


def _huge_are_scaled(read: Read) -> None:
    power = read.array("series")[:, -1] if read.train.channels[-1] == "power" else read.array("series")[:, 0]
    assert np.isfinite(power).all()
    assert 0.5 < power.std() < 2


def _only_training(read: Read, count: int) -> None:
    assert {split: size for split, size in read.sizes.items() if size} == {"train": count}


FAULTS = [
    Fault("wide: UCR text", TS, _ucr, _is_ucr, doubt=r"a series of 64 steps.*\.layout=wide.*dataset\.layout=long"),
    Fault("wide: UCR text by option", TS, _ucr, _is_ucr, options={"layout": "wide"}),
    Fault("wide: UCR archive of text files", TS, _ucr_archive, _is_archive),
    Fault("wide: numbered columns", TS, _wide_with_names, _is_wide_with_names),
    Fault("wide: rows of different lengths", TS, _wide_of_different_lengths, _has_lengths),
    Fault("wide: not with a column of times", TS, _numbered_sensors, sample_count(6, 20, 32), options=WINDOW),
    Fault("wide: x0 to x19", TS, _maybe_wide, doubt=r"its columns x0 to x19 are numbered.*dataset\.layout=long"),
    Fault("wide: long on wish", TS, _maybe_wide, sample_count(6, 20, 32), options={**WINDOW, "layout": "long"}),
    Fault("wide: label last", TS, _label_last, _is_label_last, doubt="the last of its 61 columns.*dataset.layout=long"),
    Fault("wide: not if rows are alike", TS, _long_label_first, sample_count(12, 21, 32), options=WINDOW,
          doubt=r"dataset\.header"),
    Fault("wide: not if channels are slow", TS, _numbered_slow_channels, sample_count(12, 20, 32), options=WINDOW),
    Fault("arrays: channels last", TS, _steps_first, _is_transposed, doubt="9 channels of 128 steps; set dataset"),
    Fault("arrays: channels last by option", TS, _steps_first, _is_transposed, options={"order": "last"}),
    Fault("arrays: many channels first", TS, _steps_first, sample_count(40, 128, 9), options={"order": "first"}),
    Fault("archive: .ts", TS, _ts, _is_ts),
    Fault("archive: .arff", TS, _arff, _is_arff),
    Fault(
        "long: sensors below each other", TS, _sensors, options=WINDOW,
        doubt=r"column 'sensor' holds 3 different texts.*dataset\.pivot=sensor",
    ),
    Fault("long: pivot", TS, _sensors, _three_channels, options={**WINDOW, "pivot": "sensor"}),
    Fault("long: pivot with gaps", TS, _sensors_that_fail, _gaps_are_missing, options={**WINDOW, "pivot": "sensor"}),
    Fault(
        "long: a text column of labels", TS, _activities, options=WINDOW,
        doubt="column 'activity' holds 2 different texts, and it is not used.*dataset.label=activity",
    ),
    Fault("time: epoch in shuffled rows", TS, _epoch_shuffled, _is_sorted_by_time, options=WINDOW),
    Fault("time: dates in shuffled rows", TS, _dates_shuffled, _is_sorted_by_time, options=WINDOW),
    Fault(
        "time: date and time of day", TS, _date_and_time, options=WINDOW,
        doubt=r"row 1: column 'Date and Time' holds .*the rows keep their order.*dataset\.time_format",
    ),
    Fault(
        "time: format", TS, _date_and_time, _is_sorted_by_time,
        options={**WINDOW, "time_format": "%d/%m/%Y %H:%M:%S"},
    ),
    Fault("time: Parquet timestamp of any name", TS, _parquet_timestamp, _is_sorted_by_time, options=WINDOW),
    Fault(
        "time: gap", TS, _gap, options=WINDOW,
        doubt=r"time has 1 gap of up to 3601, where the usual step is 1, .*row 150; set dataset\.max_gap=10",
    ),
    Fault("time: gap is cut", TS, _gap, _no_window_crosses, options={**WINDOW, "max_gap": 60}),
    Fault("time: gap on wish", TS, _gap, options={**WINDOW, "max_gap": "off"}),
    Fault("time: repeated moments", TS, _repeated, options=WINDOW, warning="2 rows have the time of another row"),
    Fault("time: two series without id", TS, _two_people, options=WINDOW, doubt=r"dataset\.id"),
    Fault("time: two series with id", TS, _two_people, _people_apart, options={**WINDOW, "id": "person"}),
    Fault("time: series at other moments", TS, _times_overlap, options=WINDOW, doubt=r"starts again 1 .*dataset\.id"),
    Fault(
        "missing: empty channel", TS, _empty_channel, _without_empty, options=WINDOW,
        doubt="'heart_rate' hold no number in any row, and are left out; set dataset.drop_columns=heart_rate",
    ),
    Fault(
        "missing: empty channel is dropped", TS, _empty_channel, sample_count(12, 2, 32),
        options={**WINDOW, "drop_columns": "heart_rate"},
    ),
    Fault("several series with a label each", TS, _walks, options=WINDOW,
          error=r"no window has one label, and .*several series.*dataset\.id"),
    Fault("several series with a label each, named", TS, _walks, sample_count(12, 2, 32),
          options={**WINDOW, "id": "person"}),
    Fault("missing: half of a window", TS, _sparse_window, sample_count(12, 2, 32), options=WINDOW,
          warning=r"^1 of \d+ windows lack more than half of the values of a channel, .*rows? 65 to 96"),
    Fault("wide: ID", TS, _wide_beside(ID=range(20), label=["a", "b"] * 10), _without_id),
    Fault("wide: Class", TS, _wide_beside(Class=[0, 1] * 10), _without_class, doubt=r"dataset\.label=Class"),
    Fault("wide: a dropped column", TS, _wide_beside(age=range(20)), _only_steps, options={"drop_columns": "age"}),
    Fault("wide: another order", TS, _two_tables(STEPS[STEPS.columns[::-1]]), _test_is_alike),
    Fault("wide: more steps", TS, _two_tables(STEPS.assign(t24=1.0)), _test_is_alike),
    Fault("wide: a step is absent", TS, _two_tables(STEPS.drop(columns="t7")), sample_count(20, 1, 24),
          error=r"b_test\.csv has no column 't7', which .*a_train\.csv has", cure={"exclude": "b_test.csv"}),
    Fault("arff: numbers", TS, _arff_numbers, _has_targets),
    Fault("ts: a question mark", TS, _ts_without_label, _one_has_no_label),
    Fault("long: a file without id and label", TS, _one_without_label, sample_count(12, 2, 32), options=WINDOW,
          error=r"b\.csv .* than .*a\.csv|b\.csv has no", cure={"exclude": "b.csv"}),
    Fault("range: noise around 1e9, npy", TS, _shifted(_save_npy), doubt=LOST),
    Fault("range: noise around 1e9, npz", TS, _shifted(_save_npz), doubt=LOST),
    Fault("range: noise around 1e9, recordings", TS, _shifted(_save_recordings), doubt=LOST, options=WINDOW),
    Fault("range: noise around 1e9, wide", TS, _shifted(_save_wide), doubt=LOST),
    Fault("range: noise around 1000, npy", TS, _shifted(_save_npy, 1e3), sample_count(20, 1, 40)),
    Fault("range: noise around 1000, wide", TS, _shifted(_save_wide, 1e3), sample_count(20, 1, 40)),
    Fault("missing: empty in a window", TS, _empty_in_a_window, _window_is_named, options=WINDOW),
    Fault(
        "missing: empty in a window is filled", TS, _empty_in_a_window, _window_is_filled,
        options={**WINDOW, "empty_channel": "mean"},
    ),
    Fault(
        "range: values of 1e300", TS, _huge, _huge_are_scaled, options=WINDOW,
        warning=r"column 'power' is read as \(x - 0\) / 1e\+300",
    ),
    Fault("table: semicolons and decimal commas", TS, _european, _two_channels, options=WINDOW),
    Fault("table: UTF-16", TS, _utf16, _two_channels, options=WINDOW),
    Fault("table: JSON lines", TS, _json_lines, _two_channels, options=WINDOW),
    Fault("table: columns of a text file", TS, _blanks, _two_channels, options=WINDOW),
    Fault("table: Label", TS, _capital_label, options=WINDOW, doubt=r"did you mean dataset\.label=Label"),
    Fault("table: without names", TS, _without_names, sample_count(12, 4, 32), options=WINDOW, doubt="header=no"),
    Fault(
        "one short series", TS, _short, sample_count(5, 2, 20), options={"window": 90},
        error="is one series of 100 rows, too short for a test split of windows of 90 rows", cure={"window": 20},
    ),
    Fault(
        "one short series, pretrained on whole", TS, _short, lambda read: _only_training(read, 1),
        options={"window": 90, "test_fraction": 0},
    ),
    Fault("index of pandas", TS, _index_column, sample_count(12, 2, 32), options=WINDOW),
    Fault("arrays: a recording a file", TS, _recordings, _eight_recordings, options=WINDOW),
    Fault("arrays: channels first", TS, _channels_first, sample_count(129, 3, 32), options=WINDOW),
    Fault("arrays: one axis", TS, _flat_arrays, sample_count(24, 1, 32), options=WINDOW),
    Fault("arrays: many channels", TS, _many_channels, sample_count(24, 64, 32), options=WINDOW, doubt="layout=wide"),
    Fault("arrays: many series", TS, _many_channels, sample_count(828, 1, 64), options={"layout": "wide"}),
    Fault("arrays: samples", TS, _samples, sample_count(40, 3, 64)),
    Fault("arrays: one recording", TS, _one_recording, sample_count(156, 3, 32), options=WINDOW),
    Fault("arrays: choice", TS, _recordings, sample_count(129, 2, 32), options={**WINDOW, "channels": "2,0"}),
    Fault("arrays: objects", TS, _objects, error=r"Python objects.*series of different lengths.*numpy\.save.*NaN"),
    Fault("mat", TS, _mat, sample_count(54, 4, 32), options=WINDOW),
    Fault("mat: two arrays", TS, _mat_of_unknown_name, sample_count(54, 4, 32), options=WINDOW,
          error=r"eeg float32 \(4, 300\), eog.*dataset\.key", cure={"key": "eeg"}),
    _with("h5py", Fault("hdf5", TS, _hdf5, sample_count(54, 4, 32), options=WINDOW), r"pip install 'sslx\[hdf5\]'"),
    _with("edfio", Fault("edf", TS, _edf, _is_edf, options=WINDOW), r"pip install 'sslx\[edf\]'"),
]  # fmt: skip
