"""The command `sslx export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssl_core.cli.common import Block, CheckpointName, Debug, command, load_catalogue


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("export")(command(export))


def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a saved encoder.")],
    to: Annotated[
        str,
        typer.Option(
            help="safetensors: weights and configuration. torch: a torch.export program. onnx. hf: a folder for the "
            "Hugging Face hub."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="A new or empty folder; by default RUN/export/FORMAT.")] = None,
    per_token: Annotated[
        bool, typer.Option("--per-token", help="torch, onnx: also return the features of the tokens.")
    ] = False,
    layers: Annotated[
        str | None, typer.Option(help="torch, onnx: encoder layers from 1, as 4,8: their features side by side.")
    ] = None,
    readout: Annotated[
        str | None, typer.Option(help="torch, onnx: how features are read out: last, layers or layers+stats.")
    ] = None,
    checkpoint: CheckpointName = "last",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in the folder.")] = False,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Write a trained encoder for other programs: weights, a PyTorch program, ONNX, or a Hugging Face folder."""
    from ssl_core.cli.embed import numbers
    from ssl_core.cli.terminal import RichConsole
    from ssl_core.runs.export.export import check_finished, check_request, export_encoder
    from ssl_core.runs.export.request import ExportRequest
    from ssl_core.runs.trained import load_trained
    from ssl_core.utils.console import as_utf8

    folder = out or run_folder / "export" / to
    request = ExportRequest(to, folder, per_token, numbers(layers), None, overwrite, readout)
    check_request(request)
    catalogue = load_catalogue(block)
    check_finished(run_folder)
    done = export_encoder(load_trained(run_folder, catalogue, checkpoint), request)
    console = RichConsole()
    if done.max_difference is not None:
        console.info(f"checked: it differs from the encoder by {done.max_difference:.2g} at most")
    for note in done.notes:
        console.info(as_utf8(note))
    console.info(as_utf8(f"written: {done.folder} ({', '.join(done.files)})"))
