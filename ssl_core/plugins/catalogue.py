"""What all usable plugins offer: kind, name, class, origin; and notices to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import pluggy

from ssl_core import hookspecs
from ssl_core.errors import ConfigError, PluginError, nearest
from ssl_core.plugins import verify

if TYPE_CHECKING:
    from ssl_core.contracts import Dataset, Masking, Objective, Tokenizer
    from ssl_core.options import Preset

Kind = Literal["objectives", "tokenizers", "datasets", "maskings", "presets"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SINGULAR = {
    "objectives": "objective",
    "tokenizers": "tokenizer",
    "datasets": "data set",
    "maskings": "masking",
    "presets": "preset",
}
QUOTED = 3  # errors of plugins set aside that one message quotes


@dataclass(frozen=True)
class Origin:
    """Where something comes from. plugin: "distribution:entry"; version: that of the distribution."""

    plugin: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.plugin} {self.version}".rstrip()


@dataclass(frozen=True)
class Entry:
    """One thing that a plugin offers: a class, or a preset. `modality` is that of a data set, else None."""

    kind: Kind
    name: str
    value: Any
    origin: Origin
    modality: str | None = None

    @property
    def summary(self) -> str:
        """Its line in a list: the first line of the class's docstring, or the preset's source."""
        text = self.value.source if self.kind == "presets" else self.value.__doc__
        return (text or "").strip().partition("\n")[0]

    @property
    def key(self) -> tuple[str | None, ...]:
        """What must be unique within its kind."""
        if self.kind == "presets":
            return self.name, self.value.objective, self.value.modality, self.value.dataset
        return self.name, self.modality


@dataclass(frozen=True)
class SetAside:
    """A plugin that is installed but cannot be used, and why. The error's cause is what the plugin raised."""

    origin: Origin
    error: PluginError

    def __str__(self) -> str:
        return f"plugin '{self.origin.plugin}' was set aside: {self.error}"


