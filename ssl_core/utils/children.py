"""Other processes of this program: how to start them so that they end with this one."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

PROGRAM = (sys.executable, "-P", "-m", "ssl_core.cli")
"""The command line of this installation. With -P nothing in the working directory is imported, also no plugin."""
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def start_child(arguments: Sequence[str], environment: Mapping[str, str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start `sslx` with some arguments in a session of its own, so that Ctrl-C reaches this process alone.

    On Linux the child gets SIGTERM, on which it saves, when this process is killed.

    Args:
        arguments: those of the command line, the command first.
        environment: all variables.
        streams: stdout and stderr, as subprocess.Popen takes them.
    """
    return subprocess.Popen(
        [*PROGRAM, *arguments], stdin=subprocess.DEVNULL, env=dict(environment), start_new_session=True,
        preexec_fn=end_with_parent if _LIBC else None, **streams,
    )  # fmt: skip


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have this process get a signal when the thread that has started it ends; on Linux."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
