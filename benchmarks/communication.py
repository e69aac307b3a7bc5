"""Calculate what several processes send in a step of MetaMAE, and write the table to docs/distributed.md.

    python benchmarks/communication.py

Nothing is measured. Sums travel in a ring, which sends 2 (N - 1) / N times the data and takes 2 (N - 1) hops.
"""

from __future__ import annotations

from pathlib import Path

from publish import fill

PAGE = Path(__file__).resolve().parent.parent / "docs" / "distributed.md"
PARAMETERS = 65_792 + 6_316_800 + 989_952
"""`sslx run --objective metamae --modality speech --preset metamae --dry-run`."""
SAMPLES, WIDTH = 64, 256
"""Samples of a process, and numbers of a pooled feature."""
STEPS = {"compiled": 6.65, "eager": 13.4}
"""Milliseconds of a bf16 step in one process with a CUDA graph on an H200, as in benchmarks/README.md."""
MACHINE = 8
LINKS = {True: (450e9, 3e-6), False: (50e9, 5e-6)}
"""Assumed bytes a second and seconds a hop, within a machine and beyond."""


def row(processes: int) -> str:
    """The row of the table for a number of processes."""
    share = (processes - 1) / processes
    gradients = 2 * share * 4 * PARAMETERS
    features = 4 * processes * SAMPLES * WIDTH
    total = gradients + 2 * (share * features + 2 * share * features)  # two gathers; a sum in the backward pass of each
    rate, latency = LINKS[processes <= MACHINE]
    hops = 8 * (processes - 1)
    spent = 1000 * (total / rate + hops * latency)
    kept = " | ".join(f"{step / (step + spent):.0%}".replace("%", " %") for step in STEPS.values())
    return f"| {processes} | {total / 1e6:.0f} | {gradients / 1e6:.0f} | {spent:.1f} | {kept} |"


def table() -> str:
    """The table."""
    head = (
        "| processes | MB a process sends | of these gradients | ms | compiled step: share that computes | eager step |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|", *map(row, (2, 8, 16, 64))])


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(), "communication", table()))
