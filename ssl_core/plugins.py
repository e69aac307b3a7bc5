"""Finds the installed plugins, checks what they offer and keeps it in a catalogue: kind, name, class, origin.

A plugin is an entry point of the group `sslx`; it is known as `distribution:entry`. Shipped plugins enter by the same
door as anyone's. A plugin that cannot be used is set aside with its error and stops nothing else.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

import pluggy

from ssl_core import hookspecs
from ssl_core.errors import ConfigError, PluginError, SslxError, nearest

if TYPE_CHECKING:
    from ssl_core.contracts import Dataset, Masking, Objective, Tokenizer
    from ssl_core.options import Preset

GROUP = "sslx"
BLOCK_VARIABLE = "SSLX_BLOCK"
Kind = Literal["objective", "tokenizer", "dataset", "masking", "preset"]
KINDS: tuple[Kind, ...] = get_args(Kind)
METHODS: dict[Kind, tuple[str, ...]] = {  # what a class of each kind must write itself
    "objective": ("forward",),
    "tokenizer": ("forward",),
    "dataset": ("__len__", "__getitem__"),
    "masking": ("__call__",),
}
QUOTED = 3  # errors of plugins set aside that one message quotes
T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where something comes from. plugin: "distribution:entry"; version: that of the distribution."""

    plugin: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.plugin} {self.version}".rstrip()


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One thing that a plugin offers: a class, or a preset."""

    kind: Kind
    name: str
    value: T
    origin: Origin

    @property
    def summary(self) -> str:
        """Its line in a list: the first line of the class's docstring, or the preset's source."""
        if self.kind == "preset":
            return str(getattr(self.value, "source", ""))
        return (self.value.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class SetAside:
    """A plugin that is installed but cannot be used, and why. The error's cause is what the plugin raised."""

    origin: Origin
    error: PluginError


