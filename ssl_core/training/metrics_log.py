"""metrics.jsonl: one line per logged step, kept in memory too, and the running mean that a line reports."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ssl_core.nn.distributed import Group
from ssl_core.utils.files import write_text

METRICS = "metrics.jsonl"
LOSS = "train/loss"
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


class MetricsLog:
    """The metrics of a run: each line goes to metrics.jsonl, to `lines` in memory, and to a listener.

    Args:
        path: metrics.jsonl; it need not exist. None: nothing is written.
        step: the step from which the run continues; later lines of the file are dropped, since they are logged again.
        listener: called with the step and the metrics of each new line.

    Attributes:
        lines: all lines.
        lost: the number of lines of the file that were damaged.

    Raises:
        OSError: the file cannot be written; its old lines stay.
    """

    def __init__(
        self, path: Path | None, step: int = 0, listener: Callable[[int, Mapping[str, float]], None] | None = None
    ) -> None:
        self.path, self.listener = path, listener
        self.lines, self.lost = ([], 0) if path is None else trim_metrics(path, step)

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one line."""
        line = {"step": step, **metrics}
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        if self.listener is not None:
            self.listener(step, metrics)


def loss_spike(lines: Sequence[Mapping[str, float]], loss: float) -> float | None:
    """The median loss of the last lines if `loss` is far above it, else None.

    lines: of the metrics so far, in order. Only these count, so that a resumed run finds the same spikes.
    """
    before = [line[LOSS] for line in lines if LOSS in line][-SPIKE_LINES:]
    if len(before) < MIN_SPIKE_LINES:
        return None
    median = statistics.median(before)
    deviation = 1.4826 * statistics.median(abs(value - median) for value in before)
    return median if loss > median + max(SPIKE_DEVIATIONS * deviation, (SPIKE - 1) * abs(median)) else None


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return all complete lines of metrics.jsonl; a line that a kill cut short is left out."""
    return read_lines(path)[0]


def lost_text(path: Path, lost: int) -> str:
    """A line about damaged lines."""
    return (
        f"warning: {lost} lines of {path} are damaged and left out"
        if lost > 1
        else (f"warning: a line of {path} is damaged and left out")
    )


def read_lines(path: Path) -> tuple[list[dict[str, float]], int]:
    """The lines of metrics.jsonl that can be read, and the number of damaged ones, without one cut short by a kill."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    lines, lost = [], 0
    for text in content.split(b"\n")[:-1]:  # what follows the last end of line is empty, or was cut short
        try:
            line = json.loads(text)
            if not isinstance(line.get("step"), int):
                raise ValueError
            lines.append(line)
        except (ValueError, AttributeError, RecursionError):
            lost += 1
    return lines, lost


def trim_metrics(path: Path, step: int) -> tuple[list[dict[str, float]], int]:
    """Drop the lines after a step, and those of the final scores; return the others, and the number of damaged lines.

    Raises:
        OSError: the file cannot be written; its old lines stay.
    """
    found, lost = read_lines(path)
    lines = [line for line in found if line["step"] <= step and not any(key.startswith("eval/") for key in line)]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return lines, lost
