"""Each row of the corpus: what was wrong once, and what is right. Rows are in the other files of this folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent


def load(name: str) -> ModuleType:
    """A file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


corpus = load("corpus")
ROWS = [
    pytest.param(fault, id=f"{path.stem}-{fault.id}")
    for path in sorted(HERE.glob("*.py"))
    if path.stem not in ("corpus", "conftest") and not path.stem.startswith("test_")
    for fault in load(path.stem).FAULTS
]


@pytest.mark.parametrize("fault", ROWS)
def test_fault(fault, tmp_path):
    corpus.check(fault, tmp_path / "data")


def test_rows_have_names_of_their_own():
    names = [row.id for row in ROWS]
    assert len(set(names)) == len(names)
