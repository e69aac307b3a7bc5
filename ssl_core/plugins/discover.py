"""Discovery of installed plugins by their entry points.

A plugin is an entry point of the group `sslx`, identified as `distribution:entry`. So are the shipped
plugins. A plugin that fails to load is set aside with its error; the other plugins stay usable.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Iterable

from ssl_core.errors import ConfigError, PluginError, nearest
from ssl_core.plugins.catalogue import Catalogue, Origin
from ssl_core.plugins.verify import quote

GROUP = "sslx"
BLOCK_VARIABLE = "SSLX_BLOCK"


def load(block: Iterable[str] = ()) -> Catalogue:
    """The catalogue of all installed plugins except those in `block` or in the variable SSLX_BLOCK (comma separated).

    Raises:
        PluginError: if two plugins register the same name.
        ConfigError: if `block` names a plugin that is not installed.
    """
    points = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        distribution, version = _distribution(point.dist)
        points[distribution, point.name] = (Origin(f"{distribution}:{point.name}", version), point)
    catalogue = Catalogue()
    blocked = _blocked(block, [origin.plugin for origin, _ in points.values()], catalogue.problems)
    for _, (origin, point) in sorted(points.items()):
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
def _distribution(distribution: importlib.metadata.Distribution | None) -> tuple[str, str]:
    """Name and version; cached, since each access parses all metadata of the distribution."""
    return (distribution.name, distribution.version) if distribution else ("unknown", "")


def _blocked(block: Iterable[str], installed: list[str], problems: list[str]) -> set[str]:
    """The plugins to leave out: by argument and by variable."""
    blocked = set(block)
    for name in sorted(blocked - set(installed)):
        raise ConfigError(f"--block: no plugin '{name}'; {nearest(name, installed, 'plugin')}")
    for name in filter(None, (part.strip() for part in os.environ.get(BLOCK_VARIABLE, "").split(","))):
        if name in installed:
            blocked.add(name)
        else:  # not an error: the variable may be meant for another environment
            problems.append(f"{BLOCK_VARIABLE}: no plugin '{name}'; {nearest(name, installed, 'plugin')}")
    return blocked
