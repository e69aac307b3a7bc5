"""The command `sslx check`: does a plugin, installed or in a folder, keep the promises of its contract?"""

from __future__ import annotations

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

CLASSES: tuple[Kind, ...] = ("objective", "tokenizer", "dataset", "masking")  # a preset promises nothing
FAILED = ("broken", "mended")


def attach(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command("check")(command(check))


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="An objective, tokenizer, data set (NAME or MODALITY/NAME) or masking; or the project folder or .py "
            "file of a plugin.",
        ),
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="One of its options, as option=value.")] = None,
    known: Annotated[
        list[str] | None,
        typer.Option(help="A check that is known to fail and the reason, as CHECK=REASON. Repeatable."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Check that a plugin keeps the promises of its contract. What is in a PATH need not be installed."""
    from ssl_core import testing
    from ssl_core.config.resolve import parse_setting

    values = dict(parse_setting(text) for text in set_ or ())
    reasons = dict(_known(text) for text in known or ())
    with _entries(name, block) as entries:
        settings = _spread(values, entries, lambda entry: entry.value.Options.model_fields, "--set", "option")
        expected = _spread(reasons, entries, lambda entry: _names(testing.checks(entry.value)), "--known", "check")
        found = []
        for entry, options, fail in zip(entries, settings, expected, strict=True):
            results = testing.run(entry.value, options=options, known=fail)
            found.append((entry, list(results) if json_ else show_checks(entry, results)))
    if json_:
        import json

        typer.echo(json.dumps([as_json(entry, results) for entry, results in found], indent=2, ensure_ascii=False))
    if any(result.outcome in FAILED for _, results in found for result in results):
        raise SystemExit(1)


def _known(text: str) -> tuple[str, str]:
    name, _, reason = (part.strip() for part in text.partition("="))
    if not name or not reason:
        raise ConfigError(f"--known {text}: give the check and the reason, as --known 'loss_falls-ids=slow on text'")
    return name, reason


def _names(checks: Iterable[Any]) -> set[str]:
    """What `known` may name: checks, and promises with all their cases."""
    return {name for one in checks for name in (one.name, one.spec.name)}


def _spread(
    given: Mapping[str, Any],
    entries: Sequence[Entry[Any]],
    takes: Callable[[Entry[Any]], Iterable[str]],
    flag: str,
    word: str,
) -> list[dict[str, Any]]:
    """For each entry the part of `given` that it has.

    Raises:
        ConfigError: a key that no entry has.
    """
    known = [set(takes(entry)) if given else set[str]() for entry in entries]
    for key in given:
        if not any(key in names for names in known):
            names = {name for some in known for name in some if "-" not in name}  # promises without their many cases
            raise ConfigError(f"{flag}: no {word} '{key}'; {nearest(key, names, word)}")
    return [{key: value for key, value in given.items() if key in names} for names in known]


@contextmanager
def _entries(name: str, block: list[str] | None) -> Iterator[list[Entry[Any]]]:
    """What to check: everything of that name, or everything that the plugins in that path offer."""
    from ssl_core.plugins.source import looks_like_path, temporarily_installed

    if not looks_like_path(name) or not Path(name).exists():
        catalogue = load_catalogue(block)
        if not looks_like_path(name) or _found(catalogue, name):
            yield _called(catalogue, name)
            return
    with temporarily_installed(Path(name)) as there:
        catalogue = load_catalogue(block)
        ours = {f"{there.distribution}:{point}" for point in there.points}
        for one in catalogue.set_aside:
            if one.origin.plugin in ours:
                raise PluginError(f"{name}: {one}") from one.error
        found = [entry for kind in CLASSES for entry in catalogue.entries(kind) if entry.origin.plugin in ours]
        if not found:
            raise ConfigError(
                f"{name} offers no objective, tokenizer, data set or masking; "
                "give a module a hook such as register_objectives()"
            )
        yield found


def _found(catalogue: Catalogue, name: str) -> list[Entry[Any]]:
    """Everything called `name`."""
    return [entry for kind in CLASSES for entry in catalogue.entries(kind) if entry.called(name)]


def _called(catalogue: Catalogue, name: str) -> list[Entry[Any]]:
    """All entries called `name`.

    Raises:
        ConfigError: there is none.
    """
    entries = [entry for kind in CLASSES for entry in catalogue.entries(kind)]
    found = _found(catalogue, name)
    if not found:
        cure = nearest(name, {known for entry in entries for known in entry.names})
        if Path(name).exists():
            cure = f"for what lies here, write ./{name}"
        raise ConfigError(f"nothing to check is called '{name}'; {cure}")
    return found


def show_checks(entry: Entry[Any], results: Iterable[Result]) -> list[Result]:
    """Broken promises as they are found, then the kept ones with the number of cases. Returns the results."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(f'{entry.kind} {entry.full_name}')}[/bold]")
    done: list[Result] = []
    kept: dict[tuple[str, str], int] = {}
    for result in results:
        done.append(result)
        name = escape(result.check.name)
        if result.outcome == "mended":
            console.print(f"  [red]mended[/red]  {name} is kept, but known to fail: take it from --known")
        elif result.outcome == "known":
            console.print(f"  [yellow]known[/yellow]   {name}: {escape(result.reason)}")
        elif result.outcome == "broken":
            console.print(f"  [red]broken[/red]  {escape(str(result.error))}")
        else:
            check_spec = (result.check.spec.name, result.check.text)
            kept[check_spec] = kept.get(check_spec, 0) + 1
    for (name, text), cases in kept.items():
        console.print(
            f"  [green]kept[/green]    {escape(name)}{f' ({cases} cases)' if cases > 1 else ''}: {escape(text)}"
        )
    counts = Counter(result.outcome for result in done)
    known = f", {counts['known']} known to fail" if counts["known"] else ""
    console.print(f"{counts['kept']} passed, {counts['broken'] + counts['mended']} failed{known}")
    return done


def as_json(entry: Entry[Any], results: Iterable[Result]) -> dict[str, Any]:
    """One class and its checks."""
    return {
        "kind": entry.kind, "name": entry.name, "modality": entry.modality,
        "plugin": entry.origin.plugin, "version": entry.origin.version,
        "checks": [
            {
                "check": result.check.name, "promise": result.check.spec.name, "case": result.check.case,
                "promised": result.check.text, "outcome": result.outcome,
                "message": str(result.error or ""), "reason": result.reason, "seconds": round(result.seconds, 4),
            }
            for result in results
        ],
    }  # fmt: skip
