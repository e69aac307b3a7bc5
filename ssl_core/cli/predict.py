"""The command `sslx predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssl_core.cli.common import (
    BatchSize,
    Block,
    Debug,
    Files,
    LabelPattern,
    SetData,
    StrictSamples,
    command,
    dataset_settings,
    load_catalogue,
)  # fmt: skip


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("predict")(command(predict))


def predict(
    model_folder: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a fine-tuned model, such as RUN/finetune/NAME.")
    ],
    path: Files,
    out: Annotated[
        Path | None,
        typer.Option(help="The table of predictions: .csv or .parquet; by default MODEL/predictions/NAME.csv."),
    ] = None,
    batch_size: BatchSize = 256,
    label_pattern: LabelPattern = None,
    set_: SetData = None,
    strict: StrictSamples = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Write the predictions of a fine-tuned model for your files as a table, and the score if they have labels."""
    from ssl_core.cli.terminal import RichConsole
    from ssl_core.report.finetune import FINETUNE
    from ssl_core.runs.embed import EmbedRequest, open_files, say_findings
    from ssl_core.runs.finetuned import load_finetuned
    from ssl_core.runs.predict import FORMATS, score_lines, was_trained_on, write_predictions
    from ssl_core.runs.tables import check_ending, stem_of, written_line
    from ssl_core.training.device import pick_device
    from ssl_core.utils.console import as_utf8

    options = dataset_settings("sslx predict", label_pattern, set_)
    file = out or model_folder / "predictions" / f"{stem_of(path)}.csv"
    check_ending(file, FORMATS)
    console = RichConsole()
    request = EmbedRequest(path, options, batch_size=batch_size, strict=strict)
    catalogue = load_catalogue(block)
    model = load_finetuned(model_folder, catalogue).to(pick_device(device))
    datasets = open_files(model.encoder, request, catalogue, model.label_options)
    say_findings(datasets, console)
    existed = file.exists()
    count, scored = write_predictions(model, datasets, request, file, console)
    for line in score_lines(model, scored):
        console.info(line)
    if scored.count and was_trained_on(model_folder, path):
        console.info(
            f"note       the model was fine-tuned on these files; {FINETUNE} has its score on held-out samples"
        )
    console.info(as_utf8(written_line(file, count, existed)))
