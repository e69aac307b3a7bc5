"""The command `sslx inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssl_core.cli.common import Block, Debug, command, load_catalogue
from ssl_core.cli.completion import names_of


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("inspect")(command(inspect))


def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Your files: a file, a folder or a pattern.")],
    modality: Annotated[
        str | None,
        typer.Option(help="Read it as this kind of data, not as the likeliest.", autocompletion=names_of("tokenizers")),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="Objective of the proposed run. Default metamae.", autocompletion=names_of("objectives")),
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", help="Also write what was found to this file; - for the standard output.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also draw a few samples, into samples.html in this folder.")] = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Say what a file or folder is, and propose the command that trains on it."""
    import json

    from ssl_core.cli.common import say
    from ssl_core.errors import ConfigError
    from ssl_core.runs.inspection.inspect import OBJECTIVE, inspect_and_open
    from ssl_core.runs.inspection.pictures import write_samples
    from ssl_core.utils.console import printable
    from ssl_core.utils.files import write_text

    catalogue = load_catalogue(block)
    inspection, opened = inspect_and_open(path, catalogue, modality=modality, objective=objective or OBJECTIVE)
    to_stdout = str(json_) == "-"
    for line in inspection.lines():
        typer.echo(printable(line), err=to_stdout)
    if json_ is not None:
        text = json.dumps(inspection.to_dict(), indent=2, ensure_ascii=False) + "\n"
        if to_stdout:
            typer.echo(text, nl=False)
        else:
            try:
                write_text(json_, text)
            except OSError as error:
                raise ConfigError(f"--json {json_}: {error.strerror}; name a file that can be written") from None
            say(f"written: {json_}")
    if out is not None and opened is not None:
        say(f"written: {write_samples(inspection, opened, out)}")
    if inspection.command is None:
        raise SystemExit(1)
