"""What all commands share: their common options, errors in one line, and the plugins."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ssl_core.plugins import Catalogue

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Block = Annotated[list[str] | None, typer.Option("--block", help="Leave out a plugin, as dist:entry. Repeatable.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Set an option, as section.option=value. Repeatable.")]
Data = Annotated[str | None, typer.Option(help="Your own files: short for --dataset files, dataset.root=PATH.")]
LabelPattern = Annotated[
    str | None, typer.Option(help="Regular expression over file names with groups (?P<label>) and (?P<group>).")
]
PresetName = Annotated[str | None, typer.Option(help="A paper's numbers; see `sslx list presets`. none = none.")]
ProbeEvery = Annotated[int | None, typer.Option(help="Steps between probes during pretraining.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML or JSON file of options.")]


class Stopped(BaseException):
    """SIGTERM outside the training loop. Like KeyboardInterrupt no Exception, so that nothing takes it for an error."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Stopped


@contextmanager
def errors_in_one_line(debug: bool) -> Iterator[None]:
    """Print an error that a user can mend as one line and exit 1; 130 after Ctrl-C, 143 after SIGTERM."""
    from ssl_core.errors import SslxError, place_of

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
        text = " ".join(str(error).split())[:500]
        say(f"unexpected error: {type(error).__name__}: {text} ({place_of(error)}; --debug shows more)")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("stopped by SIGINT; a run that has a checkpoint goes on with --resume")
        raise SystemExit(130) from None
    except Stopped:
        say("stopped by SIGTERM; a run that has a checkpoint goes on with --resume")
        raise SystemExit(143) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    """One line on the standard error."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose user errors are one line."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        with errors_in_one_line(kwargs.get("debug", False)):
            function(*args, **kwargs)

    return wrapped


def load_catalogue(block: list[str] | None) -> Catalogue:
    """All plugins; what failed to load is said once."""
    from ssl_core import plugins

    catalogue = plugins.load(block or ())
    for problem in catalogue.problems:
        say(f"warning: {problem}")
    return catalogue
