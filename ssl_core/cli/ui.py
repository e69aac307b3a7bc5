"""The command `sslx ui`."""

from __future__ import annotations

import contextlib
import socket
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ssl_core.cli.common import Debug, Stopped, command, say

ADDRESS = "127.0.0.1"
PORT = 8642


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(command(ui))


def ui(
    root: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder with runs and comparisons.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 = any free one.")] = PORT,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    debug: Debug = False,
) -> None:
    """Show runs and comparisons in the browser: curves, scores, reports. Read-only, on this machine alone."""
    from ssl_core.errors import ConfigError

    if not root.is_dir():
        raise ConfigError(f"there is no folder {root}; name the folder of your runs: sslx ui DIR")
    try:
        import uvicorn

        from ssl_core.ui.app import make_app
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise ConfigError("sslx ui needs starlette and uvicorn; run pip install 'sslx[ui]'") from None
    with listen(port) as listener:
        address = f"http://{ADDRESS}:{listener.getsockname()[1]}/"
        say(f"runs in {root} at {address} (Ctrl-C stops)")
        if browser:
            webbrowser.open(address)
        config = uvicorn.Config(make_app(root.resolve()), log_level="warning", server_header=False, lifespan="off")
        with contextlib.suppress(KeyboardInterrupt, Stopped):  # the usual ways to end it
            uvicorn.Server(config).run(sockets=[listener])


def listen(port: int) -> socket.socket:
    """A socket that listens on a port of this machine, for this machine alone.

    Raises:
        ConfigError: the port is in use, or may not be used.
    """
    from ssl_core.errors import ConfigError

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen()
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on port {port} ({reason}); --port 0 takes a free one") from None
    return listener
