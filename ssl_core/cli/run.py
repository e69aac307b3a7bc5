"""The command `sslx run`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    say,
)
from ssl_core.cli.completion import names_of

if TYPE_CHECKING:
    from ssl_core.plugins import Catalogue
    from ssl_core.runs.pretrain import RunPlan
    from ssl_core.utils.console import Console


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(command(run))


def run(
    objective: Annotated[
        str | None,
        typer.Option(help="What to learn by; see `sslx list objectives`.", autocompletion=names_of("objectives")),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            help="Kind of data; alone it picks the embedded data set. With --data it is recognised.",
            autocompletion=names_of("tokenizers"),
        ),
    ] = None,
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
    masking: Annotated[
        str | None, typer.Option(help="What to hide; see `sslx list maskings`.", autocompletion=names_of("maskings"))
    ] = None,
    preset: PresetName = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from", help="Start from the weights of a run, a saved encoder, or a ViT (folder or file)."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    budget: Annotated[str | None, typer.Option(help="Train so long instead of so many steps: 90s, 10m, 1.5h.")] = None,
    probe_every: ProbeEvery = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers. Default 0.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. By default a new one under runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the stopped run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse bad samples instead of skipping them.")] = False,
    on_nan: Annotated[
        str | None,
        typer.Option("--on-nan", help="If loss or gradient is not finite: stop (default), or skip the step."),
    ] = None,
    device: Device = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Train in so many processes on this machine, each with a part of a batch.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    config: ConfigFile = None,
    set_: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and stop.")] = False,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Pretrain an encoder, measure its features, write a report."""
    flags = dict(locals())  # the parameters by name, before there are other variables
    from ssl_core.cli.terminal import RichConsole, show_plan, show_report
    from ssl_core.errors import ConfigError
    from ssl_core.runs import benchmark as benchmarks
    from ssl_core.runs.build import check_processes
    from ssl_core.runs.init import form_of
    from ssl_core.runs.inspection.candidates import OWN, naming_modality
    from ssl_core.runs.pretrain import pretrain, run_folder
    from ssl_core.runs.processes import run_processes
    from ssl_core.runs.run import RunContext
    from ssl_core.runs.run_dir import default_folder
    from ssl_core.training.parallel import is_first, is_main, is_worker, join

    starts_others = processes is not None and processes > 1 and not is_worker() and not dry_run
    plan, catalogue, console = plan_of(flags, quiet=starts_others or not is_first())
    command_line = plan.request.command
    if dry_run:
        own = plan.config.dataset.options.get("root") if plan.config.dataset.name == OWN else None
        with naming_modality(own, plan.config.modality, catalogue):
            show_plan(RichConsole().console, plan.config, plan.plugins, form_of(plan.config, plan.init))
        return
    absent = None
    if plan.config.benchmark:  # before a folder is created or overwritten
        absent = benchmarks.check(plan.config, catalogue, out if resume else None)
        if starts_others or is_worker():
            raise ConfigError("a benchmark runs in one process; leave out --processes")
    if starts_others:
        assert processes is not None
        if "train.batch_size" not in plan.config.auto:  # else it is chosen by the size of the data
            check_processes(plan.config.train.batch_size, processes)
        folder = out or default_folder(plan.config)
        arguments = [*sys.argv[1:], *([] if out else ["--out", str(folder)])]
        raise SystemExit(run_processes(arguments, folder, processes, say))
    failures: list[str] = []
    with join():
        folder = out or (default_folder(plan.config) if is_main() else Path("runs"))  # rank 0 alone uses it
        context = RunContext(catalogue, folder, console, command_line)
        with run_folder(plan, context) as plan:
            if plan.config.benchmark:
                report, failures = benchmarks.run_domain(plan, context, absent)
            else:
                trained = pretrain(plan, context)
                if not is_main():
                    return
                report = trained.finished_report
    show_report(report, context.folder)
    if failures:
        raise SystemExit(1)


def plan_of(flags: Mapping[str, Any], *, quiet: bool = False) -> tuple[RunPlan, Catalogue, Console]:
    """The plan of a run, all plugins and the console, from the values of the parameters of `run` by name.

    Args:
        flags: the values.
        quiet: take a console that prints nothing, since another process prints the same.

    Raises:
        SslxError: an option that does not fit, or data that cannot be recognised.
    """
    from ssl_core.cli.terminal import RichConsole
    from ssl_core.config.resolve import budgeted, parse_setting
    from ssl_core.runs.inspection.complete import complete_request
    from ssl_core.runs.pretrain import RunRequest, plan_run
    from ssl_core.utils.console import Console

    data, benchmark = flags["data"], flags["benchmark"]
    files = "files" if data and benchmark is None else None
    named: dict[str, Any] = {
        "objective.name": flags["objective"], "modality": flags["modality"],
        "dataset.name": flags["dataset"] or files, "benchmark": benchmark, "domain": flags["domain"],
        "dataset.root": data, "dataset.label_pattern": flags["label_pattern"], "masking.name": flags["masking"],
        "preset": flags["preset"], "init.source": flags["init_from"], "train.steps": flags["steps"],
        "train.batch_size": flags["batch_size"], "train.precision": flags["precision"], "seed": flags["seed"],
        "strict": flags["strict"] or None, "train.on_nan": flags["on_nan"], "device": flags["device"],
        "evaluate.every": flags["probe_every"],
    }  # fmt: skip
    options = budgeted(flags["budget"]) | {path: value for path, value in named.items() if value is not None}
    options |= dict(parse_setting(text) for text in flags["set_"] or ())
    catalogue, console = load_catalogue(flags["block"]), Console() if quiet else RichConsole()
    config, out = (None if flags[name] is None else Path(flags[name]) for name in ("config", "out"))
    if not flags["resume"]:
        options, lines = complete_request(options, config, catalogue)
        for line in lines:
            console.info(line)
    command_line = " ".join(["sslx", *sys.argv[1:]])
    plan = plan_run(RunRequest(options, config, out, flags["resume"], flags["overwrite"], command_line), catalogue)
    for line in plan.warnings:
        console.info(line)
    return plan, catalogue, console
