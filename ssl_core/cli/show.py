"""The commands `sslx list` and `sslx show`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ssl_core.cli.common import (
    Block,
    Debug,
    command,
    load_catalogue,
)


def attach(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command("list")(command(list_))
    app.command()(command(show))


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="objectives, modalities (tokenizers), datasets, maskings, probes, presets, benchmarks or runs; all if "
            "left out."
        ),
    ] = None,
    root: Annotated[Path, typer.Option(help="Where to look for runs.")] = Path("runs"),
    block: Block = None,
    debug: Debug = False,
) -> None:
    """List what is installed, or the runs in a folder."""
    if kind == "runs":
        from ssl_core.cli.terminal import show_runs

        show_runs(root)
        return
    from ssl_core import plugins
    from ssl_core.cli import listing

    usual = not block and not os.environ.get(plugins.BLOCK_VARIABLE)
    tables = listing.load_cached() if usual else None
    if tables is None:
        catalogue = load_catalogue(block)
        tables = listing.make(catalogue)
        if usual and not catalogue.problems:  # a problem is said again each time
            listing.save_cached(tables)
    listing.show(tables, kind)


def show(
    name: Annotated[
        str,
        typer.Argument(help="An objective, tokenizer, data set, masking, probe, preset, benchmark, or engine section."),
    ],
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Show every option of a plugin: type, default, meaning."""
    from ssl_core.cli.terminal import show_options

    show_options(load_catalogue(block), name)
