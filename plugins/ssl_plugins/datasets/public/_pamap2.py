"""PAMAP2's recordings (Reiss and Stricker, 2012): converted once to arrays, then read as random windows."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ssl_core import Archive, ConfigError, DataError, PublicDataset, Source, Split, Task
from ssl_plugins.datasets.public._arrays import LazyMemmap, atomic_dir
from ssl_plugins.datasets.public._numbers import read_numbers

ARRAYS, RECORDINGS = "arrays", "PAMAP2_Dataset/Protocol"
SUBJECTS = range(1, 10)
SPLIT_KEYS: dict[Split, int] = {"train": 0, "test": 1, "validation": 2}  # part of the windows' seed
TRAINING = (1, 2, 3, 4, 7, 8, 9)
HELD_OUT = (5, 6)
ACTIVITIES = {
    1: "lying", 2: "sitting", 3: "standing", 4: "walking", 5: "running", 6: "cycling", 7: "Nordic walking",
    12: "ascending stairs", 13: "descending stairs", 16: "vacuum cleaning", 17: "ironing", 24: "rope jumping",
}  # fmt: skip
IRONING = 17  # missing from DABS's list of activities
COLUMNS, CHANNELS, RATE = 54, 52, 100.0
CHUNK = 100_000  # rows to parse at once
ROUNDS = 100  # of drawing, before windows without gaps count as too rare

SOURCE = Source(
    homepage="https://archive.ics.uci.edu/dataset/231/pamap2+physical+activity+monitoring",
    terms="CC BY 4.0",
    folder="sensor/pamap2",
    archives=(
        Archive(
            url="https://archive.ics.uci.edu/ml/machine-learning-databases/00231/PAMAP2_Dataset.zip",
            file="PAMAP2_Dataset.zip", kind="zip", produces=RECORDINGS,
        ),
    ),
    required_paths=(ARRAYS,),  # no sample_counts: the options set the number of windows, however few rows there are
)  # fmt: skip


class WindowDataset(PublicDataset):
    """Random windows of the recordings. A subclass sets their length and converts them to samples.

    Subjects 5 and 6 are held out. Where the test uses one of them, the other is the validation split.
    """

    source = SOURCE
    window: int

    class Options(PublicDataset.Options):
        """Options of PAMAP2. Windows with missing values that cannot be interpolated are never drawn."""

        train_size: int = Field(
            50_000, ge=1, description="windows of the training split; the published codes draw as many in each epoch"
        )
        test_size: int = Field(10_000, ge=1, description="windows of the test split, and of the validation split")
        test_subjects: tuple[int, ...] = Field(
            (5, 6), description="subjects of the test split: 5, 6 or both; DABS uses 5"
        )
        activities: Literal["all", "dabs"] = Field(
            "all", description="dabs: without ironing, which DABS's list lacks; there are 12 outputs either way"
        )
        protocol: Literal["fixed", "published"] = Field(
            "fixed", description="published: draw other test windows each time the data set is opened"
        )
        seed: int = Field(0, ge=0, description="seed of the windows")

    def __init__(self, options: Any, split: Split) -> None:
        if not options.test_subjects or not set(options.test_subjects) <= set(HELD_OUT):
            raise ConfigError(
                f"dataset.test_subjects={options.test_subjects}: choose from 5 and 6; the others are trained on"
            )
        validation_subjects = tuple(subject for subject in HELD_OUT if subject not in options.test_subjects)
        if validation_subjects:
            self.splits = ("train", "validation", "test")
        super().__init__(options, split)
        subjects = {"train": TRAINING, "validation": validation_subjects, "test": options.test_subjects}
        self.subjects = subjects[split]
        arrays = self.folder / ARRAYS
        self.series = [LazyMemmap(arrays / f"subject{100 + subject}.npy") for subject in self.subjects]
        self.activities = [number for number in ACTIVITIES if options.activities == "all" or number != IRONING]
        names = tuple(ACTIVITIES[number] for number in self.activities)
        self.task = Task("classes", 12, "accuracy", names=(*names, "-")[:12], title="activity")
        draws_anew = options.protocol == "published" and split == "test"
        self.seed = secrets.randbits(63) if draws_anew else options.seed
        self.subject_ids, self.labels, self.starts = self._draw(
            options.train_size if split == "train" else options.test_size
        )

    def _draw(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Index of the subject, class and first row of each window.

        Pairs of subject and activity are drawn uniformly, then the first row.

        Raises:
            DataError: if no recording is long enough, or nearly all windows have missing values.
        """
        pairs, gap_counts = self._pairs()
        if not len(pairs):
            raise DataError(f"{self.folder / ARRAYS}: no activity of subjects {self.subjects} has {self.window} rows")
        rng = np.random.default_rng([self.seed, SPLIT_KEYS[self.split]])
        windows: list[np.ndarray] = []
        for _ in range(ROUNDS):
            subject, label, first, rows = pairs[rng.integers(len(pairs), size=size)].T
            start = first + rng.integers(0, rows - self.window)
            complete = np.empty(size, dtype=bool)
            for number, gap_count in enumerate(gap_counts):
                of_subject = start[subject == number]
                complete[subject == number] = gap_count[of_subject + self.window] == gap_count[of_subject]
            windows.append(np.stack([subject, label, start])[:, complete])
            if sum(part.shape[1] for part in windows) >= size:
                subject, label, start = np.concatenate(windows, axis=1)[:, :size]
                return subject, label, start
        raise DataError(f"{self.folder / ARRAYS}: hardly any window of {self.window} rows is without missing values")

    def _pairs(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """(p, 4) subject, class, first row and rows of each pair longer than a window; gaps before each row."""
        pairs, gap_counts = [], []
        for number, subject in enumerate(self.subjects):
            arrays = self.folder / ARRAYS
            rows = np.load(arrays / f"subject{100 + subject}_rows.npy")
            first = np.cumsum(rows) - rows
            for label, activity in enumerate(self.activities):
                position = list(ACTIVITIES).index(activity)
                if rows[position] > self.window:
                    pairs.append((number, label, first[position], rows[position]))
            gaps = np.load(arrays / f"subject{100 + subject}_gaps.npy")
            gap_counts.append(np.concatenate([[0], np.cumsum(gaps)]))
        return np.array(pairs).reshape(-1, 4), gap_counts

    def __len__(self) -> int:
        return len(self.starts)

    def values(self, index: int) -> np.ndarray:
        """(52, window) float32 in raw units: heart rate, then 17 columns for each of hand, chest and ankle."""
        start = self.starts[index]
        return np.ascontiguousarray(self.series[self.subject_ids[index]].array[start : start + self.window].T)

    def describe(self, index: int) -> str:
        """Number of the window, recording and activity."""
        name = f"subject{100 + self.subjects[self.subject_ids[index]]}.dat"
        return f"window {index + 1} of {self.split}, {name}, {self.task.names[self.labels[index]]}"  # type: ignore[union-attr]

    def fingerprint(self) -> str:
        """Changes with the options, the arrays and the seed of the windows."""
        return ":".join([super().fingerprint(), str(self.seed), *(series.state() for series in self.series)])

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Convert the recordings to float32 arrays, one subject at a time.

        Raises:
            DataError: for an invalid row, with file and row.
        """
        if (folder / RECORDINGS).exists() and not (folder / ARRAYS).exists():
            with atomic_dir(folder / ARRAYS) as work:
                for subject in SUBJECTS:
                    write_arrays(folder / RECORDINGS / f"subject{100 + subject}.dat", work)


def write_arrays(path: Path, folder: Path) -> None:
    """Write a subject's rows, sorted by activity: the values, the rows of each activity, and which rows have gaps.

    Missing values are interpolated linearly over the whole recording before rows of other activities are dropped.
    Values missing at the start stay missing; values missing at the end repeat the last one.
    """
    table = np.concatenate(list(read_numbers(path, COLUMNS, " ", CHUNK, allow_nan=True)))
    activity, values = table[:, 1], table[:, 2:]
    times = np.arange(len(values))
    for channel in values.T:  # a view: interpolated in place
        present = ~np.isnan(channel)
        if present.any() and not present.all():
            channel[~present] = np.interp(times[~present], times[present], channel[present], left=np.nan)
    rows_of = [np.flatnonzero(activity == number) for number in ACTIVITIES]
    series = values[np.concatenate(rows_of)].astype(np.float32)
    np.save(folder / f"{path.stem}.npy", series)
    np.save(folder / f"{path.stem}_rows.npy", np.array([len(rows) for rows in rows_of]))
    np.save(folder / f"{path.stem}_gaps.npy", np.isnan(series).any(axis=1))