class Catalogue:
    """All that the plugins offer, those that were set aside, and one line for everything that a person should know.

    Data sets are known by modality and name together: two modalities may each have a data set `files`. Several
    presets may share a name and differ in what they are meant for.
    """

    def __init__(self) -> None:
        self.set_aside: list[SetAside] = []
        self.blocked: list[str] = []
        self.problems: list[str] = []
        self.manager = pluggy.PluginManager(hookspecs.hookspec.project_name)
        self.manager.add_hookspecs(hookspecs)
        self._entries: dict[Kind, list[Entry]] = {kind: [] for kind in KINDS}

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
        try:
            verify.register(self.manager, plugin, origin.plugin)
            offers = [entry for kind in KINDS for entry in self._offers(kind, origin, plugin)]
        except PluginError as error:
            if self.manager.get_plugin(origin.plugin) is plugin:
                self.manager.unregister(name=origin.plugin)
            self.put_aside(origin, error)
            return
        for entry in offers:
            self._check_free(entry)
            self._entries[entry.kind].append(entry)

    def put_aside(self, origin: Origin, error: PluginError) -> None:
        """Remember a plugin that cannot be used, with its error."""
        self.set_aside.append(SetAside(origin, error))
        self.problems.append(str(self.set_aside[-1]))

    def _offers(self, kind: Kind, origin: Origin, plugin: Any) -> list[Entry]:
        entries: list[Entry] = []
        for value in verify.offered(self.manager, plugin, kind):
            modality = value.modality if kind == "datasets" else None
            entry = Entry(kind, value.name, value, origin, modality)
            if entry.key in [other.key for other in entries]:
                raise PluginError(f"register_{kind}() offers {SINGULAR[kind]} '{entry.name}' twice")
            entries.append(entry)
        return entries

    def _check_free(self, entry: Entry) -> None:
        for other in self._entries[entry.kind]:
            if other.key == entry.key:
                where = f" of modality '{entry.modality}'" if entry.modality else ""
                raise PluginError(
                    f"{SINGULAR[entry.kind]} '{entry.name}'{where} is offered twice, by {other.origin} and by "
                    f"{entry.origin}; leave one out, e.g. with --block {entry.origin.plugin}"
                )

    # --- finding what they offer -------------------------------------------------------------------------------------

    def entries(self, kind: Kind) -> list[Entry]:
        """All entries of a kind with their origins, in the order of these."""
        if kind not in KINDS:
            raise ValueError(f"no kind '{kind}'; known: {', '.join(KINDS)}")
        return list(self._entries[kind])

    def names(self, kind: Kind) -> list[str]:
        """The names of a kind, each once, sorted."""
        return sorted({entry.name for entry in self.entries(kind)})

    @property
    def presets(self) -> list[Preset]:
        """All presets."""
        return [entry.value for entry in self._entries["presets"]]

    def find(self, kind: Kind, name: str, modality: str | None = None) -> Entry:
        """The entry of that name, of that modality if one is given. Errors: ConfigError if there is none or several."""
        if modality is not None:
            self._check_modality(modality)
        known = [entry for entry in self.entries(kind) if modality is None or entry.modality == modality]
        found = [entry for entry in known if entry.name == name]
        if not found:
            raise self._unknown(SINGULAR[kind], name, (entry.name for entry in known), modality)
        if len(found) > 1 and kind == "datasets":
            modalities = ", ".join(sorted(str(entry.modality) for entry in found))
            raise ConfigError(f"data set '{name}' exists for several modalities ({modalities}); add --modality")
        return found[0]

    @overload
    def get(self, kind: Literal["objectives"], name: str) -> type[Objective]: ...
    @overload
    def get(self, kind: Literal["tokenizers"], name: str) -> type[Tokenizer]: ...
    @overload
    def get(self, kind: Literal["datasets"], name: str) -> type[Dataset]: ...
    @overload
    def get(self, kind: Literal["maskings"], name: str) -> type[Masking]: ...
    @overload
    def get(self, kind: Literal["presets"], name: str) -> Preset: ...
    def get(self, kind: Kind, name: str) -> Any:
        """The class (or the first preset) of that name. Errors: ConfigError that lists the nearest names."""
        return self.find(kind, name).value

    def dataset(self, name: str, modality: str | None = None) -> type[Dataset]:
        """The data set of that name. The modality may be left out where only one has it. Errors: ConfigError."""
        return self.find("datasets", name, modality).value

    def default_dataset(self, modality: str) -> type[Dataset]:
        """The data set that the modality alone picks. Errors: ConfigError if none, PluginError if several."""
        self._check_modality(modality)
        theirs = [entry for entry in self._entries["datasets"] if entry.modality == modality]
        asking = [entry for entry in theirs if entry.value.pretrain_default]
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

    def _check_modality(self, modality: str) -> None:
        known = {entry.name for entry in self._entries["tokenizers"]}
        known |= {str(entry.modality) for entry in self._entries["datasets"]}
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
            reasons.append(f"{len(aside) - QUOTED} more plugins were set aside, see `sslx list`")
        reasons += [f"plugin '{blocked}' is blocked" for blocked in self.blocked]
        return ConfigError("; ".join([message, *reasons]))

    # --- notices and reports -----------------------------------------------------------------------------------------

    def notify(self, hook: str, **values: Any) -> list[str]:
        """Send a notice to every plugin that wants it, in the order of their origins.

        A plugin that fails stops neither the run nor the others; each failure is returned as one line.
        """
        failures = []
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                impl.function(*(values[name] for name in impl.argnames))
            except (Exception, SystemExit) as error:
                failures.append(f"plugin '{impl.plugin_name}' failed in {hook}: {verify.quote(error)}")
        return failures

    def origins(self) -> dict[str, dict[str, str]]:
        """For reports: of each kind the names (a data set's as modality/name), and the plugin and version of each."""
        return {
            kind: {
                f"{entry.modality}/{entry.name}" if entry.modality else entry.name: str(entry.origin)
                for entry in self._entries[kind]
            }
            for kind in KINDS
        }
