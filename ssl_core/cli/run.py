"""The command `sslx run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_core.cli.common import (
    Block,
    ConfigFile,
    Debug,
    Device,
    LabelPattern,
    PresetName,
    ProbeEvery,
    Set,
    command,
    load_catalogue,
)


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(command(run))


def run(
    objective: Annotated[str | None, typer.Option(help="What to learn by; see `sslx list objectives`.")] = None,
    modality: Annotated[str | None, typer.Option(help="Kind of data; alone it picks the embedded data set.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set; see `sslx list datasets`.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Your own files: --dataset files, dataset.root=PATH. With --benchmark its root of all data."),
    ] = None,
    label_pattern: LabelPattern = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Pretrain and measure on the sets of a domain; see `sslx list benchmarks`.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Domain of the benchmark; see `sslx show NAME`.")] = None,
    masking: Annotated[str | None, typer.Option(help="What to hide; see `sslx list maskings`.")] = None,
    preset: PresetName = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    budget: Annotated[str | None, typer.Option(help="Train so long instead of so many steps: 90s, 10m, 1.5h.")] = None,
    probe_every: ProbeEvery = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers. Default 0.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. By default a new one under runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the stopped run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse bad samples instead of skipping them.")] = False,
    device: Device = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    config: ConfigFile = None,
    set_: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and stop.")] = False,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Pretrain an encoder, measure its features, write a report."""
    from ssl_core.cli.terminal import RichConsole, show_plan, show_report
    from ssl_core.config.resolve import budgeted, parse_setting
    from ssl_core.runs import benchmark as benchmarks
    from ssl_core.runs.pretrain import RunRequest, plan_run, pretrain, run_folder
    from ssl_core.runs.run import RunContext
    from ssl_core.runs.run_dir import default_folder

    files = "files" if data and benchmark is None else None
    options: dict[str, Any] = {
        "objective.name": objective, "modality": modality, "dataset.name": dataset or files,
        "benchmark": benchmark, "domain": domain, "dataset.root": data, "dataset.label_pattern": label_pattern,
        "masking.name": masking, "preset": preset,
        "train.steps": steps, "train.batch_size": batch_size, "train.precision": precision, "seed": seed,
        "strict": strict or None, "device": device, "evaluate.every": probe_every,
    }  # fmt: skip
    options = budgeted(budget) | {path: value for path, value in options.items() if value is not None}
    options |= dict(parse_setting(text) for text in set_ or ())
    catalogue, console = load_catalogue(block), RichConsole()
    command_line = " ".join(["sslx", *sys.argv[1:]])
    plan = plan_run(RunRequest(options, config, out, resume, overwrite, command_line), catalogue)
    for line in plan.warnings:
        console.info(line)
    if dry_run:
        show_plan(console.console, plan.config, plan.plugins)
        return
    absent = None
    if plan.config.benchmark:  # before a folder is created or overwritten
        absent = benchmarks.check(plan.config, catalogue, out if resume else None)
    context = RunContext(catalogue, out or default_folder(plan.config), console, command_line)
    failures: list[str] = []
    with run_folder(plan, context) as plan:
        if plan.config.benchmark:
            report, failures = benchmarks.run_domain(plan, context, absent)
        else:
            report = pretrain(plan, context).finished_report
    show_report(report, context.folder)
    if failures:
        raise SystemExit(1)
