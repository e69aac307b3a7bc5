"""What all usable plugins offer: kind, name, class, origin; and notices to them."""

from __future__ import annotations

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
QUOTED = 3  # errors of plugins set aside that one message quotes


@dataclass(frozen=True)
class Origin:
    """Where something comes from. plugin: "distribution:entry"; version: that of the distribution."""

    plugin: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.plugin} {self.version}".rstrip()


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One thing that a plugin offers: a class, or a preset. `modality` is that of a data set, else None."""

    kind: Kind
    name: str
    value: T
    origin: Origin
    modality: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases of a data set; of anything else the name."""
        return (self.name, *getattr(self.value, "aliases", ()))

    @property
    def full_name(self) -> str:
        """The name; a data set's with its modality before it."""
        return f"{self.modality}/{self.name}" if self.modality else self.name

    def called(self, text: str) -> bool:
        """Whether `text` means it: its name or an alias, of a data set also with the modality before it."""
        modality, _, name = text.rpartition("/")
        return name in self.names and modality in ("", self.modality)

    @property
    def summary(self) -> str:
        """Its line in a list: the first line of the class's docstring, or the preset's source."""
        if self.kind == "command":
            text = getattr(self.value, "info").help  # noqa: B009
        else:
            text = getattr(self.value, "source", "") if self.kind == "preset" else self.value.__doc__
        return (text or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class SetAside:
    """A plugin that is installed but cannot be used, and why. The error's cause is what the plugin raised."""

    origin: Origin
    error: PluginError

    def __str__(self) -> str:
        return f"plugin '{self.origin.plugin}' was set aside: {self.error}"


class Catalogue:
    """All that the plugins offer, those that were set aside, and one line for everything that a person should know.

    `datasets` is keyed by (modality, name): two modalities may each have a data set `files`. `presets` is a sequence:
    several may share a name and differ in what they are meant for.
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
        """A catalogue of plugin modules or objects at hand, by "distribution:entry", without installing them."""
        catalogue = cls()
        for name, plugin in plugins.items():
            catalogue.add(Origin(name, version), plugin)
        catalogue.manager.check_pending()
        return catalogue

    # --- taking plugins in -------------------------------------------------------------------------------------------

    def add(self, origin: Origin, plugin: Any) -> None:
        """Take a plugin in whole, or set it aside whole. Errors: PluginError if a name is already taken."""
        self.installed.append(origin)
        try:
            verify.check_api(plugin, hookspecs.API_VERSION)
            verify.register(self.manager, plugin, origin.plugin)
            offers = [entry for kind in KINDS for entry in self._offers(kind, origin, plugin)]
        except PluginError as error:
            if self.manager.get_plugin(origin.plugin) is plugin:
                self.manager.unregister(name=origin.plugin)
            self._remember(origin, error)
            return
        for entry in offers:
            self._enter(entry)

    def put_aside(self, origin: Origin, error: PluginError) -> None:
        """Remember a plugin that cannot be loaded, with its error."""
        self.installed.append(origin)
        self._remember(origin, error)

    def put_blocked(self, origin: Origin) -> None:
        """Remember a plugin that was left out on purpose."""
        self.installed.append(origin)
        self.blocked.append(origin.plugin)

    def _remember(self, origin: Origin, error: PluginError) -> None:
        self.set_aside.append(SetAside(origin, error))
        self.problems.append(str(self.set_aside[-1]))

    def _offers(self, kind: Kind, origin: Origin, plugin: Any) -> list[Entry[Any]]:
        entries: list[Entry[Any]] = []
        for value in verify.offered(self.manager, plugin, kind):
            modality = value.modality if kind == "dataset" else None
            name = value.info.name if kind == "command" else value.name
            entry = Entry(kind, name, value, origin, modality)
            shared = next((name for other in entries if (name := _shared(entry, other)) is not None), None)
            if shared is not None:
                raise PluginError(f"register_{kind}s() offers {_word(kind)} '{shared}' twice")
            entries.append(entry)
        return entries

    def _enter(self, entry: Entry[Any]) -> None:
        kind, key = entry.kind, _key(entry)
        for other in self.entries(kind):
            shared = _shared(entry, other)
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

    # --- finding what they offer -------------------------------------------------------------------------------------

    def entries(self, kind: Kind) -> list[Entry[Any]]:
        """All entries of a kind with their origins, in the order of these."""
        if kind not in KINDS:
            raise ValueError(f"no kind '{kind}'; known: {', '.join(KINDS)}")
        return list(self.presets) if kind == "preset" else list(getattr(self, f"{kind}s").values())

    def get(self, kind: Kind, name: str, modality: str | None = None) -> Entry[Any]:
        """The entry of that name or alias, of that modality if one is given.

        Errors: ConfigError if there is none or several.
        """
        if modality is not None:
            self._check_modality(modality)
        known = [entry for entry in self.entries(kind) if modality is None or entry.modality == modality]
        found = [entry for entry in known if name in entry.names]
        if not found:
            raise self._unknown(_word(kind), name, {name for entry in known for name in entry.names}, modality)
        if len(found) > 1 and kind == "dataset":
            modalities = ", ".join(sorted(str(entry.modality) for entry in found))
            raise ConfigError(f"data set '{name}' exists for several modalities ({modalities}); add --modality")
        if len(found) > 1:
            raise ConfigError(f"there are {len(found)} presets '{name}'; they differ in what they are meant for")
        return found[0]

    def find(self, kind: Kind, name: str, modality: str | None = None) -> Entry[Any] | None:
        """The first entry of that name or alias, and of that modality if one is given; None if there is none."""
        fitting = (entry for entry in self.entries(kind) if modality is None or entry.modality == modality)
        return next((entry for entry in fitting if name in entry.names), None)

    def objective(self, name: str) -> type[Objective]:
        """The objective of that name. Errors: ConfigError."""
        return self.get("objective", name).value

    def tokenizer(self, name: str) -> type[Tokenizer]:
        """The tokenizer of that name, which is also its modality's. Errors: ConfigError."""
        return self.get("tokenizer", name).value

    def masking(self, name: str) -> type[Masking]:
        """The masking of that name. Errors: ConfigError."""
        return self.get("masking", name).value

    def encoder(self, name: str) -> type[Encoder]:
        """The encoder of that name.

        Raises:
            ConfigError: If there is none.
        """
        return self.get("encoder", name).value

    def probe(self, name: str) -> type[Probe]:
        """The probe of that name. Errors: ConfigError."""
        return self.get("probe", name).value

    def dataset(self, name: str, modality: str | None = None) -> type[Dataset]:
        """The data set of that name or alias. Without a modality only one may have it. Errors: ConfigError."""
        return self.get("dataset", name, modality).value

    def default_dataset(self, modality: str) -> type[Dataset]:
        """The data set that the modality alone picks. Errors: ConfigError if none, PluginError if several."""
        self._check_modality(modality)
        theirs = [entry for entry in self.datasets.values() if entry.modality == modality]
        asking = [entry for entry in theirs if entry.value.is_default]
        if len(asking) > 1:
            both = " and ".join(f"'{entry.name}' ({entry.origin})" for entry in asking)
            raise PluginError(f"modality '{modality}' has several default data sets, {both}; name one with --dataset")
        if not asking:
            raise self._with_reasons(
                f"modality '{modality}' has no default data set; name one with --dataset "
                f"(known: {', '.join(sorted(entry.name for entry in theirs)) or 'none'})",
                modality,
            )
        return asking[0].value

    def preset(self, name: str) -> list[Preset]:
        """All presets of that name. Errors: ConfigError."""
        found = [entry.value for entry in self.presets if entry.name == name]
        if not found:
            raise self._unknown("preset", name, {entry.name for entry in self.presets})
        return found

    def _check_modality(self, modality: str) -> None:
        known = {*self.tokenizers, *(of for of, _ in self.datasets)}
        if modality not in known:
            raise self._unknown("modality", modality, known)

    def _unknown(self, word: str, name: str, known: Iterable[str], modality: str | None = None) -> ConfigError:
        where = f" of modality '{modality}'" if modality else ""
        stem = "modalitie" if word == "modality" else word  # `nearest` adds the s
        return self._with_reasons(f"unknown {word} '{name}'{where}; {nearest(name, known, stem)}", name)

    def _with_reasons(self, message: str, name: str) -> ConfigError:
        """An error that something is missing, with the plugins that would perhaps have offered it."""
        aside = [one for one in self.set_aside if name in one.origin.plugin] or self.set_aside
        reasons = [str(one) for one in aside[:QUOTED]]
        if len(aside) > QUOTED:
            reasons.append(f"{len(aside) - QUOTED} more plugins were set aside, see `sslx plugins`")
        reasons += [f"plugin '{blocked}' is blocked" for blocked in self.blocked]
        return ConfigError("; ".join([message, *reasons]))

    # --- notices and reports -----------------------------------------------------------------------------------------

    def notify(self, hook: str, **values: Any) -> list[str]:
        """Send a notice to every plugin that implements it, in pluggy's call order.

        The plugin registered last is called first; `tryfirst` and `trylast` are honoured. A plugin that fails stops
        neither the run nor the others; each failure is returned as one line.
        """
        failures = []
        for impl in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            try:
                impl.function(*(values[name] for name in impl.argnames))
            except (Exception, SystemExit) as error:
                failures.append(f"plugin '{impl.plugin_name}' failed in {hook}: {verify.quote(error)}")
        return failures

    def notices(self, plugin: str) -> list[str]:
        """The notices that a plugin, given as "distribution:entry", wants to be sent."""
        taken = self.manager.get_plugin(plugin)
        callers = [] if taken is None else self.manager.get_hookcallers(taken) or []
        return [caller.name for caller in callers if not caller.name.startswith("register_")]

    def origins(self) -> dict[str, dict[str, str]]:
        """For reports: of each kind the names (a data set's as modality/name), and the plugin and version of each."""
        return {f"{kind}s": {entry.full_name: str(entry.origin) for entry in self.entries(kind)} for kind in KINDS}


def _key(entry: Entry[Any]) -> Any:
    """What must be unique within a kind."""
    if entry.kind == "preset":
        return entry.name, entry.value.objective, entry.value.modality, entry.value.dataset
    return (entry.modality, entry.name) if entry.kind == "dataset" else entry.name


def _shared(entry: Entry[Any], other: Entry[Any]) -> str | None:
    """The name under which two entries of one kind would be confused, or None. An alias counts as a name."""
    if entry.kind == "preset":
        return entry.name if _key(entry) == _key(other) else None
    common = set(entry.names) & set(other.names) if entry.modality == other.modality else set()
    return min(common, default=None)


def _word(kind: Kind) -> str:
    """A kind as people write it."""
    return "data set" if kind == "dataset" else kind
