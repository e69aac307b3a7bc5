"""Finds the installed plugins and builds the catalogue of what they offer.

A plugin is an entry point of the group `sslx`, known as `distribution:entry`. Shipped plugins enter by the same door
as anyone's. A plugin that cannot be used is set aside with its error and stops nothing else.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Iterable

from ssl_core.errors import ConfigError, PluginError, nearest
from ssl_core.plugins.catalogue import KINDS, Catalogue, Entry, Kind, Origin, SetAside
from ssl_core.plugins.verify import quote

__all__ = ["BLOCK_VARIABLE", "GROUP", "KINDS", "Catalogue", "Entry", "Kind", "Origin", "SetAside", "load"]

GROUP = "sslx"
BLOCK_VARIABLE = "SSLX_BLOCK"


def load(block: Iterable[str] = ()) -> Catalogue:
    """The catalogue of all installed plugins but those in `block` or in the variable SSLX_BLOCK (comma separated).

    Errors: PluginError if two plugins offer the same name; ConfigError if `block` names no installed plugin.
    """
    found = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        distribution, version = _distribution(point.dist)
        found[distribution, point.name] = (Origin(f"{distribution}:{point.name}", version), point)
    catalogue = Catalogue()
    blocked = _blocked(block, [origin.plugin for origin, _ in found.values()], catalogue.problems)
    for _, (origin, point) in sorted(found.items()):
        if origin.plugin in blocked:
            catalogue.put_blocked(origin)
            continue
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            refusal = PluginError(f"it cannot be imported: {quote(error)}")
            refusal.__cause__ = error
            catalogue.put_aside(origin, refusal)
        else:
            catalogue.add(origin, plugin)
    catalogue.manager.check_pending()
    return catalogue


@functools.lru_cache
def _distribution(one: importlib.metadata.Distribution | None) -> tuple[str, str]:
    """Name and version; kept, since each reading parses the distribution's whole metadata."""
    return (one.name, one.version) if one else ("unknown", "")


def _blocked(block: Iterable[str], installed: list[str], problems: list[str]) -> set[str]:
    """The plugins to leave out, by argument and by variable."""
    asked = set(block)
    for name in sorted(asked - set(installed)):
        raise ConfigError(f"--block: no plugin '{name}'; {nearest(name, installed, 'plugin')}")
    for name in filter(None, (part.strip() for part in os.environ.get(BLOCK_VARIABLE, "").split(","))):
        if name in installed:
            asked.add(name)
        else:  # the variable may be meant for another environment, so it stops nothing
            problems.append(f"{BLOCK_VARIABLE}: no plugin '{name}'; {nearest(name, installed, 'plugin')}")
    return asked
