"""Commands of plugins: listed by their entry points, loaded when they are called."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from ssl_core.cli.common import command, end_with_usage, errors_in_one_line, is_usage_error, load_catalogue, say
from ssl_core.plugins import GROUP

PREFIX = "commands."
HELP = "sslx.help"  # key of the context while the help page is written


def plugin_commands() -> dict[str, str]:
    """Names of the commands that installed plugins offer, with the distribution of each. Imports no plugin."""
    points = importlib.metadata.entry_points(group=GROUP)
    return {
        point.name.removeprefix(PREFIX): point.dist.name if point.dist else "unknown"
        for point in points
        if point.name.startswith(PREFIX)
    }


class PluginGroup(TyperGroup):
    """The commands of sslx, followed by those of plugins."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; an error of usage is one line, as all errors are."""
        if not options.get("standalone_mode", True):
            return super().main(*args, **options)
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except typer.Abort:
            say("error: aborted")
            sys.exit(1)
        except Exception as error:
            if not is_usage_error(error):
                raise
            end_with_usage(error)
        sys.exit(code if isinstance(code, int) else 0)

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, without loading a plugin."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in sorted(plugin_commands()) if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name. A plugin is loaded only when its command is called, not for the help page."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        if ctx.meta.get(HELP):
            return _placeholder(cmd_name, plugin_commands()[cmd_name])
        with errors_in_one_line(debug=False):
            entry = load_catalogue(None).find("command", cmd_name)
        return None if entry is None else _with_errors_in_one_line(typer.main.get_command(entry.value))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help page, which names the package of a plugin's command in place of its help."""
        ctx.meta[HELP] = True
        super().format_help(ctx, formatter)


def _with_errors_in_one_line(made: Any) -> Any:
    """The command, whose user errors, and those of its subcommands, are one line as for the commands of sslx."""
    for part in getattr(made, "commands", {}).values():
        _with_errors_in_one_line(part)
    if made.callback is not None:
        made.callback = command(made.callback)
    return made


def _placeholder(name: str, distribution: str) -> Any:
    """A command with a help text that needs no plugin."""
    app = typer.Typer(name=name)
    app.command(name, help=f"From {distribution}.")(lambda: None)
    return typer.main.get_command(app)
