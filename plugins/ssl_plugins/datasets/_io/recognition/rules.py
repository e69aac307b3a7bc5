"""Which modalities the files of a root may be, with how sure and why."""

from __future__ import annotations

import functools
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError, Recognition
from ssl_plugins.datasets._io.files.kind import file_kind
from ssl_plugins.datasets._io.files.tar import CAPTION_ENDINGS, LABEL_ENDING, member_endings
from ssl_plugins.datasets._io.recognition.picture_rules import recognise_pictures, recognise_pixels
from ssl_plugins.datasets._io.recognition.survey import Survey, count_words, family_of, spread, survey
from ssl_plugins.datasets._io.recognition.table_facts import look_at_tables
from ssl_plugins.datasets._io.recognition.table_rules import recognise_tables
from ssl_plugins.datasets._io.recognition.text_facts import (
    TextFacts,
    facts_of,
    lines_of,
    names_languages,
)
from ssl_plugins.datasets._io.series.wide import MIN_STEPS
from ssl_plugins.datasets._io.texts.sequence_records import NUCLEOTIDE_EXTENSIONS, PROTEIN_EXTENSIONS

Found = dict[str, Recognition]
WINDOWS = {"genomics": 250, "protein": 128}
"""Letters of a window of long sequences."""
FEW_FILES, LONG_TEXT = 100, 50_000
"""Fewer files of more bytes than that are read line by line."""
LONG = 5
"""A sequence that is so many windows long is cut."""
FEW_TABLES = 5
"""More tables beside sequences are no lists of these."""
MOST_STRANGERS = 1000
"""Files of endings that name nothing of which the beginning is read."""


def recognise(root: str) -> Mapping[str, Recognition]:
    """What the files of a root may be, by modality."""
    found = survey(root)
    if found is None or not (found.known or found.others):
        return {}
    return _recognise(root, found.state)


@functools.lru_cache(maxsize=8)  # the data set class of each modality asks in turn
def _recognise(root: str, state: str) -> Mapping[str, Recognition]:
    found = survey(root)
    assert found is not None
    candidates: Found = {}
    for part in (_recordings, _pictures, _archives, _scans, _sequences, _signals, _arrays, _tables, _texts, _unknown):
        for modality, one in part(found).items():
            if modality not in candidates or candidates[modality].confidence < one.confidence:
                candidates[modality] = one
    return candidates


def scaled(found: Survey, family: str, confidence: float) -> float:
    """A confidence by what else the root holds."""
    return round(confidence * found.weight(family), 3)


def _recordings(found: Survey) -> Found:
    if "recording" not in found.files:
        return {}
    why = f"recordings ({found.words('recording')})"
    return {"speech": Recognition(scaled(found, "recording", 0.95), why)}


def _scans(found: Survey) -> Found:
    if "scan" not in found.files:
        return {}
    return {"medical-image": Recognition(scaled(found, "scan", 0.95), f"scans ({found.words('scan')})")}


def _pictures(found: Survey) -> Found:
    return recognise_pictures(found) if "image" in found.files else {}


def _archives(found: Survey) -> Found:
    """Tar files, as their modality reads them: by the endings of the members of the first one that can be read."""
    paths = found.files.get("tar", [])
    if not paths or any(family not in ("tar", "table", "text") for family in found.files):
        return {}
    endings = next(filter(None, map(member_endings, paths[:FEW_TABLES])), Counter[str]())
    families = {family_of(Path(f"x{ending}")) for ending in endings}
    why = f"tar files ({found.words('tar')}) of "
    if "image" in families:
        confidence = {"image": 0.9}
        if any(ending in CAPTION_ENDINGS for ending in endings):
            confidence = (
                {"image": 0.8, "image-text": 0.6} if LABEL_ENDING in endings else {"image": 0.5, "image-text": 0.9}
            )
        return {modality: Recognition(value, f"{why}images") for modality, value in confidence.items()}
    if "scan" in families:
        return {"medical-image": Recognition(0.9, f"{why}scans")}
    if "recording" in families:
        return {"speech": Recognition(0.9, f"{why}recordings")}
    if ".npy" in endings:
        return {"time-series": Recognition(0.7, f"{why}arrays")}
    return {"text": Recognition(0.8, f"{why}texts")} if ".txt" in endings else {}


