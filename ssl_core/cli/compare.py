"""The command `sslx compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_core.cli.common import (
    Block,
    Cpus,
    Data,
    Debug,
    Device,
    Gpus,
    Grace,
    JobTime,
    LabelPattern,
    Memory,
    Partition,
    PresetName,
    ProbeEvery,
    Requeues,
    SlurmSetting,
    command,
    load_catalogue,
    resources,
    say,
)


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(command(compare))


def compare(
    objectives: Annotated[str | None, typer.Option(help="Objectives, with commas between: metamae,mae.")] = None,
    modality: Annotated[str | None, typer.Option(help="Modalities, with commas between; each a column.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A data set of the modality, in place of the embedded one.")
    ] = None,
    data: Data = None,
    label_pattern: LabelPattern = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file of methods, data and seeds.")] = None,
    seeds: Annotated[str | None, typer.Option(help="How many seeds, or which: 3 or 0,1,2. Default 3.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of every run.")] = None,
    budget: Annotated[str | None, typer.Option(help="Train each so long instead: 90s, 10m, 1.5h.")] = None,
    preset: PresetName = None,
    probe_every: ProbeEvery = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time, which share the cores. By default one a core, at most 4.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison. By default one of its own under runs/.")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Run nothing: make the tables from the run folders in here.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="An option of every run. Repeatable.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs and what is done of them, and stop.")
    ] = False,
    device: Device = None,
    launcher: Annotated[
        str | None, typer.Option(help="slurm: an array of jobs; local: the same on this machine, to try it.")
    ] = None,
    partition: Partition = None,
    time: JobTime = "1h",
    gpus: Gpus = None,
    cpus: Cpus = None,
    mem: Memory = None,
    grace: Grace = 90,
    requeues: Requeues = 100,
    slurm: SlurmSetting = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Train objectives under the same budget, seeds and probe, and write the table."""
    from ssl_core.cli.terminal import RichConsole, show_cells, show_comparison
    from ssl_core.compare import grid as grids
    from ssl_core.compare import runner as comparing
    from ssl_core.config.resolve import parse_setting
    from ssl_core.errors import ConfigError
    from ssl_core.runs.inspection.candidates import OWN
    from ssl_core.runs.inspection.complete import recognise_data

    command_line = " ".join(["sslx", *sys.argv[1:]])
    if from_ is not None:
        new = (objectives, modality, dataset, data, label_pattern, config, seeds, steps, budget, preset, probe_every)
        if set_ or dry_run or any(part is not None for part in new):
            raise ConfigError("--from trains nothing; leave out the options of new runs")
        found, problems = comparing.collect(from_)
        show_comparison(found, problems, out or from_, f"Comparison of {from_}")
        if problems:
            raise SystemExit(1)
        return
    common = dict(parse_setting(text) for text in set_ or ())
    common |= {
        path: value for path, value in (("evaluate.every", probe_every), ("device", device)) if value is not None
    }
    flags: dict[str, Any] = {
        "objectives": objectives.split(",") if objectives else None, "steps": steps, "budget": budget, "preset": preset,
        "seeds": grids.seeds_of(seeds) if seeds else None, "set": common,
    }  # fmt: skip
    catalogue, console = load_catalogue(block), RichConsole()
    if data or dataset:
        given = {"modality": modality, "dataset.root": data, "dataset.label_pattern": label_pattern}
        own = {path: value for path, value in given.items() if value is not None}
        if modality is None and dataset is None:
            own, lines = recognise_data({"dataset.name": OWN, **own}, catalogue)
            for line in lines:
                console.info(line)
        modality, name = own.pop("modality", None), own.pop("dataset.name", dataset or OWN)
        flags["data"] = [{"name": dataset or Path(str(data)).name, "modality": modality, "dataset": name, "set": own}]
    elif label_pattern is not None:
        raise ConfigError("--label-pattern is for --data or --dataset; in a grid file set dataset.label_pattern")
    elif modality:
        flags["modalities"] = modality.split(",")
    flags = {key: value for key, value in flags.items() if value is not None}
    grid = grids.read_grid(config, flags) if config else grids.make_grid(flags, "the command line")
    grid = grids.by_own_names(grid, catalogue)
    cells = grids.cells(grid, catalogue)
    folder = out or grids.default_folder(grid)
    shares = None
    if launcher is not None:
        shares = resources(
            launcher, time, mem, slurm, partition=partition, gpus=gpus, cpus=cpus, grace=grace, requeues=requeues,
            parallel=jobs or (256 if launcher == "slurm" else comparing.usual_jobs(device)), name="sslx-compare",
        )  # fmt: skip
    if dry_run:
        show_cells(cells, {cell.name for cell in cells if comparing.is_finished(folder, cell)}, folder)
        return
    console.info(f"{len(cells)} runs in {folder}; the same command goes on where it stopped")
    try:
        reports, failures = comparing.run_cells(
            cells, folder, jobs or (1 if shares else comparing.usual_jobs(device)), console, shares
        )
    except comparing.Stopped as stopped:
        say(f"stopped by {stopped}; the same command goes on")
        raise SystemExit(128 + stopped.number) from None
    failure_lines = [failure.line for failure in failures]
    show_comparison(reports, failure_lines, folder, command_line)
    if failures:
        raise SystemExit(1)
