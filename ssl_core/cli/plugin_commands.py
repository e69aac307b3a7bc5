"""Commands of plugins: listed by their entry points, loaded when they are called."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import click
import typer
from typer.core import TyperGroup

from ssl_core.cli.common import errors_in_one_line, load_catalogue
from ssl_core.plugins import GROUP

PREFIX = "commands."


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

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, without loading a plugin."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in sorted(plugin_commands()) if name not in own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name. A plugin's is loaded when it is called; the help page only names its package."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        offered = plugin_commands()
        if ctx.meta.get("sslx.help"):
            return click.Command(cmd_name, help=f"From {offered.get(cmd_name, 'a plugin')}.")
        with errors_in_one_line(debug=False):
            entry = load_catalogue(None).find("command", cmd_name)
        return None if entry is None else typer.main.get_command(entry.value)

    def format_help(self, ctx: click.Context, formatter: Any) -> None:
        """The help page."""
        ctx.meta["sslx.help"] = True
        super().format_help(ctx, formatter)
