"""Writes the reference pages from the code.

hooks.md comes from the hooks, checks.md from the conformance kit, reference.md from the public names, presets.md from
the shipped presets, and the pages in options/ from the options of the shipped plugins and of the engine.

    python docs/make_reference.py
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import ssl_core
import ssl_plugins.presets
from ssl_core import Preset, hookspecs, plugins
from ssl_core.config.option_table import OptionRow, option_rows, option_rows_of, section_of
from ssl_core.config.resolve import ENGINE_SECTIONS
from ssl_core.options import Options
from ssl_core.plugins import Catalogue, Entry, Kind
from ssl_core.testing import datasets, encoders, layouts, maskings, objectives, options, probes, tokenizers
from ssl_core.testing.check import CheckSpec
from ssl_core.tokens import Layout
from ssl_core.training.options import FinetuneOptions

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
several values counts. [Options of the presets](options/presets.md) lists the values of all presets.
"""
MODULES = {
    "ssl_core.nn": "Building blocks that any plugin may use.",
    "ssl_core.tokenizers": "Tokenizers for grids, ids and several segments.",
    "ssl_core.testing": "The conformance kit.",
}

OPTIONS_INDEX = """\
# Options

<!-- Written by docs/make_reference.py from the code; do not edit. -->

These pages list each option of the shipped plugins and of the engine with its type, default and description.
`sslx show NAME` prints the same table for each installed plugin, `sslx show train` for a section of the engine.

An option is set by its path: `--set train.lr=0.001` on the command line, `[train]` and `lr = 0.001` in a
configuration file, `set={"train.lr": 0.001}` from Python. A list is written `1, 2`. `none` stands for no value.
An option whose default is "required" must be set. [Concepts](../concepts.md#presets) says which of several values
counts.

| page | sections | entries |
|---|---|---|
"""
OPTION_PAGES: dict[Kind, tuple[str, str]] = {
    "objective": ("objectives.md", "One objective is active in a run: `--objective NAME`."),
    "masking": (
        "maskings.md",
        "`--masking NAME` replaces the masking that the objective chooses. Maskings of an objective that has "
        "several are set by their name, as in `masking.target.name`. The objective may choose other defaults; `sslx "
        "run --dry-run` prints the values of a run.",
    ),
    "tokenizer": ("tokenizers.md", "The modality of a run chooses its tokenizer: `--modality NAME`."),
    "encoder": ("encoders.md", "`--set encoder.name=NAME` chooses the encoder."),
    "dataset": (
        "datasets.md",
        "`--dataset NAME` with `--modality` chooses a data set. Data sets of one table have the same options.",
    ),
    "probe": (
        "probes.md",
        "`--set evaluate.probes=NAME` chooses the probes. [Evaluation](../evaluation.md) describes them.",
    ),
}
DATASET_GROUPS = {"user": "Your own data", "public": "Public data", "synthetic": "Synthetic data"}
"""Headings of data sets by the package below `ssl_plugins.datasets` that defines them."""
ENGINE: dict[str, type[Options]] = {
    name: options for name, options in {**ENGINE_SECTIONS, "finetune": FinetuneOptions}.items() if name != "encoder"
}
ENTRY_POINTS = "sslx:"
"""Start of the names of the shipped plugins."""


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


@cache
def shipped() -> Catalogue:
    """The catalogue of the installed plugins; `entries_of` leaves out those of other packages."""
    return plugins.load()


def entries_of(kind: Kind) -> list[Entry[Any]]:
    """The shipped plugins of a kind by name."""
    entries = [entry for entry in shipped().entries(kind) if entry.origin.plugin.startswith(ENTRY_POINTS)]
    return sorted(entries, key=lambda entry: entry.full_name)


def cell(text: str) -> str:
    """Text as the content of a table cell: what Markdown and HTML would interpret is escaped outside code spans."""
    parts = text.replace("\n", " ").split("`")
    for i in range(0, len(parts), 2):  # every second part lies between backticks
        parts[i] = re.sub(r"([\\*\[\]|])", r"\\\1", parts[i]).replace("<", "&lt;")
    return "`".join(part.replace("|", "\\|") if i % 2 else part for i, part in enumerate(parts))


