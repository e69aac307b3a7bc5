"""The command `sslx embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssl_core.cli.common import (
    BatchSize,
    Block,
    CheckpointName,
    Debug,
    Files,
    LabelPattern,
    Processes,
    SetData,
    StrictSamples,
    command,
    dataset_settings,
    load_catalogue,
    start_processes,
)  # fmt: skip


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("embed")(command(embed))


def embed(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    path: Files,
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
    readout: Annotated[
        str | None,
        typer.Option(
            help="How features are read out: last (mean over tokens of the last layer, the default), layers (means "
            "of all layers), layers+stats (also deviation and maximum of the last layer)."
        ),
    ] = None,
    checkpoint: CheckpointName = "last",
    batch_size: BatchSize = 256,
    label_pattern: LabelPattern = None,
    set_: SetData = None,
    strict: StrictSamples = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    processes: Processes = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Write the features of your files as a table: labels and splits are not needed."""
    start_processes(processes)
    from ssl_core.cli.terminal import RichConsole
    from ssl_core.runs.embed import EmbedRequest, embed_rows, open_files, say_findings, write_features
    from ssl_core.runs.tables import stem_of, written_line
    from ssl_core.runs.trained import load_trained
    from ssl_core.training.parallel import is_first, join
    from ssl_core.utils.console import Console, as_utf8

    options = dataset_settings("sslx embed", label_pattern, set_)
    console = RichConsole() if is_first() else Console()
    request = EmbedRequest(path, options, per_token, numbers(layers), batch_size, strict, readout)
    catalogue = load_catalogue(block)
    with join("repeat the command") as group:
        encoder = load_trained(run_folder, catalogue, checkpoint, device)
        datasets = open_files(encoder, request, catalogue)
        say_findings(datasets, console)
        file = out or run_folder / "embed" / f"{stem_of(path)}.parquet"
        task = datasets[0].task
        rows = embed_rows(encoder, datasets, request, console, group)
        if group is not None and group.rank:
            for _ in rows:  # the process of rank 0 writes
                pass
            return
        existed = file.exists()
        count = write_features(rows, file, task is not None and task.kind == "number")
    console.info(as_utf8(written_line(file, count, existed)))


def numbers(text: str | None) -> tuple[int, ...] | None:
    """Numbers of layers, as 4,8.

    Raises:
        ConfigError: the text is none.
    """
    from ssl_core.errors import ConfigError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ConfigError(f"--layers {text}: give numbers of encoder layers from 1, as 4,8")
    return tuple(map(int, parts))
