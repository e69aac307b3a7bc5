"""The command `sslx eval`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_core.cli.common import (
    Block,
    CheckpointName,
    Data,
    Debug,
    Device,
    LabelPattern,
    Processes,
    command,
    load_catalogue,
    start_processes,
)


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("eval")(command(evaluate))


def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    dataset: Annotated[str | None, typer.Option(help="Another labelled data set of the same modality.")] = None,
    data: Data = None,
    label_pattern: LabelPattern = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An option of dataset or evaluate, as section.option=value; also tokenizer.mean and .std, where the "
            "run was given them.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the report here; by default into RUN, or of other data or the best checkpoint into "
            "RUN/eval/NAME."
        ),
    ] = None,
    checkpoint: CheckpointName = "last",
    device: Device = None,
    processes: Processes = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Measure a trained encoder again, on its own data set or on another."""
    start_processes(processes)
    from ssl_core.cli.terminal import RichConsole, show_report
    from ssl_core.config.resolve import parse_setting
    from ssl_core.runs.evaluate import evaluate_run, serve_evaluation
    from ssl_core.runs.run import RunContext
    from ssl_core.runs.run_dir import REPORT, place_of_evaluation
    from ssl_core.runs.tables import stem_of
    from ssl_core.training.parallel import is_first, join
    from ssl_core.utils.console import Console

    overrides: dict[str, Any] = {
        "dataset.name": dataset or ("files" if data else None), "dataset.root": data,
        "dataset.label_pattern": label_pattern, "device": device,
    }  # fmt: skip
    overrides = {path: value for path, value in overrides.items() if value is not None}
    overrides |= dict(parse_setting(text) for text in set_ or ())
    own = "own" if any(path.startswith("dataset.") for path in overrides) else None
    other = stem_of(data) if data else overrides.get("dataset.name", own)
    folder = out or place_of_evaluation(run_folder, other, checkpoint)
    console = RichConsole() if is_first() else Console()
    context = RunContext(load_catalogue(block), run_folder, console, " ".join(["sslx", *sys.argv[1:]]))
    with join("repeat the command") as group:
        if group is not None and group.rank:
            serve_evaluation(overrides, context, group, checkpoint)
            return
        replaced = folder != run_folder and (folder / REPORT).exists()
        report = evaluate_run(overrides, context, folder, checkpoint)
        if replaced:
            console.info(f"note       an earlier report in {folder} was replaced; --out names another folder")
    show_report(report, folder)
