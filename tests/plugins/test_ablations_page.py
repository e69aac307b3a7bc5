"""Each command of docs/ablations.md resolves to the values of its table.

bash expands the commands with a stub of `sslx`, since a dry run of each takes minutes; tests/test_docs.py does that.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from ssl_core import plugins
from ssl_core.config.resolve import parse_setting, resolve
from ssl_core.config.schema import RunConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ablations.md"
FLAGS = {"--objective": "objective.name", "--modality": "modality", "--preset": "preset"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, list[RunConfig]]:
    """The resolved configurations of each section of the page, in order."""
    folder = tmp_path_factory.mktemp("commands")
    stub = folder / "sslx"
    stub.write_text('#!/bin/bash\nprintf "%q " "$@" >> "$CALLS"\necho >> "$CALLS"\n')
    stub.chmod(0o755)
    catalogue, configs = plugins.load(), {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        calls = folder / "calls"
        calls.write_text("")
        environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls)}
        for code in re.findall(r"^```(?:sh|bash)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
            subprocess.run(["bash", "-euc", code], env=environment, check=True, timeout=60)
        commands = [shlex.split(line) for line in calls.read_text().splitlines()]
        configs[section.splitlines()[0]] = [resolve(catalogue, settings_of(command))[0] for command in commands]
    return configs


def settings_of(command: list[str]) -> dict[str, object]:
    """The dotted paths and values of `run --dry-run --flag value --set path=value ...`."""
    assert command[:2] == ["run", "--dry-run"]
    values: dict[str, object] = {}
    for flag, value in zip(command[2::2], command[3::2], strict=True):
        path, setting = parse_setting(value) if flag == "--set" else (FLAGS[flag], value)
        values[path] = setting
    return values


def test_components(rows):
    """Table 4: linear head, deep decoder, inner step, contrast."""
    linear, deep, inner, full = rows["Components (Table 4)"]
    assert [config.objective.name for config in (linear, deep, inner, full)] == [
        "dabs-mae", "mae", "metamae", "metamae",
    ]  # fmt: skip
    assert (inner.objective.options["contrast_weight"], full.objective.options["contrast_weight"]) == (0.0, 1.0)
    assert {config.masking.options["ratio"] for config in (linear, deep, inner, full)} == {0.85}
    assert inner.model_copy(update={"objective": full.objective}) == full
    assert deep.objective.options["depth"] == full.objective.options["depth"] == 4


@pytest.mark.parametrize(
    ("section", "part", "option", "values"),
    [
        ("Nearby ratio r (Table 6)", "objective", "nearby_ratio", [0, 0.1, 0.5, 1]),
        ("Inner step size alpha (Table 11)", "objective", "alpha", [0.1, 0.5, 1.0]),
        ("Weight lambda of the contrast (Table 12)", "objective", "contrast_weight", [0.01, 0.1, 1.0]),
        ("Dropout (Table 14)", "encoder", "dropout", [0, 0.1]),
        ("Inner steps (Table 15)", "objective", "inner_steps", [1, 5]),
    ],
)
def test_rows_of_a_table_differ_in_one_option(rows, section, part, option, values):
    configs = rows[section]
    assert [config.model_dump()[part][option] for config in configs] == values
    rest = []
    for config in configs:
        tree = config.model_dump()
        del tree[part][option]
        rest.append(tree)
    assert all(tree == rest[0] for tree in rest)
    assert rest[0]["train"]["steps"] == 100_000


def test_decoder_depths(rows):
    """Tables 5 and 13."""
    depths = [(c.objective.name, c.objective.options["depth"]) for c in rows["Decoder depth (Tables 5 and 13)"]]
    assert depths == [(name, depth) for depth in (2, 4, 6) for name in ("mae", "metamae")]


def test_shared_hyper_parameters(rows):
    """Table 9."""
    two, three = rows["Sharing hyper-parameters (Tables 9 and 10)"]
    assert (two.preset, three.preset) == ("metamae-shared2", "metamae-shared3")
