"""A request for a run on own files without a modality: recognise what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core.config.resolve import read_file
from ssl_core.plugins import Catalogue
from ssl_core.runs.init_source import SOURCE
from ssl_core.runs.inspection.candidates import OWN, choose_or_refuse, find_candidates
from ssl_core.runs.inspection.inspect import OBJECTIVE
from ssl_core.runs.inspection.proposal import setting
from ssl_core.utils.console import as_utf8


def recognise_data(options: Mapping[str, Any], catalogue: Catalogue) -> tuple[dict[str, Any], list[str]]:
    """As `complete_request` without a choice of the objective, for data that several objectives are trained on.

    Raises:
        ConfigError: the path is not recognised for sure; the message names the candidates.
    """
    out, lines = complete_request({**options, "objective.name": ""}, None, catalogue)
    del out["objective.name"]
    return out, lines


def complete_request(
    options: Mapping[str, Any], file: Path | None, catalogue: Catalogue
) -> tuple[dict[str, Any], list[str]]:
    """The options with the modality of own files that name none, and lines that say what was chosen and why.

    Options that read the data, such as a column of texts, are added where the user sets none. Without an objective it
    is `OBJECTIVE`. Options that name a modality keep it; those of another data set than own files or of a benchmark
    stay as they are.

    Args:
        options: values by dotted path.
        file: a file of options below them.
        catalogue: the plugins.

    Raises:
        ConfigError: the path is not recognised for sure; the message names the candidates.
    """
    given = (read_file(file) if file else {}) | dict(options)
    root = given.get("dataset.root")
    is_own = given.get("dataset.name", OWN) == OWN and "benchmark" not in given and "domain" not in given
    starts_from_weights = given.get(SOURCE) is not None  # they have the modality
    if root is None or not is_own or starts_from_weights:
        return dict(options), []
    if "modality" in given:
        if "objective.name" in given:
            return dict(options), []
        return {**options, "objective.name": OBJECTIVE}, [f"no objective is named, so it is {OBJECTIVE}"]
    candidates, problems = find_candidates(str(root), catalogue)
    chosen = choose_or_refuse(str(root), candidates)
    found = {f"dataset.{name}": value for name, value in chosen.options.items()}
    found = {path: value for path, value in found.items() if path not in given}
    chosen_by = "".join(f", {setting(path, value)}" for path, value in found.items())
    out = {**options, **found, "modality": chosen.modality, "dataset.name": chosen.dataset}
    if chosen.root is not None:
        out["dataset.root"] = chosen.root
        chosen_by += f", {setting('dataset.root', chosen.root)}"
    if "objective.name" not in given:
        out["objective.name"] = OBJECTIVE
        chosen_by += f", objective {OBJECTIVE}"
    line = (
        f"recognised {root} as {chosen.modality} ({chosen.confidence:.0%}: {chosen.why}){chosen_by}; sslx inspect "
        f"shows more, --modality says otherwise"
    )
    return out, [as_utf8(text) for text in (*problems, line)]
