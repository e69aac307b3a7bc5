"""The command line. Nothing heavy is imported before a command needs it: `sslx --help` does not load torch."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_core import checkcli, comparecli, datacli, plugincli
from ssl_core.commandline import (
    Block,
    ConfigFile,
    Data,
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

app = typer.Typer(
    name="sslx",
    help="Self-supervised learning for data of any kind: any objective on any modality, measured fairly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def version(value: bool) -> None:
    """Print the version and stop."""
    if value:
        from ssl_core import __version__

        typer.echo(f"sslx {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version_: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Self-supervised learning for data of any kind."""


datacli.attach(app)
plugincli.attach(app)
comparecli.attach(app)
checkcli.attach(app)


@app.command()
@command
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
    seed: Annotated[int | None, typer.Option(help="Seed of all chance. Default 0.")] = None,
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
    from ssl_core import run as runs
    from ssl_core import runfolder, transfer
    from ssl_core.config import budgeted, parse_setting, resolve
    from ssl_core.errors import ConfigError
    from ssl_core.terminal import RichTell, show_plan, show_report

    files = "files" if data and benchmark is None else None
    given: dict[str, Any] = {
        "objective.name": objective, "modality": modality, "dataset.name": dataset or files,
        "benchmark": benchmark, "domain": domain, "dataset.root": data, "dataset.label_pattern": label_pattern,
        "masking.name": masking, "preset": preset,
        "train.steps": steps, "train.batch_size": batch_size, "train.precision": precision, "seed": seed,
        "strict": strict or None, "device": device, "evaluate.every": probe_every,
    }  # fmt: skip
    given = {path: value for path, value in given.items() if value is not None}
    given = budgeted(budget) | given
    given |= dict(parse_setting(text) for text in set_ or ())
    catalogue = load_catalogue(block)
    if resume:
        if out is None:
            raise ConfigError("--resume needs --out with the folder of the stopped run")
        saved = runfolder.load_config(out)
        for line in runfolder.check_plugins(out, saved, catalogue):
            say(line)
        wanted, plugins = resolve(catalogue, given, config or out / runfolder.CONFIG)
        resolved = runfolder.check_resumable(saved, wanted)
        resolved = resolved.model_copy(update={key: getattr(wanted, key) for key in runs.BENCHMARK})
    else:
        resolved, plugins = resolve(catalogue, given, config)
    tell = RichTell()
    if dry_run:
        show_plan(tell.console, resolved, plugins)
        return
    absent = None
    if resolved.benchmark:  # before anything is made or overwritten
        absent = transfer.check(resolved, catalogue, out if resume else None)
    folder = out or runfolder.default_folder(resolved)
    command_line = " ".join(["sslx", *sys.argv[1:]])
    failures: list[str] = []
    with runfolder.held(folder) if resume else runfolder.begun(folder, overwrite=overwrite):
        if resolved.benchmark:
            report, failures = transfer.run_domain(
                resolved, plugins, catalogue, folder, tell, absent, resume=resume, command=command_line
            )
        else:
            report = runs.run(resolved, plugins, catalogue, folder, tell, resume=resume, command=command_line)
    show_report(report, folder)
    if failures:
        raise SystemExit(1)


@app.command("eval")
@command
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    dataset: Annotated[str | None, typer.Option(help="Another labelled data set of the same modality.")] = None,
    data: Data = None,
    label_pattern: LabelPattern = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An option of dataset or evaluate, as section.option=value; also given tokenizer.mean and .std.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the report here; by default into RUN, or of other data into RUN/eval/NAME."),
    ] = None,
    device: Device = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Measure a trained encoder again, on its own data set or on another."""
    from ssl_core import run as runs
    from ssl_core.config import parse_setting
    from ssl_core.runfolder import place_of_evaluation
    from ssl_core.terminal import RichTell, show_report

    given: dict[str, Any] = {
        "dataset.name": dataset or ("files" if data else None), "dataset.root": data,
        "dataset.label_pattern": label_pattern, "device": device,
    }  # fmt: skip
    given = {path: value for path, value in given.items() if value is not None}
    given |= dict(parse_setting(text) for text in set_ or ())
    catalogue = load_catalogue(block)
    own = "own" if any(path.startswith("dataset.") for path in given) else None
    other = Path(data).resolve().stem if data else given.get("dataset.name", own)
    folder = out or place_of_evaluation(run_folder, other)
    report = runs.evaluate_run(
        run_folder, given, catalogue, folder, RichTell(), command=" ".join(["sslx", *sys.argv[1:]])
    )
    show_report(report, folder)


@app.command("list")
@command
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="objectives, tokenizers, datasets, maskings, presets, benchmarks or runs; all if left out."
        ),
    ] = None,
    root: Annotated[Path, typer.Option(help="Where to look for runs.")] = Path("runs"),
    block: Block = None,
    debug: Debug = False,
) -> None:
    """List what is installed, or the runs in a folder."""
    if kind == "runs":
        from ssl_core.terminal import show_runs

        show_runs(root)
        return
    from ssl_core import listing, plugins

    usual = not block and not os.environ.get(plugins.BLOCK_VARIABLE)
    tables = listing.kept() if usual else None
    if tables is None:
        catalogue = load_catalogue(block)
        tables = listing.make(catalogue)
        if usual and not catalogue.problems:  # a problem is said again each time
            listing.keep(tables)
    listing.show(tables, kind)


@app.command()
@command
def show(
    name: Annotated[
        str, typer.Argument(help="An objective, tokenizer, data set, masking, preset, benchmark, or engine section.")
    ],
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Show every option of a plugin: type, default, meaning."""
    from ssl_core.terminal import show_options

    show_options(load_catalogue(block), name)


def main() -> None:
    """Entry point of the `sslx` command."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # other libraries' warnings are not for users; -W shows them
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()


if __name__ == "__main__":
    main()
