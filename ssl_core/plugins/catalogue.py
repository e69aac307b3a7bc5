"""The catalogue of all classes, presets and commands that plugins register, and notices to plugins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

import pluggy

from ssl_core import hookspecs
from ssl_core.errors import ConfigError, PluginError, nearest
from ssl_core.plugins import verify

if TYPE_CHECKING:
    import typer

    from ssl_core.contracts import Dataset, Encoder, Masking, Objective, Probe, Tokenizer
    from ssl_core.options import Preset

Kind = Literal["objective", "tokenizer", "dataset", "masking", "encoder", "probe", "preset", "command"]
KINDS: tuple[Kind, ...] = get_args(Kind)
T = TypeVar("T")
MAX_REASONS = 3  # largest number of errors of unusable plugins that one message quotes


@dataclass(frozen=True)
class Origin:
    """The plugin that registers an entry, as "distribution:entry", and the version of its distribution."""

    plugin: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.plugin} {self.version}".rstrip()


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A class, preset or command of a plugin. `modality` is None except for data sets."""

    kind: Kind
    name: str
    value: T
    origin: Origin
    modality: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The name, and for a data set its aliases."""
        return (self.name, *getattr(self.value, "aliases", ()))

    @property
    def full_name(self) -> str:
        """The name, for a data set as modality/name."""
        return f"{self.modality}/{self.name}" if self.modality else self.name

    def called(self, text: str) -> bool:
        """Whether `text` is a name of the entry, for a data set optionally as modality/name."""
        modality, _, name = text.rpartition("/")
        return name in self.names and modality in ("", self.modality)

    @property
    def summary(self) -> str:
        """One line for lists: the first line of the docstring, a preset's source, or a command's help."""
        if self.kind == "command":
            text = getattr(self.value, "info").help  # noqa: B009
        else:
            text = getattr(self.value, "source", "") if self.kind == "preset" else self.value.__doc__
        return (text or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class SetAside:
    """An installed plugin that cannot be used. The cause of `error` is the exception of the plugin."""

    origin: Origin
    error: PluginError

    def __str__(self) -> str:
        return f"plugin '{self.origin.plugin}' was set aside: {self.error}"


class Catalogue:
    """Entries of all plugins by kind and name, the unusable plugins, and problems to print, one line each.

    `datasets` is keyed by (modality, name), since two modalities may have a data set of the same name. `presets` is a
    list, since presets for different runs may share a name.
    """

    def __init__(self) -> None:
        self.objectives: dict[str, Entry[type[Objective]]] = {}
        self.tokenizers: dict[str, Entry[type[Tokenizer]]] = {}
        self.datasets: dict[tuple[str, str], Entry[type[Dataset]]] = {}
        self.maskings: dict[str, Entry[type[Masking]]] = {}
        self.encoders: dict[str, Entry[type[Encoder]]] = {}
        self.probes: dict[str, Entry[type[Probe]]] = {}
        self.commands: dict[str, Entry[typer.Typer]] = {}
        self.presets: list[Entry[Preset]] = []
        self.installed: list[Origin] = []
        self.set_aside: list[SetAside] = []
        self.blocked: list[str] = []
        self.problems: list[str] = []
        self.manager = pluggy.PluginManager(hookspecs.hookspec.project_name)
        self.manager.add_hookspecs(hookspecs)

    @classmethod
    def from_plugins(cls, plugins: Mapping[str, Any], version: str = "") -> Catalogue:
        """A catalogue of plugin modules or objects that are not installed, by "distribution:entry"."""
        catalogue = cls()
        for name, plugin in plugins.items():
            catalogue.add(Origin(name, version), plugin)
        catalogue.manager.check_pending()
        return catalogue

    # --- adding plugins -----------------------------------------------------------------------------------------------

    def add(self, origin: Origin, plugin: Any) -> None:
        """Add all entries of a plugin. If one of them is invalid, set the whole plugin aside.

        Raises:
            PluginError: If another plugin has registered the same name.
        """
        self.installed.append(origin)
        try:
            verify.check_api(plugin, hookspecs.API_VERSION)
            verify.register(self.manager, plugin, origin.plugin)
            entries = [entry for kind in KINDS for entry in self._entries_of(kind, origin, plugin)]
        except PluginError as error:
            if self.manager.get_plugin(origin.plugin) is plugin:
                self.manager.unregister(name=origin.plugin)
            self._remember(origin, error)
            return
        for entry in entries:
            self._add_entry(entry)

    def put_aside(self, origin: Origin, error: PluginError) -> None:
        """Add a plugin that cannot be loaded, with its error."""
        self.installed.append(origin)
        self._remember(origin, error)

    def put_blocked(self, origin: Origin) -> None:
        """Add a plugin that the user has blocked."""
        self.installed.append(origin)
        self.blocked.append(origin.plugin)

    def _remember(self, origin: Origin, error: PluginError) -> None:
        self.set_aside.append(SetAside(origin, error))
        self.problems.append(str(self.set_aside[-1]))

    def _entries_of(self, kind: Kind, origin: Origin, plugin: Any) -> list[Entry[Any]]:
        entries: list[Entry[Any]] = []
        for value in verify.call_register_hook(self.manager, plugin, kind):
            modality = value.modality if kind == "dataset" else None
            name = value.info.name if kind == "command" else value.name
            entry = Entry(kind, name, value, origin, modality)
            shared = next((name for other in entries if (name := _shared_name(entry, other)) is not None), None)
            if shared is not None:
                raise PluginError(f"register_{kind}s() offers {_word(kind)} '{shared}' twice")
            entries.append(entry)
        return entries

    def _add_entry(self, entry: Entry[Any]) -> None:
        kind, key = entry.kind, _key(entry)
        for other in self.entries(kind):
            shared = _shared_name(entry, other)
            if shared is not None:
                where = f" of modality '{entry.modality}'" if entry.modality else ""
                raise PluginError(
                    f"{_word(kind)} '{shared}'{where} is offered twice, by {other.origin} and by {entry.origin}; "
                    f"leave one out, e.g. with --block {entry.origin.plugin}"
                )
        if kind == "preset":
            self.presets.append(entry)
        else:
            getattr(self, f"{kind}s")[key] = entry

    # --- look-up -----------------------------------------------------------------------------------------------------

    def entries(self, kind: Kind) -> list[Entry[Any]]:
        """All entries of a kind, ordered by their origin."""
        if kind not in KINDS:
            raise ValueError(f"no kind '{kind}'; known: {', '.join(KINDS)}")
        return list(self.presets) if kind == "preset" else list(getattr(self, f"{kind}s").values())

    def get(self, kind: Kind, name: str, modality: str | None = None) -> Entry[Any]:
        """The entry of that name or alias, optionally of one modality.

        Raises:
            ConfigError: If there is none, or more than one.
        """
        if modality is not None:
            self._check_modality(modality)
        known = [entry for entry in self.entries(kind) if modality is None or entry.modality == modality]
        matches = [entry for entry in known if name in entry.names]
        if not matches:
            raise self._unknown(_word(kind), name, {name for entry in known for name in entry.names}, modality)
        if len(matches) > 1 and kind == "dataset":
            modalities = ", ".join(sorted(str(entry.modality) for entry in matches))
            raise ConfigError(f"data set '{name}' exists for several modalities ({modalities}); add --modality")
        if len(matches) > 1:
            raise ConfigError(f"there are {len(matches)} presets '{name}'; they differ in what they are meant for")
        return matches[0]

    def find(self, kind: Kind, name: str, modality: str | None = None) -> Entry[Any] | None:
        """The first entry of that name or alias, optionally of one modality; None if there is none."""
        candidates = (entry for entry in self.entries(kind) if modality is None or entry.modality == modality)
        return next((entry for entry in candidates if name in entry.names), None)

    def objective(self, name: str) -> type[Objective]:
        """The objective of that name.

        Raises:
            ConfigError: If there is none.
        """
        return self.get("objective", name).value

    def tokenizer(self, name: str) -> type[Tokenizer]:
        """The tokenizer of that name, which is the name of its modality.

        Raises:
            ConfigError: If there is none.
        """
        return self.get("tokenizer", name).value

    def masking(self, name: str) -> type[Masking]:
        """The masking of that name.

        Raises:
            ConfigError: If there is none.
        """
        return self.get("masking", name).value

    def encoder(self, name: str) -> type[Encoder]:
        """The encoder of that name.

        Raises:
            ConfigError: If there is none.
        """
        return self.get("encoder", name).value

    def probe(self, name: str) -> type[Probe]:
        """The probe of that name.

        Raises:
            ConfigError: If there is none.
        """
        return self.get("probe", name).value

    def dataset(self, name: str, modality: str | None = None) -> type[Dataset]:
        """The data set of that name or alias, optionally of one modality.

        Raises:
            ConfigError: If there is none, or without a modality more than one.
        """
        return self.get("dataset", name, modality).value

    def default_dataset(self, modality: str) -> type[Dataset]:
        """The default data set of a modality.

        Raises:
            ConfigError: If there is none.
            PluginError: If there are several.
        """
        self._check_modality(modality)
        datasets = [entry for entry in self.datasets.values() if entry.modality == modality]
        defaults = [entry for entry in datasets if entry.value.is_default]
        if len(defaults) > 1:
            both = " and ".join(f"'{entry.name}' ({entry.origin})" for entry in defaults)
            raise PluginError(f"modality '{modality}' has several default data sets, {both}; name one with --dataset")
        if not defaults:
            raise self._with_reasons(
                f"modality '{modality}' has no default data set; name one with --dataset "
                f"(known: {', '.join(sorted(entry.name for entry in datasets)) or 'none'})",
                modality,
            )
        return defaults[0].value

    def preset(self, name: str) -> list[Preset]:
        """All presets of that name.

        Raises:
            ConfigError: If there is none.
        """
        presets = [entry.value for entry in self.presets if entry.name == name]
        if not presets:
            raise self._unknown("preset", name, {entry.name for entry in self.presets})
        return presets

    def _check_modality(self, modality: str) -> None:
        known = {*self.tokenizers, *(name for name, _ in self.datasets)}
        if modality not in known:
            raise self._unknown("modality", modality, known)

    def _unknown(self, word: str, name: str, known: Iterable[str], modality: str | None = None) -> ConfigError:
        where = f" of modality '{modality}'" if modality else ""
        stem = "modalitie" if word == "modality" else word  # `nearest` adds the s
        hint = nearest(name, known, stem)
        if "/" in name and os.path.exists(name):
            hint = f"it is a path: install the package there (pip install -e {name}) and give the name of the {word}"
        return self._with_reasons(f"unknown {word} '{name}'{where}; {hint}", name)

    def _with_reasons(self, message: str, name: str) -> ConfigError:
        """An error about an unknown name, with the unusable and blocked plugins that might provide it."""
        aside = [plugin for plugin in self.set_aside if name in plugin.origin.plugin] or self.set_aside
        reasons = [str(plugin) for plugin in aside[:MAX_REASONS]]
        if len(aside) > MAX_REASONS:
            reasons.append(f"{len(aside) - MAX_REASONS} more plugins were set aside, see `sslx plugins`")
        reasons += [f"plugin '{blocked}' is blocked" for blocked in self.blocked]
        return ConfigError("; ".join([message, *reasons]))

    # --- notices and reports -----------------------------------------------------------------------------------------

    def notify(self, hook: str, **values: Any) -> list[str]:
        """Call a notice hook of all plugins that implement it, in pluggy's call order.

        The plugin registered last is called first; `tryfirst` and `trylast` are respected. An exception in one plugin
        affects neither the run nor other plugins. Returns one line for each exception.
        """
        failures = []
        for impl in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            try:
                impl.function(*(values[name] for name in impl.argnames))
            except (Exception, SystemExit) as error:
                failures.append(f"plugin '{impl.plugin_name}' failed in {hook}: {verify.quote(error)}")
        return failures

    def notices(self, plugin: str) -> list[str]:
        """The notice hooks that a plugin "distribution:entry" implements."""
        registered = self.manager.get_plugin(plugin)
        callers = [] if registered is None else self.manager.get_hookcallers(registered) or []
        return [caller.name for caller in callers if not caller.name.startswith("register_")]

    def origins(self) -> dict[str, dict[str, str]]:
        """For reports: by kind and name (modality/name for data sets), the plugin and version of each entry."""
        return {f"{kind}s": {entry.full_name: str(entry.origin) for entry in self.entries(kind)} for kind in KINDS}


def _key(entry: Entry[Any]) -> Any:
    """The key that is unique within a kind."""
    if entry.kind == "preset":
        return entry.name, entry.value.objective, entry.value.modality, entry.value.dataset
    return (entry.modality, entry.name) if entry.kind == "dataset" else entry.name


def _shared_name(entry: Entry[Any], other: Entry[Any]) -> str | None:
    """A name or alias that two entries of one kind share, or None."""
    if entry.kind == "preset":
        return entry.name if _key(entry) == _key(other) else None
    common = set(entry.names) & set(other.names) if entry.modality == other.modality else set()
    return min(common, default=None)


def _word(kind: Kind) -> str:
    """The kind as messages write it."""
    return "data set" if kind == "dataset" else kind
