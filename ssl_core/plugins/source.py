"""Plugins from a path, loaded as if they were installed, for `sslx check PATH`.

The path is a project folder, whose pyproject.toml lists its entry points, or one module with hooks.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ssl_core.errors import ConfigError
from ssl_core.plugins import GROUP


@dataclass(frozen=True)
class PluginSource:
    """Metadata of the distribution. root: folder to add to sys.path; points: module by entry point name."""

    distribution: str
    version: str
    root: Path
    points: dict[str, str]


def looks_like_path(text: str) -> bool:
    """Whether an argument is a path and not a name: it has a separator, is "." or "..", or ends in .py."""
    return text in (".", "..") or text.endswith(".py") or "/" in text or os.sep in text


@contextmanager
def temporarily_installed(path: Path) -> Iterator[PluginSource]:
    """Context manager in which `load` finds the plugins of a project folder or a module as if they were installed.

    They take precedence over an installed distribution of the same name. Imported modules stay imported.

    Raises:
        ConfigError: if the path holds no plugin.
    """
    source = _project(path) if path.is_dir() else _module(path)
    with tempfile.TemporaryDirectory(prefix="sslx-") as scratch:
        info = Path(scratch) / f"{source.distribution.replace('-', '_')}-{source.version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {source.distribution}\nVersion: {source.version}\n", encoding="utf-8"
        )
        lines = [f"[{GROUP}]", *(f"{name} = {module}" for name, module in source.points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        before = list(sys.path)
        sys.path[:0] = [scratch, str(source.root)]
        importlib.invalidate_caches()
        try:
            yield source
        finally:
            sys.path[:] = before
            importlib.invalidate_caches()


def _project(folder: Path) -> PluginSource:
    """A project folder, with its packages under src/ or beside pyproject.toml."""
    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        points = dict(project.get("entry-points", {}).get(GROUP, {}))
    except FileNotFoundError:
        raise ConfigError(f"{folder} has no pyproject.toml; give a plugin's project folder or one .py file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if not points:
        raise ConfigError(f"{file} names no plugin; add one under [project.entry-points.{GROUP}]")
    root = folder / "src" if (folder / "src").is_dir() else folder
    version = str(project.get("version", "0"))  # a dynamic version is unknown before the build
    return PluginSource(str(project.get("name", folder.resolve().name)), version, root.resolve(), points)


def _module(file: Path) -> PluginSource:
    """One module; a module of a package gets its full name, so that its relative imports work."""
    if not file.is_file():
        raise ConfigError(f"there is no {file}; give the name of something installed, a project folder or a .py file")
    if file.suffix != ".py":
        raise ConfigError(f"{file} is not a Python module; give a plugin's project folder or one .py file")
    file = file.resolve()
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if parts[-1] == "__init__":
        parts.pop()
    bad = next((part for part in parts if not part.isidentifier()), None)
    if bad is not None:
        raise ConfigError(f"'{bad}' of {file} is not a module name; rename it to letters, digits and _")
    return PluginSource(file.stem.replace("_", "-"), "0", root, {file.stem: ".".join(parts)})
