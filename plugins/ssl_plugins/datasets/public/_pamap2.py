"""PAMAP2's recordings (Reiss and Stricker, 2012): converted once, then random windows of them (protocol 2.2)."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ssl_core import Archive, ConfigError, DataError, PublicDataset, Source, Split, Task
from ssl_plugins.datasets.public._arrays import Mapped, building
from ssl_plugins.datasets.public._numbers import numbers

ARRAYS, RECORDINGS = "arrays", "PAMAP2_Dataset/Protocol"
SUBJECTS = range(1, 10)
TRAINING = (1, 2, 3, 4, 7, 8, 9)
ACTIVITIES = {
    1: "lying", 2: "sitting", 3: "standing", 4: "walking", 5: "running", 6: "cycling", 7: "Nordic walking",
    12: "ascending stairs", 13: "descending stairs", 16: "vacuum cleaning", 17: "ironing", 24: "rope jumping",
}  # fmt: skip
LEFT_OUT = 17  # missing from DABS's list (P28)
COLUMNS, CHANNELS, RATE = 54, 52, 100.0
CHUNK = 100_000  # rows that are parsed at once
ROUNDS = 100

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
    needs=(ARRAYS,),  # and no counts: windows are drawn, as many as the options say, so that a loss would not show
)  # fmt: skip


class Windows(PublicDataset):
    """Random windows of the recordings. A subclass says how long they are, and makes a sample of one."""

    source = SOURCE
    window: int

    class Options(PublicDataset.Options):
        """Options of PAMAP2. Windows with values that nothing can fill in are never drawn (P22)."""

        train_size: int = Field(50_000, ge=1, description="windows for training; published: so many each epoch")
        test_size: int = Field(10_000, ge=1, description="windows for the test")
        test_subjects: tuple[int, ...] = Field((5, 6), description="subjects of the test; DABS uses 5 alone (D44)")
        activities: Literal["all", "dabs"] = Field(
            "all", description="dabs: without ironing, which DABS's list lacks, 12 outputs all the same (P28, D45)"
        )
        protocol: Literal["fixed", "published"] = Field(
            "fixed", description="published: other windows for the test each time the data set is opened (P22)"
        )
        seed: int = Field(0, ge=0, description="seed of the windows")

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        wrong = [subject for subject in options.test_subjects if subject not in SUBJECTS or subject in TRAINING]
        if wrong or not options.test_subjects:
            raise ConfigError(
                f"dataset.test_subjects={options.test_subjects}: choose from 5 and 6; the others are trained on"
            )
        self.subjects = TRAINING if split == "train" else options.test_subjects
        place = self.folder / ARRAYS
        self.series = [Mapped(place / f"subject{100 + subject}.npy") for subject in self.subjects]
        self.known = [name for name in ACTIVITIES if options.activities == "all" or name != LEFT_OUT]
        names = tuple(ACTIVITIES[name] for name in self.known)
        self.task = Task("classes", 12, "accuracy", names=(*names, "-")[:12], title="activity")
        again = options.protocol == "published" and split == "test"
        self.seed = secrets.randbits(63) if again else options.seed
        self.who, self.labels, self.starts = self._draw(options.train_size if split == "train" else options.test_size)

    def _draw(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Subject, class and first row of each window: subject and activity evenly, then the start."""
        pairs, gaps = self._pairs()
        if not len(pairs):
            raise DataError(f"{self.folder / ARRAYS}: no activity of subjects {self.subjects} has {self.window} rows")
        rng = np.random.default_rng([self.seed, ("train", "test").index(self.split)])
        drawn: list[np.ndarray] = []
        for _ in range(ROUNDS):
            who, label, first, rows = pairs[rng.integers(len(pairs), size=size)].T
            start = first + rng.integers(0, rows - self.window)
            whole = np.empty(size, dtype=bool)
            for subject, gap in enumerate(gaps):
                mine = who == subject
                whole[mine] = gap[start[mine] + self.window] == gap[start[mine]]
            drawn.append(np.stack([who, label, start])[:, whole])
            if sum(one.shape[1] for one in drawn) >= size:
                who, label, start = np.concatenate(drawn, axis=1)[:, :size]
                return who, label, start
        raise DataError(f"{self.folder / ARRAYS}: hardly any window of {self.window} rows is without missing values")

    def _pairs(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """(p, 4): subject, class, first row and rows of each long enough; and rows with gaps before each row."""
        pairs, gaps = [], []
        for number, subject in enumerate(self.subjects):
            place = self.folder / ARRAYS
            rows = np.load(place / f"subject{100 + subject}_rows.npy")
            first = np.cumsum(rows) - rows
            for label, activity in enumerate(self.known):
                at = list(ACTIVITIES).index(activity)
                if rows[at] > self.window:
                    pairs.append((number, label, first[at], rows[at]))
            gap = np.load(place / f"subject{100 + subject}_gaps.npy")
            gaps.append(np.concatenate([[0], np.cumsum(gap)]))
        return np.array(pairs).reshape(-1, 4), gaps

    def __len__(self) -> int:
        return len(self.starts)

    def values(self, index: int) -> np.ndarray:
        """(52, window) float32 in raw units: heart rate, then 17 columns each of hand, chest and ankle."""
        start = self.starts[index]
        return np.ascontiguousarray(self.series[self.who[index]].array[start : start + self.window].T)

    def describe(self, index: int) -> str:
        """Recording, activity and window."""
        name = f"subject{100 + self.subjects[self.who[index]]}.dat"
        return f"window {index + 1} of {self.split}, {name}, {self.task.names[self.labels[index]]}"  # type: ignore[union-attr]

    def fingerprint(self) -> str:
        """Changes with the arrays and the seed that was used."""
        return ":".join([super().fingerprint(), str(self.seed), *(series.stamp() for series in self.series)])

    @classmethod
    def convert(cls, folder: Path) -> None:
        """The recordings to float32 arrays, one subject at a time. Errors: DataError with file and row."""
        if (folder / RECORDINGS).exists() and not (folder / ARRAYS).exists():
            with building(folder / ARRAYS) as work:
                for subject in SUBJECTS:
                    to_arrays(folder / RECORDINGS / f"subject{100 + subject}.dat", work)


def to_arrays(path: Path, place: Path) -> None:
    """Write a subject's rows of the 12 activities, one activity after the other: values, rows of each, and gaps.

    Missing values are interpolated linearly over the whole recording before any row is left out; what is missing at
    its start stays so, and what is missing at its end takes the last value.
    """
    table = np.concatenate(list(numbers(path, COLUMNS, " ", CHUNK, missing=True)))
    activity, values = table[:, 1], table[:, 2:]
    times = np.arange(len(values))
    for channel in values.T:  # a view: filled in place
        known = ~np.isnan(channel)
        if known.any() and not known.all():
            channel[~known] = np.interp(times[~known], times[known], channel[known], left=np.nan)
    chosen = [np.flatnonzero(activity == number) for number in ACTIVITIES]
    kept = values[np.concatenate(chosen)].astype(np.float32)
    np.save(place / f"{path.stem}.npy", kept)
    np.save(place / f"{path.stem}_rows.npy", np.array([len(rows) for rows in chosen]))
    np.save(place / f"{path.stem}_gaps.npy", np.isnan(kept).any(axis=1))