class Catalogue:
    """What all usable plugins offer, and the manager that sends notices to them.

    `datasets` is keyed by (modality, name): two modalities may each have a data set `files`. `presets` is a sequence:
    several may share a name and differ in what they are meant for. `problems` holds one line for every plugin that
    was set aside and everything else that a person should be told once.
    """

    def __init__(self) -> None:
        self.objectives: dict[str, Entry[type[Objective]]] = {}
        self.tokenizers: dict[str, Entry[type[Tokenizer]]] = {}
        self.datasets: dict[tuple[str, str], Entry[type[Dataset]]] = {}
        self.maskings: dict[str, Entry[type[Masking]]] = {}
        self.presets: list[Entry[Preset]] = []
        self.set_aside: list[SetAside] = []
        self.blocked: list[str] = []
        self.problems: list[str] = []
        self.manager = pluggy.PluginManager(hookspecs.hookspec.project_name)
        self.manager.add_hookspecs(hookspecs)

    @classmethod
    def from_plugins(cls, plugins: Mapping[str, Any], version: str = "") -> Catalogue:
        """A catalogue of plugin modules or objects that are at hand, by "distribution:entry". For tests."""
        catalogue = cls()
        for name, plugin in plugins.items():
            catalogue.add(Origin(name, version), plugin)
        catalogue.manager.check_pending()
        return catalogue

    # --- taking plugins in -------------------------------------------------------------------------------------------

    def add(self, origin: Origin, plugin: Any) -> None:
        """Take a plugin in whole, or set it aside whole. Errors: PluginError if a name is already taken."""
        try:
            self._register(origin, plugin)
            offers = [entry for kind in KINDS for entry in self._offers(kind, origin, plugin)]
        except PluginError as error:
            if self.manager.is_registered(plugin) and self.manager.get_name(plugin) == origin.plugin:
                self.manager.unregister(plugin)
            self.put_aside(origin, error)
            return
        for entry in offers:
            self._enter(entry)

    def put_aside(self, origin: Origin, error: PluginError) -> None:
        """Keep a plugin that cannot be used in mind, with its error."""
        self.set_aside.append(SetAside(origin, error))
        self.problems.append(f"plugin '{origin.plugin}' was set aside: {error}")

    def _register(self, origin: Origin, plugin: Any) -> None:
        """Hand a plugin to pluggy and check its hooks. Errors: PluginError."""
        hooks = [name for name in dir(hookspecs) if self.manager.parse_hookspec_opts(hookspecs, name) is not None]
        bare = [
            name
            for name in hooks
            if callable(getattr(plugin, name, None)) and self.manager.parse_hookimpl_opts(plugin, name) is None
        ]
        if bare:
            raise PluginError(f"function {bare[0]} lacks its mark; write @hookimpl above it")
        try:
            self.manager.register(plugin, origin.plugin)
        except ValueError as error:
            first = self.manager.get_name(plugin) or origin.plugin
            raise PluginError(f"it is the same plugin as '{first}'; remove one of the two entry points") from error
        except pluggy.PluginValidationError as error:
            raise PluginError(_one_line(str(error).partition("\n")[2] or str(error))) from error
        callers = self.manager.get_hookcallers(plugin)
        if not callers:
            raise PluginError("it has no hook; mark a function such as register_objectives with @hookimpl")
        for caller in callers:
            if caller.name not in hooks:
                raise PluginError(f"there is no hook '{caller.name}'; {nearest(caller.name, hooks, 'hook')}")
            if any(impl.wrapper or impl.hookwrapper for impl in caller.get_hookimpls() if impl.plugin is plugin):
                raise PluginError(f"hook {caller.name} is a wrapper; write a plain function instead")

    def _offers(self, kind: Kind, origin: Origin, plugin: Any) -> list[Entry[Any]]:
        """What one plugin offers of one kind, checked. Errors: PluginError."""
        hook = f"register_{kind}s"
        impls = [impl for impl in getattr(self.manager.hook, hook).get_hookimpls() if impl.plugin is plugin]
        entries: list[Entry[Any]] = []
        for impl in impls:
            try:
                offered = impl.function()
            except (Exception, SystemExit) as error:
                raise PluginError(f"{hook}() failed: {_quote(error)}") from error
            if not isinstance(offered, list | tuple):
                raise PluginError(f"{hook}() must return a list, not {_article(type(offered).__name__)}")
            for value in offered:
                problem = _check_preset(value) if kind == "preset" else _check_class(kind, value)
                if problem:
                    raise PluginError(f"{hook}(): {problem}")
                entries.append(Entry(kind, value.name, value, origin))
        keys = [_key(entry) for entry in entries]
        for key, entry in zip(keys, entries, strict=True):
            if keys.count(key) > 1:
                raise PluginError(f"{hook}() offers {kind} '{entry.name}' twice")
        return entries

    def _enter(self, entry: Entry[Any]) -> None:
        for other in self.entries(entry.kind):
            if _key(other) == _key(entry):
                where = f" of modality '{entry.value.modality}'" if entry.kind == "dataset" else ""
                raise PluginError(
                    f"{entry.kind} '{entry.name}'{where} is offered twice, by {other.origin} and by {entry.origin}; "
                    f"leave one out, e.g. with --block {entry.origin.plugin} or {BLOCK_VARIABLE}={entry.origin.plugin}"
                )
        if entry.kind == "preset":
            self.presets.append(entry)
        else:
            getattr(self, f"{entry.kind}s")[_key(entry)] = entry

    # --- finding what they offer -------------------------------------------------------------------------------------

    def entries(self, kind: Kind) -> list[Entry[Any]]:
        """All entries of a kind, in the order of their origins."""
        if kind not in KINDS:
            raise ValueError(f"no kind '{kind}'; known: {', '.join(KINDS)}")
        return list(self.presets) if kind == "preset" else list(getattr(self, f"{kind}s").values())

    def get(self, kind: Kind, name: str) -> Entry[Any]:
        """The entry of that name, with its origin. Errors: ConfigError, also for a name that is not unique."""
        found = [entry for entry in self.entries(kind) if entry.name == name]
        if not found:
            raise self._unknown(kind, name, (entry.name for entry in self.entries(kind)))
        if len(found) > 1:
            raise ConfigError(f"there are {len(found)} {kind}s called '{name}'; say which one is meant")
        return found[0]

    def objective(self, name: str) -> type[Objective]:
        """The objective of that name. Errors: ConfigError."""
        return self.get("objective", name).value  # type: ignore[no-any-return]

    def tokenizer(self, name: str) -> type[Tokenizer]:
        """The tokenizer of that name, which is also the modality's. Errors: ConfigError."""
        return self.get("tokenizer", name).value  # type: ignore[no-any-return]

    def masking(self, name: str) -> type[Masking]:
        """The masking of that name. Errors: ConfigError."""
        return self.get("masking", name).value  # type: ignore[no-any-return]

    def dataset(self, name: str, modality: str | None = None) -> type[Dataset]:
        """The data set of that name. The modality may be left out where only one has it. Errors: ConfigError."""
        found = [entry for (_, own), entry in self.datasets.items() if own == name]
        if modality is not None:
            self._check_modality(modality)
            theirs = [own for (of, own) in self.datasets if of == modality]
            found = [entry for entry in found if entry.value.modality == modality]
            if not found:
                raise self._unknown("dataset", name, theirs, f" of modality '{modality}'")
        if not found:
            raise self._unknown("dataset", name, {own for _, own in self.datasets})
        if len(found) > 1:
            modalities = ", ".join(sorted(entry.value.modality for entry in found))
            raise ConfigError(f"data set '{name}' exists for several modalities ({modalities}); add --modality")
        return found[0].value

    def default_dataset(self, modality: str) -> type[Dataset]:
        """The data set that the modality alone picks. Errors: ConfigError if none, PluginError if several want it."""
        self._check_modality(modality)
        theirs = [entry for (of, _), entry in self.datasets.items() if of == modality]
        wanting = [entry for entry in theirs if entry.value.pretrain_default]
        if len(wanting) > 1:
            both = " and ".join(f"'{entry.name}' ({entry.origin})" for entry in wanting)
            raise PluginError(f"modality '{modality}' has several default data sets, {both}; name one with --dataset")
        if not wanting:
            known = ", ".join(sorted(entry.name for entry in theirs)) or "none"
            raise ConfigError(
                f"modality '{modality}' has no default data set; name one with --dataset (known: {known})"
            )
        return wanting[0].value

    def preset(self, name: str) -> list[Preset]:
        """All presets of that name. Errors: ConfigError."""
        found = [entry.value for entry in self.presets if entry.name == name]
        if not found:
            raise self._unknown("preset", name, {entry.name for entry in self.presets})
        return found

    def _check_modality(self, modality: str) -> None:
        known = {*self.tokenizers, *(of for of, _ in self.datasets)}
        if modality not in known:
            raise self._unknown("tokenizer", modality, known, what="modality")

    def _unknown(
        self, kind: Kind, name: str, known: Iterable[str], where: str = "", what: str | None = None
    ) -> ConfigError:
        word = what or ("data set" if kind == "dataset" else kind)
        known_names = "modalitie" if what else word  # `nearest` adds the s
        quotes = [f"plugin '{one.origin.plugin}' was set aside: {one.error}" for one in self.set_aside[:QUOTED]]
        if len(self.set_aside) > QUOTED:
            quotes.append(f"{len(self.set_aside) - QUOTED} more plugins were set aside, see `sslx list`")
        quotes += [f"plugin '{blocked}' is blocked" for blocked in self.blocked]
        return ConfigError("; ".join([f"no {word} '{name}'{where}; {nearest(name, known, known_names)}", *quotes]))

    # --- notices and reports -----------------------------------------------------------------------------------------

    def notify(self, hook: str, **values: Any) -> list[str]:
        """Send a notice to every plugin that wants it, in the order of their origins.

        A plugin that fails does not stop the run or the others; each failure is returned as one line.
        """
        problems = []
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                impl.function(*(values[name] for name in impl.argnames))
            except (Exception, SystemExit) as error:
                problems.append(f"plugin '{impl.plugin_name}' failed in {hook}: {_quote(error)}")
        return problems

    def origins(self) -> dict[str, dict[str, str]]:
        """For reports: for each plural of a kind, names and the plugin with version that each comes from."""
        return {
            f"{kind}s": {
                f"{entry.value.modality}/{entry.name}" if kind == "dataset" else entry.name: str(entry.origin)
                for entry in self.entries(kind)
            }
            for kind in KINDS
        }


