"""metrics.jsonl: one line per logged step, and the window of steps that a line is the mean of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ssl_core.utils.files import write_text

METRICS = "metrics.jsonl"


@dataclass
class MetricAverager:
    """Sums of metrics since the last line of metrics.jsonl. Saved with a checkpoint, so that lines do not change."""

    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    held: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Keep copies of values (a replayed step overwrites them) without waiting for the device."""
        self.held.append(
            {name: value.detach().to(torch.float32, copy=True).reshape(()) for name, value in values.items()}
        )
        self.count += 1

    def settle(self) -> None:
        """Bring held values to the CPU, all at once, and sum them in order."""
        if self.held:
            held = [value for values in self.held for value in values.values()]
            numbers = iter(torch.stack([value.to(held[0].device) for value in held]).tolist())
            for values in self.held:
                for name in values:
                    self.sums[name] = self.sums.get(name, 0.0) + next(numbers)
        self.held.clear()

    def means(self) -> dict[str, float]:
        """Mean of each metric, and a fresh window."""
        self.settle()
        means = {f"train/{name}": total / self.count for name, total in self.sums.items()}
        self.count, self.sums = 0, {}
        return means


def append_metrics(path: Path, step: int, metrics: Mapping[str, float]) -> None:
    """One line of metrics.jsonl."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **metrics}) + "\n")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All whole lines of metrics.jsonl; a line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def trim_metrics(path: Path, step: int) -> None:
    """Drop the lines after a step, which a resumed run is about to write again. Errors: OSError, with nothing lost."""
    kept = [
        line for line in read_metrics(path) if line["step"] <= step and not any(k.startswith("eval/") for k in line)
    ]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
