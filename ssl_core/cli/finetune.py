"""The command `sslx finetune`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_core.cli.common import Block, Data, Debug, Device, LabelPattern, command, load_catalogue


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("finetune")(command(finetune))


def finetune(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of a saved encoder.")],
    data: Data = None,
    dataset: Annotated[
        str | None, typer.Option(help="Another labelled data set of the same modality; by default the run's own.")
    ] = None,
    label_pattern: LabelPattern = None,
    train: Annotated[
        str | None, typer.Option(help="What is trained beside the head: all, last:N, lora or head. Default all.")
    ] = None,
    label_fractions: Annotated[
        str | None, typer.Option(help="Shares of the labels to compare, as 0.01,0.1,1. Default 1.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    epochs: Annotated[float | None, typer.Option(help="Most passes over the labelled samples. Default 30.")] = None,
    steps: Annotated[int | None, typer.Option(help="Most optimiser steps, in place of --epochs.")] = None,
    budget: Annotated[str | None, typer.Option(help="End each training after so long: 90s, 10m, 1.5h.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a batch. Default 32.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. Default 5e-4; 2e-3 with head or lora.")] = None,
    class_weights: Annotated[str | None, typer.Option(help="none or balanced. Default none.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Metrics besides the task's own, as macro_f1,auroc.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results. By default RUN/finetune/NAME.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in that folder.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse bad samples and doubtful data.")] = False,
    device: Device = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set an option of finetune or dataset, as section.option=value. Repeatable."),
    ] = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Fine-tune a trained encoder on labels, beside the same network from scratch and a linear probe."""
    from ssl_core.api import finetuning_request
    from ssl_core.cli.terminal import RichConsole, show_finetuning
    from ssl_core.config.resolve import parse_setting
    from ssl_core.runs.finetune import check_free, finetune_encoder, place_of_finetuning, write_finetuning
    from ssl_core.runs.trained import load_trained
    from ssl_core.utils.console import as_utf8

    named: dict[str, Any] = {
        "train": train, "label_fractions": _numbers(label_fractions), "seeds": seeds, "seed": seed, "epochs": epochs,
        "steps": steps, "budget": budget, "batch_size": batch_size, "lr": lr, "class_weights": class_weights,
        "metrics": None if metrics is None else tuple(name.strip() for name in metrics.split(",") if name.strip()),
        "strict": strict, "device": device, "precision": precision, "dataset": dataset, "label_pattern": label_pattern,
        "set": dict(parse_setting(text) for text in set_ or ()),
    }  # fmt: skip
    catalogue, console = load_catalogue(block), RichConsole()
    files = {} if data is None else {"name": dataset or "files", "root": data}
    request = finetuning_request(
        {key: value for key, value in named.items() if value is not None}, files, " ".join(["sslx", *sys.argv[1:]])
    )
    folder = out or place_of_finetuning(run_folder, request.data)
    check_free(folder, overwrite)
    encoder = load_trained(run_folder, catalogue, device=device or "auto")
    model = finetune_encoder(encoder, request, catalogue, console)
    write_finetuning(model, folder, overwrite=overwrite)
    show_finetuning(model.report)
    console.info(as_utf8(f"written: {folder}; sslx predict {folder} PATH uses the model"))


def _numbers(text: str | None) -> tuple[float, ...] | None:
    from ssl_core.errors import ConfigError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"--label-fractions {text}: give shares above 0 and up to 1, as 0.01,0.1,1") from None
