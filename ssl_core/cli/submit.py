"""The command `sslx submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_core.cli import run as run_command
from ssl_core.cli.common import (
    Cpus,
    Debug,
    Gpus,
    Grace,
    JobTime,
    Memory,
    Partition,
    Requeues,
    SlurmSetting,
    command,
    end_with_usage,
    is_usage_error,
    resources,
    say,
)


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(command(submit))


def submit(
    words: Annotated[list[str], typer.Argument(metavar="-- run ...", help="The command line of sslx run, after --.")],
    executor: Annotated[
        str, typer.Option(help="slurm, or local: a process of this machine, to try a command line.")
    ] = "slurm",
    partition: Partition = None,
    time: JobTime = "1h",
    gpus: Gpus = None,
    cpus: Cpus = None,
    mem: Memory = None,
    grace: Grace = 90,
    requeues: Requeues = 100,
    slurm: SlurmSetting = None,
    name: Annotated[str, typer.Option(help="Name of the job.")] = "sslx",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
    debug: Debug = False,
) -> None:
    """Submit a run to a cluster. When the time of the job is over, the run saves, is requeued, and goes on exactly."""
    from ssl_core.errors import ConfigError
    from ssl_core.runs.cluster import RunJob, import_submitit, submit_jobs
    from ssl_core.runs.run_dir import create_run_dir, default_folder

    import_submitit("sslx submit")
    if words[0] != "run":
        raise ConfigError(f"sslx submit takes a run, not '{words[0]}': sslx submit -- run --objective mae ...")
    given = resources(
        executor, time, mem, slurm, partition=partition, gpus=gpus, cpus=cpus, grace=grace, requeues=requeues, name=name
    )
    flags = flags_of(words[1:])
    if flags["dry_run"]:
        raise ConfigError("--dry-run prints what would run; give it to sslx run")
    plan, _, _ = run_command.plan_of(flags)  # what does not fit is said here, and not in the log of a job
    out = Path(flags["out"]) if flags["out"] is not None else default_folder(plan.config)
    if not flags["resume"]:
        with create_run_dir(out, overwrite=flags["overwrite"]):
            pass
    arguments = [word for word in words if word not in ("--resume", "--overwrite")]
    keep = [part for one in flags["block"] or () for part in ("--block", one)]
    if flags["processes"] is not None:
        keep += ["--processes", str(flags["processes"])]
    job = RunJob(arguments, out, resume=flags["resume"], grace=grace, keep=keep)
    folder = out.with_name(f"{out.name}.job")
    (made,) = submit_jobs([job], folder, given, "sslx submit")
    say(f"submitted job {made.id} ({executor}) for the run in {out}; its log is {made.log}")
    if not wait:
        return
    made.wait()
    if made.raw.paths.result_pickle.exists() and made.raw.exception() is None:
        say(f"finished: {out}")
        return
    raise ConfigError(f"the job failed: {made.failure()}")


def flags_of(words: list[str]) -> dict[str, Any]:
    """The values of the parameters of `sslx run` by name.

    Raises:
        SystemExit: an option that it does not have; the message is printed.
    """
    app = typer.Typer()
    run_command.attach(app)
    try:
        with typer.main.get_command(app).make_context("sslx run", list(words)) as context:
            return dict(context.params)
    except Exception as error:
        if not is_usage_error(error):
            raise
        end_with_usage(error)
