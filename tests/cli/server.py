"""A process that has imported the program and is forked for each command: an import takes longer than most commands.

Each line of standard input is a command as JSON: {"arguments", "folder", "environment", "out", "error"}, the last two
being files. The answer is a line with its exit code. A command is killed after 15 minutes.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
import traceback

import ssl_core.cli.terminal  # noqa: F401
from ssl_core import runs
from ssl_core.cli import app

for module in pkgutil.iter_modules(runs.__path__, "ssl_core.runs."):
    importlib.import_module(module.name)


def command(request: dict) -> int:
    """Run a command in this process; returns its exit code."""
    os.setsid()
    signal.alarm(900)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["sslx", *request["arguments"]]
    try:
        app.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


for line in sys.stdin:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = command(json.loads(line))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
