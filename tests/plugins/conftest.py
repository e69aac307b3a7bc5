"""Fixtures of the tests of the user's own files: open splits, check errors, run from the command line."""

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
def open_both() -> Callable[..., tuple[Any, Any]]:
    """A function that opens the training and the test split of a data set class."""

    def open_splits(cls: type[Dataset], root: Path, **options: Any) -> tuple[Dataset, Dataset]:
        parsed = cls.Options(root=str(root), **options)  # type: ignore[call-arg]
        return cls(parsed, "train"), cls(parsed, "test")

    return open_splits


@pytest.fixture
def assert_refused() -> Callable[..., None]:
    """A function that checks that opening fails with a one-line message that holds all `parts`."""

    def check(cls: type[Dataset], root: Path, *parts: str, **options: Any) -> None:
        with pytest.raises(SslxError) as error:
            cls(cls.Options(root=str(root), **options), "train")  # type: ignore[call-arg]
        message = str(error.value)
        assert "\n" not in message
        assert [part for part in parts if part not in message] == [], message

    return check


@pytest.fixture
def bad_samples() -> Callable[..., dict[str, str]]:
    """A function that maps the bad samples of all splits, by description, to their messages."""

    def find(datasets: tuple[Dataset, ...], tokenizer: Any = None) -> dict[str, str]:
        messages = {}
        for dataset in datasets:
            for index in range(len(dataset)):
                try:
                    sample = dataset[index]
                    if tokenizer is not None:
                        tokenizer.preprocess(sample["inputs"])
                except BadSample as error:
                    messages[dataset.describe(index)] = str(error)
        return messages

    return find


@pytest.fixture
def run_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """A function that calls `sslx run --data` with a tiny encoder and two steps, and returns the report."""

    def call(modality: str, data: Path, *more: str) -> dict[str, Any]:
        for name, value in {"SSLX_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "200", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        arguments = ["run", "--modality", modality, "--data", str(data), *TINY, *more, "--out", str(tmp_path / "run")]
        result = CliRunner().invoke(app.app, arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        report: dict[str, Any] = json.loads((tmp_path / "run" / "report.json").read_text())
        assert (report["dataset"], report["modality"]) == ("files", modality)
        return report

    return call


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data; skips the test if it does not exist."""
    folder = Path(os.environ.get("SSLX_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("SSLX_SHARED_DATA is not a folder")
    return folder
