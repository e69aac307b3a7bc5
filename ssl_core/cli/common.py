"""What all commands share: their common options, errors in one line, and the plugins."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from ssl_core.plugins import Catalogue
    from ssl_core.runs.cluster import Resources

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Block = Annotated[list[str] | None, typer.Option("--block", help="Leave out a plugin, as dist:entry. Repeatable.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Set an option, as section.option=value. Repeatable.")]
Data = Annotated[str | None, typer.Option(help="Your own files: short for --dataset files, dataset.root=PATH.")]
LabelPattern = Annotated[
    str | None, typer.Option(help="Regular expression over file names with groups (?P<label>) and (?P<group>).")
]
PresetName = Annotated[
    str | None,
    typer.Option(
        help="A paper's numbers; see `sslx list presets`. auto = by the amount of data, as with --data alone; default "
        "= only those that apply by themselves; none = none."
    ),
]
ProbeEvery = Annotated[int | None, typer.Option(help="Steps between probes during pretraining.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
CheckpointName = Annotated[
    str, typer.Option(help="Weights of a run: last, or best, which train.keep_best=true has kept.")
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="Compute in so many processes on this machine, each with a part of the batches."),
]
Files = Annotated[str, typer.Argument(metavar="PATH", help="Your files: a file, a folder or a pattern.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples in a forward pass.")]
SetData = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the data set, as dataset.option=value. Repeatable.")
]
StrictSamples = Annotated[bool, typer.Option("--strict", help="Refuse a sample that cannot be used.")]
Partition = Annotated[str | None, typer.Option(help="Partition of Slurm.")]
JobTime = Annotated[
    str, typer.Option("--time", help="Time of a job, such as 30m, 4h or 2d. At its end the run saves and is requeued.")
]
Gpus = Annotated[int | None, typer.Option(min=0, help="GPUs of a job.")]
Cpus = Annotated[int | None, typer.Option(min=1, help="Cores of a job.")]
Memory = Annotated[str | None, typer.Option("--mem", help="Memory of a job, such as 32GB.")]
Grace = Annotated[int, typer.Option(min=10, help="Seconds before the end of a job in which the run saves.")]
Requeues = Annotated[int, typer.Option(min=0, help="How often a job is requeued at most because its time is over.")]
SlurmSetting = Annotated[
    list[str] | None,
    typer.Option("--slurm", help="Another parameter of submitit's Slurm executor, as account=NAME. Repeatable."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML or JSON file of options.")]


WHEN_STOPPED = {
    "run": "; a run that has a checkpoint goes on with --resume",
    "compare": "; the same command goes on with the runs that are not finished",
}
"""What to say after a signal, by command; the others leave nothing to go on with."""
LESS_MEMORY = {
    "run": "lower --batch-size, or make fewer tokens by a larger tokenizer.patch or a smaller sample",
    "finetune": "lower --batch-size, or train fewer blocks with --train last:1 or --train lora",
    "embed": "lower --batch-size",
    "predict": "lower --batch-size",
}
"""How a command that ran out of memory needs less of it, by command."""


class Stopped(BaseException):
    """SIGTERM outside the training loop. Like KeyboardInterrupt no Exception, so that nothing takes it for an error."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Stopped


