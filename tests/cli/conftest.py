"""Shared by the tests of the commands: one cache of prepared data, and the command called in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssl_core.cli import app


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for prepared data."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def quick(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """quick(*arguments): exit code, standard output, standard error; for commands that train nothing."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"SSLX_CACHE_DIR": str(cache), "COLUMNS": "200", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: object) -> tuple[int, str, str]:
        done = CliRunner().invoke(app.app, list(map(str, arguments)))
        return done.exit_code, done.stdout, done.stderr

    return call
