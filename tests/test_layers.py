"""The import ladder: a file imports only from rows above its own. Checked on the source, so lazy imports count, too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Row by row. Siblings in a row never import each other; files of one folder may, without cycles.
LADDER: tuple[tuple[str, ...], ...] = (
    ("errors", "tokens", "data", "options"),
    ("utils", "nn", "public_data.source", "training.options", "evaluation.options"),
    ("contracts", "config.schema", "report.schema"),
    ("tokenizers", "hookspecs", "public_data", "training.learner"),
    ("plugins", "pipeline", "evaluation", "report"),
    ("training", "config", "scaffold"),
    ("runs", "testing"),
    ("compare", "estimator"),
    ("api", "ui"),
    ("cli",),
)
ONE_UNIT = {"training.teacher": "training.learner"}  # two files of one folder that lie above the rest of it
ROW = {unit: row for row, units in enumerate(LADDER) for unit in units}
LAST_PUBLIC_ROW = ROW["tokenizers"]  # ssl_core/__init__.py offers names of the rows up to this one
PUBLIC = ("ssl_core", "ssl_core.evaluation", "ssl_core.nn", "ssl_core.tokenizers")  # what shipped plugins may import
SHARED = ("ssl_plugins.datasets._io",)  # private packages that the packages beside them may import
NEVER = ("tests", "benchmarks", "docs", "sslx")


@dataclass(frozen=True)
class Import:
    """One imported module. name: what is taken from it, None for the module itself."""

    module: str
    name: str | None
    line: int
    typing_only: bool
    lazy: bool


class Tree:
    """The source files of a project, by module name, and what they import."""

    def __init__(self, root: Path) -> None:
        self.files: dict[str, Path] = {}
        for source in (root / "ssl_core", root / "plugins" / "ssl_plugins", root / "plugins" / "sslx"):
            for path in sorted(source.rglob("*.py")):
                parts = path.relative_to(source.parent).with_suffix("").parts
                self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        self.parsed = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in self.files.items()}

    def imports(self, module: str) -> list[Import]:
        """All imports of a module, those inside functions among them; relative ones resolved."""
        return list(self._walk(module, self.parsed[module], typing_only=False, lazy=False))

    def _walk(self, module: str, node: ast.AST, typing_only: bool, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, None, child.lineno, typing_only, lazy)
            elif isinstance(child, ast.ImportFrom):
                yield from self._names(module, child, typing_only, lazy)
            elif isinstance(child, ast.Call) and _imported(child):
                yield Import(_imported(child), None, child.lineno, typing_only, lazy)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    yield from self._walk(module, ast.Module([part], []), True, lazy)
                for part in child.orelse:
                    yield from self._walk(module, ast.Module([part], []), typing_only, lazy)
            else:
                inner = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from self._walk(module, child, typing_only, inner)

    def _names(self, module: str, node: ast.ImportFrom, typing_only: bool, lazy: bool) -> Iterator[Import]:
        base = node.module or ""
        if node.level:
            package = module if self.files[module].name == "__init__.py" else module.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
            base = ".".join([*above, *filter(None, [node.module])])
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            target, name = (whole, None) if whole in self.files else (base, alias.name)
            yield Import(target, name, node.lineno, typing_only, lazy)

    def exported(self, module: str) -> set[str]:
        """The names in a module's __all__, or without one the public names that it defines."""
        names: set[str] = set()
        for node in self.parsed[module].body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                written = [target.id for target in targets if isinstance(target, ast.Name)]
                if "__all__" in written and node.value is not None:
                    return set(ast.literal_eval(node.value))
                names.update(written)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
        return {name for name in names if not name.startswith("_")}


