"""Write the tables of results/kills.json, endurance.json and mutations.json to docs/reliability.md.

    python benchmarks/reliability.py

Replaces the text between `<!-- NAME: begin -->` and `<!-- NAME: end -->` of the page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from publish import fill

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "reliability.md"


def kills(rows: dict[str, Any]) -> str:
    """The table of the kills."""
    counts = {
        name: (row["moments"], row["operations"], row["identical"], len(row["lost"])) for name, row in rows.items()
    }
    total = tuple(map(sum, zip(*counts.values(), strict=True)))
    lines = [
        "| command | kills at random moments | kills at operations on files | identical after | lost |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| `{name}` | {' | '.join(map(str, row))} |" for name, row in counts.items()]
    return "\n".join([*lines, f"| all | {' | '.join(f'{number:,}' for number in total)} |"])


def endurance(result: dict[str, Any]) -> str:
    """The table of the comparisons under kills, and that of the slopes of undisturbed processes."""
    rows = result["comparisons"]
    lines = [
        "| comparison | cells | kills of all, comparison, training | starts | same scores |",
        "|---|---|---|---|---|",
    ]
    for number, row in enumerate(rows, 1):
        kills = ", ".join(str(row["kills"].count(victim)) for victim in ("all", "comparison", "training"))
        lines.append(f"| {number} | {row['cells']} | {kills} | {row['starts']} | {'yes' if row['same'] else 'no'} |")
    lines += ["", "| process | number | hours in all | MB an hour | descriptors an hour |", "|---|---|---|---|---|"]
    for name, slope in result["slopes"].items():
        if slope["processes"]:
            memory, files = (
                f"{slope[f'{what}_per_hour']:+.2f} ± {slope[f'{what}_per_hour_error']:.2f}"
                for what in ("mb", "descriptors")
            )
            lines.append(f"| {name} | {slope['processes']} | {slope['hours']:.1f} | {memory} | {files} |")
    return "\n".join(lines)


def mutations(rows: dict[str, Any]) -> str:
    """The table of the mutated files."""
    good = ("read", "refused")
    lines = ["| format | mutations | read | refused in one line | all else |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        outcomes = row["outcomes"]
        rest = sum(count for outcome, count in outcomes.items() if outcome not in good)
        read, refused = (outcomes.get(outcome, 0) for outcome in good)
        lines.append(f"| {name} | {row['count']:,} | {read:,} | {refused:,} | {rest:,} |")
    return "\n".join(lines)


def current() -> str:
    """The page with the tables of the results."""
    page = PAGE.read_text()
    for name, table in {"kills": kills, "endurance": endurance, "mutations": mutations}.items():
        page = fill(page, name, table(json.loads((HERE / "results" / f"{name}.json").read_text())))
    return page


if __name__ == "__main__":
    PAGE.write_text(current())