def code(text: str) -> str:
    """Text as a code span of a table cell."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def option_cells(row: OptionRow) -> tuple[str, str, str, str]:
    """The four cells of an option."""
    default = row.default if row.default == "required" else code(row.default)
    section, _, name = row.default.partition(".")
    shared = section == "evaluate" and row.description == f"as {row.default}"  # the description of that option
    text = ENGINE["evaluate"].model_fields[name].description if shared else row.description
    return code(row.path), cell(row.type), default, cell(text or "")


def options_table(rows: Iterable[OptionRow]) -> str:
    """The table of some options."""
    lines = [f"| {' | '.join(option_cells(row))} |" for row in rows]
    head = ["| option | type | default | description |", "|---|---|---|---|"]
    return "\n".join([*head, *lines]) + "\n" if lines else "No options.\n"


def options_page(kind: Kind) -> str:
    """The text of the page of one kind of plugin: its entries, those with the same options under one table."""
    out = [options_head({"dataset": "data set"}.get(kind, kind) + "s", OPTION_PAGES[kind][1])]
    by_group: dict[str, list[Entry[Any]]] = {}
    for entry in entries_of(kind):
        group = entry.value.__module__.split(".")[2] if kind == "dataset" else ""
        by_group.setdefault(group, []).append(entry)
    for group in DATASET_GROUPS if kind == "dataset" else by_group:
        if group:
            out.append(f"## {DATASET_GROUPS[group]}\n")
        tables: dict[str, list[Entry[Any]]] = {}
        for entry in by_group[group]:
            table = options_table(option_rows_of(entry))
            tables.setdefault(table if kind == "dataset" else entry.name, []).append(entry)
        for entries in tables.values():
            out.append(f"{'###' if group else '##'} {', '.join(entry.full_name for entry in entries)}\n")
            bullets = [f"- {code(entry.full_name)}: {cell(entry.summary)}\n" for entry in entries]
            out.append("".join(bullets) if len(entries) > 1 else f"{cell(entries[0].summary)}\n")
            out.append(options_table(option_rows_of(entries[0])))
    return "\n".join(out)


def options_head(title: str, text: str) -> str:
    """The beginning of a page of options."""
    return (
        f"# Options of the {title}\n\n<!-- Written by docs/make_reference.py from the code; do not edit. -->\n\n"
        f"{text}\n"
    )


def engine_page() -> str:
    """The text of docs/options/engine.md: training, evaluation, first weights, fine-tuning."""
    text = (
        "Options that are the same for every plugin. Those of `finetune` are options of `sslx finetune`; the others "
        "are options of each command that trains."
    )
    out = [options_head("engine", text)]
    for section, section_options in ENGINE.items():
        out.append(f"## {section}\n\n{inspect.getdoc(section_options)}\n")
        out.append(options_table(option_rows(section, section_options)))
    return "\n".join(out)


def options_presets_page() -> str:
    """The text of docs/options/presets.md: for each preset the options that it sets, and the values by kind of run."""
    text = (
        "For each preset: the options that it sets, and their values. A preset may set other values for an objective, "
        "a modality or a data set; these stand behind the value. `--preset NAME` applies a preset; one that is "
        "applied automatically needs no flag. [Presets](../presets.md) gives the deviations from the publications."
    )
    out = [options_head("presets", text)]
    by_name: dict[str, list[Preset]] = {}
    for entry in entries_of("preset"):
        by_name.setdefault(entry.name, []).append(entry.value)
    for name, presets in by_name.items():
        general = min(presets, key=lambda preset: preset.specificity)
        automatic = "Applied automatically. " if all(preset.default for preset in presets) else ""
        more = len({preset.source for preset in presets}) > 1
        further = ", and a source for each modality or data set" if more else ""
        out.append(f"## {name}\n\n{automatic}{cell(general.source)}{further}.\n")
        one_objective = len({preset.objective for preset in presets}) == 1
        values: dict[OptionRow, dict[str, list[str]]] = {}
        for preset in sorted(presets, key=lambda preset: preset.specificity):
            for path, value in preset.values.items():
                for row in rows_of(preset, path):
                    values.setdefault(row, {}).setdefault(repr(value), []).append(scope(preset, one_objective))
        head = ["| option | value | type | default | description |", "|---|---|---|---|---|"]
        lines = []
        for row, scopes in values.items():
            option, *others = option_cells(row)
            lines.append(f"| {' | '.join([option, '<br>'.join(values_by_run(scopes)), *others])} |")
        out.append("\n".join([*head, *lines]) + "\n")
    return "\n".join(out)


def values_by_run(scopes: dict[str, list[str]]) -> Iterable[str]:
    """The values of a preset's option, each with the runs that it is for."""
    for value, names in scopes.items():
        runs = ", ".join(dict.fromkeys(name for name in names if name))
        yield f"{code(value)}{f' ({runs})' if runs else ''}"


