"""Commands of plugins report errors as those of sslx do."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from ssl_core import ConfigError, hookimpl
from ssl_core.cli import app, plugin_commands
from ssl_core.plugins import Catalogue

group = typer.Typer(name="notes", help="Keep notes.")


@group.command()
def fail(text: str = "no note", debug: bool = False) -> None:
    raise ConfigError(f"{text};\nadd one")


@group.command()
def crash() -> None:
    raise ZeroDivisionError("by zero")


@group.command()
def leave() -> None:
    raise typer.Exit(3)


class Plugin:
    @hookimpl
    def register_commands(self):
        return [group]


@pytest.fixture
def call(monkeypatch):
    catalogue = Catalogue.from_plugins({"other:commands.notes": Plugin()})
    monkeypatch.setattr(plugin_commands, "load_catalogue", lambda block: catalogue)
    return lambda *arguments: CliRunner().invoke(app.app, ["notes", *arguments])


def test_user_error_of_a_subcommand_is_one_line(call):
    done = call("fail", "--text", "nothing")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "error: nothing; add one\n")


def test_option_debug_raises_the_error(call):
    assert isinstance(call("fail", "--debug").exception, ConfigError)


def test_unexpected_error_is_one_line_with_its_place(call):
    done = call("crash")
    assert done.exit_code == 1
    assert done.stderr.startswith("unexpected error: ZeroDivisionError: by zero (")
    assert done.stderr.count("\n") == 1


def test_exit_code_of_the_command_is_kept(call):
    assert call("leave").exit_code == 3


def test_usage_error_is_one_line(call):
    done = call("fail", "--nothing")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: no such option: --nothing")
    assert done.stderr.endswith(" (see sslx notes fail -h)\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emebd"], "no such command 'emebd'"),
        (["embed", "run"], "missing argument 'PATH'"),
        (["run", "--steps", "many"], "invalid value for '--steps'"),
        (["finetune", "run", "--seeds", "1,2"], "invalid value for '--seeds'"),
    ],
)
def test_usage_errors_of_all_commands_are_one_line(arguments, message):
    done = CliRunner().invoke(app.app, arguments)
    assert done.exit_code == 2
    assert done.stderr.lower().startswith(f"error: {message.lower()}")
    assert " (see sslx " in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_arguments_print_the_help():
    done = CliRunner().invoke(app.app, [])
    assert done.exit_code == 2
    assert "Pretrain an encoder" in done.output
