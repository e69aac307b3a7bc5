"""The command line. Nothing heavy is imported before a command needs it: `sslx --help` does not load torch."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from ssl_core.cli import (
    cache,
    check,
    compare,
    data,
    embed,
    evaluate,
    export,
    finetune,
    inspect,
    plugins,
    predict,
    replay,
    run,
    show,
    submit,
    ui,
)
from ssl_core.cli.common import errors_in_one_line
from ssl_core.cli.plugin_commands import PluginGroup
from ssl_core.training.accel.threads import configure_threads

app = typer.Typer(
    name="sslx",
    cls=PluginGroup,
    help="Self-supervised learning for data of any kind: any objective on any modality, measured fairly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def version(value: bool) -> None:
    """Print the version and stop."""
    if value:
        from ssl_core import __version__

        typer.echo(f"sslx {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version_: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Self-supervised learning for data of any kind."""


for module in (
    run, replay, inspect, evaluate, embed, finetune, predict, export, compare, submit, ui, data, cache, show, check,
    plugins,
):  # fmt: skip
    module.attach(app)


def main() -> None:
    """Entry point of the `sslx` command."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # other libraries' warnings are not for users; -W shows them
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with errors_in_one_line(debug=False):
        configure_threads()  # before any command imports torch
    app()
