"""Put the tables of finished comparisons into benchmarks/README.md and benchmarks/results.

    sslx compare --config benchmarks/grids/NAME.toml --out runs/NAME
    python benchmarks/publish.py runs/NAME [--command 'how it was made']

Replaces what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, and copies comparison.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """One comparison at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that sslx compare wrote")
    parser.add_argument("--name", help="name of the table; by default that of the folder")
    parser.add_argument("--command", default="", help="the command that made it")
    arguments = parser.parse_args()
    name = arguments.name or arguments.folder.name
    results = json.loads((arguments.folder / "comparison.json").read_text())
    first = next(arguments.folder.rglob("report.json"))
    versions = json.loads(first.read_text())["versions"]
    (HERE / "results").mkdir(exist_ok=True)
    kept = {"command": arguments.command, "versions": versions, **results}
    (HERE / "results" / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    table = (arguments.folder / "comparison.md").read_text().strip()
    page = HERE / "README.md"
    text = page.read_text()
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        raise SystemExit(f"{page} has no lines '{begin}' and '{end}'; add them where the table belongs")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}")


if __name__ == "__main__":
    main()
