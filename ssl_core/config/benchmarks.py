"""Benchmarks: for each domain the pretraining data and the transfer sets.

A benchmark needs no code: its domains are the presets of one name that have a `domain`, from any number of plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ssl_core.errors import ConfigError, nearest
from ssl_core.options import Preset


def benchmarks(presets: Iterable[Preset]) -> dict[str, dict[str, Preset]]:
    """The domains of each benchmark by name, in the order of the presets."""
    domains: dict[str, dict[str, Preset]] = {}
    for preset in presets:
        if preset.domain is not None:
            domains.setdefault(preset.name, {}).setdefault(preset.domain, preset)
    return domains


def find_domain(presets: Iterable[Preset], benchmark: str | None, domain: str | None) -> Preset:
    """One domain of a benchmark.

    Raises:
        ConfigError: there is no such benchmark or domain; the message names those that exist.
    """
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


def expand(presets: Iterable[Preset], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Add to options by path what a benchmark fixes (the data) and proposes (its preset, its objective).

    Without a benchmark the options stay as they are.

    Raises:
        ConfigError: an unknown benchmark or domain, or other data beside it.
    """
    if overrides.get("benchmark") is None and overrides.get("domain") is None:
        stray = next((path for path in overrides if path.startswith("transfer.")), None)
        if stray:
            raise ConfigError(f"'{stray}' is for the transfer sets of a benchmark; use --benchmark, or dataset.*")
        return dict(overrides)
    domain = find_domain(presets, overrides.get("benchmark"), overrides.get("domain"))
    for path, flag, fixed in (
        ("modality", "--modality", domain.modality), ("dataset.name", "--dataset", domain.dataset),
    ):  # fmt: skip
        if overrides.get(path) not in (None, fixed):
            raise ConfigError(
                f"benchmark '{domain.name}' pretrains its domain '{domain.domain}' on "
                f"{domain.modality}/{domain.dataset}; leave out {flag} {overrides[path]}"
            )
    proposed = {path: domain.values[path] for path in ("objective.name",) if path in domain.values}
    fixed_data = {"modality": domain.modality, "dataset.name": domain.dataset}
    return {"preset": domain.name, **proposed, **overrides, **fixed_data}
