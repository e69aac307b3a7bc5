"""The command `sslx replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssl_core.cli.common import Block, Debug, Device, command, load_catalogue


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(command(replay))


def replay(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that stopped at a step.")],
    device: Device = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Repeat the step at which a run stopped, since its loss or gradient was not finite; say where it happens."""
    from ssl_core.cli.terminal import RichConsole, show_step
    from ssl_core.runs.replay import replay_run
    from ssl_core.runs.run import RunContext

    show_step(replay_run(RunContext(load_catalogue(block), run_folder, RichConsole()), device))
