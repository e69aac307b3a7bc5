"""What `sslx list` prints, kept between calls: importing torch for it takes seconds, reading it a moment.

The kept listing is used while the installed plugins and all their source files are as they were.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from ssl_core.cli.rich_terminal import Terminal
from ssl_core.errors import ConfigError, nearest
from ssl_core.plugins import GROUP, KINDS
from ssl_core.utils.cache import cache_dir

if TYPE_CHECKING:
    from ssl_core.plugins import Catalogue, Entry, Kind

FORMAT = 1
Listing = Mapping[str, Mapping[str, Any]]  # plural of a kind: its columns, and its rows of text


def make(catalogue: Catalogue) -> Listing:
    """Every kind of plugin, and the benchmarks: name, what it is, where it comes from."""
    from ssl_core.config.benchmarks import benchmarks

    tables: dict[str, Mapping[str, Any]] = {}
    for kind in KINDS:
        first = {"dataset": "modality/name", "preset": "name"}.get(kind, "name")
        columns = [first, "what it is" if kind != "preset" else "for, and source", "origin"]
        tables[f"{kind}s"] = {"columns": columns, "rows": [_row(kind, entry) for entry in catalogue.entries(kind)]}
    found = benchmarks(entry.value for entry in catalogue.presets)
    rows = [[name, ", ".join(domains)] for name, domains in found.items()]
    tables["benchmarks"] = {"columns": ["name", "domains"], "rows": rows}
    return tables


def _row(kind: Kind, entry: Entry[Any]) -> list[str]:
    name, what = entry.name, entry.summary
    if kind == "dataset":
        name = f"{entry.value.modality}/{name}" + (" (default)" if entry.value.is_default else "")
    if kind == "preset":
        parts = (entry.value.objective, entry.value.modality, entry.value.dataset)
        scope = ", ".join(part for part in parts if part) or "any run"
        what = f"{scope}{' (default)' if entry.value.default else ''}: {what}"
    return [name, what, str(entry.origin)]


def show(tables: Listing, plural: str | None) -> None:
    """Print one table, or all.

    Raises:
        ConfigError: an unknown kind.
    """
    plural = "tokenizers" if plural == "modalities" else plural  # a tokenizer has the name of its modality
    if plural not in (None, *tables):
        raise ConfigError(f"cannot list '{plural}'; {nearest(str(plural), [*tables, 'runs'], 'kind')}")
    console = Terminal(highlight=False)
    for name, found in tables.items():
        if plural in (None, name):
            table = Table(*found["columns"], title=name, title_justify="left")
            for row in found["rows"]:
                table.add_row(*map(escape, row))
            console.print(table)


def load_cached() -> Listing | None:
    """The listing of an earlier call, if nothing has changed since. None where there is none, or no cache folder."""
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return found["tables"] if found["of"] == fingerprint() else None
    except (OSError, ValueError, LookupError, TypeError, ConfigError):
        return None


def save_cached(tables: Listing) -> None:
    """Keep it for the next call; where that is not possible it is made again each time."""
    try:
        part = _file().with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"of": fingerprint(), "tables": tables}), encoding="utf-8")
        part.replace(_file())
    except (OSError, ConfigError):
        return


def fingerprint() -> str:
    """Changes whenever a plugin is installed, removed or edited."""
    digest = hashlib.blake2b(str(FORMAT).encode(), digest_size=16)
    tops = {__name__.partition(".")[0]}
    for point in sorted(importlib.metadata.entry_points(group=GROUP)):
        digest.update(f"{point.name} {point.value} {point.dist.version if point.dist else ''}\n".encode())
        tops.add(point.module.partition(".")[0])
    for top in sorted(tops):
        for path in _sources(top):
            about = path.stat()
            digest.update(f"{path} {about.st_mtime_ns} {about.st_size}\n".encode())
    return digest.hexdigest()


def _sources(top: str) -> Iterator[Path]:
    """The Python files of a module or package, found without importing it."""
    spec = importlib.util.find_spec(top)
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        yield Path(str(spec.origin))
    for folder in spec.submodule_search_locations or ():
        yield from sorted(Path(folder).rglob("*.py"))


def _file() -> Path:
    return cache_dir() / "listing.json"
