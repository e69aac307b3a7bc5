"""Run folders: create, lock, read, list."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from ssl_core.config.schema import RunConfig
from ssl_core.errors import CheckpointError, ConfigError, SslxError
from ssl_core.runs.run import RunContext
from ssl_core.training import checkpoint
from ssl_core.training.best import LAST
from ssl_core.utils.console import printable
from ssl_core.utils.files import write_json
from ssl_core.utils.locks import file_lock
from ssl_core.utils.old_versions import first_version_message

CONFIG = "config.json"
REPORT = "report.json"
FAILURE = "failure.json"
"""Written where a run ends by an error: its type and message. The next run in the folder removes it."""
LOCK = ".lock"
FORMAT = 2
"""Format of config.json. sslx 0.1 wrote none."""
LEFTOVER = re.compile(r"\.(config|report|failure)\.json-.+|\.(metrics\.jsonl|report\.html)-.+")
"""Files that a kill left: they are written under such a name, and renamed when they are complete."""
PATIENCE = 15.0
"""Seconds to wait for another run: one that was stopped saves first."""


def default_folder(config: RunConfig, root: Path = Path("runs")) -> Path:
    """Create a folder under runs/, named by date, time, objective, modality, data set, and a number if that is taken.

    Raises:
        ConfigError: it cannot be created.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{config.objective.name}-{config.modality}-{config.dataset.name}"
    for number in itertools.count(1):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # runs that were begun in the same second
            if folder.is_dir():
                continue
            raise ConfigError(f"cannot make {folder}: {root} is a file; name a folder by --out") from None
        except OSError as error:
            raise ConfigError(f"cannot make {folder}: {error.strerror}; name a folder by --out") from None
        return folder
    raise AssertionError  # there is always a number left


@contextlib.contextmanager
def create_run_dir(folder: Path, *, overwrite: bool = False) -> Iterator[None]:
    """Create or empty a run folder and lock it.

    Raises:
        ConfigError: it is not empty, not writable, or another run is at work in it.
    """
    with contextlib.ExitStack() as stack:
        check_name(folder)
        try:
            _check_free(folder, overwrite)  # at once, and not only after waiting for another run
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_run_dir(folder))
            _check_free(folder, overwrite)  # a run may have begun in it and ended since
            for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):  # last: it marks a run folder
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
        except OSError as error:
            raise ConfigError(f"cannot write to --out {folder}: {error.strerror}; name another folder") from None
        yield


def _check_free(folder: Path, overwrite: bool) -> None:
    """Check that a folder is empty or may be overwritten.

    Raises:
        ConfigError: it holds something that must stay.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; name a folder")
    if not folder.exists() or is_blank(folder):
        return
    if not overwrite:
        raise ConfigError(f"--out {folder} is not empty; use --resume to go on with it, --overwrite to replace it")
    if not _holds_run(folder):
        raise ConfigError(f"--out {folder} is not a run folder, so --overwrite will not delete it; name another")


def _holds_run(folder: Path) -> bool:
    """Whether the configuration of a folder is that of a run; many programs have a file of its name."""
    try:
        entries = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return isinstance(entries, dict) and {"objective", "modality", "train"} <= entries.keys()
    except (OSError, ValueError, RecursionError):
        return False


def is_blank(folder: Path) -> bool:
    """Whether a folder holds nothing but what a run leaves that ended before it wrote its configuration."""
    return all(path.name in (LOCK, FAILURE) or LEFTOVER.fullmatch(path.name) for path in folder.iterdir())


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left; the caller holds the lock of the folder."""
    for path in folder.iterdir():
        if LEFTOVER.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def check_name(folder: Path) -> None:
    """Raises:
    ConfigError: the name of a folder is not UTF-8, so that no report can name it.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"--out {printable(str(folder))}: the name is not UTF-8; name another folder") from None


def lock_run_dir(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of a run folder, so that no other run writes to it.

    Raises:
        ConfigError: if another run holds the lock for longer than `PATIENCE`, or the lock file cannot be written.
    """

    check_name(folder)

    def refuse() -> None:
        raise ConfigError(f"another run is at work in {folder}; wait for it, or name another --out")

    return file_lock(folder / LOCK, refuse, timeout=PATIENCE, remove=False)


