"""metrics.jsonl: one line per logged step, kept in memory too, and the running mean that a line reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ssl_core.utils.files import write_text

METRICS = "metrics.jsonl"


@dataclass
class MetricAverager:
    """Sums of metrics since the last line of metrics.jsonl. A checkpoint saves them, so that a resumed run logs the
    same lines."""

    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    pending: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Copy values without waiting for the device. The copy is needed: a replayed CUDA graph overwrites them."""
        self.pending.append(
            {name: value.detach().to(torch.float32, copy=True).reshape(()) for name, value in values.items()}
        )
        self.count += 1

    def settle(self) -> None:
        """Move pending values to the CPU in one transfer and add them up in order."""
        if self.pending:
            flat = [value for values in self.pending for value in values.values()]
            numbers = iter(torch.stack([value.to(flat[0].device) for value in flat]).tolist())
            for values in self.pending:
                for name in values:
                    self.sums[name] = self.sums.get(name, 0.0) + next(numbers)
        self.pending.clear()

    def means(self) -> dict[str, float]:
        """Return the mean of each metric as `train/NAME`, and start anew."""
        self.settle()
        means = {f"train/{name}": total / self.count for name, total in self.sums.items()}
        self.count, self.sums = 0, {}
        return means

    def state(self) -> dict[str, object]:
        """What a checkpoint needs to restore the averager: its keyword arguments."""
        self.settle()
        return {"count": self.count, "sums": self.sums}


class MetricsLog:
    """The metrics of a run: each line goes to metrics.jsonl, to `lines` in memory, and to a listener.

    Args:
        path: metrics.jsonl; it need not exist.
        step: the step from which the run continues; later lines of the file are dropped, since they are logged again.
        listener: called with the step and the metrics of each new line.

    Raises:
        OSError: the file cannot be written; its old lines stay.
    """

    def __init__(
        self, path: Path, step: int = 0, listener: Callable[[int, Mapping[str, float]], None] | None = None
    ) -> None:
        self.path, self.listener = path, listener
        self.lines = trim_metrics(path, step)

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one line."""
        line = {"step": step, **metrics}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        if self.listener is not None:
            self.listener(step, metrics)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return all complete lines of metrics.jsonl; a line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def trim_metrics(path: Path, step: int) -> list[dict[str, float]]:
    """Drop the lines after a step, and those of the final scores; return the others.

    Raises:
        OSError: the file cannot be written; its old lines stay.
    """
    lines = [
        line for line in read_metrics(path) if line["step"] <= step and not any(k.startswith("eval/") for k in line)
    ]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return lines
