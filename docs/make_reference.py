"""Writes the reference pages from the code.

hooks.md comes from the hooks, checks.md from the conformance kit, reference.md from the public names, presets.md from
the shipped presets.

    python docs/make_reference.py
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ssl_core
import ssl_plugins.presets
from ssl_core import Preset, hookspecs
from ssl_core.testing import datasets, encoders, layouts, maskings, objectives, options, probes, tokenizers
from ssl_core.testing.check import CheckSpec
from ssl_core.tokens import Layout

DOCS = Path(__file__).resolve().parent

HOOKS = """\
# Hooks

<!-- Written by docs/make_reference.py from ssl_core/hookspecs.py; do not edit. -->

A plugin is a module with any of these functions, each marked `@hookimpl`, named in the entry point group `sslx` of an
installed package. `sslx plugins` shows what each plugin offers, or why it was set aside.

```toml
# pyproject.toml
[project.entry-points.sslx]
"objectives.denoise" = "sslx_denoise.objective"
```

A hook may leave out arguments that it does not use. [Writing an objective](writing-an-objective.md) and
[writing a tokenizer](writing-a-tokenizer.md) show complete plugins; [mistakes](mistakes.md) lists common errors.
"""
GROUPS = {
    "Catalogues: what a plugin offers": (
        "register_",
        "Each returns a list. A name offered twice is an error that names both plugins.",
    ),
    "Notices: sent around a run": ("", "A plugin that raises in a notice is named in one line; the run continues."),
}
CHECKS = """\
# Checks

<!-- Written by docs/make_reference.py from ssl_core/testing; do not edit. -->

