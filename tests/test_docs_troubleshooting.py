"""docs/troubleshooting.md quotes messages that the code has, options that exist and flags that the commands take."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ssl_core import plugins
from ssl_core.config.resolve import ENGINE_SECTIONS
from ssl_core.training.options import FinetuneOptions

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
VARIES = "\0"
"""Stands for what a message is formatted with."""
LABELS = ("error: ", "warning: ", "doubt      ")
"""What commands print before a message."""
FEWEST_LETTERS = 20


def quoted() -> list[str]:
    """The messages on the page."""
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [" ".join(block.split("\n")).strip() for block in blocks]


def texts(path: Path) -> Iterator[str]:
    """The strings of a source file; `VARIES` for each formatted value."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VARIES for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """The strings of all source files."""
    files = [path for top in ("ssl_core", "plugins") for path in sorted((ROOT / top).rglob("*.py"))]
    return list(dict.fromkeys(text for path in files for text in texts(path)))


def fixed_words(message: str) -> list[str]:
    """The parts of a message that do not vary, without the label."""
    label = next((label for label in LABELS if message.startswith(label)), "")
    parts = (part.strip() for part in message.removeprefix(label).split("..."))
    return [part for part in parts if re.search(r"\w\w", part)]


def has_in_order(text: str, parts: list[str]) -> bool:
    """Whether a text has all parts, one after the other."""
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


@pytest.mark.parametrize("message", quoted())
def test_quoted_message_is_in_the_source(message, sources):
    parts = fixed_words(message)
    assert sum(map(len, parts)) >= FEWEST_LETTERS, "too little of the message is fixed to be found"
    whole = any(has_in_order(text, parts) for text in sources)
    apart = all(any(part in text for text in sources) for part in parts) and message in COMPOSED
    assert whole or apart, f"no message of the code has, in this order, {parts}"


COMPOSED = {
    "error: out of memory: ... lower --batch-size ...",
    "Gain over the ...: no clear difference",
    "Gain over the ...: the ... is ahead",
    "cores      ... spinning shortly, then sleeping",
    "error: no sample is left for the ... split (of ..., e.g. ...); change ... or the groups",
}
"""Messages that the code puts together from several strings; each part is a string by itself."""


def test_composed_messages_are_on_the_page():
    assert set(quoted()) >= COMPOSED


@pytest.mark.parametrize(
    ("message", "found"),
    [("a loss of ... is not ...", True), ("a loss of ... is never ...", False), ("is not ... a loss of", False)],
)
def test_words_are_looked_for_in_order(message, found):
    assert has_in_order(f"a loss of {VARIES} is not {VARIES}", fixed_words(message)) is found


def test_every_option_on_the_page_exists():
    known = {f"{name}.{key}" for name, options in ENGINE_SECTIONS.items() for key in options.model_fields}
    known |= {f"finetune.{key}" for key in FinetuneOptions.model_fields}
    for kind in ("objective", "masking", "tokenizer", "dataset"):
        for entry in plugins.load().entries(kind):
            known |= {f"{kind}.{key}" for key in entry.value.Options.model_fields}
    sections = "|".join({path.partition(".")[0] for path in known})
    named = set(re.findall(rf"(?<![\w/.])((?:{sections})\.[a-z_]+)", PAGE.read_text("utf-8")))
    assert len(named) > 10
    assert named <= known


def test_every_flag_on_the_page_exists():
    from ssl_core.cli.app import app

    commands = typer.main.get_command(app).commands.values()
    flags = {flag for command in commands for one in command.params for flag in one.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE.read_text("utf-8")))
    assert len(named) > 5
    assert named <= flags
