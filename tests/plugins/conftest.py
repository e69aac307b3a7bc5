"""Shared by the tests of own files: both splits, refusals in one line, a run from the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ssl_core import BadSample, Dataset, SslxError
from ssl_core.cli import app

TINY = [
    "--objective", "mae", "--steps", "2", "--batch-size", "4", "--preset", "none", "--set", "encoder.dim=16",
    "--set", "encoder.depth=1", "--set", "encoder.heads=2", "--set", "objective.width=16", "--set",
    "objective.heads=1", "--set", "objective.depth=1",
]  # fmt: skip


@pytest.fixture
def both() -> Callable[..., tuple[Any, Any]]:
    """Both splits of a data set class."""

    def open_both(cls: type[Dataset], root: Path, **options: Any) -> tuple[Dataset, Dataset]:
        made = cls.Options(root=str(root), **options)  # type: ignore[call-arg]
        return cls(made, "train"), cls(made, "test")

    return open_both


@pytest.fixture
def refused() -> Callable[..., None]:
    """Opening it is refused in one line that holds all parts."""

    def check(cls: type[Dataset], root: Path, *parts: str, **options: Any) -> None:
        with pytest.raises(SslxError) as caught:
            cls(cls.Options(root=str(root), **options), "train")  # type: ignore[call-arg]
        message = str(caught.value)
        assert "\n" not in message
        assert [part for part in parts if part not in message] == [], message

    return check


@pytest.fixture
def bad_samples() -> Callable[..., dict[str, str]]:
    """Of both splits the samples that cannot be used, as a run would name them: what it is, and why."""

    def find(datasets: tuple[Dataset, ...], tokenizer: Any = None) -> dict[str, str]:
        found = {}
        for dataset in datasets:
            for index in range(len(dataset)):
                try:
                    sample = dataset[index]
                    if tokenizer is not None:
                        tokenizer.preprocess(sample["inputs"])
                except BadSample as error:
                    found[dataset.describe(index)] = str(error)
        return found

    return find


@pytest.fixture
def run_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`sslx run --data` with a tiny encoder and two steps; returns the report."""

    def call(modality: str, data: Path, *more: str) -> dict[str, Any]:
        for name, value in {"SSLX_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "200", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        arguments = ["run", "--modality", modality, "--data", str(data), *TINY, *more, "--out", str(tmp_path / "run")]
        done = CliRunner().invoke(app.app, arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        report: dict[str, Any] = json.loads((tmp_path / "run" / "report.json").read_text())
        assert (report["dataset"], report["modality"]) == ("files", modality)
        return report

    return call


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data; skips where there is none."""
    place = Path(os.environ.get("SSLX_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if not place.is_dir():
        pytest.skip("no real data here")
    return place
