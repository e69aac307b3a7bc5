"""Names that the shell completes, from the entry points of installed plugins; no plugin is imported."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

GROUP = "sslx"
"""As `ssl_core.plugins.GROUP`, whose module loads torch."""


def names_of(kind: str) -> Callable[[str], list[str]]:
    """A function that returns the names of a kind of plugin, such as "objectives", that begin with a text.

    A plugin that calls its entry point otherwise than the class that it offers is not found; it can be typed.
    """

    def complete(incomplete: str) -> list[str]:
        prefix = f"{kind}."
        points = importlib.metadata.entry_points(group=GROUP)
        names = sorted({point.name.removeprefix(prefix) for point in points if point.name.startswith(prefix)})
        return [name for name in names if name.startswith(incomplete)]

    return complete