@contextmanager
def errors_in_one_line(debug: bool, when_stopped: str = "", less_memory: str = "") -> Iterator[None]:
    """Print an error that a user can mend as one line and exit 1; 130 after Ctrl-C, 143 after SIGTERM.

    when_stopped: what to say after a signal beside its name. less_memory: how to need less memory.
    """
    from ssl_core.errors import SslxError, place_of, system_error

    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except SslxError as error:
        if debug:
            raise
        say(f"error: {' '.join(str(error).split())}")
        raise SystemExit(getattr(error, "exit_code", 1)) from None
    except (SystemExit, typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            raise
        if (line := system_error(error)) is not None:
            say(f"error: {' '.join(line.split())}")
            raise SystemExit(1) from None
        text = " ".join(str(error).split())[:500]
        if is_out_of_memory(error):
            if _is_reading(error):
                less_memory = "the data do not fit; use fewer or smaller files, or a machine with more memory"
            say(f"error: out of memory: {less_memory or 'use fewer or smaller samples, or another machine'} ({text})")
            raise SystemExit(1) from None
        say(f"unexpected error: {type(error).__name__}: {text} ({place_of(error)}; --debug shows more)")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say(f"stopped by SIGINT{when_stopped}")
        raise SystemExit(130) from None
    except Stopped:
        say(f"stopped by SIGTERM{when_stopped}")
        raise SystemExit(143) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, of numpy or Python, of a CUDA device, or of torch on the CPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # without importing torch
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _is_reading(error: Exception) -> bool:
    """Whether an error was raised below a method of a data set."""
    from ssl_core.contracts import Dataset

    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(isinstance(frame.f_locals.get("self"), Dataset) for frame in frames)


def start_processes(count: int | None) -> None:
    """Start `count` processes of this command and end with their exit code, unless this is one of them."""
    from ssl_core.runs.processes import run_processes
    from ssl_core.training.parallel import is_worker

    if count is not None and count > 1 and not is_worker():
        raise SystemExit(run_processes(sys.argv[1:], Path(), count, say, restarts=0))


def say(text: str) -> None:
    """One line on the standard error."""
    from ssl_core.cli.rich_terminal import Terminal

    Terminal(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


def is_usage_error(error: Exception) -> bool:
    """Whether an error is one of usage, of click or of the copy that newer versions of typer hold."""
    return hasattr(error, "format_message")


def end_with_usage(error: Any) -> NoReturn:
    """Print an error of usage as one line and exit; a command that needs arguments and has none prints its help."""
    context = getattr(error, "ctx", None)
    text = " ".join(error.format_message().split()).rstrip(".")
    if context is None:
        say(f"error: {text}")
    elif type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        say(f"error: {text[:1].lower()}{text[1:]} (see {context.command_path} {context.help_option_names[0]})")
    raise SystemExit(error.exit_code)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose user errors are one line."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        name = function.__name__
        with errors_in_one_line(kwargs.get("debug", False), WHEN_STOPPED.get(name, ""), LESS_MEMORY.get(name, "")):
            function(*args, **kwargs)

    return wrapped


def load_catalogue(block: list[str] | None) -> Catalogue:
    """All plugins; what failed to load is said once."""
    from ssl_core import plugins

    catalogue = plugins.load(block or ())
    for problem in catalogue.problems:
        say(f"warning: {problem}")
    return catalogue


def resources(
    executor: str,
    time: str,
    memory: str | None,
    settings: list[str] | None,
    **others: Any,
) -> Resources:
    """What a job is given, from the options of a command.

    Raises:
        ConfigError: an option that does not fit.
    """
    from ssl_core.config.resolve import parse_setting
    from ssl_core.errors import ConfigError
    from ssl_core.runs.cluster import EXECUTORS, Resources
    from ssl_core.utils.units import parse_size, parse_time

    if executor not in EXECUTORS:
        raise ConfigError(f"unknown executor '{executor}'; choose {' or '.join(EXECUTORS)}")
    further = {}
    for setting in settings or ():
        if "=" not in setting:
            raise ConfigError(f"--slurm {setting}: write it as account=NAME")
        name, value = parse_setting(setting)
        further[name.replace("-", "_")] = value
    return Resources(
        executor=executor, minutes=parse_time(time, "--time") / 60, further=further,
        memory_gb=None if memory is None else parse_size(memory, "--mem") / 1e9, **others,
    )  # fmt: skip


def dataset_settings(command: str, label_pattern: str | None, settings: list[str] | None) -> dict[str, Any]:
    """Options of the data set by name, from the options of a command that takes no others.

    Raises:
        ConfigError: a setting of another section.
    """
    from ssl_core.config.resolve import parse_setting
    from ssl_core.errors import ConfigError

    options: dict[str, Any] = {} if label_pattern is None else {"label_pattern": label_pattern}
    for setting in settings or ():
        name, value = parse_setting(setting)
        if not name.startswith("dataset."):
            raise ConfigError(f"--set {setting}: {command} takes options of the data set, as dataset.option=value")
        options[name.removeprefix("dataset.")] = value
    return options
