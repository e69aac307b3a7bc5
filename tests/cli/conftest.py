"""Shared by the tests of the commands: one cache of prepared data, and the command called in this process, or in one
that is forked from a process which has imported the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
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


class Server:
    """Commands in processes of their own that need not import the program. It serves one command at a time."""

    def __init__(self) -> None:
        self.texts = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __call__(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
        """Run a command: exit code, standard output, standard error."""
        out, error = Path(self.texts.name) / "out", Path(self.texts.name) / "error"
        request = {
            "arguments": arguments, "folder": str(folder), "environment": environment, "out": str(out),
            "error": str(error),
        }  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, out.read_text(), error.read_text()

    def close(self) -> None:
        """End the server."""
        self.process.communicate()
        self.texts.cleanup()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Runs commands in processes of their own."""
    server = Server()
    yield server
    server.close()
