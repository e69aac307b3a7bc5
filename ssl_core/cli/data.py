"""The commands `sslx data ...`: what public data there is, how to get it, and whether it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_core.cli.common import Block, Debug, command, load_catalogue

if TYPE_CHECKING:
    from ssl_core.data import Split
    from ssl_core.plugins import Catalogue
    from ssl_core.public_data.dataset import PublicDataset
    from ssl_core.public_data.obtain import Progress

Name = Annotated[str, typer.Argument(help="A public data set or an alias; modality/name where several share it.")]
Root = Annotated[
    Path | None, typer.Option(help="Folder of public data. By default SSLX_DATA_DIR, else ~/.cache/sslx/data.")
]


def attach(app: typer.Typer) -> None:
    """Add the commands to an app."""
    data = typer.Typer(help="Get public data sets, and check that they are whole.", no_args_is_help=True)
    for name, function in (("list", list_), ("show", show), ("prepare", prepare), ("verify", verify)):
        data.command(name)(command(function))
    app.add_typer(data, name="data")


def list_(
    modality: Annotated[str | None, typer.Option(help="Only those of this modality.")] = None,
    root: Root = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """List the public data sets: names, size, terms, and whether they are here."""
    from rich.markup import escape
    from rich.table import Table

    from ssl_core.cli.rich_terminal import Terminal
    from ssl_core.errors import ConfigError, nearest
    from ssl_core.public_data.dataset import data_root

    public = [entry.value for entry in load_catalogue(block).entries("dataset") if _is_public(entry.value)]
    known = {cls.modality for cls in public}
    if modality is not None and modality not in known:
        raise ConfigError(f"no public data of modality '{modality}'; {nearest(modality, known, 'modalitie')}")
    place = data_root(root)
    table = Table(title=f"public data in {escape(str(place))}", title_justify="left")
    for column in ("modality/name", "here", "samples", "also", "terms"):
        table.add_column(column, no_wrap=column in ("modality/name", "here"), overflow="fold")
    for cls in sorted(public, key=lambda cls: (cls.modality, cls.name)):
        if modality in (None, cls.modality):
            here = "no" if cls.source.missing_paths(cls.source.locate_in(place)) else "yes"
            samples = " + ".join(f"{count:,}" for count in cls.source.sample_counts.values())
            row = (f"{cls.modality}/{cls.name}", here, samples, ", ".join(cls.aliases), cls.source.terms)
            table.add_row(*map(escape, row))
    Terminal(highlight=False).print(table)


def show(name: Name, root: Root = None, block: Block = None, debug: Debug = False) -> None:
    """Show what a public data set is, where it comes from, and what is missing."""
    from ssl_core.public_data.dataset import data_root

    cls = find(load_catalogue(block), name)
    source, place = cls.source, data_root(root)
    folder = source.locate_in(place)
    missing = source.missing_paths(folder)
    facts = {
        "data set": f"{cls.modality}/{cls.name}",
        "also": ", ".join(cls.aliases) or "-",
        "what": (cls.__doc__ or "").strip().partition("\n")[0],
        "homepage": source.homepage,
        "terms": source.terms,
        "samples": ", ".join(f"{split} {count:,}" for split, count in source.sample_counts.items()) or "not published",
        "folder": str(folder),
        "here": f"no, {len(missing)} missing, e.g. {missing[0]}" if missing else "yes",
    }
    for title, text in facts.items():
        typer.echo(f"{title:10}{text}")
    for archive in source.archives:
        size = f"{archive.size:,} bytes" if archive.size else "size not known"
        typer.echo(f"{'download':10}{archive.url} ({size}; {archive.checksum or 'no checksum known'})")
    if missing:
        way = cls.how_to_get(root)
        typer.echo(f"{'to get it':10}{way}")
        if source.registration and source.registration not in way:
            typer.echo(f"{'by hand':10}{source.registration}")


def prepare(
    name: Name,
    root: Root = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep what was downloaded.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the data set, as dataset.option=value. Repeatable.")
    ] = None,
    block: Block = None,
    debug: Debug = False,
) -> None:
    """Download, check and unpack a public data set; an interrupted download goes on where it stopped."""
    from ssl_core.errors import DataError
    from ssl_core.public_data.dataset import data_root
    from ssl_core.public_data.obtain import obtain

    cls = find(load_catalogue(block), name)
    options = _options(cls, set_ or ())
    root = root or (Path(options.root) if options.root else None)
    place = data_root(root)
    with _bars() as progress:
        folder = obtain(cls.source, place, progress, keep_archives)
    cls.prepare(folder, options)
    missing = cls.source.missing_paths(folder)
    if missing:
        changed = "the upstream's layout has changed; please report it"
        by_hand = cls.how_to_get(root) if cls.source.registration else changed
        raise DataError(f"'{cls.modality}/{cls.name}' lacks {folder / missing[0]}: {by_hand}")
    check = f"sslx data verify {cls.modality}/{cls.name}" + (f" --root {root}" if root else "")
    typer.echo(f"{cls.modality}/{cls.name} is in {folder}; check it with `{check}`")


def verify(name: Name, root: Root = None, block: Block = None, debug: Debug = False) -> None:
    """Compare the size of both splits with the published numbers, look for their files; exit 1 unless all is well."""
    cls = find(load_catalogue(block), name)
    options = cls.Options(root=str(root) if root else None)
    splits: tuple[Split, ...] = ("train", "test")
    counts: dict[str, int] = {}
    missing: dict[Path, Any] = {}  # each once, in order
    for split in splits:
        dataset = cls(options, split)
        counts[split] = len(dataset)
        missing |= dict.fromkeys(path for path in dataset.files() if not os.path.isfile(path))
    counts["total"] = sum(counts.values())
    expected: Mapping[str, int] = cls.source.sample_counts
    wrong = bool(missing)
    for what, count in counts.items():
        published = expected.get(what)
        if published is None:
            typer.echo(f"{what:6}{count:>12,}")
            continue
        wrong |= count != published
        difference = f"published: {published:,}, difference {count - published:+,}"
        verdict = "as published" if count == published else difference
        typer.echo(f"{what:6}{count:>12,}  {verdict}")
    if missing:
        typer.echo(f"{'files':6}{len(missing):>12,}  missing, the first is {next(iter(missing))}")
    if not expected:
        typer.echo(f"no numbers are published for {cls.modality}/{cls.name}; nothing was compared")
    if wrong:
        raise SystemExit(1)


def find(catalogue: Catalogue, name: str) -> type[PublicDataset]:
    """The public data set called `name`, or "modality/name".

    Raises:
        ConfigError: there is none, or several.
    """
    from ssl_core.errors import ConfigError, nearest

    modality, slash, rest = name.partition("/")
    public = [entry for entry in catalogue.entries("dataset") if _is_public(entry.value)]
    wanted = rest if slash else name
    found = [e.value for e in public if wanted in e.names and (not slash or e.modality == modality)]
    if len(found) == 1:
        return found[0]
    if found:
        which = " or ".join(f"{cls.modality}/{cls.name}" for cls in found)
        raise ConfigError(f"several data sets are called '{name}'; write {which}")
    if not slash and any(name in entry.names for entry in catalogue.entries("dataset")):
        raise ConfigError(f"data set '{name}' is not one to download; `sslx data list` shows those that are")
    known = {f"{e.modality}/{word}" if slash else word for e in public for word in e.names}
    raise ConfigError(f"no public data set '{name}'; {nearest(name, known)}")


def _options(cls: type[PublicDataset], settings: Iterable[str]) -> Any:
    """The options to prepare a data set with.

    Raises:
        ConfigError: an option that does not fit, or that changes nothing in the preparation.
    """
    from ssl_core.config.resolve import parse_setting, validate
    from ssl_core.errors import ConfigError
    from ssl_core.public_data.dataset import PublicDataset

    given = {path.removeprefix("dataset."): value for path, value in map(parse_setting, settings)}
    made = validate("dataset", cls.Options, given)
    idle = sorted(given.keys() - {"root"})
    if idle and cls.prepare.__func__ is PublicDataset.prepare.__func__:  # type: ignore[attr-defined]
        raise ConfigError(
            f"preparing '{cls.modality}/{cls.name}' is the same whatever dataset.{idle[0]} is; give it to sslx run"
        )
    return made


def _is_public(cls: Any) -> bool:
    from ssl_core.public_data.dataset import PublicDataset

    return issubclass(cls, PublicDataset) and cls.source is not None


@contextmanager
def _bars() -> Iterator[Progress]:
    """A bar for what is being done, on the standard error."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from ssl_core.cli.rich_terminal import Terminal

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Terminal(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def told(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield told