def load(block: Iterable[str] = ()) -> Catalogue:
    """The catalogue of all installed plugins but those in `block` or in the variable SSLX_BLOCK (comma separated).

    Errors: PluginError if two plugins offer the same name; ConfigError if `block` names no installed plugin.
    """
    found = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        distribution = point.dist.name if point.dist else "unknown"
        version = point.dist.version if point.dist else ""
        found[distribution, point.name] = (Origin(f"{distribution}:{point.name}", version), point)
    names = [origin.plugin for origin, _ in found.values()]
    catalogue = Catalogue()
    asked = list(block)
    for name in asked:
        if name not in names:
            raise ConfigError(f"--block: no plugin '{name}'; {nearest(name, names, 'plugin')}")
    for name in filter(None, map(str.strip, os.environ.get(BLOCK_VARIABLE, "").split(","))):
        if name not in names:  # it may be meant for another environment, so it stops nothing
            catalogue.problems.append(f"{BLOCK_VARIABLE}: no plugin '{name}'; {nearest(name, names, 'plugin')}")
        asked.append(name)
    for _, (origin, point) in sorted(found.items()):
        if origin.plugin in asked:
            catalogue.blocked.append(origin.plugin)
            continue
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            refusal = PluginError(f"it cannot be imported: {_quote(error)}")
            refusal.__cause__ = error
            catalogue.put_aside(origin, refusal)
        else:
            catalogue.add(origin, plugin)
    catalogue.manager.check_pending()
    return catalogue


