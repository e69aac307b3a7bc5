"""Which modality tables are: rows of numbers and categories, time points, texts, sequences, or lists of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError, Recognition
from ssl_plugins.datasets._io.files.entry import FileEntry, ending_of
from ssl_plugins.datasets._io.files.kind import uncompressed_name
from ssl_plugins.datasets._io.files.listing import TABLE_EXTENSIONS, splits_by_name
from ssl_plugins.datasets._io.recognition.survey import Survey, total_bytes
from ssl_plugins.datasets._io.recognition.table_facts import SMOOTH, TableFacts, look_at_tables
from ssl_plugins.datasets._io.recognition.text_facts import PATH, names_languages
from ssl_plugins.datasets._io.texts.json_records import read_json

TEXT_NAMES = ("text", "sentence", "sentences", "content", "review", "document", "body", "message", "tweet", "question")
LABELS = ("label", "labels", "class", "target", "sentiment", "category")
WINDOW = 320
"""Rows of a window by default."""
FEWEST = 8
"""Rows of the shortest window that is proposed."""
FEWEST_ROWS = 4
"""Fewer rows are no table of samples."""
FEW_OTHERS = 3
"""Columns beside the text from which on a table is one of columns rather than of texts."""
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".m4a")


def recognise_tables(found: Survey, family: str = "table") -> dict[str, Recognition]:
    """What the tables of a root may be."""
    paths = found.files[family]
    facts, error, _ = look_at_tables(paths)
    weight = found.weight(family)
    if facts is None:
        return {"tabular": Recognition(0.2, f"{found.words(family)}; {error:.200}")}
    root = _root_of(found, family)
    if facts.nested and len(facts.nested) >= len(facts.numeric):
        held = ", ".join(facts.nested[:3])
        if _holds_nested_texts(paths):
            modality = "multilingual-text" if names_languages(paths) else "text"
            why = f"texts in nested records in {held} ({found.words(family)})"
            return {modality: Recognition(round(0.8 * weight, 3), why, root)}
        return {"tabular": Recognition(0.25, f"records with lists or structures in {held}; write one row a sample")}
    for rule in (_files, _sequences, _texts):
        special = rule(facts, found)
        if special:
            return {
                modality: Recognition(round(one.confidence * weight, 3), one.why, {**root, **one.options})
                for modality, one in special.items()
            }
    return {
        modality: Recognition(round(one.confidence * weight, 3), one.why, {**root, **one.options})
        for modality, one in _rows(facts, found, family).items()
    }


def _holds_nested_texts(paths: Sequence[Path]) -> bool:
    """Whether the first of some files is JSON whose nested records hold texts, which the readers of texts find."""
    if not uncompressed_name(paths[0]).endswith(".json"):
        return False
    try:
        return "key" in read_json(paths[0], ("text",), str, None, choose=True).findings.warnings
    except DataError:
        return False


def _root_of(found: Survey, family: str) -> dict[str, Any]:
    """The option that names the tables of a folder whose endings would be ignored: one, or one for each split."""
    paths = found.files[family]
    if found.is_file or all(path.name.lower().endswith(TABLE_EXTENSIONS) for path in paths):
        return {}
    if len(paths) == 1:
        return {"root": str(paths[0])}
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        words = path.name.lower().replace(".", "_").split("_")
        split = next((split for split in ("train", "test") if split in words), None)
        by_split.setdefault(split or ("train" if path.suffix.lower() == ".data" else ""), []).append(path)
    if {name: len(files) for name, files in by_split.items() if name} == {"train": 1, "test": 1}:
        return {"root": str(by_split["train"][0]), "test_root": str(by_split["test"][0])}
    return {"root": ",".join(map(str, paths))}


def _files(facts: TableFacts, found: Survey) -> dict[str, Recognition]:
    """A list of pictures or recordings, or a table that holds pictures."""
    prose = [name for name, texts in facts.texts.items() if texts.is_prose]
    if facts.images:
        about = f"a table of pictures (column {facts.images[0]})"
        if prose:
            caption = {} if "caption" in prose else {"caption": prose[0]}
            return {"image-text": Recognition(0.9, f"{about} and texts (column {prose[0]})", caption)}
        return {"image": Recognition(0.9, about), "medical-image": Recognition(0.3, about)}
    names = [name for name, texts in facts.texts.items() if texts.paths > 0.9]
    if not names or "image" in found.files or "recording" in found.files:
        return {}
    name = names[0]
    kind = "recordings" if facts.texts[name].ending in SOUNDS else "pictures"
    if not _exist(facts, name):
        why = f"{facts.path.name} lists {kind} in its column {name}, and none of them is there"
        return {"speech" if kind == "recordings" else "image": Recognition(0.25, why)}
    why = f"a list of {kind} (column {name})"
    if kind == "recordings":
        return {"speech": Recognition(0.9, why)}
    if prose:
        caption = {} if "caption" in prose else {"caption": prose[0]}
        return {"image-text": Recognition(0.9, f"{why} with texts (column {prose[0]})", caption)}
    return {"image": Recognition(0.8, why), "medical-image": Recognition(0.4, why)}


def _exist(facts: TableFacts, name: str) -> bool:
    """Whether any of the first files that a column names exists."""
    from ssl_plugins.datasets._io.tables.columns import as_text
    from ssl_plugins.datasets._io.tables.options import TableOptions
    from ssl_plugins.datasets._io.tables.table import Table

    table = Table.open(facts.path, TableOptions())
    block = next(iter(table.blocks([name])))
    table.release()
    names = [text for text in as_text(block[name].slice(0, 50)).to_pylist() if text and PATH.search(text)]
    return any((facts.path.parent / text.replace("\\", "/")).exists() for text in names)


def _sequences(facts: TableFacts, found: Survey) -> dict[str, Recognition]:
    names = [name for name, texts in facts.texts.items() if texts.letters and texts.distinct > 0.2]
    if not names:
        return {}
    name = max(names, key=lambda name: np.median(facts.texts[name].lengths))
    kind = "protein" if facts.texts[name].letters == "protein" else "genomics"
    options: dict[str, Any] = {} if name == "sequence" else {"sequence": name}
    why = f"a table of sequences (column {name}, {facts.texts[name].letters})"
    return {kind: Recognition(0.9, why, options)}


def _texts(facts: TableFacts, found: Survey) -> dict[str, Recognition]:
    from ssl_plugins.datasets._io.recognition.rules import languages

    prose = {name: texts for name, texts in facts.texts.items() if texts.is_prose and texts.distinct > 0.3}
    if not prose:
        return {}
    named = [name for name in prose if name.lower() in TEXT_NAMES]
    name = named[0] if named else max(prose, key=lambda name: prose[name].words)
    others = [
        column for column in facts.columns if column not in prose and column.lower() not in ("id", "index", *LABELS)
    ]
    options: dict[str, Any] = {} if name == "text" else {"text": name}
    sure = 0.9 if len(others) <= FEW_OTHERS else 0.5
    out = languages(prose[name], sure, f"a table of texts (column {name})", [facts.path], **options)
    if len(others) > 1:
        out["tabular"] = Recognition(0.3 if len(others) <= FEW_OTHERS else 0.6, _about(facts, found))
    return out


def _rows(facts: TableFacts, found: Survey, family: str) -> dict[str, Recognition]:
    """Tables of numbers and categories: samples, or points of time."""
    about = _about(facts, found)
    if facts.rows == 0 or not (facts.numeric or facts.texts):
        return {"tabular": Recognition(0.2, f"{about} without rows")}
    if facts.rows < FEWEST_ROWS and facts.is_whole:
        return {"tabular": Recognition(0.25, f"{about} and {facts.rows} rows only")}
    files = [FileEntry(path, path.name) for path in found.files[family]]
    named_split = any(entry.split for entry in splits_by_name(files))
    several = len(files) > 2 and not named_split
    if facts.wide is not None:
        sure = 0.6 if facts.wide.doubtful else 0.9
        why = f"{about}, each row a series: {facts.wide.why}"
        return {
            "time-series": Recognition(sure, why),
            "tabular": Recognition(0.6 if facts.wide.doubtful else 0.4, about),
        }
    smooth = facts.correlation > SMOOTH
    numbers = [name for name in facts.numeric if name != facts.time]
    if not numbers:
        return {"tabular": Recognition(0.85, about)}
    score, reasons = 0.1, []
    if facts.time is not None and facts.in_order:
        score += 0.55
        reasons.append(f"column {facts.time} holds times in order")
    elif facts.time is not None:
        score += 0.25
        reasons.append(f"column {facts.time} holds times")
    if smooth:
        score += 0.35
        reasons.append("rows that follow each other are alike")
    if several and (smooth or facts.time is not None):
        score += 0.2
        reasons.append(f"{len(files)} files of the same columns")
    if facts.series and len(facts.series) < facts.rows / 5 and len(facts.series) > 1:
        score += 0.15
        reasons.append("column id names series")
    score = min(score, 0.95)
    why = f"{about}; {', '.join(reasons)}" if reasons else about
    tabular = round(min(0.9, max(0.1, 1 - score)), 3)
    return {
        "time-series": Recognition(round(score, 3), why, _window(facts, found, family)),
        "tabular": Recognition(tabular, about),
    }


def _about(facts: TableFacts, found: Survey) -> str:
    several = len(found.known) > 1
    name = found.words("table") if several and "table" in found.files else ending_of(facts.path.name)
    kinds = [f"{len(facts.numeric)} of numbers"] if facts.numeric else []
    kinds += [f"{len(facts.texts)} of texts"] if facts.texts else []
    count = len(facts.columns) + len(facts.roles)
    return f"a table ({name}) of {count} columns, {' and '.join(kinds) or 'none of values'}"


def _window(facts: TableFacts, found: Survey, family: str) -> Mapping[str, Any]:
    """The window of shorter series than the default takes: it must fit into the test split, too."""
    paths = found.files[family]
    if facts.series:
        lengths = np.array(facts.series, float)
    elif len(paths) > 1:
        per_row = total_bytes([facts.path]) / max(1.0, facts.row_estimate)
        lengths = np.array([total_bytes([path]) / per_row for path in paths])
    else:
        lengths = np.array([facts.row_estimate / 10])  # the test split is the last fifth
    fitting = float(np.quantile(lengths, 0.25)) * (0.9 if len(paths) > 1 and not facts.series else 1.0)
    return {} if fitting >= WINDOW else {"window": max(FEWEST, int(fitting))}
