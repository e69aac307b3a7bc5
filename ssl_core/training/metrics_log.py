"""metrics.jsonl: one line per logged step, of which some stay in memory, and the running mean that a line reports."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ssl_core.nn.distributed import Group
from ssl_core.utils.files import write_text

METRICS = "metrics.jsonl"
LOSS = "train/loss"
SECONDS, LOSS_SPIKE = "train/seconds", "train/loss_spike"
MAX_LINES = 4096
"""Lines of training in memory, at most: enough for every plot."""
SPIKE_LINES, MIN_SPIKE_LINES = 20, 5
"""Lines whose median a loss is compared with, at most and at least."""
SPIKE, SPIKE_DEVIATIONS = 2.0, 8.0
"""A spike is so many times the median, and so many deviations above it (by the median absolute deviation)."""


@dataclass
class MetricAverager:
    """Sums of metrics since the last line of metrics.jsonl. A checkpoint saves them, so that a resumed run logs the
    same lines."""

    count: float = 0
    sums: dict[str, float] = field(default_factory=dict)
    pending: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Copy values without waiting for the device. The copy is needed: a replayed CUDA graph overwrites them."""
        self.pending.append(
            {name: value.detach().to(torch.float32, copy=True).reshape(()) for name, value in values.items()}
        )
        self.count += 1

    def settle(self) -> None:
        """Move pending values to the CPU in one transfer and add them up in order.

        A batch whose loss is not finite is left out of the means.
        """
        if self.pending:
            flat = [value for values in self.pending for value in values.values()]
            numbers = iter(torch.stack([value.to(flat[0].device) for value in flat]).tolist())
            for values in self.pending:
                read = {name: next(numbers) for name in values}
                counts = math.isfinite(read.get("loss", 0.0))
                self.count -= not counts
                for name, value in read.items():
                    self.sums[name] = self.sums.get(name, 0.0) + (value if counts else 0.0)
        self.pending.clear()

    def average_over(self, group: Group) -> None:
        """Replace counts and sums by their means over the processes, so that all of them have the same."""
        self.settle()
        mine = torch.tensor([self.count, *self.sums.values()], dtype=torch.float64)
        self.count, *sums = (group.all_reduce(mine) / group.size).tolist()
        self.sums = dict(zip(self.sums, sums, strict=True))

    def means(self) -> dict[str, float]:
        """Return the mean of each metric as `train/NAME`, and start anew; nothing if no batch counts."""
        self.settle()
        means = {f"train/{name}": total / self.count for name, total in self.sums.items() if self.count}
        self.count, self.sums = 0, {}
        return means

    def state(self) -> dict[str, object]:
        """What a checkpoint needs to restore the averager: its keyword arguments."""
        self.settle()
        return {"count": self.count, "sums": self.sums}


class KeptLines:
    """Lines of metrics.jsonl in bounded memory, so that a run may last for weeks.

    Lines with probes, scores or spikes are all kept. Of those of training the first, every n-th after it and the last
    are kept, where n is a power of 2: 1, and twice as large whenever there are more than `most`. So what is kept
    depends on the lines alone.
    """

    def __init__(self, most: int = MAX_LINES) -> None:
        self.most, self.every = most, 1
        self.losses: deque[float] = deque(maxlen=SPIKE_LINES)
        """The last losses."""
        self._lines: dict[int, dict[str, float]] = {}  # by arrival
        self._training: dict[int, int] = {}  # arrivals of the kept lines of training, by their number among those
        self._arrived = self._trained = 0

    def append(self, line: dict[str, float]) -> None:
        """Add a line."""
        self._lines[self._arrived] = line
        if LOSS in line:
            self.losses.append(line[LOSS])
        if is_plain(line):
            if self._trained and (self._trained - 1) % self.every:
                self._drop(self._trained - 1)
            self._training[self._trained] = self._arrived
            self._trained += 1
            if len(self._training) > self.most:
                self.every *= 2
                for number in list(self._training)[:-1]:
                    if number % self.every:
                        self._drop(number)
        self._arrived += 1

    def _drop(self, number: int) -> None:
        del self._lines[self._training.pop(number)]

    @property
    def lines(self) -> list[dict[str, float]]:
        """The kept lines, in order."""
        return list(self._lines.values())


