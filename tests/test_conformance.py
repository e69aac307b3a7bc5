"""The conformance kit on all installed plugins, shipped or not."""

from __future__ import annotations

import os
import runpy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ssl_core import plugins, testing
from ssl_core.cli.check import CLASSES
from ssl_core.config import resolve

CATALOGUE = plugins.load()
ROOT = Path(tempfile.gettempdir()) / f"sslx-conformance-{os.getpid()}"

# Checks that are expected to fail, with the reason: {("objective", "name"): {"check": "why"}}.
XFAIL: dict[tuple[str, str], dict[str, str]] = {}


def spoken_files(folder: Path) -> None:
    """A folder of wav files, one sub-folder for each class."""
    rng = np.random.default_rng(0)
    for number in range(24):
        label = ("no", "yes")[number % 2]
        times = np.arange(4000 + 100 * number) / 8000
        wave = np.sin(2 * np.pi * (200 + 30 * number) * times) + 0.1 * rng.normal(size=len(times))
        path = folder / label / f"{number:02}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * wave, 8000)


# Data sets that need a folder of data, and a function that writes an example of it.
EXAMPLES: dict[tuple[str, str], Callable[[Path], None]] = {("speech", "files"): spoken_files}
for path in sorted((Path(__file__).parent / "miniatures").glob("*.py")):
    EXAMPLES |= runpy.run_path(str(path))["WRITERS"]


def folder_of(modality: str, name: str) -> Path:
    return ROOT / f"{modality}-{name}"


def kit_arguments(entry: plugins.Entry[Any]) -> dict[str, Any]:
    """Arguments of the kit besides the class."""
    if entry.modality is None or (entry.modality, entry.name) not in EXAMPLES:
        return {}
    return {"options": {"root": str(folder_of(entry.modality, entry.name))}}


def all_checks() -> Iterator[Any]:
    for kind in CLASSES:
        for entry in CATALOGUE.entries(kind):
            xfail = XFAIL.get((kind, entry.name), {})
            prefix = "-".join(filter(None, (kind, entry.modality, entry.name)))
            for one in testing.parametrize(entry.value, xfail=xfail, **kit_arguments(entry)).mark.args[1]:
                yield pytest.param(*one.values, id=f"{prefix}-{one.id}", marks=one.marks)


@pytest.fixture(scope="module", autouse=True)
def _example_files() -> Iterator[None]:
    for (modality, name), make in EXAMPLES.items():
        make(folder_of(modality, name))
    yield
    shutil.rmtree(ROOT, ignore_errors=True)


@pytest.mark.parametrize("check", list(all_checks()))
def test_conforms(check):
    check()


def test_no_shipped_plugin_is_set_aside():
    assert [str(one) for one in CATALOGUE.set_aside if one.origin.plugin.startswith("sslx:")] == []


def test_every_shipped_public_data_set_has_a_miniature():
    """A public data set without a miniature is opened by no test."""
    public = [entry for entry in CATALOGUE.entries("dataset") if entry.value.source is not None]
    shipped = [entry for entry in public if entry.origin.plugin.startswith("sslx:")]
    assert [f"{one.modality}/{one.name}" for one in shipped if (one.modality, one.name) not in EXAMPLES] == []


def test_every_kind_has_a_shipped_plugin():
    for kind in set(plugins.KINDS) - {"command"}:
        assert CATALOGUE.entries(kind), f"nothing is registered as {kind}"


def test_default_maskings_exist():
    for entry in CATALOGUE.objectives.values():
        default = entry.value.default_masking
        if default is not None:
            CATALOGUE.masking(default.name).Options(**default.values)


def test_every_modality_with_a_tokenizer_has_a_default_data_set():
    for modality in CATALOGUE.tokenizers:
        assert CATALOGUE.default_dataset(modality).modality == modality


@pytest.mark.parametrize(
    "entry",
    [pytest.param(entry, id=f"{entry.name}-{i}") for i, entry in enumerate(CATALOGUE.presets)],
)
def test_preset_resolves(entry):
    """Every value of a preset belongs to an existing option, which accepts it."""
    preset = entry.value
    modality = preset.modality or next(iter(CATALOGUE.tokenizers))
    values = {"objective.name": preset.objective or next(iter(CATALOGUE.objectives)), "modality": modality}
    if preset.dataset:
        values["dataset.name"] = preset.dataset
    if not preset.default:
        values["preset"] = preset.name
    resolved, _ = resolve.resolve(CATALOGUE, values)
    assert f"{preset.name}: {preset.source}" in resolved.preset_sources
