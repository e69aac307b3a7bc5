"""The notebooks of the documentation run, and hold outputs that are small and of no certain machine.

SSLX_UPDATE_NOTEBOOKS=1 pytest -m slow tests/test_docs_notebooks.py writes the outputs.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOONER = {"first-run", "export"}  # run by .ci/run
LARGEST_FILE, LARGEST_PICTURE = 200_000, 100_000
"""Bytes of a notebook, and of a picture in it."""
SECONDS = 600
"""Time for one cell; a busy machine is ten times as slow as an idle one."""
MACHINE = re.compile(r"/(?:home|root|tmp|work|var|Users)/|site-packages")
"""Paths of a machine."""


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def test_there_are_five_and_each_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        assert f": notebooks/{path.name}\n" in navigation


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_executed_from_top_to_bottom(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell["outputs"]) for cell in cells) >= 3
    assert read(path)["cells"][0]["source"][0].startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_small_and_of_no_certain_machine(path):
    assert path.stat().st_size < LARGEST_FILE
    for cell in code_cells(path):
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"
            picture = output.get("data", {}).get("image/png", "")
            assert len(base64.b64decode(picture)) < LARGEST_PICTURE
            texts = [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
            assert not any(MACHINE.search("".join(text)) for text in texts), texts


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", "".join(cell["source"])):
                assert (FOLDER / target).exists(), target


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=pytest.mark.slow if p.stem in SOONER else pytest.mark.release) for p in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Each cell runs, in an empty folder. Numbers may differ in their last digits from one machine to another."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for name, value in {"SSLX_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}},
        record_timing=False,
    )  # fmt: skip
    client.execute()
    if os.environ.get("SSLX_UPDATE_NOTEBOOKS"):
        for cell in notebook.cells:
            cell.outputs = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"] or []
        nbformat.write(notebook, path)
