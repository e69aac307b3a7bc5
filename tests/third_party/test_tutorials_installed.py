"""The tutorials as their readers follow them: every command of both pages, in a fresh virtual environment."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
FEWER = " --set dataset.n_train=64 --set dataset.n_test=32"
PAGES = {"writing-an-objective.md": "sslx-denoise", "writing-a-tokenizer.md": "sslx-video"}


def commands(page: str) -> list[str]:
    """The lines of a page's bash blocks, on fewer samples; not editable, which would need one more library."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.replace("install -e ", "install ") for block in blocks for line in block.splitlines()]
    return [line + FEWER if line.startswith(("sslx run", "sslx compare")) else line for line in lines]


@pytest.mark.release
def test_pages_lead_to_where_they_say(outside):
    """Both packages are installed, tested, run and compared by the pages' own lines; uninstalled, nothing is left."""
    pytest.importorskip("hatchling")
    before = outside.fine("sslx", "plugins", "--json")
    found = outside.fine("pip", "freeze")
    said = {}
    for page, package in PAGES.items():
        shutil.copytree(DOCS / "tutorial" / package, outside.folder / package, ignore=shutil.ignore_patterns(".*"))
        lines = commands(page)
        assert "pytest" in lines
        for line in lines:
            said[package, line.split(" --steps")[0]] = outside.fine("bash", "-euc", f"cd {package}; {line}")

    plugins = json.loads(outside.fine("sslx", "plugins", "--json"))
    theirs = {row["plugin"]: row for one in plugins if one["distribution"] in PAGES.values() for row in one["plugins"]}
    assert {name: row["state"] for name, row in theirs.items()} == dict.fromkeys(
        ("objectives.denoise", "tokenizers.video", "datasets.synthetic-video"), "loaded"
    )
    assert "0 failed" in said["sslx-denoise", "sslx check denoise"]
    assert "0 failed" in said["sslx-video", "sslx check video"]
    for folder, objective, modality in (
        ("sslx-denoise/first", "denoise", "speech"), ("sslx-video/first", "metamae", "video"),
        ("sslx-video/second", "denoise", "video"),
    ):  # fmt: skip
        report = json.loads((outside.folder / folder / "report.json").read_text("utf-8"))
        assert (report["objective"], report["modality"]) == (objective, modality)
        assert {row["features"] for row in report["scores"]} == {"trained", "random_init", "raw_input"}
    for folder in ("sslx-denoise/both", "sslx-video/both"):
        table = (outside.folder / folder / "comparison.md").read_text("utf-8")
        assert re.search(r"^\| \**metamae", table, re.MULTILINE)
        assert re.search(r"^\| \**denoise", table, re.MULTILINE)

    outside.fine("pip", "uninstall", "--yes", "--quiet", *PAGES.values())
    assert outside.fine("sslx", "plugins", "--json") == before
    assert outside.fine("pip", "freeze") == found
    code, _, err = outside("sslx", "eval", "sslx-video/second")
    assert code == 1
    assert "is not installed; pip install sslx-" in err.splitlines()[-1]