def _sequences(found: Survey) -> Found:
    paths = found.files.get("sequence", [])
    if not paths:
        return {}
    kinds: Counter[str] = Counter()
    lengths: list[int] = []
    records = 0
    for path in spread(paths, 6):
        facts, count, longest = _records(path)
        kind = "protein" if facts.letters == "protein" else "genomics" if facts.letters else _kind_by_ending(path)
        kinds[kind] += 1
        lengths += [longest] if count == 1 else list(facts.lengths)
        records += count
    beside = found.files.get("table", []) if len(found.files.get("table", ())) <= FEW_TABLES else []
    leave_out = {"exclude": tuple(path.name for path in beside)} if beside and not _hold_sequences(beside) else {}
    others = f", beside {count_words(found.others)}" if found.others else ""
    out = {}
    for kind, number in kinds.items():
        if not kind:
            continue
        options = {**leave_out, **_windows(kind, lengths)}
        alone = records == 1 and len(paths) == 1 and "window" not in options
        confidence = 0.25 if alone else 0.95 if number == kinds.total() else 0.6
        what = f"{'a single sequence' if alone else 'sequences'} of {'residues' if kind == 'protein' else 'bases'}"
        why = f"{what} ({found.words('sequence')}{others if alone else ''})"
        out[kind] = Recognition(scaled(found, "sequence", confidence), why, options)
    return out


def _hold_sequences(paths: Sequence[Path]) -> bool:
    """Whether tables have a column of sequences."""
    facts, _, _ = look_at_tables(paths)
    return facts is None or "sequence" in facts.columns


def _records(path: Path) -> tuple[TextFacts, int, int]:
    """Facts of the first sequences of a file, their number, and the letters of all that was read."""
    records: list[list[str]] = []
    lines = lines_of(path, 20_000)
    if lines and lines[0].startswith("@"):
        records = [[line] for line in lines[1::4]]
    elif lines and lines[0].startswith("LOCUS"):
        text = "".join(letter for letter in " ".join(lines).partition("ORIGIN")[2] if letter.isalpha())
        records = [[text.upper()]]
    else:
        for line in lines:
            if line.startswith(">"):
                records.append([])
            elif records and not line.startswith(";"):
                records[-1].append(line)
    texts = ["".join(parts) for parts in records]
    return facts_of(texts[:200]), len(texts), sum(map(len, texts))


def _kind_by_ending(path: Path) -> str:
    name = path.name.lower()
    return (
        "genomics" if name.endswith(NUCLEOTIDE_EXTENSIONS) else "protein" if name.endswith(PROTEIN_EXTENSIONS) else ""
    )


def _windows(kind: str, lengths: Sequence[int]) -> dict[str, Any]:
    """The option that cuts sequences much longer than a sample into windows."""
    typical = WINDOWS[kind]
    return {"window": typical} if lengths and np.median(lengths) >= LONG * typical else {}


def _signals(found: Survey) -> Found:
    """Recordings of several channels, and archives of classified series."""
    out: Found = {}
    for family, what in (("EDF", "EDF recordings"), ("archive", "archives of series"), ("UCR", "UCR archives")):
        if family in found.files:
            out["time-series"] = Recognition(scaled(found, family, 0.95), f"{what} ({found.words(family)})")
    return out


def _arrays(found: Survey) -> Found:
    """Arrays by the shape of the first: pictures, series or maps of wafers."""
    paths = [*found.files.get("array", ()), *found.files.get("container", ())]
    if not paths:
        return {}
    family = "array" if "array" in found.files else "container"
    shapes = _shapes(paths[0]) if family == "array" else {}
    words = found.words(family)
    if {"pixels", "offset", "height", "width"} <= set(shapes):
        return {"wafer": Recognition(scaled(found, family, 0.95), f"maps of wafers in the form of WM-811K ({words})")}
    if family == "container":
        return {"time-series": Recognition(scaled(found, family, 0.7), f"arrays ({words})")}
    if not shapes:
        return {}
    whole = [name for name in shapes if not name.rpartition("_")[2].startswith(("label", "group", "y"))]
    key = max(whole or shapes, key=lambda name: int(np.prod(shapes[name][0])))
    (shape, dtype), alone = shapes[key], len(paths) == 1
    about = (
        f"an array {' x '.join(map(str, shape))} of {dtype}" if alone else f"{words}, of {' x '.join(map(str, shape))}"
    )
    if key.endswith(("images", "image", "maps")):
        about = f"{about} called {key}"
    elif key.endswith("series"):
        return {"time-series": Recognition(scaled(found, family, 0.9), f"{about} called {key}")}
    sample = shape[1:] if alone or paths[0].suffix.lower() == ".npz" else shape
    return {
        modality: Recognition(scaled(found, family, confidence), about)
        for modality, confidence in _by_shape(paths[0], key, sample, dtype, alone).items()
    }


