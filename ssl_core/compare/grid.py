"""The grid of a comparison: methods x data x seeds, from flags or a TOML file, as ordinary runs."""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from ssl_core.config.resolve import budgeted, resolve
from ssl_core.errors import ConfigError, nearest
from ssl_core.plugins import Catalogue


class Entry(BaseModel):
    """A name in the table and its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, description="what the table calls it")
    set: dict[str, Any] = Field({}, description="options, as dotted paths or as tables")

    @field_validator("set", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return dict(flat(value)) if isinstance(value, Mapping) else value


def _counted(value: Any) -> Any:
    """`3` as 0, 1, 2."""
    return tuple(range(value)) if isinstance(value, int) else value


Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_counted), Field(min_length=1)]


class Method(Entry):
    """A row of the table: an objective with some options."""

    objective: str = Field(description="name of the objective")
    seeds: Seeds | None = Field(None, description="its own seeds: how many, or which; by default the grid's")


class Data(Entry):
    """A column of the table: a modality, perhaps one of its data sets, with some options."""

    modality: str | None = Field(None, description="name of the modality")
    dataset: str | None = Field(None, description="name of the data set; by default the modality's embedded one")


class Grid(BaseModel):
    """Every method on every data set with every seed, all with the same steps or the same time."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: tuple[Method, ...] = Field(min_length=1)
    data: tuple[Data, ...] = Field(min_length=1)
    seeds: Seeds = (0, 1, 2)
    steps: int | None = Field(None, ge=0)
    budget: str | None = None
    preset: str | None = None
    set: dict[str, Any] = Field({}, description="options of every run")

    @field_validator("set", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return dict(flat(value)) if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Cell:
    """One run of the grid. name: its folder, relative to the grid's."""

    name: str
    method: str
    data: str
    seed: int
    options: Mapping[str, Any]


def flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as dotted paths."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def read_grid(path: Path, flags: Mapping[str, Any]) -> Grid:
    """Read a grid from a TOML file; flags override it.

    `objectives` and `modalities` are short for methods and data without options. Seeds as a flag also replace the
    methods' own.

    Raises:
        ConfigError: the file cannot be read, or is no grid.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for short, long in (("objectives", "method"), ("modalities", "data")):
        names = tree.get(short, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f'{path}: {short} is a list of names, as {short} = ["..."], not {names!r}')
        if names and long in tree:
            raise ConfigError(f"{path} has both {short} and [[{long}]]; leave one of them out")
    if not isinstance(tree.get("set", {}), Mapping):
        raise ConfigError(f"{path}: set is a table of options, as [set] with lines NAME = VALUE")
    common = dict(flat(tree.pop("set", {}))) | dict(flags.get("set", {}))
    grid = make_grid(tree | {key: value for key, value in flags.items() if key != "set"} | {"set": common}, str(path))
    if "seeds" in flags:
        grid = grid.model_copy(update={"method": tuple(one.model_copy(update={"seeds": None}) for one in grid.method)})
    return grid


def make_grid(tree: Mapping[str, Any], where: str = "the grid") -> Grid:
    """Make a grid from plain values.

    Raises:
        ConfigError: a key or value that does not fit.
    """
    values = dict(tree)
    objectives, modalities = values.pop("objectives", None), values.pop("modalities", None)
    if objectives is not None:
        values["method"] = [{"name": name, "objective": name} for name in objectives]
    if modalities is not None:
        values["data"] = [{"name": name, "modality": name} for name in modalities]
    for key, what in (("method", "--objectives"), ("data", "--modality, --dataset or --data")):
        if not values.get(key):
            raise ConfigError(f"{where} names nothing to compare; give {what}, or a grid file with [[{key}]]")
    unknown = [key for key in values if key not in Grid.model_fields]
    if unknown:
        raise ConfigError(f"{where}: unknown key '{unknown[0]}'; {nearest(unknown[0], Grid.model_fields, 'key')}")
    try:
        grid = Grid(**values)
    except ValidationError as error:
        first = error.errors()[0]
        problem = "it is not UTF-8; rename it" if first["type"] == "string_unicode" else first["msg"]
        raise ConfigError(f"{where}: {'.'.join(map(str, first['loc']))}: {problem}") from None
    for what, entries in (("method", grid.method), ("data", grid.data)):
        names = [slug(entry.name) for entry in entries]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{where}: two of [[{what}]] are called '{name}'; give each a name of its own")
    if grid.steps is not None and grid.budget is not None:
        raise ConfigError("give --steps or --budget, not both: runs are equal in steps or in time")
    return grid


def by_own_names(grid: Grid, catalogue: Catalogue) -> Grid:
    """The grid with aliases of data sets replaced by their names, so that a data set has one name."""
    data = []
    for one in grid.data:
        entry = catalogue.find("dataset", one.dataset, one.modality) if one.dataset else None
        if entry is not None and one.dataset != entry.name:
            name = entry.name if one.name == one.dataset else one.name
            one = one.model_copy(update={"dataset": entry.name, "name": name})
        data.append(one)
    return grid.model_copy(update={"data": tuple(data)})


def slug(name: str) -> str:
    """A name made fit for a folder."""
    return re.sub(r"[^\w.+-]+", "-", name.strip().lower()).strip("-.") or "x"


def cells(grid: Grid, catalogue: Catalogue) -> list[Cell]:
    """All runs of the grid, seed by seed.

    Raises:
        ConfigError: the options of a run do not resolve.
    """
    runs = []
    of_method = {method.name: method.seeds or grid.seeds for method in grid.method}
    for seed in dict.fromkeys(itertools.chain(grid.seeds, *of_method.values())):
        for data in grid.data:
            for method in grid.method:
                if seed not in of_method[method.name]:
                    continue
                options = cell_options(grid, method, data, seed)
                try:
                    resolve(catalogue, options)
                except ConfigError as error:
                    raise ConfigError(f"{method.name} on {data.name}: {error}") from None
                name = f"{slug(data.name)}/{slug(method.name)}/seed-{seed}"
                runs.append(Cell(name, method.name, data.name, seed, options))
    return runs


def cell_options(grid: Grid, method: Method, data: Data, seed: int) -> dict[str, Any]:
    """The options of one run: the grid's, then the data's, then the method's."""
    options: dict[str, Any] = {**budgeted(grid.budget), **grid.set}
    if grid.steps is not None:
        options["train.steps"] = grid.steps
    if grid.preset is not None:
        options["preset"] = grid.preset
    options |= {"modality": data.modality, "dataset.name": data.dataset, **data.set}
    options |= {"objective.name": method.objective, **method.set}
    options |= {"seed": seed, "label": method.name, "data_label": data.name}
    return {path: value for path, value in options.items() if value is not None}


def seeds_of(text: str) -> Sequence[int]:
    """Parse seeds: `3` as 0, 1, 2; `0,5,7` as they are.

    Raises:
        ConfigError: the text is neither a count nor a list.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text}: give how many, or a list such as 0,1,2") from None
    if "," in text:
        return numbers
    if numbers[0] < 1:
        raise ConfigError(f"--seeds {text}: at least 1")
    return range(numbers[0])


def default_folder(grid: Grid, root: Path = Path("runs")) -> Path:
    """The folder of a grid: the same for the same grid, so that the same command resumes it."""
    unseeded: Any = {"seeds": True, "method": {"__all__": {"seeds"}}}
    text = grid.model_dump_json(exclude=unseeded)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return root / f"compare-{digest}"
