"""The commands for those who write plugins, or wonder about them: `sslx new` and `sslx plugins`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_core.cli.common import Block, Debug, command

if TYPE_CHECKING:
    from ssl_core.plugins import Catalogue


def attach(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command("new")(command(new))
    app.command("plugins")(command(plugins_))


def new(
    kind: Annotated[str, typer.Argument(help="objective, tokenizer, dataset, masking, encoder, probe or command.")],
    name: Annotated[str, typer.Argument(help="Its name, e.g. my-noise; the package is sslx-my-noise.")],
    out: Annotated[Path, typer.Option(help="Where the new folder goes.")] = Path("."),
    licence: Annotated[
        str | None, typer.Option(help="apache-2.0, mit, bsd-3-clause or none. Asked for if left out.")
    ] = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Write a plugin package that installs, passes its own tests and runs at once."""
    from ssl_core import plugins
    from ssl_core.scaffold.generate import LICENCES, make_package, write_package

    catalogue = plugins.load(block or ())
    package = make_package(kind, name, licence or "none", catalogue)  # a bad name is said before a question is put
    if licence is None:
        first = next(iter(LICENCES))
        asked = sys.stdin.isatty()
        licence = typer.prompt(f"Licence ({', '.join(LICENCES)})", default=first) if asked else first
    package = make_package(kind, name, str(licence).lower(), catalogue)
    folder = write_package(package, out)
    typer.echo(f"{folder} is written. Next:")
    for line in (f"cd {folder}", 'pip install -e ".[test]"', "pytest", package.command):
        typer.echo(f"  {line}")


def plugins_(
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """List the installed plugins: version, what each offers, what was set aside and why."""
    from ssl_core import plugins

    catalogue = plugins.load(block or ())
    found = survey(catalogue)
    if json_:
        import json

        typer.echo(json.dumps(found, indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    from ssl_core.cli.rich_terminal import Terminal
    from ssl_core.utils.console import printable

    console = Terminal(highlight=False)
    for distribution in found:
        title = f"{distribution['distribution']} {distribution['version']}"
        table = Table("plugin", "offers", title=escape(title), title_justify="left")
        for row in distribution["plugins"]:
            what = ", ".join([*row["offers"], *row["notices"]]) or "nothing"
            if row["state"] != "loaded":
                what = ": ".join(filter(None, (row["state"], row["reason"])))
            table.add_row(escape(row["plugin"]), escape(what))
        console.print(table)
    for problem in catalogue.problems:
        if not any(problem == str(one) for one in catalogue.set_aside):
            typer.echo(printable(f"warning: {problem}"), err=True)


def survey(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Every distribution with plugins: its name and version and, for each plugin, its state and what it offers.

    "state" is "loaded", "set aside" (then "reason" says why) or "blocked". "offers" are "kind name", a data set's name
    as modality/name; "notices" the hooks by which it follows a run.
    """
    from ssl_core.plugins import KINDS

    offers: dict[str, list[str]] = {}
    for kind in KINDS:
        for entry in catalogue.entries(kind):
            offers.setdefault(entry.origin.plugin, []).append(f"{kind} {entry.full_name}")
    reasons = {one.origin.plugin: str(one.error) for one in catalogue.set_aside}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for origin in sorted(catalogue.installed, key=lambda origin: origin.plugin):
        name = origin.plugin
        state = "set aside" if name in reasons else "blocked" if name in catalogue.blocked else "loaded"
        distribution, _, entry_point = name.partition(":")
        row = {
            "plugin": entry_point, "state": state, "reason": reasons.get(name, ""),
            "offers": list(dict.fromkeys(offers.get(name, []))), "notices": catalogue.notices(name),
        }  # fmt: skip
        groups.setdefault((distribution, origin.version), []).append(row)
    return [{"distribution": name, "version": version, "plugins": rows} for (name, version), rows in groups.items()]
