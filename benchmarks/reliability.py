"""Write the tables of results/kills.json and results/mutations.json to docs/reliability.md.

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
    read = {name: json.loads((HERE / "results" / f"{name}.json").read_text()) for name in ("kills", "mutations")}
    page = fill(PAGE.read_text(), "kills", kills(read["kills"]))
    return fill(page, "mutations", mutations(read["mutations"]))


if __name__ == "__main__":
    PAGE.write_text(current())
