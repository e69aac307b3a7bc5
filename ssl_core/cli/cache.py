"""The commands `sslx cache ...`: what the cache holds, and the removal of what can be made again."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from ssl_core.cli.common import Debug, command

Entries = Annotated[
    list[str] | None, typer.Argument(metavar="[ENTRY]...", help="Only these entries, as `sslx cache ls` names them.")
]


def attach(app: typer.Typer) -> None:
    """Add the commands to an app."""
    cache = typer.Typer(help="Show and remove what runs keep in the cache.", no_args_is_help=True)
    for name, function in (("ls", ls), ("prune", prune)):
        cache.command(name)(command(function))
    app.add_typer(cache, name="cache")


def ls(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """List the entries of the cache, the oldest use first: size, age, what each belongs to, and who uses it."""
    from rich.markup import escape
    from rich.table import Table

    from ssl_core.cli.rich_terminal import Terminal
    from ssl_core.utils.cache import cache_dir
    from ssl_core.utils.cache_entries import LIMIT_VARIABLE, cache_entries, cache_limit
    from ssl_core.utils.units import age_text, size_text

    folder, limit = cache_dir(), cache_limit()
    entries, now = cache_entries(folder), time.time()
    if as_json:
        rows = [
            {
                "entry": entry.name, "kind": entry.kind, "bytes": entry.bytes,
                "unused_seconds": round(now - entry.used), "about": entry.about, "in_use": entry.in_use,
                "path": str(entry.path),
            }
            for entry in entries
        ]  # fmt: skip
        typer.echo(json.dumps({"folder": str(folder), "max_bytes": limit, "entries": rows}, indent=2))
        return
    table = Table(title=f"cache {escape(str(folder))}", title_justify="left")
    for column in ("entry", "kind", "size", "unused for", "belongs to"):
        table.add_column(column, no_wrap=column != "belongs to", overflow="fold")
    for entry in entries:
        age = "in use" if entry.in_use else age_text(now - entry.used)
        row = (entry.name, entry.kind, size_text(entry.bytes), age, entry.about)
        table.add_row(*map(escape, row))
    console = Terminal(highlight=False)
    if entries:
        console.print(table)
    most = f" of at most {size_text(limit)} ({LIMIT_VARIABLE})" if limit is not None else ""
    total = size_text(sum(entry.bytes for entry in entries))
    typer.echo(f"{_counted(len(entries))}, {total}{most} in {folder}")


def prune(
    entries: Entries = None,
    older_than: Annotated[str | None, typer.Option(help="Not used for so long: 12h, 30d, 2w.")] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Until the cache has at most this size, the oldest use first: 500MB, 10GB.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Only entries of this kind: prepared, unfinished, archive, stream, compiled, table or encoder. "
            "Repeatable. By default all but tables and encoders, which came from Python."
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All entries of these kinds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed, and stop.")] = False,
    debug: Debug = False,
) -> None:
    """Remove entries of the cache, never one that a running process uses. A run makes them again when it needs them."""
    from ssl_core.errors import ConfigError, nearest
    from ssl_core.utils import cache_entries as cache
    from ssl_core.utils.cache import cache_dir
    from ssl_core.utils.console import printable
    from ssl_core.utils.units import parse_size, parse_time, size_text

    if not (entries or older_than or max_size or kind or all_):
        raise ConfigError("say what to remove: --older-than 30d, --max-size 10GB, --kind unfinished, --all, or entries")
    for one in kind or ():
        if one not in cache.KINDS:
            raise ConfigError(f"--kind {one}: {nearest(one, cache.KINDS, 'kind')}")
    request = cache.PruneRequest(
        None if older_than is None else parse_time(older_than, "--older-than"),
        None if max_size is None else parse_size(max_size, "--max-size"),
        kind or cache.REMADE,
        entries or (),
    )
    known = cache.cache_entries(cache_dir())
    for entry in known:
        if entry.name in request.names and entry.in_use:
            raise ConfigError(f"{entry.name} is in use by a running process; wait for it")
    freed = count = 0
    for entry in cache.choose_entries(known, request):
        if not dry_run and not cache.remove_entry(entry):
            typer.echo(printable(f"kept {entry.name}: a process uses it now"))
            continue
        does = "would remove" if dry_run else "removed"
        typer.echo(printable(f"{does} {entry.name} ({entry.kind}, {size_text(entry.bytes)}): {entry.about}"))
        freed, count = freed + entry.bytes, count + 1
    left = size_text(sum(entry.bytes for entry in known) - freed)
    typer.echo(f"{'would remove' if dry_run else 'removed'} {_counted(count)}, {size_text(freed)}; {left} left")


def _counted(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"
