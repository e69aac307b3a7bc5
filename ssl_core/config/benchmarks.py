"""Benchmarks: by domain, what to pretrain on and what to measure the encoder on afterwards.

A benchmark is no code: its domains are the presets of one name that have a `domain`, from any number of plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ssl_core.errors import ConfigError, nearest
from ssl_core.options import Preset


def benchmarks(presets: Iterable[Preset]) -> dict[str, dict[str, Preset]]:
    """The domains of each benchmark by name, in the order of the presets."""
    found: dict[str, dict[str, Preset]] = {}
    for preset in presets:
        if preset.domain is not None:
            found.setdefault(preset.name, {}).setdefault(preset.domain, preset)
    return found


def find_domain(presets: Iterable[Preset], benchmark: str | None, domain: str | None) -> Preset:
    """One domain of a benchmark. Errors: ConfigError naming what there is."""
    known = benchmarks(presets)
    if benchmark is None:
        raise ConfigError(f"--domain {domain} needs --benchmark; {nearest('', known, 'benchmark')}")
    if benchmark not in known:
        raise ConfigError(f"unknown benchmark '{benchmark}'; {nearest(benchmark, known, 'benchmark')}")
    domains = known[benchmark]
    if domain is None:
        raise ConfigError(f"benchmark '{benchmark}' needs --domain; {nearest('', domains, 'domain')}")
    if domain not in domains:
        raise ConfigError(f"unknown domain '{domain}' of benchmark '{benchmark}'; {nearest(domain, domains, 'domain')}")
    return domains[domain]


def expand(presets: Iterable[Preset], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Option paths with what a benchmark fixes (the data) and proposes (its preset, its objective) filled in.

    Nothing changes without a benchmark. Errors: ConfigError for an unknown one, or for other data beside it.
    """
    if asked.get("benchmark") is None and asked.get("domain") is None:
        stray = next((path for path in asked if path.startswith("transfer.")), None)
        if stray:
            raise ConfigError(f"'{stray}' is for the transfer sets of a benchmark; use --benchmark, or dataset.*")
        return dict(asked)
    found = find_domain(presets, asked.get("benchmark"), asked.get("domain"))
    for path, flag, fixed in (
        ("modality", "--modality", found.modality), ("dataset.name", "--dataset", found.dataset),
    ):  # fmt: skip
        if asked.get(path) not in (None, fixed):
            raise ConfigError(
                f"benchmark '{found.name}' pretrains its domain '{found.domain}' on {found.modality}/{found.dataset}; "
                f"leave out {flag} {asked[path]}"
            )
    proposed = {path: found.values[path] for path in ("objective.name",) if path in found.values}
    fixed_data = {"modality": found.modality, "dataset.name": found.dataset}
    return {"preset": found.name, **proposed, **asked, **fixed_data}