def _imported(call: ast.Call) -> str:
    """The module that import_module("...") names; "" for any other call."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = call.args[0] if called == "import_module" and call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def unit_of(module: str) -> str:
    """The entry of the ladder that a module of the core belongs to; "" for ssl_core itself."""
    inner = module.partition(".")[2]
    inner = ONE_UNIT.get(inner, inner)
    return inner if inner in ROW else inner.partition(".")[0]


def violations(tree: Tree) -> list[str]:
    """Every import that breaks a rule, as one line."""
    found = []
    for module in tree.files:
        rules = {"ssl_core": core_rule, "sslx": user_rule}.get(module.split(".")[0], plugin_rule)
        for one in tree.imports(module):
            first = one.module.split(".")[0]
            complaint = f"nothing imports {first}" if first in NEVER else rules(tree, module, one)
            if complaint:
                found.append(
                    f"{module}:{one.line} imports {one.module}{f'.{one.name}' if one.name else ''}: {complaint}"
                )
    return found + cycles(tree)


def core_rule(tree: Tree, module: str, one: Import) -> str | None:
    """What is wrong with an import of a module of the core, or None."""
    first = one.module.split(".")[0]
    if first == "ssl_plugins":
        return "the core imports no plugin"
    if first != "ssl_core":
        return None
    mine, theirs = unit_of(module), unit_of(one.module)
    if not theirs:
        # reading the version is no import of a public name that lives further down
        return None if one.name == "__version__" else "inside the core nobody imports the root"
    if theirs not in ROW:
        return f"'{theirs}' has no row in the ladder"
    if module == "ssl_core":
        return None if ROW[theirs] <= LAST_PUBLIC_ROW else f"the root offers rows 0 to {LAST_PUBLIC_ROW} only"
    if mine not in ROW:
        return f"'{mine}' has no row in the ladder"
    if mine == theirs:
        return None
    if mine == "hookspecs" and not one.typing_only:
        return "hookspecs imports the core under TYPE_CHECKING only"
    if mine == "evaluation" and ROW[theirs] > 0 and theirs != "evaluation.options":
        return "evaluation imports row 0 and its own options only"
    if ROW[theirs] < ROW[mine]:
        return None
    return f"row {ROW[mine]} may not import row {ROW[theirs]}"


def plugin_rule(tree: Tree, module: str, one: Import) -> str | None:
    """What is wrong with an import of a shipped plugin, or None."""
    first = one.module.split(".")[0]
    if first == "ssl_core":
        if one.module not in PUBLIC:
            return f"plugins import only {', '.join(PUBLIC)}"
        if one.name is None:
            return f"write `from {one.module} import` and the name"
        return None if one.name in tree.exported(one.module) else f"{one.name} is no public name of {one.module}"
    if first == "ssl_plugins" and one.module != module:
        folder, _, name = one.module.rpartition(".")
        private = name.startswith("_") and folder == module.rpartition(".")[0]
        shared = any(
            one.module.startswith(f"{room}.") and module.startswith(room.rpartition(".")[0]) for room in SHARED
        )
        return None if private or shared else "one plugin file never imports another; share a _private.py in the folder"
    return None


def user_rule(tree: Tree, module: str, one: Import) -> str | None:
    """What is wrong with an import of the package for users, or None."""
    if one.module == "ssl_core.api" or (one.module, one.name) == ("ssl_core", "__version__"):
        return None
    ours = one.module.split(".")[0] in ("ssl_core", "ssl_plugins")
    return "sslx offers names of ssl_core.api only" if ours else None


def cycles(tree: Tree) -> list[str]:
    """Modules that import each other, imports for type checking included."""
    graph = {
        module: {one.module for one in tree.imports(module) if not one.lazy} & set(tree.files) for module in tree.files
    }
    for module, targets in graph.items():
        targets.discard(module)
    found, done = [], set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            loop = path[path.index(module) :]
            first = loop.index(min(loop))
            found.append("cycle: " + " -> ".join((*loop[first:], *loop[:first], loop[first])))
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
    return found


def test_every_import_keeps_to_the_ladder():
    tree = Tree(ROOT)
    assert len(tree.files) > 20
    assert violations(tree) == []


def test_fewer_than_ten_files_at_the_top():
    assert len(list((ROOT / "ssl_core").glob("*.py"))) < 10


def test_every_row_exists():
    units = {unit_of(module) for module in Tree(ROOT).files if module.startswith("ssl_core.")}
    assert units == set(ROW)


def test_root_offers_what_it_says():
    """The table of homes in ssl_core/__init__.py, by which names are loaded, fits the ladder and __all__."""
    import ssl_core

    for home, names in ssl_core._HOMES.items():
        assert ROW[unit_of(f"ssl_core.{home}")] <= LAST_PUBLIC_ROW
        for name in names:
            assert getattr(ssl_core, name) is not None
    assert {name for names in ssl_core._HOMES.values() for name in names} | {"__version__"} == set(ssl_core.__all__)
    assert dir(ssl_core) == sorted(ssl_core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Learnr'"):
        ssl_core.Learnr  # noqa: B018


def test_scripts_use_public_names_only():
    wrong = []
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("ssl_core", "ssl_plugins"):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                wrong += [f"{path.name}:{node.lineno} {part}" for part in parts if part.startswith("_")]
    assert wrong == []


# --- the checker itself: it must fail where a rule is broken ---------------------------------------------------------

SOUND = {
    "ssl_core/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ssl_core.tokens import Ids\n"
    "__version__ = '1'\n__all__ = ['Ids']",
    "ssl_core/tokens.py": "import torch\nclass Ids: ...",
    "ssl_core/nn/__init__.py": "from ssl_core.nn.indexing import gather\n__all__ = ['gather']",
    "ssl_core/nn/indexing.py": "from ssl_core import tokens\nfrom ..tokens import Ids\ndef gather(): ...",
    "ssl_core/tokenizers.py": "from ssl_core.nn.indexing import gather\nclass Grid: ...\ndef _own(): ...",
    "ssl_core/hookspecs.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ssl_core.tokens import Ids",
    "ssl_core/training/__init__.py": "",
    "ssl_core/training/learner.py": "from ssl_core.nn import gather",
    "ssl_core/training/loop.py": "from ssl_core.training.learner import Learner\n"
    "from ssl_core.training.device import pick",
    "ssl_core/training/device.py": "def pick(): ...",
    "ssl_core/evaluation/__init__.py": "from ssl_core.tokens import Ids",
    "ssl_core/runs/__init__.py": "",
    "ssl_core/runs/pretrain.py": "from ssl_core.training import loop",
    "ssl_core/cli/__init__.py": "",
    "ssl_core/cli/app.py": "def main():\n    from ssl_core import __version__\n    from ssl_core.runs import pretrain",
    "ssl_core/api.py": "from ssl_core.runs import pretrain",
    "plugins/sslx/__init__.py": "from ssl_core import __version__\nfrom ssl_core.api import pretrain",
    "plugins/ssl_plugins/__init__.py": "",
    "plugins/ssl_plugins/tokenizers/__init__.py": "",
    "plugins/ssl_plugins/tokenizers/_mel.py": "import numpy",
    "plugins/ssl_plugins/tokenizers/speech.py": "from ssl_core import Ids\nfrom ssl_core.nn import gather\n"
    "from ssl_core.tokenizers import Grid\nfrom ssl_plugins.tokenizers import _mel\nfrom ._mel import numpy",
    "plugins/ssl_plugins/datasets/__init__.py": "",
    "plugins/ssl_plugins/datasets/_io/__init__.py": "",
    "plugins/ssl_plugins/datasets/_io/npz.py": "import numpy",
    "plugins/ssl_plugins/datasets/user/__init__.py": "",
    "plugins/ssl_plugins/datasets/user/files.py": "from ssl_plugins.datasets._io.npz import numpy",
}
INDEXING, LOOP = "ssl_core/nn/indexing.py", "ssl_core/training/loop.py"
PRETRAIN, FILES = "ssl_core/runs/pretrain.py", "plugins/ssl_plugins/datasets/user/files.py"
ONLY = "plugins import only ssl_core, "

BROKEN = [
    ("ssl_core/tokens.py", "from ssl_core.nn import gather", "row 0 may not import row 1"),
    ("ssl_core/tokens.py", "from ssl_core.data import x", "row 0 may not import row 0"),
    ("ssl_core/tokens.py", "def f():\n    from ssl_core.runs import run", "row 0 may not import row 6"),
    ("ssl_core/tokens.py", "from .runs import run", "row 0 may not import row 6"),
    (INDEXING, "import ssl_core.cli", "row 1 may not import row 9"),
    (INDEXING, "import importlib\nimportlib.import_module('ssl_core.runs')", "row 1 may not import row 6"),
    (INDEXING, "from ssl_core import Ids", "inside the core nobody imports the root"),
    (INDEXING, "import ssl_core", "inside the core nobody imports the root"),
    (INDEXING, "from ssl_core.helpers import x", "'helpers' has no row in the ladder"),
    ("ssl_core/helpers.py", "from ssl_core.tokens import Ids", "'helpers' has no row in the ladder"),
    (LOOP, "from ssl_core.config import x", "row 5 may not import row 5"),
    ("ssl_core/training/learner.py", "from ssl_core.training.loop import x", "row 3 may not import row 5"),
    ("ssl_core/evaluation/__init__.py", "from ssl_core.nn import gather", "evaluation imports row 0 and its own"),
    ("ssl_core/hookspecs.py", "from ssl_core.tokens import Ids", "under TYPE_CHECKING only"),
    (
        "ssl_core/hookspecs.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ssl_core.runs.pretrain import run",
        "row 3 may not import row 6",
    ),
    ("ssl_core/__init__.py", "from ssl_core.runs import run", "the root offers rows 0 to 3 only"),
    (PRETRAIN, "from ssl_plugins.datasets import files", "the core imports no plugin"),
    (PRETRAIN, "def f():\n    import ssl_plugins", "the core imports no plugin"),
    (PRETRAIN, "import tests.conftest", "nothing imports tests"),
    (PRETRAIN, "from benchmarks import dabs", "nothing imports benchmarks"),
    (FILES, "from ssl_core.nn.indexing import gather", ONLY),
    (FILES, "from ssl_core.runs.pretrain import run", ONLY),
    (FILES, "from ssl_core import runs", ONLY),
    (FILES, "import ssl_core", "write `from ssl_core import` and the name"),
    (FILES, "from ssl_core import Secret", "Secret is no public name of ssl_core"),
    (FILES, "from ssl_core.nn import rest", "rest is no public name of ssl_core.nn"),
    (FILES, "from ssl_core.tokenizers import _own", "_own is no public name"),
    (FILES, "from ssl_plugins.tokenizers.speech import x", "never imports another"),
    (FILES, "from ...tokenizers import speech", "never imports another"),
    (FILES, "from ssl_plugins.tokenizers import _mel", "never imports another"),
    ("plugins/ssl_plugins/tokenizers/speech.py", "from ssl_plugins.datasets._io import npz", "never imports another"),
    (FILES, "import tests", "nothing imports tests"),
    (PRETRAIN, "import sslx", "nothing imports sslx"),
    ("plugins/sslx/__init__.py", "from ssl_core.runs import pretrain", "sslx offers names of ssl_core.api only"),
    (
        "ssl_core/training/device.py",
        "from ssl_core.training.loop import x",
        "cycle: ssl_core.training.device -> ssl_core.training.loop -> ssl_core.training.device",
    ),
    (
        "ssl_core/training/device.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ssl_core.training.loop import x",
        "cycle: ssl_core.training.device -> ssl_core.training.loop -> ssl_core.training.device",
    ),
]


def written(root: Path, **changed: str) -> Tree:
    for name, text in (SOUND | changed).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(root)


def test_checker_accepts_a_sound_tree(tmp_path):
    assert violations(written(tmp_path)) == []


@pytest.mark.parametrize(("name", "code", "complaint"), BROKEN)
def test_checker_finds_what_is_wrong(tmp_path, name, code, complaint):
    found = violations(written(tmp_path, **{name: code}))
    assert found, "nothing was found"
    assert any(complaint in line for line in found), found