def _key(entry: Entry[Any]) -> Any:
    """What must be unique within a kind."""
    if entry.kind == "dataset":
        return entry.value.modality, entry.name
    if entry.kind == "preset":
        return entry.name, entry.value.objective, entry.value.modality, entry.value.dataset
    return entry.name


def _check_class(kind: Kind, value: Any) -> str | None:
    """What is wrong with an offered class, or None."""
    from ssl_core import contracts, options  # imports torch; by now the plugins have done so

    base = getattr(contracts, kind.capitalize())
    if not isinstance(value, type):
        return f"expected a class, got {value!r:.80}; offer the class itself, not an instance or a name"
    if not issubclass(value, base):
        return f"class {value.__name__} is not a {base.__name__}; derive it from ssl_core.{base.__name__}"
    for attribute in ("name", "modality") if kind == "dataset" else ("name",):
        word = getattr(value, attribute, None)
        if not isinstance(word, str) or not re.fullmatch(r"\w[\w.+-]*", word):
            return (
                f"class {value.__name__} needs a `{attribute}` of letters, digits, '_', '-', '.' or '+', not {word!r}"
            )
    own = getattr(value, "Options", None)
    if not (isinstance(own, type) and issubclass(own, options.Options)):
        return f"{value.__name__}.Options must derive from {base.__name__}.Options"
    for method in METHODS[kind]:
        if getattr(value, method, None) is getattr(base, method):
            return f"class {value.__name__} does not define {method}"
    return None


def _check_preset(value: Any) -> str | None:
    from ssl_core.options import Preset

    if not isinstance(value, Preset):
        return f"expected a Preset, got {value!r:.80}"
    if not isinstance(value.name, str) or not value.name or not value.source:
        return f"preset {value.name!r} needs a name and a source (paper, table or measurement)"
    if not isinstance(value.values, Mapping):
        return f"preset '{value.name}': values must map option paths to values"
    return None


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiouAEIOU' else 'a'} {word}"


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 300 else flat[:297] + "..."


def _quote(error: BaseException) -> str:
    """An error in one line: its type, its message, and the line of code that raised it."""
    if isinstance(error, SslxError):
        return _one_line(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return _one_line(f"{type(error).__name__}: {error}") + place
