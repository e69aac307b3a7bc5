"""docs/methods/: each shipped objective has a card, whose options, defaults and presets are those of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssl_core import ConfigError, Objective, plugins
from ssl_core.config import resolve as config

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "methods"
CATALOGUE = plugins.load()
SHIPPED: dict[str, type[Objective]] = {
    entry.name: entry.value for entry in CATALOGUE.entries("objective") if entry.origin.plugin.startswith("sslx:")
}
PAGES = sorted(FOLDER.glob("*.md"))
NOT_CARDS = {"index", "protocol-differences"}
SECTIONS = ["Equations", "Options", "Where the paper and the published code differ", "Presets", "Checks"]
DIFFERENCES = ["what", "paper says", "published code does", "sslx does by default", "option for the other side"]
NAMED_OPTION = re.compile(
    r"`(?:--set )?(objective|masking|tokenizer|dataset|encoder|train|evaluate)\.(\w+)(?:=([^`]+))?`"
)
ITEM_NUMBER = re.compile(r"\b[DP]\d{2}\b|\b[Pp]rotocol (?:section )?\d")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def card_of(name: str) -> str:
    return text_of(FOLDER / f"{name}.md")


def section_of(text: str, title: str) -> str:
    """The body of the second-level section with this title."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section '{title}'"
    return found[1]


def tables_of(text: str) -> Iterator[list[list[str]]]:
    """Each table as rows of cells, the header first and the ruler left out."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        yield [rows[0], *rows[2:]]


def option_table(name: str) -> dict[str, list[str]]:
    """The card's option table: the cells of each row by the option's name without its section."""
    table = next(tables_of(section_of(card_of(name), "Options")))
    assert table[0] == ["option", "symbol", "default", "meaning", "source of the default"]
    return {row[0].strip("`").removeprefix("objective."): row for row in table[1:]}


def as_written(default: Any) -> str:
    """A default as the cards write it."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple) and default:
        return str([*default])
    return "empty" if default == () else str(default)


def options_classes(section: str) -> list[Any]:
    """The classes of options that a section may have."""
    if section in config.ENGINE_SECTIONS:
        return [config.ENGINE_SECTIONS[section]]
    return [entry.value.Options for entry in CATALOGUE.entries(section)]


def accepts(options: Any, section: str, name: str, value: str) -> bool:
    _, parsed = config.parse_setting(f"{section}.{name}={value}")
    try:
        config.validate(section, options, {name: parsed})
    except ConfigError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------- all pages


def test_every_shipped_objective_has_a_card_and_nothing_else_has() -> None:
    assert {page.stem for page in PAGES} - NOT_CARDS == set(SHIPPED)


def test_index_and_navigation_lead_to_every_page() -> None:
    index, navigation = text_of(FOLDER / "index.md"), (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert f"methods/{page.name}" in navigation
        assert page.stem == "index" or f"]({page.name})" in index


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_are_well_formed(page: Path) -> None:
    for header, *rows in tables_of(text_of(page)):
        assert rows, f"a table without rows: {header}"
        for row in rows:
            assert len(row) == len(header), row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_options_exist_and_take_the_named_values(page: Path) -> None:
    for section, name, value in NAMED_OPTION.findall(text_of(page)):
        if (section, name) == ("masking", "name"):
            CATALOGUE.masking(value)
            continue
        own = section == "objective" and page.stem in SHIPPED
        classes = [SHIPPED[page.stem].Options] if own else options_classes(section)
        known = [options for options in classes if name in options.model_fields]
        assert known, f"{page.name} names {section}.{name}, which does not exist"
        if value:
            assert any(accepts(options, section, name, value) for options in known), f"{section}.{name}={value}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_refers_to_a_document_outside_the_repository(page: Path) -> None:
    assert ITEM_NUMBER.findall(text_of(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_files_exist(page: Path) -> None:
    text = text_of(page)
    for file in re.findall(r"`(test_\w+\.py)`", text):
        assert list((ROOT / "tests").rglob(file)), f"{page.name} names {file}"
    for path in re.findall(r"`(\w+/\w+\.py)`", text):
        assert (ROOT / path).is_file(), f"{page.name} names {path}"


# ----------------------------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize("name", SHIPPED)
def test_card_has_its_sections_in_order(name: str) -> None:
    assert re.findall(r"^## (.+)$", card_of(name), re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("name", SHIPPED)
def test_option_table_has_every_option_with_its_default(name: str) -> None:
    table, fields = option_table(name), SHIPPED[name].Options.model_fields
    assert list(table) == list(fields)
    for option, row in table.items():
        assert row[0] == f"`objective.{option}`"
        assert row[2].strip("`") == as_written(fields[option].default), option


@pytest.mark.parametrize("name", SHIPPED)
def test_default_masking_is_the_code_s(name: str) -> None:
    choices = SHIPPED[name].masking_choices()
    if not choices:
        assert "There is no masking." in section_of(card_of(name), "Equations")
    elif SHIPPED[name].default_masking is not None:
        (default,) = choices.values()
        (value,) = default.values.items()
        stated = f"Default masking: `{default.name}` with `masking.{value[0]}={value[1]}`"
        assert stated in section_of(card_of(name), "Options")
    else:
        _, (_, *rows) = tables_of(section_of(card_of(name), "Options"))
        assert [(row[0], row[1]) for row in rows] == [(f"`{key}`", f"`{one.name}`") for key, one in choices.items()]
        for row, (key, one) in zip(rows, choices.items(), strict=True):
            options = [f"`masking.{key}.{option}={as_written(value)}`" for option, value in one.values.items()]
            assert row[2] == ", ".join(options)


@pytest.mark.parametrize("name", SHIPPED)
def test_table_of_differences_has_its_columns(name: str) -> None:
    header, *rows = next(tables_of(section_of(card_of(name), SECTIONS[2])))
    assert header == DIFFERENCES
    assert rows


def test_table_8_on_the_card_is_the_preset() -> None:
    (header, *rows) = next(tables_of(section_of(card_of("metamae"), "Presets")))
    presets = {
        entry.value.modality: entry.value.values
        for entry in CATALOGUE.presets
        if entry.value.name == "metamae-table8" and entry.value.objective == "metamae"
    }
    paths = [column.strip("`") for column in header[2:]]
    stated = {
        row[0].strip("`"): dict(zip(paths, map(float, row[2:]), strict=True))
        for row in rows
    }  # fmt: skip
    assert stated == presets