def is_plain(line: Mapping[str, float]) -> bool:
    """Whether a line holds nothing but means of training."""
    return (
        SECONDS not in line and LOSS_SPIKE not in line and all(name[:6] == "train/" for name in line.keys() - {"step"})
    )


class MetricsLog:
    """The metrics of a run: each line goes to metrics.jsonl and to a listener, and some stay in memory.

    Args:
        path: metrics.jsonl; it need not exist. None: nothing is written.
        step: the step from which the run continues; later lines of the file are dropped, since they are logged again.
        listener: called with the step and the metrics of each new line.

    Attributes:
        kept: the lines in memory.
        lost: the number of lines of the file that were damaged.

    Raises:
        OSError: the file cannot be written; its old lines stay.
    """

    def __init__(
        self, path: Path | None, step: int = 0, listener: Callable[[int, Mapping[str, float]], None] | None = None
    ) -> None:
        self.path, self.listener = path, listener
        self.kept, self.lost = (KeptLines(), 0) if path is None else trim_metrics(path, step)

    @property
    def lines(self) -> list[dict[str, float]]:
        """The lines in memory."""
        return self.kept.lines

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one line."""
        line = {"step": step, **metrics}
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.kept.append(line)
        if self.listener is not None:
            self.listener(step, metrics)


def loss_spike(before: Collection[float], loss: float) -> float | None:
    """The median of the last losses if `loss` is far above it, else None.

    before: losses in metrics.jsonl, in order. Only these count, so that a resumed run finds the same spikes.
    """
    if len(before) < MIN_SPIKE_LINES:
        return None
    median = statistics.median(before)
    deviation = 1.4826 * statistics.median(abs(value - median) for value in before)
    return median if loss > median + max(SPIKE_DEVIATIONS * deviation, (SPIKE - 1) * abs(median)) else None


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl that `KeptLines` keeps; one that a kill cut short is left out."""
    return read_lines(path)[0]


def lost_text(path: Path, lost: int) -> str:
    """A line about damaged lines."""
    return (
        f"warning: {lost} lines of {path} are damaged and left out"
        if lost > 1
        else (f"warning: a line of {path} is damaged and left out")
    )


def read_lines(path: Path) -> tuple[list[dict[str, float]], int]:
    """The lines of metrics.jsonl that `KeptLines` keeps, and the number of damaged ones, without one cut short by a
    kill."""
    kept, lost = KeptLines(), 0
    for _, line in parsed_lines(path):
        if line is None:
            lost += 1
        else:
            kept.append(line)
    return kept.lines, lost


def parsed_lines(path: Path) -> Iterator[tuple[str, dict[str, float] | None]]:
    """Each line of metrics.jsonl as it is written, and what it holds; for a damaged one an empty text and None."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for raw in file:
            if not raw.endswith(b"\n"):
                return  # a kill cut it short
            try:
                text = raw.decode("utf-8")
                line = json.loads(text)
                if not isinstance(line.get("step"), int):
                    raise ValueError
            except (ValueError, AttributeError, RecursionError):
                yield "", None
            else:
                yield text, line


def trim_metrics(path: Path, step: int) -> tuple[KeptLines, int]:
    """Drop the lines after a step, and those of the final scores; return the others, and the number of damaged lines.

    Raises:
        OSError: the file cannot be written; its old lines stay.
    """
    kept, lost = KeptLines(), 0

    def remaining() -> Iterator[str]:
        nonlocal lost
        for text, line in parsed_lines(path):
            if line is None:
                lost += 1
            elif line["step"] <= step and not any(key.startswith("eval/") for key in line):
                kept.append(line)
                yield text

    write_text(path, remaining())
    return kept, lost