The checks of [the conformance kit](testing-your-plugin.md), one table for each kind of plugin. The last column is the
attribute that a failure names under "look at". The sizes of the models and data are [below](#sizes).
"""
SIZES = """\
## Sizes

Checks of objectives, maskings and encoders run on five layouts, called cases: the check `NAME` on the layout `CASE` is
`NAME-CASE`. Checks of maskings also run on rows of two tokens.

"""
KINDS = {
    "Every plugin": options.CHECKS,
    "Objective": objectives.CHECKS,
    "Tokenizer": tokenizers.CHECKS,
    "Data set": datasets.CHECKS,
    "Masking": maskings.CHECKS,
    "Encoder": encoders.CHECKS,
    "Probe": probes.CHECKS,
}
REFERENCE = """\
# Public names

<!-- Written by docs/make_reference.py from the code; do not edit. -->

The names that a plugin may rely on, by the rules of [compatibility](compatibility.md). Names under `ssl_core` are
imported from there, whichever file defines them. The site shows signatures and docstrings; so does `python -c
"import ssl_core; help(ssl_core.Objective)"`.
"""
PRESETS = """\
# Presets

<!-- Written by docs/make_reference.py from plugins/ssl_plugins/presets; do not edit. -->

The shipped presets that follow a publication, their sources, and what they do other than these sources. `sslx show
NAME` prints the same with all values. `--preset NAME` applies a preset; [concepts](concepts.md#presets) says which of
several values counts.
"""
MODULES = {
    "ssl_core.nn": "Building blocks that any plugin may use.",
    "ssl_core.tokenizers": "Tokenizers for grids, ids and several segments.",
    "ssl_core.testing": "The conformance kit.",
}


def hooks() -> dict[str, Callable[..., Any]]:
    """The hooks in the order of the file."""
    return {name: value for name, value in vars(hookspecs).items() if hasattr(value, "sslx_spec")}


def parts(function: Callable[..., Any]) -> dict[str, str]:
    """The parts of a hook's docstring: "text", and the indented paragraphs "Called" and "Example"."""
    text, *rest = re.split(r"^(Called|Example):\n", inspect.getdoc(function) or "", flags=re.MULTILINE)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    return {"text": text.strip()} | {name: textwrap.dedent(part).strip() for name, part in sections.items()}


def signature(name: str, function: Callable[..., Any]) -> str:
    """The signature of a hook, annotations without quotes."""
    return f"{name}{inspect.signature(function)}".replace("'", "")


def hooks_page() -> str:
    """The text of docs/hooks.md."""
    out, remaining = [HOOKS], hooks()
    for title, (prefix, note) in GROUPS.items():
        out.append(f"## {title}\n\n{note}\n")
        for name in [name for name in remaining if name.startswith(prefix)]:
            function = remaining.pop(name)
            part = parts(function)
            out.append(
                f"### {name}\n\n    {signature(name, function)}\n\n{part['text']}\n\n"
                f"Called {part['Called']}\n\n```python\n{example_of(part['Example'])}\n```\n"
            )
    return "\n".join(out)


def example_of(text: str) -> str:
    """The example of a hook as a module, with the import of `hookimpl`."""
    setup, _, function = text.rpartition("@hookimpl")
    lines = [line for line in setup.splitlines() if line]
    names = [line.removeprefix("from ssl_core import ") for line in lines if line.startswith("from ssl_core import ")]
    others = [line for line in lines if line.startswith("import ")]
    code = [line for line in lines if not line.startswith(("from ", "import "))]
    imports = [*others, f"from ssl_core import {', '.join([*names, 'hookimpl'])}"]
    return "\n".join([*imports, *([""] if code else []), *code, "", "", f"@hookimpl{function}"])


def checks_page() -> str:
    """The text of docs/checks.md: a table for each kind of plugin, and the sizes."""
    tables = [table_of(f"## {kind}\n", specs) for kind, specs in KINDS.items()]
    return "\n".join([CHECKS, *tables, SIZES + sizes()])


def table_of(title: str, specs: list[CheckSpec]) -> str:
    """The checks of one kind of plugin."""
    rows = [f"| `{one.name}` | {one.text.replace('|', chr(92) + '|')} | `{one.look}` |" for one in specs]
    return "\n".join([title, "| check | requirement | where |", "|---|---|---|", *rows]) + "\n"


def sizes() -> str:
    """The layouts, the encoder, the batch, and the data of probes."""
    rows = []
    for case in layouts.CASES:
        rows.append(f"| `{case}` | {described(layouts.make_tokenizer(case).layout)} |")
    for case, layout in maskings.TINY.items():
        rows.append(f"| `{case}` (maskings) | {described(layout)} |")
    table = "\n".join(["| case | segments: grid in tokens, target, size |", "|---|---|", *rows])
    return f"""\
{table}

- Encoder: width {layouts.DIM}, depth {layouts.DEPTH}, {layouts.HEADS} heads. For checks of encoders these are the
  values of the options `dim`, `depth` and `heads`, as far as the class has them.
- Batch: {layouts.ROWS} rows, or `min_batch_size` if larger; {maskings.ROWS} rows for maskings.
- Tokenizers: {tokenizers.SAMPLES} samples and width {layouts.DIM}. Data sets: {datasets.SAMPLES} samples of each split.
- Probes: {probes.TRAIN} rows to fit and {probes.TEST} to score, {probes.DIM} features for each layer, and
  {probes.TOKENS} tokens for a probe that reads token features. The cases are the tasks
  {", ".join(f"`{case}`" for case in probes.CASES)}.
"""


def described(layout: Layout) -> str:
    """The segments of a layout in words."""
    parts = []
    for segment in layout.segments:
        grid = " x ".join(map(str, segment.grid))
        parts.append(f"{grid}, {segment.target}, {segment.size}")
    return "; ".join(parts)


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
    """The full path of a name in the module that defines it, for mkdocstrings."""
    return f"{getattr(getattr(importlib.import_module(module), name), '__module__', module)}.{name}"


def presets_page() -> str:
    """The text of docs/presets.md: for each published protocol its sources, objectives, modalities and deviations."""
    by_name: dict[str, list[Preset]] = {}
    for module in pkgutil.iter_modules(ssl_plugins.presets.__path__):
        if not module.name.startswith("_"):
            for preset in importlib.import_module(f"ssl_plugins.presets.{module.name}").register_presets():
                by_name.setdefault(preset.name, []).append(preset)
    out = [PRESETS]
    for name, presets in by_name.items():
        deviations = dict.fromkeys(line for preset in presets for line in preset.deviations)
        if not deviations:
            continue
        general = min(presets, key=lambda preset: preset.specificity)
        objectives = ", ".join(sorted({f"`{p.objective}`" for p in presets if p.objective})) or "any"
        modalities = ", ".join(sorted({f"`{p.modality}`" for p in presets if p.modality})) or "any"
        out.append(
            f"## {name}\n\n{'Sources' if len(presets) > 1 else 'Source'}: {general.source}"
            f"{', and a source for each modality or data set' if len(presets) > 1 else ''}. Objectives: "
            f"{objectives if general.objective else 'any'}. Modalities: {modalities}.\n\nDeviations:\n"
        )
        out.append("".join(f"- {line}\n" for line in deviations))
    return "\n".join(out)


PAGES = {
    "hooks.md": hooks_page,
    "checks.md": checks_page,
    "reference.md": reference_page,
    "presets.md": presets_page,
}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make(), encoding="utf-8")
