"""Writes the reference pages from the code: hooks.md from the hooks, promises.md from the conformance kit, reference.md
from the public names.

    python docs/make_reference.py
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ssl_core
from ssl_core import hookspecs
from ssl_core.testing import datasets, maskings, objectives, options, tokenizers

DOCS = Path(__file__).resolve().parent

HOOKS = """\
# Hooks

<!-- Made by docs/make_reference.py from ssl_core/hookspecs.py; do not edit. -->

A plugin is a module with any of these functions, each marked `@hookimpl`, named in the entry point group `sslx` of an
installed package. `sslx plugins` shows what it offers, or why it was set aside.

```toml
# pyproject.toml
[project.entry-points.sslx]
"objectives.denoise" = "sslx_denoise.objective"
```

A hook that wants fewer of the arguments leaves them out. [Writing an objective](writing-an-objective.md) and
[writing a tokenizer](writing-a-tokenizer.md) show whole plugins, [mistakes](mistakes.md) what happens to wrong ones.
"""
GROUPS = {
    "Catalogues: what a plugin offers": (
        "register_",
        "Each returns a list. A name offered twice is an error that names both plugins.",
    ),
    "Notices: sent around a run": ("", "A plugin that raises in a notice is named in one line and stops nothing."),
}
CHECKS = """\
# Promises

<!-- Made by docs/make_reference.py from ssl_core/testing; do not edit. -->

What [the conformance kit](testing-your-plugin.md) checks. Promises of objectives and maskings are kept on several
layouts. The last column is what "look at" in a message names.
"""
KINDS = {
    "Every plugin": options.CHECKS,
    "Objective": objectives.CHECKS,
    "Tokenizer": tokenizers.CHECKS,
    "Data set": datasets.CHECKS,
    "Masking": maskings.CHECKS,
}
REFERENCE = """\
# Public names

<!-- Made by docs/make_reference.py from the code; do not edit. -->

All that a plugin may rely on, by the rules of [compatibility](compatibility.md). Names under `ssl_core` are imported
from there, whichever file they live in. The site shows what each is and takes; without it, `python -c
"import ssl_core; help(ssl_core.Objective)"` prints the same.
"""
MODULES = {
    "ssl_core.nn": "Building blocks that any plugin may use.",
    "ssl_core.tokenizers": "Ready-made tokenizers by geometry.",
    "ssl_core.testing": "The conformance kit.",
}


def hooks() -> dict[str, Callable[..., Any]]:
    """The hooks in the order of the file."""
    return {name: value for name, value in vars(hookspecs).items() if hasattr(value, "sslx_spec")}


def parts(function: Callable[..., Any]) -> dict[str, str]:
    """The docstring of a hook cut up: "text", and the indented paragraphs "Called" and "Example"."""
    text, *rest = re.split(r"^(Called|Example):\n", inspect.getdoc(function) or "", flags=re.MULTILINE)
    named = dict(zip(rest[::2], rest[1::2], strict=True))
    return {"text": text.strip()} | {name: textwrap.dedent(part).strip() for name, part in named.items()}


def signature(name: str, function: Callable[..., Any]) -> str:
    """A hook as it is called, annotations without quotes."""
    return f"{name}{inspect.signature(function)}".replace("'", "")


def hooks_page() -> str:
    """The text of docs/hooks.md."""
    out, left = [HOOKS], hooks()
    for title, (prefix, note) in GROUPS.items():
        out.append(f"## {title}\n\n{note}\n")
        for name in [name for name in left if name.startswith(prefix)]:
            function = left.pop(name)
            part = parts(function)
            out.append(
                f"### {name}\n\n    {signature(name, function)}\n\n{part['text']}\n\n"
                f"Called {part['Called']}\n\n```python\n{example(part['Example'])}\n```\n"
            )
    return "\n".join(out)


def example(text: str) -> str:
    """The example of a hook as a module: imports, what the hook returns, the hook."""
    setup, _, hook = text.rpartition("@hookimpl")
    names = [*re.findall(r"^from ssl_core import (.+)$", setup, re.MULTILINE), "hookimpl"]
    modules = re.findall(r"^import .+$", setup, re.MULTILINE)
    rest = [line for line in setup.splitlines() if line and not line.startswith(("import ", "from "))]
    imports = "\n".join([*modules, f"from ssl_core import {', '.join(names)}"])
    return "\n\n".join([imports, *(["\n".join(rest)] if rest else []), f"\n@hookimpl{hook}"])


def promises_page() -> str:
    """The text of docs/promises.md: a table for each kind of plugin."""
    out = [CHECKS]
    for kind, promises in KINDS.items():
        rows = [f"| `{one.name}` | {one.text.replace('|', chr(92) + '|')} | `{one.look}` |" for one in promises]
        out.append("\n".join([f"## {kind}\n", "| check | promise | where |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(out)


def reference_page() -> str:
    """The text of docs/reference.md: for each public name a directive that mkdocstrings fills."""
    out = [REFERENCE, "## ssl_core\n"]
    for file, names in ssl_core._HOMES.items():
        out += [f"::: ssl_core.{file}.{name}\n" for name in names]
    for module, text in MODULES.items():
        out.append(f"## {module}\n\n{text}\n")
        out += [f"::: {home(module, name)}\n" for name in public(module)]
    return "\n".join(out)


def public(module: str) -> list[str]:
    """The public names of a module: `__all__`, else what it defines itself."""
    loaded = importlib.import_module(module)
    own = [name for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
    return list(getattr(loaded, "__all__", [name for name in own if not name.startswith("_")]))


def home(module: str, name: str) -> str:
    """Where a name is defined, so that its text and its source are found."""
    return f"{getattr(getattr(importlib.import_module(module), name), '__module__', module)}.{name}"


PAGES = {"hooks.md": hooks_page, "promises.md": promises_page, "reference.md": reference_page}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make(), encoding="utf-8")