def load_config(folder: Path) -> RunConfig:
    """Read the configuration of a run folder.

    Raises:
        CheckpointError: the folder holds no run, an earlier or later sslx made it, or the file is damaged.
    """
    path = folder / CONFIG
    try:
        entries = dict(json.loads(path.read_text(encoding="utf-8")))
        version = entries.pop("format", 1)
    except NotADirectoryError:
        raise CheckpointError(f"{folder} is a file; name the folder of a run or of a saved encoder") from None
    except FileNotFoundError:
        if folder.is_dir() and (folder / LOCK).exists() and is_blank(folder):
            raise CheckpointError(
                f"{folder} holds no run: the one before was stopped before it began; start it without --resume"
            ) from None
        if (encoder := folder / "model" / "encoder").is_dir():
            raise CheckpointError(
                f"{folder} is no run, it holds a fine-tuned model; name its encoder {encoder}"
            ) from None
        raise CheckpointError(f"{folder} is not a run folder: it has no {CONFIG}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({str(error).splitlines()[0]}); make the run anew") from None
    if version == 1 and "objective" not in entries:
        raise CheckpointError(f"{folder} is not a run folder: its {CONFIG} is of another program; name another folder")
    if version == 1:
        raise CheckpointError(first_version_message(path))
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version}, this sslx reads {FORMAT}; use the sslx that made it")
    try:
        return RunConfig(**entries)
    except (TypeError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read ({first}); it was made by another sslx or is damaged") from None


def save_config(folder: Path, config: RunConfig) -> None:
    """Write config.json atomically."""
    write_json(folder / CONFIG, {"format": FORMAT, **config.model_dump(mode="json")})


@contextlib.contextmanager
def record_failure(context: RunContext) -> Iterator[None]:
    """Around a run: if it raises, send the notice run_failed and write failure.json, except where a signal stopped it.

    The error is raised again. A file that an earlier run left is removed first.
    """
    path = context.folder / FAILURE
    path.unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) and not hasattr(error, "exit_code"):
            text = " ".join(str(error).split())
            entry = {"type": type(error).__name__, "message": text, "user_error": isinstance(error, SslxError)}
            with contextlib.suppress(OSError):  # a full disk must not hide the error
                write_json(path, entry)
        context.notify("run_failed", folder=context.folder, error=error)
        raise


def read_failure(folder: Path) -> str | None:
    """Why the last run in a folder failed, in one line; None if it did not, or was killed before it could say so."""
    try:
        entry = json.loads((folder / FAILURE).read_text(encoding="utf-8"))
        return entry["message"] if entry["user_error"] else f"{entry['type']}: {entry['message']}"
    except (OSError, ValueError, LookupError, TypeError):
        return None


def place_of_evaluation(folder: Path, dataset: str | None = None, which: str = LAST) -> Path:
    """The folder for the report of an evaluation: the run's own, or one below it.

    A run that is not finished has no report yet, and a report in its folder would mark it as finished.

    Args:
        folder: the run's folder.
        dataset: a name for other data than the run's own; None for its own.
        which: the checkpoint, whose name ends that of the folder; the run's own report is that of the last.
    """
    if dataset is None and which == LAST and _is_reported(folder):
        return folder
    name = re.sub(r"[^\w.+-]+", "-", dataset or "own").strip("-.") or "own"
    return folder / "eval" / (name if which == LAST else f"{name}-{which}")


def _is_reported(folder: Path) -> bool:
    """Whether the report of a run is of its newest checkpoint: it is not if a finished run was resumed and stopped."""
    try:
        steps = json.loads((folder / REPORT).read_text(encoding="utf-8"))["steps"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError):  # damaged: it is made anew in its place
        return True
    newest = checkpoint.latest_step(folder)
    return newest is None or bool(steps >= newest)


def summary(folder: Path) -> dict[str, str]:
    """One line of `sslx list runs`."""
    config = load_config(folder)
    try:
        saved = checkpoint.latest(folder)
        step = saved.step if saved else 0
        state = "finished" if _is_reported(folder) else "stopped" if saved else "no checkpoint"
    except CheckpointError:
        step, state = 0, "damaged"
    return {
        "run": str(folder), "objective": config.objective.name, "data": f"{config.modality}/{config.dataset.name}",
        "seed": str(config.seed), "steps": f"{step:,} of {config.train.steps:,}", "state": state,
    }  # fmt: skip


def find(root: Path) -> list[Path]:
    """Run folders in a folder and one level below it, oldest first."""
    folders = [path.parent for pattern in (CONFIG, f"*/{CONFIG}") for path in root.glob(pattern)]
    folders = [folder for folder in folders if not (folder / "sslx.json").exists()]  # exported for Hugging Face
    return sorted(folders, key=lambda folder: (folder / CONFIG).stat().st_mtime)