def _shapes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array of a file, without reading it."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return {path.stem: (array.shape, array.dtype)}
        out = {}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = {
                        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
                    }[version]  # fmt: skip
                    shape, _, dtype = read(file)
                    out[name.removesuffix(".npy")] = (shape, dtype)
        return out
    except Exception:  # whatever a damaged file raises
        return {}


def _by_shape(path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype[Any], alone: bool) -> dict[str, float]:
    """Confidence by modality for samples of a shape."""
    named = key.endswith(("images", "image", "maps"))
    if dtype.kind not in "uifb" or not shape:
        return {}
    if len(shape) == 1:
        return {"time-series": 0.8} if shape[0] >= MIN_STEPS else {"time-series": 0.4}
    rows, columns = shape[-2:]
    if len(shape) == 2:
        if not alone and path.suffix.lower() == ".npy" and min(shape) < MIN_STEPS:
            return {"time-series": 0.85}
        if not named and min(shape) < MIN_STEPS and max(shape) >= 2 * min(shape):
            return {"time-series": 0.85}
        return recognise_pixels(path, key, channels=1, named=named or rows == columns)
    if len(shape) == 3:
        channels = min(shape[0], shape[2])
        return recognise_pixels(path, key, channels=channels, named=named or dtype == np.uint8 or channels < MIN_STEPS)
    return {"image": 0.3} if len(shape) < 5 else {}


def _tables(found: Survey) -> Found:
    if "table" not in found.files or (found.weight("table") < 0.5 and len(found.files) > 1):
        return {}
    return recognise_tables(found)


def _texts(found: Survey) -> Found:
    """Plain texts: language, sequences or numbers."""
    paths = found.files.get("text", [])
    if not paths or found.weight("text") < 0.5:
        return {}
    lines = [line for path in spread(paths, 6) for line in lines_of(path)]
    facts, words = facts_of(lines[:1200]), found.words("text")
    if not lines:
        return {}
    if facts.letters:
        kind = "protein" if facts.letters == "protein" else "genomics"
        return {
            kind: Recognition(
                scaled(found, "text", 0.85), f"a sequence a line ({words})", _windows(kind, facts.lengths)
            )
        }
    if facts.numbers > 0.9:
        return recognise_tables(found, "text")
    large = (
        not found.is_file
        and len(paths) < FEW_FILES
        and float(np.median([path.stat().st_size for path in paths])) > LONG_TEXT
    )
    options = {"document": "line"} if large else {}
    return languages(facts, scaled(found, "text", 0.85), f"texts ({words})", paths, **options)


def languages(facts: TextFacts, confidence: float, why: str, paths: Sequence[Path], **options: Any) -> Found:
    """Text, of one language or several."""
    many = facts.is_multilingual or names_languages(paths)
    scripts = f", {' and '.join(name for name, _ in facts.scripts[:3])} letters" if facts.is_multilingual else ""
    low = round(min(0.5 if facts.is_multilingual else 0.2, confidence / 2), 3)
    found = {
        "multilingual-text" if many else "text": Recognition(confidence, why + scripts, options),
        "text" if many else "multilingual-text": Recognition(low, why, options),
    }
    return found


def _unknown(found: Survey) -> Found:
    """Files whose endings name nothing: tables and texts by their content."""
    if found.known:
        return {}
    if found.is_file:
        try:
            file_kind(found.strangers[0])
        except DataError as error:
            return {"tabular": Recognition(0.0, str(error))}
    tables = [path for path in found.strangers[:MOST_STRANGERS] if _is_text(path)]
    if not tables:
        return {}
    lines = [line for path in spread(tables, 3) for line in lines_of(path)]
    as_text, as_table = (replace(found, files={family: tables}) for family in ("text", "table"))
    separated = [line for line in lines if any(sign in line for sign in ",;\t|")]
    if lines and len(separated) > 0.9 * len(lines):
        return recognise_tables(as_table)
    out = _texts(as_text)
    if found.is_file:
        return out
    return {
        modality: Recognition(one.confidence, one.why, {**one.options, "root": ",".join(map(str, tables))})
        for modality, one in out.items()
    }


def _is_text(path: Path) -> bool:
    try:
        return file_kind(path).format in ("text", "parquet", "arrow", "xlsx")
    except DataError:
        return False
