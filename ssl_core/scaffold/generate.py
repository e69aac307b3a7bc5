"""Generates a plugin package that installs, passes its own tests and can be run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from ssl_core.errors import ConfigError, nearest
from ssl_core.hookspecs import API_VERSION
from ssl_core.plugins import Catalogue
from ssl_core.plugins.verify import BUILT_IN_COMMANDS

PluginKind = Literal["objective", "tokenizer", "dataset", "masking", "encoder", "probe", "command"]
KINDS: tuple[PluginKind, ...] = get_args(PluginKind)
LICENCES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "none": ""}  # SPDX names
DATA_MODALITY = "time-series"  # modality of the data set template
LONGEST = 28  # characters; keeps the lines of the templates within their limit
ABOUT = {
    "objective": "A denoising objective for sslx.",
    "tokenizer": "A modality of volumes for sslx: a tokenizer and a small data set.",
    "dataset": "A data set of labelled waves for sslx.",
    "masking": "A masking for sslx that shows tokens at even distances.",
    "encoder": "An encoder for sslx with parallel attention and MLP.",
    "probe": "A ridge-regression probe for sslx.",
    "command": "A command for sslx that lists the scores of finished runs.",
}
COMMAND = {
    "objective": "sslx run --objective {0} --modality speech --budget 1m",
    "tokenizer": "sslx run --objective metamae --modality {0} --budget 1m",
    "dataset": f"sslx run --objective metamae --modality {DATA_MODALITY} --dataset {{0}} --budget 1m",
    "masking": "sslx run --objective mae --masking {0} --modality speech --budget 1m",
    "encoder": "sslx run --objective mae --modality speech --set encoder.name={0} --budget 1m",
    "probe": "sslx run --objective mae --modality speech --set 'evaluate.probes=[\"{0}\"]' --budget 1m",
    "command": "sslx {0}",
}


@dataclass(frozen=True)
class Package:
    """The package to generate. licence: a key of LICENCES."""

    kind: PluginKind
    name: str
    licence: str = "apache-2.0"

    @property
    def distribution(self) -> str:
        """Name of the distribution, for `pip install`."""
        return f"sslx-{self.name}"

    @property
    def module(self) -> str:
        """Name of the module, for `import`."""
        return self.distribution.replace("-", "_")

    @property
    def command(self) -> str:
        """A command that runs the plugin."""
        return COMMAND[self.kind].format(self.name)

    def class_name(self, kind: str) -> str:
        """Name of the class: the plugin's name in CapWords and its kind, after "My" if a base class has the name."""
        word = "".join(part.capitalize() for part in self.name.split("-")) + kind.capitalize()
        return f"My{word}" if word in ("GridTokenizer", "IdTokenizer", "JointTokenizer", "PublicDataset") else word


def make_package(kind: str, name: str, licence: str, catalogue: Catalogue) -> Package:
    """Create a `Package`.

    Raises:
        ConfigError: if the kind or licence is unknown, or the name is invalid or taken.
    """
    if kind not in KINDS:
        raise ConfigError(f"cannot write a new '{kind}'; {nearest(kind, KINDS, 'kind')}")
    if licence not in LICENCES:
        raise ConfigError(f"there is no licence '{licence}'; {nearest(licence, LICENCES, 'licence')}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST:
        raise ConfigError(
            f"'{name}' cannot be the name; use at most {LONGEST} lower-case letters and digits, words joined by '-'"
        )
    if name.startswith("sslx-"):
        raise ConfigError(f"leave out 'sslx-': the package of '{name[5:]}' is called '{name}' anyway")
    modality = DATA_MODALITY if kind == "dataset" else None
    taken = [entry for entry in catalogue.entries(kind) if name in entry.names and entry.modality in (None, modality)]
    if kind == "command" and name in BUILT_IN_COMMANDS:
        raise ConfigError(f"'{name}' is a command of sslx; choose another name")
    if taken:
        word = f"data set '{modality}/{name}'" if modality else f"{kind} '{name}'"
        article = "an" if word[0] in "eo" else "a"
        raise ConfigError(f"there is {article} {word} already, from {taken[0].origin}; choose another name")
    return Package(kind, name, licence)


def write_package(package: Package, out: Path) -> Path:
    """Write the package to a new folder in `out` and return the folder.

    Raises:
        ConfigError: if the folder exists or cannot be created.
    """
    folder = out / package.distribution
    texts = render(package)
    try:
        folder.mkdir(parents=True)
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except FileExistsError:
        raise ConfigError(f"{folder} exists already; choose another name or --out") from None
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    return folder


def render(package: Package) -> dict[str, str]:
    """The content of each file, by its path in the package folder."""
    kind = package.kind
    modules = ["tokenizer", "dataset"] if kind == "tokenizer" else [kind]
    source = f"src/{package.module}"
    files = {
        "pyproject.toml": "common/pyproject.toml.j2",
        "README.md": "common/README.md.j2",
        ".gitignore": "common/gitignore.j2",
        ".github/workflows/ci.yml": "common/ci.yml.j2",
        f"{source}/__init__.py": "common/__init__.py.j2",
        **{f"{source}/{one}.py": f"{kind}/{one}.py.j2" for one in modules},
        f"tests/test_{package.module}.py": f"{kind}/test.py.j2",
    }
    if package.licence != "none":
        files["LICENSE"] = f"licences/{package.licence}.txt.j2"
    values = {
        "name": package.name, "kind": kind, "distribution": package.distribution, "module": package.module,
        "cls": package.class_name(kind), "data_cls": package.class_name("dataset"), "about": ABOUT[kind],
        "command": package.command, "licence": LICENCES[package.licence], "api": api_range(API_VERSION),
        "entries": {f"{one}s.{package.name}": f"{package.module}.{one}" for one in modules},
        "sslx_version": _own_version(), "year": date.today().year,
    }  # fmt: skip
    environment = Environment(
        loader=PackageLoader("ssl_core.scaffold"),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    return {path: environment.get_template(template).render(values) for path, template in files.items()}


def api_range(version: str) -> str:
    """The compatible versions of the plugin interface: "1.2" gives ">=1.2,<2"."""
    return f">={version},<{int(version.partition('.')[0]) + 1}"


def _own_version() -> str:
    from importlib.metadata import version

    return version("sslx")