def scope(preset: Preset, one_objective: bool) -> str:
    """The runs that a preset is for, without an objective that all of its name have; empty for all."""
    data = "/".join(part for part in (preset.modality, preset.dataset) if part)
    return " on ".join(part for part in (None if one_objective else preset.objective, data) if part)


def rows_of(preset: Preset, path: str) -> list[OptionRow]:
    """The option that a preset sets, as each plugin to which the preset applies has it.

    Raises:
        LookupError: no plugin has the option.
    """
    section, _, key = path.partition(".")
    if key == "name":
        return [OptionRow(path, "text", "required", f"the {section}")]
    owners = {"evaluate": ENGINE["evaluate"], "train": ENGINE["train"]}
    if section in owners:
        candidates = [owners[section]]
    else:
        candidates = [entry.value.Options for entry in entries_of(section) if applies(preset, entry)]
    rows = [row for one in candidates for row in option_rows(section, one) if row.path == path]
    if not rows:
        raise LookupError(f"preset '{preset.name}' sets '{path}', which no plugin has")
    return list(dict.fromkeys(rows))


def applies(preset: Preset, entry: Entry[Any]) -> bool:
    """Whether a run with the preset may use a plugin."""
    named = preset.values.get(f"{entry.kind}.name")
    if named is not None:
        return named == entry.name
    if entry.kind == "objective":
        return preset.objective in (None, entry.name)
    if entry.kind == "tokenizer":
        return preset.modality in (None, entry.name)
    if entry.kind == "dataset":
        return preset.modality in (None, entry.modality) and preset.dataset in (None, *entry.names)
    if entry.kind == "masking" and preset.objective is not None:
        choices = shipped().objective(preset.objective).masking_choices().values()
        return entry.name in [choice.name for choice in choices]
    return True


def options_index_page() -> str:
    """The text of docs/options/index.md: the pages of options."""
    rows = []
    for kind, (page, _) in OPTION_PAGES.items():
        names = [code(entry.name) for entry in entries_of(kind)]
        title = {"dataset": "Data set"}.get(kind, kind.capitalize()) + "s"
        entries = ", ".join(names) if len(names) < 20 else f"{len(names)} data sets"
        rows.append(f"| [{title}]({page}) | {code(section_of(kind, 'NAME'))} | {entries} |")
    rows.append(f"| [Engine](engine.md) | {', '.join(map(code, ENGINE))} | |")
    names = list(dict.fromkeys(code(entry.name) for entry in entries_of("preset")))
    rows.append(f"| [Presets](presets.md) | values for options of all sections | {', '.join(names)} |")
    return OPTIONS_INDEX + "\n".join(rows) + "\n"


PAGES = {
    "hooks.md": hooks_page,
    "checks.md": checks_page,
    "reference.md": reference_page,
    "presets.md": presets_page,
    "options/index.md": options_index_page,
    **{f"options/{page}": partial(options_page, kind) for kind, (page, _) in OPTION_PAGES.items()},
    "options/engine.md": engine_page,
    "options/presets.md": options_presets_page,
}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).parent.mkdir(exist_ok=True)
        (DOCS / page).write_text(make(), encoding="utf-8")
