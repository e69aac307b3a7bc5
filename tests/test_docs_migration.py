"""docs/migration.md: its new names exist, its old ones do not, and tables of options and names are complete."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssl_core import hookspecs, plugins
from ssl_core.config.resolve import ENGINE_SECTIONS
from ssl_core.plugins import Kind

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "migration.md").read_text("utf-8")
OPTION = re.compile(r"`(?:objective|tokenizer|dataset|train)\.(\w+)")
API = json.loads((ROOT / "tests" / "api.json").read_text("utf-8"))


def rows(title: str) -> Iterator[list[str]]:
    """The rows of the tables of a section, without headers, as cells."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    for table in re.findall(r"(?:^\|.*\|\n)+", section[1], re.MULTILINE):
        for line in table.splitlines()[2:]:
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def options_of(scope: str) -> list[set[str]]:
    """The option names of each class that the first column of the table of options names."""
    catalogue, names = plugins.load(), re.findall(r"`([\w-]+)`", scope)
    if names[0] in ENGINE_SECTIONS:
        classes = [ENGINE_SECTIONS[names[0]]]
    elif scope.startswith("data set"):
        classes = [catalogue.dataset(names[0], modality).Options for modality in names[1:]]
    else:
        kind: Kind = "objective" if scope.startswith("objective") else "tokenizer"
        classes = [catalogue.get(kind, name).value.Options for name in names]
    return [set(options.model_fields) for options in classes]


def test_new_options_exist_and_old_ones_do_not():
    table, scope = list(rows("Options")), ""
    assert len(table) > 15
    for first, old, new in table:
        scope = first or scope
        for known in options_of(scope):
            assert set(OPTION.findall(new)) <= known, new
            assert not set(OPTION.findall(old)) & known, old


def test_new_hooks_and_public_names_exist():
    hooks = {name for name, value in vars(hookspecs).items() if hasattr(value, "sslx_spec")}
    assert set(re.findall(r"`(\w+_\w+)`", PAGE.split("## Hooks")[1].split("##")[0])) <= hooks
    names = {name for module in API.values() if isinstance(module, dict) for name in module}
    for old, new in rows("Public names"):
        assert set(re.findall(r"`([A-Z]\w+)", new)) <= names, new
        for function in re.findall(r"^`([a-z]\w*)`", old):
            assert function not in names, old


def test_new_modules_can_be_imported_and_old_ones_cannot():
    table = list(rows("Modules"))
    assert len(table) > 40
    for old, new in table:
        for name in re.findall(r"`(ssl_core[\w.]+)`", new):
            module, _, attribute = name.rpartition(".")
            if attribute[0].isupper():
                assert hasattr(importlib.import_module(module), attribute), name
            else:
                importlib.import_module(name)
        for module in re.findall(r"`(ssl_core\.[a-z_.]+)`", old):
            assert not (ROOT / Path(*module.split("."))).with_suffix(".py").exists(), module


@pytest.mark.parametrize("title", ["Options", "Public names", "Modules"])
def test_tables_name_each_old_name_once(title):
    old = [row[-2] for row in rows(title)]
    assert len(old) == len(set(old))
