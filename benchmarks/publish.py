"""Write the tables of a finished comparison to benchmarks/README.md, and its results to benchmarks/results.

    sslx compare --config benchmarks/grids/NAME.toml --out runs/NAME
    python benchmarks/publish.py runs/NAME [--command 'the command that produced it']

Replaces the text between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, and copies comparison.json together with the
command and the versions of the packages.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent


def fill(page: str, name: str, table: str) -> str:
    """The text of a page with a table between the markers of its name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in page or end not in page:
        raise SystemExit(f"the page lacks the markers '{begin}' and '{end}': add both lines where the table belongs")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    """Publish one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output directory of sslx compare")
    parser.add_argument("--runs", type=Path, help="folder of the runs, of a comparison by `sslx compare --from`")
    parser.add_argument("--name", help="name of the table (default: name of the directory)")
    parser.add_argument("--command", default="", help="command that produced the comparison, stored with the results")
    arguments = parser.parse_args()
    name = arguments.name or arguments.folder.name
    results = json.loads((arguments.folder / "comparison.json").read_text())
    first = next((arguments.runs or arguments.folder).rglob("report.json"))
    versions = json.loads(first.read_text())["versions"]
    (HERE / "results").mkdir(exist_ok=True)
    record = {"command": arguments.command, "versions": versions, **results}
    (HERE / "results" / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    table = (arguments.folder / "comparison.md").read_text().strip()
    page = HERE / "README.md"
    page.write_text(fill(page.read_text(), name, table))


if __name__ == "__main__":
    main()
