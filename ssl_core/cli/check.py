"""The command `sslx check`: run the conformance kit on plugins that are installed or in a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_core.cli.common import Block, Debug, command, load_catalogue
from ssl_core.errors import ConfigError, PluginError, nearest

if TYPE_CHECKING:
    from ssl_core.plugins import Catalogue, Entry, Kind
    from ssl_core.testing import Result

CLASSES: tuple[Kind, ...] = ("objective", "tokenizer", "dataset", "masking", "encoder", "probe")
WORDS = "objective, tokenizer, data set, masking, encoder or probe"
FAILED = ("fail", "xpass")
NAMES_SHOWN = 3  # names of checks with a common failure


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("check")(command(check))


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="An objective, tokenizer, data set (NAME or MODALITY/NAME), masking, encoder or probe; or the project "
            "folder or .py file of a plugin.",
        ),
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="One of its options, as option=value.")] = None,
    xfail: Annotated[
        list[str] | None,
        typer.Option(help="A check that is expected to fail and the reason, as CHECK=REASON. Repeatable."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Check that a plugin meets its contract. A plugin in PATH need not be installed."""
    from ssl_core import testing
    from ssl_core.config.resolve import parse_setting

    if block:  # the checks load the installed plugins themselves
        os.environ["SSLX_BLOCK"] = ",".join(filter(None, (os.environ.get("SSLX_BLOCK"), *block)))
    values = dict(parse_setting(text) for text in set_ or ())
    reasons = dict(_parse_xfail(text) for text in xfail or ())
    with _entries(name, block) as entries:
        options = _distribute(values, entries, lambda entry: entry.value.Options.model_fields, "--set", "option")
        expected = _distribute(reasons, entries, lambda entry: _names(testing.checks(entry.value)), "--xfail", "check")
        tested: list[tuple[Entry[Any], list[Result]]] = []
        for entry, own_options, own_xfail in zip(entries, options, expected, strict=True):
            results = testing.run(entry.value, options=own_options, xfail=own_xfail)
            tested.append((entry, list(results) if json_ else show_checks(entry, results)))
    if json_:
        import json

        typer.echo(json.dumps([as_json(entry, results) for entry, results in tested], indent=2, ensure_ascii=False))
    if any(result.outcome in FAILED for _, results in tested for result in results):
        raise SystemExit(1)


def _parse_xfail(text: str) -> tuple[str, str]:
    name, _, reason = (part.strip() for part in text.partition("="))
    if not name or not reason:
        raise ConfigError(
            f"--xfail {text}: give the check and the reason, as --xfail 'loss_falls-discrete=slow on text'"
        )
    return name, reason


def _names(checks: Iterable[Any]) -> set[str]:
    """The names that `--xfail` accepts: with and without the case."""
    return {name for one in checks for name in (one.name, one.spec.name)}


def _distribute(
    values: Mapping[str, Any],
    entries: Sequence[Entry[Any]],
    keys_of: Callable[[Entry[Any]], Iterable[str]],
    flag: str,
    word: str,
) -> list[dict[str, Any]]:
    """For each entry the values whose keys it accepts.

    Raises:
        ConfigError: If no entry accepts a key.
    """
    accepted = [set(keys_of(entry)) if values else set[str]() for entry in entries]
    for key in values:
        if not any(key in names for names in accepted):
            names = {name for some in accepted for name in some if "-" not in name}  # without the many cases
            raise ConfigError(f"{flag}: no {word} '{key}'; {nearest(key, names, word)}")
    return [{key: value for key, value in values.items() if key in names} for names in accepted]


@contextmanager
def _entries(name: str, block: list[str] | None) -> Iterator[list[Entry[Any]]]:
    """The classes to check: all of that name, or all that the plugins in that path offer."""
    from ssl_core.plugins.source import looks_like_path, temporarily_installed

    if not looks_like_path(name) or not Path(name).exists():
        catalogue = load_catalogue(block)
        if not looks_like_path(name) or _find(catalogue, name):
            yield _get(catalogue, name)
            return
    with temporarily_installed(Path(name)) as source:
        catalogue = load_catalogue(block)
        plugins = {f"{source.distribution}:{point}" for point in source.points}
        for problem in catalogue.set_aside:
            if problem.origin.plugin in plugins:
                raise PluginError(f"{name}: {problem}") from problem.error
        entries = [entry for kind in CLASSES for entry in catalogue.entries(kind) if entry.origin.plugin in plugins]
        if not entries:
            raise ConfigError(f"{name} offers no {WORDS}; give a module a hook such as register_objectives()")
        yield entries


def _find(catalogue: Catalogue, name: str) -> list[Entry[Any]]:
    """All entries of that name."""
    return [entry for kind in CLASSES for entry in catalogue.entries(kind) if entry.called(name)]


def _get(catalogue: Catalogue, name: str) -> list[Entry[Any]]:
    """All entries of that name.

    Raises:
        ConfigError: If there is none.
    """
    entries = _find(catalogue, name)
    if not entries:
        known = {one for kind in CLASSES for entry in catalogue.entries(kind) for one in entry.names}
        cure = f"for the path, write ./{name}" if Path(name).exists() else nearest(name, known)
        raise ConfigError(f"nothing to check is called '{name}'; {cure}")
    return entries


def show_checks(entry: Entry[Any], results: Iterable[Result]) -> list[Result]:
    """Run the checks, then print failures, each cause once, and passed checks with their number of cases.

    Returns:
        The results.
    """
    from rich.markup import escape

    from ssl_core.cli.rich_terminal import Terminal
    from ssl_core.testing.check import group_failures, join_names

    console = Terminal(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(f'{entry.kind} {entry.full_name}')}[/bold]")
    results = list(results)
    for group in group_failures(results):
        console.print(f"  [red]fail[/red]   {escape(str(group[0].error))}")
        if len(group) > 1:
            names = join_names([result.check.name for result in group], NAMES_SHOWN)
            console.print(f"  the same failure in {len(group)} checks: {escape(names)}")
    for result in results:
        if result.outcome == "xpass":
            console.print(f"  [red]xpass[/red]  {escape(result.check.name)} passes; remove it from --xfail")
        elif result.outcome == "xfail":
            console.print(f"  [yellow]xfail[/yellow]  {escape(result.check.name)}: {escape(result.reason)}")
    passed = Counter((one.check.spec.name, one.check.text) for one in results if one.outcome == "pass")
    for (name, text), cases in passed.items():
        number = f" ({cases} cases)" if cases > 1 else ""
        console.print(f"  [green]pass[/green]   {escape(name)}{number}: {escape(text)}")
    counts = Counter(result.outcome for result in results)
    expected = f", {counts['xfail']} failed as expected" if counts["xfail"] else ""
    console.print(f"{counts['pass']} passed, {counts['fail'] + counts['xpass']} failed{expected}")
    return results


def as_json(entry: Entry[Any], results: Iterable[Result]) -> dict[str, Any]:
    """One class and all its checks as JSON values."""
    return {
        "kind": entry.kind, "name": entry.name, "modality": entry.modality,
        "plugin": entry.origin.plugin, "version": entry.origin.version,
        "checks": [
            {
                "name": result.check.name, "check": result.check.spec.name, "case": result.check.case,
                "expected": result.check.text, "outcome": result.outcome, "message": str(result.error or ""),
                "reason": result.reason, "seconds": round(result.seconds, 4),
            }
            for result in results
        ],
    }  # fmt: skip
