"""Digests of source code, for the keys of caches."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

CORE = __name__.partition(".")[0]
STANDARD = {"torch", "builtins", "typing", "abc"}  # their versions are part of the keys, or they define no behaviour
SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES)


def source_files(classes: Iterable[type]) -> list[str]:
    """The files that the behaviour of classes depends on, sorted.

    They are the files of the classes and of their base classes. For a class that derives from one of this package, as
    every plugin does, they include each module of its own top-level package that its module imports, directly or
    through other modules: at the top or within a function, by an absolute or a relative import.
    """
    files: set[str] = set()
    for cls in {base for one in classes for base in one.__mro__}:
        package = cls.__module__.partition(".")[0]
        if package in STANDARD:
            continue
        try:
            file = inspect.getfile(cls)
        except (OSError, TypeError):  # defined in a shell or a notebook
            continue
        files.add(file)
        if package != CORE and any(base.__module__.partition(".")[0] == CORE for base in cls.__mro__):
            files |= _imported_files(cls.__module__, Path(file))
    return sorted(files)


def source_digest(file: str) -> str:
    """A digest of a file's content."""
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()


def _imported_files(name: str, file: Path) -> set[str]:
    """Files of the modules of its own top-level package that a module imports, directly or through others."""
    package = _Package(name, file)
    files: dict[str, Path] = {}
    waiting = [(name, file)]
    while waiting:
        module, path = waiting.pop()
        if module in files:
            continue
        files[module] = path
        if path.suffix == ".py":
            is_package = path.name == "__init__.py"
            for names in _imports(path.read_bytes(), module if is_package else module.rpartition(".")[0]):
                waiting += package.resolve(names)
    return {str(path) for path in files.values()}


class _Package:
    """The top-level package of a module, searched without importing anything."""

    def __init__(self, name: str, file: Path) -> None:
        self.name, *parts = name.split(".")
        depth = len(parts) + (file.name == "__init__.py")  # of the file below the folder that holds the package
        own = [str(file.parents[depth - 1])] if 0 < depth <= len(file.parents) else []  # none for a single module
        self.folders = list(dict.fromkeys([*getattr(sys.modules.get(self.name), "__path__", ()), *own]))

    def resolve(self, candidates: tuple[str, ...]) -> list[tuple[str, Path]]:
        """The first of several module names that is a module of this package; [] if none is."""
        for name in candidates:
            top, *parts = name.split(".")
            if top != self.name:
                continue
            for folder in self.folders:
                stem = Path(folder, *parts)
                places = [stem / "__init__.py", *(Path(f"{stem}{suffix}") for suffix in SUFFIXES if parts)]
                for place in places:
                    if place.is_file():
                        return [(name, place)]
        return []


@functools.lru_cache(maxsize=4096)
def _imports(source: bytes, package: str) -> tuple[tuple[str, ...], ...]:
    """For each imported name the modules that may hold it, the most specific first.

    package: what relative imports start from.
    """
    return tuple(_walk_imports(ast.parse(source), package))


def _walk_imports(tree: ast.AST, package: str) -> Iterator[tuple[str, ...]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.name,)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            start = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:  # `from a import b`: b is a module, or a name in a
                yield (f"{module}.{alias.name}", module)
