"""What a resumed run must have in common with the run that was begun: options, plugins and data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ssl_core.config.schema import RunConfig
from ssl_core.errors import ConfigError
from ssl_core.pipeline.memory import MEMORY
from ssl_core.plugins import Catalogue, Kind
from ssl_core.training import checkpoint
from ssl_core.training.accel.threads import available_cores
from ssl_core.utils.console import Console

PARTS: tuple[Kind, ...] = ("objective", "masking", "tokenizer", "encoder", "dataset")
"""The plugins that a run depends on."""
FREE_TO_CHANGE = frozenset(
    {"device", "preset", "preset_sources", "auto", "label", "data_label", "benchmark", "domain", "transfer"}
)


def check_resumable(saved: RunConfig, requested: RunConfig) -> RunConfig:
    """The configuration to continue with. More steps are allowed where the learning rate is constant.

    Raises:
        ConfigError: the first difference that would change the steps already done.
    """
    before, now = saved.model_dump(mode="json"), requested.model_dump(mode="json")
    for path, value in _leaves(now):
        old = _at(before, path)
        if value == old or path[0] in FREE_TO_CHANGE:
            continue
        if path in (("train", "precision"), ("train", "compile")) and value == "auto":
            continue
        if path in (("train", "on_nan"), ("train", "shard")):
            continue
        name = ".".join(path)
        if path == ("train", "steps") and saved.train.schedule == "constant" and value > old:
            continue
        if path == ("dataset", "digest"):
            raise ConfigError(
                f"--resume: the samples or labels in memory are not those of the run (dataset.digest was {old}, and is "
                f"now {value}); give the same ones in the same order, or start anew"
            )
        raise ConfigError(f"--resume: {name} was {old!r} and is now {value!r}; resume without changes, or start anew")
    changed = {"steps": requested.train.steps, "on_nan": requested.train.on_nan, "shard": requested.train.shard}
    free = {"device": requested.device, "label": requested.label, "data_label": requested.data_label}
    return saved.model_copy(update={"train": saved.train.model_copy(update=changed), **free})


def damage_warnings(start: checkpoint.Checkpoint | None) -> list[str]:
    """One line that names the damaged checkpoints that are newer than the one to continue from, else none."""
    if start is None or not start.skipped:
        return []
    names = ", ".join(str(folder) for folder in start.skipped)
    several = len(start.skipped) > 1
    return [
        f"warning: {names} {'are' if several else 'is'} damaged, so the run goes on from the checkpoint of step "
        f"{start.step:,}; the steps after it are repeated"
    ]


@contextmanager
def same_threads(start: checkpoint.Checkpoint | None, console: Console) -> Iterator[None]:
    """Use as many threads as the run was begun with, while the context is open: sums depend on their number.

    Where there are fewer cores, a line says that the results differ.
    """
    before, now = None if start is None else start.state.get("threads"), torch.get_num_threads()
    if not isinstance(before, int) or before == now:
        yield
        return
    if before > available_cores():
        console.info(
            f"warning: the run was begun with {before} threads, and there are {available_cores()} cores now; it goes "
            f"on with {now}, so that numbers differ in their last bits"
        )
        yield
        return
    console.info(
        f"threads    {before} and not {now}, as the run was begun, so that its numbers are the same to the bit"
    )
    torch.set_num_threads(before)
    try:
        yield
    finally:
        torch.set_num_threads(now)


def check_plugins(
    folder: Path,
    saved: RunConfig,
    catalogue: Catalogue,
    start: checkpoint.Checkpoint | None,
    parts: Iterable[Kind] = PARTS,
) -> list[str]:
    """Compare the plugins that a run was trained with to those installed.

    Args:
        folder: the run's folder, for messages.
        saved: its configuration.
        catalogue: the installed plugins.
        start: its newest checkpoint, which records the plugins; nothing is checked without one.
        parts: the plugins to check.

    Returns:
        One line if any has another version now, else none.

    Raises:
        ConfigError: one is missing; the message says why.
    """
    recorded = start.state.get("origins", {}) if start else {}
    changed = []
    configs = [
        (part, config)
        for part in parts
        for config in (saved.maskings.values() if part == "masking" else [getattr(saved, part)])
    ]
    for part, config in configs:
        entry = catalogue.find(part, config.name, saved.modality if part == "dataset" else None)
        name = entry.name if entry else config.name
        before = recorded.get(f"{part}s", {}).get(f"{saved.modality}/{name}" if part == "dataset" else name)
        what = f"{'data set' if part == 'dataset' else part} '{name}'"
        if before is None:
            continue
        if entry is None and part == "dataset" and config.name == MEMORY:
            raise ConfigError(
                f"{folder} was trained on data in memory; give the data, by data= from Python or by --data"
            )
        if entry is None:
            raise ConfigError(f"{folder} was trained with {what} of {before}, which {_absence(before, catalogue)}")
        if str(entry.origin) != before:
            changed.append(f"{what} of {before} (now {entry.origin})")
    return [f"warning: {folder} was trained with {', '.join(changed)}; results may differ"] if changed else []


def _absence(origin: str, catalogue: Catalogue) -> str:
    """Why a plugin, given as "distribution:entry version", does not offer what it did."""
    plugin, _, version = origin.partition(" ")
    aside = next((one for one in catalogue.set_aside if one.origin.plugin == plugin), None)
    if aside is not None:
        return f"was set aside: {aside.error}"
    if plugin in catalogue.blocked:
        return "is blocked; leave out --block and SSLX_BLOCK"
    now = next((str(one) for one in catalogue.installed if one.plugin == plugin), None)
    install = f"pip install {plugin.partition(':')[0]}" + (f"=={version}" if version else "")
    return f"is not offered by {now} any more; {install}" if now else f"is not installed; {install}"


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    out: list[tuple[tuple[str, ...], Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out += _leaves(value, (*above, key))
        else:
            out.append(((*above, key), value))
    return out


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree
