"""The command `sslx embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_core.cli.common import Block, Debug, LabelPattern, command, load_catalogue


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("embed")(command(embed))


def embed(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Your files: a file, a folder or a pattern.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The table of features: .parquet, .csv or .npz; by default RUN/embed/NAME.parquet."),
    ] = None,
    per_token: Annotated[
        bool, typer.Option("--per-token", help="A row for each token instead of each sample.")
    ] = False,
    layers: Annotated[
        str | None, typer.Option(help="Encoder layers from 1, as 4,8: their outputs side by side.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a forward pass.")] = 256,
    label_pattern: LabelPattern = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the data set, as dataset.option=value. Repeatable.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a sample that cannot be used.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Write the features of your files as a table: labels and splits are not needed."""
    from ssl_core.api import load
    from ssl_core.cli.terminal import RichConsole
    from ssl_core.config.resolve import parse_setting
    from ssl_core.errors import ConfigError
    from ssl_core.runs.data import as_utf8
    from ssl_core.runs.embed import EmbedRequest, embed_rows, open_files, write_features

    options: dict[str, Any] = {} if label_pattern is None else {"label_pattern": label_pattern}
    for setting in set_ or ():
        name, value = parse_setting(setting)
        if not name.startswith("dataset."):
            raise ConfigError(f"--set {setting}: sslx embed takes options of the data set, as dataset.option=value")
        options[name.removeprefix("dataset.")] = value
    console = RichConsole()
    request = EmbedRequest(path, options, per_token, _numbers(layers), batch_size, strict)
    catalogue = load_catalogue(block)
    encoder = load(run_folder, device=device)
    datasets = open_files(encoder, request, catalogue)
    for line in dict.fromkeys((*datasets[0].doubts, *(line for dataset in datasets for line in dataset.warnings))):
        console.info(as_utf8(line))
    file = out or run_folder / "embed" / f"{Path(path).resolve().stem}.parquet"
    task = datasets[0].task
    rows = embed_rows(encoder, datasets, request, console)
    count = write_features(rows, file, task is not None and task.kind == "number")
    console.info(as_utf8(f"written: {file} ({count:,} samples)"))


def _numbers(text: str | None) -> tuple[int, ...] | None:
    from ssl_core.errors import ConfigError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ConfigError(f"--layers {text}: give numbers of encoder layers from 1, as 4,8")
    return tuple(map(int, parts))
