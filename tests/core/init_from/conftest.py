"""A small run on series, and what the tests of runs that start from it share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sslx
from ssl_core.runs import report as reporting
from ssl_core.utils.console import Console

FAST = {
    "train.compile": "off", "train.precision": "fp32", "train.log_every": 2, "evaluate.probes": ("linear",),
    "dataset.test_fraction": 0.25,
}  # fmt: skip
MAE = {"objective.width": 16, "objective.depth": 1, "objective.heads": 1}
SMALL = {**FAST, **MAE, "encoder": {"dim": 16, "depth": 2, "heads": 2}}
CHOICE = {"objective": "mae", "batch_size": 8, "preset": "none"}


@pytest.fixture(autouse=True, scope="module")
def cheap(tmp_path_factory):
    """One cache for all tests here, and no pages, which take longer than the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "init-cache"))
        patch.setattr(reporting, "write_html", lambda *args: None)
        yield


class Lines(Console):
    def __init__(self):
        self.lines: list[str] = []

    def info(self, text):
        self.lines.append(text)


def make_series(shift: float = 0.0, scale: float = 1.0, channels: int = 2, steps: int = 32):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    times = np.arange(steps)
    x = np.sin(times * (1 + y[:, None, None]) / 3 + rng.uniform(0, 6, (40, channels, 1)))
    x = x + 0.1 * rng.standard_normal((40, channels, steps))
    return (scale * x + shift).astype(np.float32), y


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of four steps on series, with what it was trained on."""
    x, y = make_series()
    folder = tmp_path_factory.mktemp("base") / "run"
    return sslx.pretrain(x, y=y, modality="time-series", out=folder, steps=4, set=SMALL, **CHOICE), x, y


def go_on(base, out: Path, data=None, **options):
    """A run from `base`, and what its header said."""
    run, x, y = base
    x, y = (x, y) if data is None else data
    console = Lines()
    options = {"steps": 0, "batch_size": 8, "preset": "none", **options}
    options["set"] = {**FAST, **({} if "objective" in options else MAE), **options.get("set", {})}
    new = sslx.pretrain(x, y=y, modality="time-series", init_from=run.folder, out=out, console=console, **options)
    return new, "\n".join(console.lines)


@pytest.fixture(scope="module")
def kit():
    """Options, data and helpers."""
    names = {"FAST": FAST, "SMALL": SMALL, "CHOICE": CHOICE, "Lines": Lines}
    return SimpleNamespace(**names, make_series=make_series, go_on=go_on)
