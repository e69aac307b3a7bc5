"""The plugin interface does not change unseen: public names, signatures and hooks, letter by letter.

After a change that is meant (docs/compatibility.md has the rules), write the file anew and look at the difference:

    SSLX_UPDATE_API=1 python -m pytest tests/test_api_freeze.py
    git diff tests/api.json
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import ssl_core
from ssl_core import hookspecs

FROZEN = Path(__file__).resolve().parent / "api.json"
MODULES = ("ssl_core", "ssl_core.nn", "ssl_core.tokenizers", "ssl_core.testing")
OURS = ("ssl_core",)


def interface() -> dict[str, Any]:
    """Everything that a plugin may rely on, as JSON."""
    hooks = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "sslx_spec")]
    return {
        "API_VERSION": ssl_core.API_VERSION,
        "hooks": {name: signature(getattr(hookspecs, name)) for name in sorted(hooks)},
        **{module: described(module) for module in MODULES},
    }


def described(module: str) -> dict[str, Any]:
    loaded = importlib.import_module(module)
    return {name: form(getattr(loaded, name)) for name in public_names(loaded) if name != "__version__"}


def public_names(module: Any) -> list[str]:
    """Those in __all__; without one, what the module itself defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )


def form(value: Any) -> Any:
    """A class by its members, a function by its signature, anything else by its text."""
    if inspect.isclass(value) and value.__module__.split(".")[0] in OURS:
        return members(value)
    if inspect.isroutine(value):
        return signature(value)
    return plain(str(value))


def members(cls: type) -> dict[str, Any]:
    """Bases, the constructor, and what the class and its bases of ours define in public."""
    out: dict[str, Any] = {
        "bases": [f"{base.__module__}.{base.__qualname__}" for base in cls.__bases__],
        "()": signature(cls),
    }
    for home in reversed([base for base in cls.__mro__ if base.__module__.split(".")[0] in OURS]):
        for name, kind in vars(home).get("__annotations__", {}).items():
            if not name.startswith("_"):
                out[name] = f": {kind}"
        for name, value in vars(home).items():
            if name.startswith("_") and name not in ("__call__", "__len__", "__getitem__", "__init__"):
                continue
            if isinstance(value, property):
                out[name] = f"property {signature(value.fget)}"
            elif isinstance(value, classmethod | staticmethod):
                out[name] = f"{type(value).__name__} {signature(value.__func__)}"
            elif inspect.isfunction(value):
                out[name] = signature(value)
            elif inspect.isclass(value):
                out[name] = members(value)
    return out


def signature(value: Any) -> str:
    try:
        return plain(str(inspect.signature(value)))
    except ValueError:
        return "(?)"


def plain(text: str) -> str:
    """Without addresses in memory, nor the quotes of annotations that are kept as text."""
    return re.sub(r" at 0x[0-9a-f]+", "", text).replace("'", "")


def test_interface_is_frozen():
    now = json.loads(json.dumps(interface()))
    if os.environ.get("SSLX_UPDATE_API") == "1":
        FROZEN.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    changed = differences(frozen, now)
    assert not changed, "the plugin interface changed (docs/compatibility.md says what to do):\n" + "\n".join(changed)


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """One line for each place where two trees differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [
            line
            for key in keys
            for line in differences(before.get(key, "absent"), after.get(key, "absent"), f"{path}/{key}")
        ]
    return [] if before == after else [f"{path}: {before} -> {after}"]


@pytest.mark.parametrize(
    ("module", "path"),
    [
        ("ssl_core", ("Objective", "draw")),
        ("ssl_core", ("Objective", "default_masking")),
        ("ssl_core", ("Tokenizer", "preprocess")),
        ("ssl_core", ("Dataset", "fingerprint")),
        ("ssl_core", ("Masking", "__call__")),
        ("ssl_core", ("Tokens", "embeddings")),
        ("ssl_core.nn", ("masked_mean",)),
        ("ssl_core.tokenizers", ("GridTokenizer", "Options", "normalise")),
        ("ssl_core.testing", ("parametrize",)),
    ],
)
def test_what_a_plugin_relies_on_is_seen(module, path):
    found = described(module)
    for name in path:
        found = found[name]
    assert found


def test_every_kind_of_change_is_seen():
    class Before:
        """A class of ours."""

        size: int

        def work(self, one: int) -> str: ...

    Before.__module__ = "ssl_core.somewhere"

    class After(Before):
        def work(self, one: int, two: int = 0) -> str: ...

        def more(self) -> None: ...

    After.__module__ = "ssl_core.somewhere"
    lines = "\n".join(differences(members(Before), members(After)))
    assert "/work: (self, one: int) -> str -> (self, one: int, two: int = 0) -> str" in lines
    assert "/more: absent -> (self) -> None" in lines
    assert "/bases" in lines
    assert differences(members(Before), members(Before)) == []
