"""Which modalities a path may be: every data set class is asked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_core.contracts import Dataset
from ssl_core.data import Recognition
from ssl_core.errors import ConfigError, DataError, place_of
from ssl_core.plugins import Catalogue
from ssl_core.utils.console import as_utf8

SURE = 0.7
"""Confidence from which on a candidate is taken without asking."""
MARGIN = 0.2
"""Least distance to the next candidate."""
POSSIBLE = 0.3
"""Confidence from which on a candidate is named."""
RUN_CURE = "sslx inspect shows what it holds, and --modality says what it is"
OF_ENCODER = "give files of the kind that the encoder was trained on"
"""What to do if an encoder cannot read files of another modality."""
OWN = "files"
"""The name of the data sets that `--data` stands for."""


@dataclass(frozen=True)
class Candidate:
    """A modality that a path may be.

    Args:
        modality: the modality.
        dataset: name of the data set that reads it.
        confidence: in [0, 1], as in `Recognition`.
        why: what speaks for it.
        options: values of the data set's options beside `root`.
        root: the path that is read, if it is another one than that given.
    """

    modality: str
    dataset: str
    confidence: float
    why: str
    options: dict[str, Any] = field(default_factory=dict)
    root: str | None = None


def find_candidates(path: str, catalogue: Catalogue) -> tuple[list[Candidate], list[str]]:
    """All candidates, the most likely first, and a line for each data set that failed to look."""
    found, problems = [], []
    for entry in catalogue.entries("dataset"):
        dataset: type[Dataset] = entry.value
        if not overrides_recognise(dataset):
            continue
        try:
            recognition = dataset.recognise(path)
        except Exception as error:
            name = f"{dataset.modality}/{dataset.name}"
            problems.append(f"data set '{name}' cannot look at {path}: {error} ({place_of(error)})")
            continue
        if recognition is not None:
            found.append(_candidate(dataset, recognition))
    return sorted(found, key=lambda one: (-one.confidence, one.modality, one.dataset)), problems


def overrides_recognise(dataset: type[Dataset]) -> bool:
    """Whether a data set class says which paths it reads."""
    own = getattr(dataset.recognise, "__func__", dataset.recognise)
    return own is not Dataset.recognise.__func__ and "root" in dataset.Options.model_fields  # type: ignore[attr-defined]


def _candidate(dataset: type[Dataset], recognition: Recognition) -> Candidate:
    options = dict(recognition.options)
    root = options.pop("root", None)
    return Candidate(
        dataset.modality, dataset.name, recognition.confidence, recognition.why, options,
        None if root is None else str(root),
    )  # fmt: skip


def choose(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate that is sure: likely enough, and no other nearly as likely. Else None."""
    if not candidates or candidates[0].confidence < SURE:
        return None
    rival = next((one for one in candidates if one.modality != candidates[0].modality), None)
    is_clear = rival is None or candidates[0].confidence - rival.confidence >= MARGIN - 1e-9
    return candidates[0] if is_clear else None


@contextmanager
def naming_modality(root: Any, modality: str, catalogue: Catalogue, cure: str = "") -> Iterator[None]:
    """Name the modality of own files in the message if they cannot be read as another one, for which nothing speaks.

    Args:
        root: the files; None for other data, whose messages stay as they are.
        modality: the one that they are read as.
        catalogue: the plugins.
        cure: what to do; by default to name the modality.

    Raises:
        DataError: with the longer message.
    """
    try:
        yield
    except DataError as error:
        candidates = [] if root is None else find_candidates(str(root), catalogue)[0]
        chosen = choose(candidates)
        possible = {one.modality for one in candidates if one.confidence >= POSSIBLE}
        if chosen is None or modality in possible:
            raise
        cure = cure or f"--modality {chosen.modality} reads it"
        found = f"{root} looks like {chosen.modality} ({chosen.why}), and not like {modality}"
        raise type(error)(f"{as_utf8(found)}; {cure} ({error})") from None


def choose_or_refuse(path: str, candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that is sure.

    Raises:
        ConfigError: none is; the message names those that are possible, and the option that decides.
    """
    chosen = choose(candidates)
    if chosen is None:
        raise ConfigError(refusal(path, candidates))
    return chosen


def refusal(path: str, candidates: Sequence[Candidate], cure: str = RUN_CURE) -> str:
    """Why none of the candidates is taken, and what to do."""
    if not Path(path).expanduser().exists() and not candidates:
        return f"{path} does not exist; name a file, a folder or a pattern of files"
    possible = list(dict.fromkeys(one.modality for one in candidates if one.confidence >= POSSIBLE))
    if possible:
        named = ", ".join(f"{one.modality} ({one.why})" for one in _first_of_each(candidates))
        return f"{path} may be {named}; say which by --modality {' or --modality '.join(possible)}"
    why = f": {candidates[0].why}" if candidates else ""
    if Path(path).expanduser().is_dir() and not candidates and not count_files(path):
        return f"{path} holds no file; name a folder with data"
    return f"{path} is nothing that is recognised{why}; {cure}"


def count_files(path: str) -> dict[str, int]:
    """Number of the files of a folder by ending, the most frequent first; hidden ones are left out."""
    names = (name for _, _, files in os.walk(Path(path).expanduser()) for name in files if not name.startswith("."))
    counts = Counter(os.path.splitext(name)[1] or "without ending" for name in names)
    return dict(counts.most_common())


def _first_of_each(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The likeliest candidate of each modality that is possible."""
    first: dict[str, Candidate] = {}
    for one in candidates:
        if one.confidence >= POSSIBLE:
            first.setdefault(one.modality, one)
    return list(first.values())
