"""Detects how a CSV file is written from its first rows: separators, quotation marks, header line."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from ssl_core import DataError
from ssl_plugins.datasets._io.tables.columns import NUMBER, NumberStyle, shown
from ssl_plugins.datasets._io.tables.encoding import decode_head
from ssl_plugins.datasets._io.tables.options import TableOptions

SAMPLE_CHARACTERS = 1 << 18
MOST_ROWS = 2000
MOST_LISTED = 12  # columns that a message lists
FEWEST_SWALLOWED = 20  # rows in a quoted text from which commas in it are no accident
DELIMITERS = (",", "\t", ";", "|")
NAMES_OF_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar", " ": "blanks"}
QUOTES = {"double": '"', "single": "'", "none": None}
UNNAMED = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # as pandas names columns that had no name

Rows = list[list[str]]


@dataclass
class Dialect:
    """How a CSV file is written.

    skip_rows: lines above the first row, such as comments.
    row_bytes: size of the longest line of the sample, in UTF-8.
    names: names of all columns; those without a name are called column1, column2, ...
    left_out: columns that are not data, with the reason.
    facts, doubts: what is not plain, by kind.
    """

    encoding: str = "utf-8"
    delimiter: str = ","
    quote: str | None = '"'
    style: NumberStyle = field(default_factory=NumberStyle)
    has_header: bool = True
    skip_rows: int = 0
    row_bytes: int = 0
    names: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)


def detect_dialect(path: Path, head: bytes, is_complete: bool, options: TableOptions, default: str) -> Dialect:
    """The dialect of a file.

    Args:
        path: the file, for messages.
        head: its first bytes, decompressed.
        is_complete: whether `head` is the whole file.
        options: what the user says of it.
        default: the delimiter that the ending of its name stands for.

    Raises:
        DataError: the file is empty, or is not written in the encoding that the options name.
    """
    found = Dialect()
    text, found.encoding, doubt = decode_head(path, head, is_complete, options.encoding)
    if found.encoding != "utf-8":
        found.facts["encoding"] = found.encoding
    if doubt:
        found.doubts["encoding"] = doubt
    sample, found.row_bytes = _sample_of(text, options.skip_rows)
    is_whole = is_complete and len(sample) == len(text)
    if not sample.strip():
        raise DataError(f"{path} is empty; fill it or leave it out")
    found.quote = QUOTES.get(options.quoting, '"')
    sample = _skip_lines(path, sample, is_whole, options, found, default)
    found.delimiter = options.delimiter or _detect_delimiter(path, sample, is_whole, found, default)
    if options.quoting == "auto":
        _detect_quoting(path, sample, is_whole, found)
    rows = parse(sample, is_whole, found.delimiter, found.quote)
    if found.delimiter != default:
        found.facts["delimiter"] = NAMES_OF_DELIMITERS.get(found.delimiter, repr(found.delimiter))
    if rows:
        name_columns(path, rows, options, found)
        _detect_style(rows[1:] or rows, options, found)
    return found


def _sample_of(text: str, skip_rows: int) -> tuple[str, int]:
    """The beginning of a text that holds the header and a row at least, and the size of its longest line in UTF-8."""
    size = SAMPLE_CHARACTERS
    while True:
        lines = re.split(r"\r\n|\r|\n", text[:size])
        rows = [line for line in lines[skip_rows:-1] if line.strip() and not line.startswith("#")]
        if len(rows) >= 2 or size >= len(text):
            return text[:size], len(max(lines, key=len).encode("utf-8", "surrogatepass"))
        size *= 2


# --- separators -----------------------------------------------------------------------------------------------------


def parse(sample: str, is_whole: bool, delimiter: str, quote: str | None) -> Rows:
    """The rows of the beginning of a file, at most `MOST_ROWS`, without a last one that may be incomplete."""
    rows: Rows = []
    reader = read_rows(io.StringIO(sample, newline=""), delimiter, quote)
    try:
        for row in reader:
            rows.append(row)
            if len(rows) > MOST_ROWS:
                return rows[:-1]
    except csv.Error:  # a text is longer than the reader takes
        return rows
    return rows if is_whole or len(rows) < 2 else rows[:-1]


def read_rows(lines: io.TextIOBase, delimiter: str, quote: str | None) -> Iterator[list[str]]:
    """The rows of a CSV file that are not blank. A delimiter " " stands for any run of blanks."""
    source: Iterator[str] = iter(lines)
    if delimiter == " ":
        source = (line.replace("\t", " ").strip() for line in lines)
    blanks = delimiter == " "
    if quote is None:
        reader = csv.reader(source, delimiter=delimiter, quoting=csv.QUOTE_NONE, skipinitialspace=blanks)
    else:
        reader = csv.reader(source, delimiter=delimiter, quotechar=quote, skipinitialspace=blanks)
    return (row for row in reader if row)


def _agreement(rows: Rows, short_header: int = 0) -> tuple[float, int]:
    """Share of the rows that have the most frequent number of fields, and this number.

    The share is 0 if the header has not this number, less `short_header`.
    """
    counts = Counter(map(len, rows[1:] or rows))
    (width, count), *_ = counts.most_common(1)
    fits = len(rows[0]) == width - short_header and len(rows[0]) > 1
    return (count / sum(counts.values()) if fits else 0.0), width


def _detect_delimiter(path: Path, sample: str, is_whole: bool, found: Dialect, default: str) -> str:
    """The default if nearly all rows agree on the number of columns with it, else another on which all agree."""
    rows = {other: parse(sample, is_whole, other, found.quote) for other in dict.fromkeys((default, *DELIMITERS))}
    if found.quote and any("\n" in cell for cell in _cells(rows[default])):  # quotes may not be in pairs
        bare = {other: parse(sample, is_whole, other, None) for other in rows}
        rows = {other: max(rows[other], bare[other], key=lambda each: _agreement(each)[0]) for other in rows}
    agreement = {other: _agreement(each) for other, each in rows.items() if each}
    if not agreement:
        return default
    alternatives = [other for other, (share, _) in agreement.items() if share == 1 and other != default]
    if agreement[default][0] >= 0.9:
        shares = {other: _number_share(rows[other]) for other in (default, *alternatives)}
        best = max(shares, key=lambda other: shares[other])
        if shares[best] >= 0.9 and shares[default] < 0.5 and _holds(rows[default], best):
            found.doubts["delimiter"] = (
                f"{path} is read with the column separator {NAMES_OF_DELIMITERS[best]}, but "
                f"{NAMES_OF_DELIMITERS[default]} fits too; set 'dataset.delimiter={best}' to confirm it"
            )
            return best
        return default
    best = max(alternatives, key=lambda other: agreement[other][1], default="")
    if not best:  # R leaves the name of the row names out
        best = next((other for other, each in rows.items() if each and _agreement(each, 1)[0] == 1), "")
    is_known, best = bool(best), best or default
    if alternatives or len(rows[default][0]) == 1:
        blanks = parse(sample, is_whole, " ", found.quote)
        share, width = _agreement(blanks) if blanks else (0.0, 0)
        numbers = _number_share(blanks[1:] or blanks)
        if share == 1 and width > agreement[best][1] and numbers >= max(0.5, _number_share(rows[best][1:])):
            return " "
    if not is_known and agreement[default][0] == 0:
        for other, each in rows.items():
            if each:
                _refuse_preamble(path, sample, found, other, each)
    return best


def _cells(rows: Rows) -> Iterator[str]:
    return (cell for row in rows for cell in row)


def _holds(rows: Rows, sign: str) -> bool:
    return any(sign in cell for cell in _cells(rows))


def _number_share(rows: Rows) -> float:
    """Share of fields that are numbers, with either decimal separator."""
    cells = [cell.strip() for cell in _cells(rows) if cell.strip()]
    return sum(bool(NUMBER.fullmatch(cell.replace(",", ".", 1))) for cell in cells) / max(1, len(cells))


def _skip_lines(path: Path, sample: str, is_whole: bool, options: TableOptions, found: Dialect, default: str) -> str:
    """The sample without the lines that the options skip, or without comments; sets `skip_rows`.

    Blank lines above the first row are skipped with them: pyarrow counts them where it skips the header. The last line
    of comments is the header if it has the columns of the rows, as numpy writes it.
    """
    found.skip_rows = options.skip_rows
    sample = _without_blank_lines("\n".join(sample.split("\n")[options.skip_rows :]), found)
    if not options.skip_rows and sample.startswith("#"):
        lines, blank = sample.split("\n"), found.skip_rows
        count = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
        body, last = "\n".join(lines[count:]), lines[count - 1].lstrip("#").strip()
        found.skip_rows = blank + count  # a refusal counts them
        delimiter = options.delimiter or _detect_delimiter(path, body, is_whole, found, default)
        rows = parse(body, is_whole, delimiter, found.quote)
        header = parse(last, True, delimiter, found.quote)
        is_header = bool(header and rows) and len(header[0]) == Counter(map(len, rows)).most_common(1)[0][0]
        skipped = count - 1 if is_header else count
        found.skip_rows = blank + skipped
        if is_header:
            names_hash = delimiter != " " and lines[count - 1].startswith("#" + delimiter)  # a column called #
            lines[count - 1] = lines[count - 1].strip() if names_hash else last
        if skipped:
            found.facts["comments"] = f"{skipped} lines"
        sample = _without_blank_lines("\n".join(lines[skipped:]), found)
    return sample


def _without_blank_lines(sample: str, found: Dialect) -> str:
    """The sample from its first line that is not blank; those before are added to `skip_rows`."""
    blank = re.match(r"(?: *(?:\r\n|\r|\n))*", sample)
    assert blank is not None
    found.skip_rows += len(re.findall(r"\r\n|\r|\n", blank[0]))
    return sample[blank.end() :]


def _refuse_preamble(path: Path, sample: str, found: Dialect, delimiter: str, rows: Rows) -> None:
    """Refuse lines above the table: the first rows have other numbers of columns than all below."""
    for count in range(1, min(30, len(rows) // 4 + 1)):
        widths = set(map(len, rows[count:]))
        if len(widths) > 1 or widths == {1}:
            continue
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
        for _ in range(count):
            while not next(reader):  # a blank line
                pass
        lines = reader.line_num
        while not next(reader, [""]):
            lines = reader.line_num
        raise preamble_error(path, lines, max(widths), found.skip_rows + lines)


def preamble_error(path: Path, lines: int, width: int, skip_rows: int) -> DataError:
    """The error for lines above the table. width: columns of the rows below; skip_rows: the option's right value."""
    above = "first line has" if lines == 1 else f"first {lines} lines have"
    return DataError(
        f"{path}: the {above} another number of columns than the {width} of the rows below; "
        f"set dataset.skip_rows={skip_rows} to skip them"
    )


def _detect_quoting(path: Path, sample: str, is_whole: bool, found: Dialect) -> None:
    """Read quotation marks as letters if rows are complete only then."""
    quoted = parse(sample, is_whole, found.delimiter, found.quote)
    if not any("\n" in cell for cell in _cells(quoted)) and not _is_open(sample, is_whole, found):
        return
    bare = parse(sample, is_whole, found.delimiter, None)
    if _agreement(bare)[0] == 1 and len(bare) > 4 and (len(bare) > len(quoted) or len(bare) == MOST_ROWS):
        found.quote = None
        found.facts["quoting"] = "none"
        found.doubts["quoting"] = (
            f"{path}: double quotes are not in pairs and are read as letters; set dataset.quoting=none to confirm it, "
            f"or dataset.quoting=double if they enclose texts"
        )


def _is_open(sample: str, is_whole: bool, found: Dialect) -> bool:
    """Whether a file ends within a quoted text."""
    if not is_whole or '"' not in sample:
        return False
    try:
        for _ in csv.reader(io.StringIO(sample, newline=""), delimiter=found.delimiter, strict=True):
            pass
    except csv.Error as error:
        return "end of data" in str(error)
    return False


def holds_rows(text: str, delimiter: str, width: int, index: int) -> bool:
    """Whether a quoted text of column `index` seems to hold whole rows, because quotes are not in pairs.

    Its lines then are the rest of one row, whole rows of `width` columns, and the begin of another. Texts that hold
    commas on every line are no surprise, unless there are many such lines.
    """
    first, *between, last = text.split("\n")
    fits = first.count(delimiter) == width - 1 - index and last.count(delimiter) == index
    enough = FEWEST_SWALLOWED if delimiter in ",;" else 0
    return fits and len(between) >= enough and all(line.count(delimiter) == width - 1 for line in between)


# --- header ---------------------------------------------------------------------------------------------------------


def name_columns(path: Path, rows: Rows, options: TableOptions, found: Dialect) -> None:
    """Set names and `has_header`, and leave columns out that are no data.

    Raises:
        DataError: two columns have one name.
    """
    first, below = [re.sub(r"\s*[\r\n]\s*", " ", cell.strip().removeprefix("\ufeff")) for cell in rows[0]], rows[1:]
    if options.columns or options.header == "no":
        found.has_header = bool(options.columns) and options.header == "yes"
    elif options.header == "auto" and _holds_values(first, below):
        found.has_header = False
        cells = ", ".join(map(shown, first[:3])) + (", ..." if len(first) > 3 else "")
        found.doubts["header"] = (
            f"{path}: the first row ({cells}) is read as values, not as names; set dataset.header=no to confirm it, "
            f"dataset.columns to name the columns, or dataset.header=yes"
        )
    elif options.header == "auto" and _are_odd_numbers(first):
        found.doubts["header"] = (
            f"{path}: the names of the columns are numbers ({', '.join(first[:3])}, ...); set dataset.header=no if "
            f"they are the first row of values, else dataset.header=yes"
        )
    width = max(map(len, rows[:100]))
    names = list(options.columns) or (first if found.has_header else [""] * len(first))
    if 1 < len(names) == width - 1 and below and all(len(row) == width for row in below):
        if any(row[-1].strip() for row in below):
            names = ["", *names]  # R leaves the name of the row names out
            if not _are_row_names([row[0].strip() for row in below]):
                listed = ",".join(["FIRST", *names[1:]]) if width <= MOST_LISTED else "ALL_NAMES"
                found.doubts["names"] = (
                    f"{path}: the header has {width - 1} names for {width} columns, and the first column is read as "
                    f"the one without a name; set 'dataset.columns={listed}' and dataset.header=yes to name each"
                )
        else:
            names = [*names, ""]  # each row ends in a delimiter
    named = found.has_header or bool(options.columns)
    found.names = [name or f"column{index + 1}" for index, name in enumerate(names)]
    duplicates = {name for name, count in Counter(names).items() if name and count > 1}
    if duplicates:
        raise DataError(
            f"{path} has two columns '{min(duplicates)}'; rename one, or set dataset.header=no if there are no names"
        )
    for index, (name, column) in enumerate(zip(names, found.names, strict=True)):
        if named and (not name or UNNAMED.fullmatch(name)):
            values = [row[index].strip() for row in below if index < len(row)]
            if not any(values):
                found.left_out[column] = "has neither a name nor values"
            elif (index == 0 or UNNAMED.fullmatch(name)) and len(set(values)) == len(values):
                found.left_out[column] = "has no name and a different value in each row: the index of the rows"


def _are_row_names(values: Sequence[str]) -> bool:
    """Whether the values of a column can be the names of rows: all differ, and numbers count up."""
    if len(set(values)) < len(values):
        return False
    if not all(value.isdigit() for value in values):
        return not any(NUMBER.fullmatch(value) for value in values)
    return all(int(one) < int(other) for one, other in pairwise(values))


def _holds_values(first: Sequence[str], below: Rows) -> bool:
    """Whether the first row clearly holds values: a fraction or a number twice, or texts that recur below."""
    numbers = [cell for cell in first if NUMBER.fullmatch(cell)]
    if not below or (not numbers and len(first) < 2):
        return False
    again = 0 if numbers else below.count(list(first))
    if again and all(again == sum(row[i] == cell for row in below if i < len(row)) for i, cell in enumerate(first)):
        return False  # only the whole row recurs: two files were joined
    if any(not cell.isdigit() for cell in numbers) or len(set(numbers)) < len(numbers):
        return all(_is_number_column(below, first.index(cell)) for cell in numbers)
    texts = [index for index, cell in enumerate(first) if cell and not NUMBER.fullmatch(cell)]
    columns = [{row[index].strip() for row in below if index < len(row)} for index in texts]
    recurs = [first[index] in values for index, values in zip(texts, columns, strict=True)]
    if numbers:
        return any(recurs) and all(_is_number_column(below, first.index(cell)) for cell in numbers)
    return len(texts) == len(first) and all(recurs)


def _is_number_column(rows: Rows, index: int) -> bool:
    cells = [row[index].strip() for row in rows if index < len(row) and row[index].strip()]
    return sum(bool(NUMBER.fullmatch(cell)) for cell in cells) > 0.5 * len(cells)


def _are_odd_numbers(names: Sequence[str]) -> bool:
    """Whether all names are whole numbers that do not count up, as those that pandas gives do."""
    if not all(name.isdigit() for name in names):
        return False
    numbers = [int(name) for name in names]
    return numbers != list(range(numbers[0], numbers[0] + len(numbers)))


# --- numbers --------------------------------------------------------------------------------------------------------

COMMA = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})*,\d+|[+-]?\d*,\d+")
CLEAR_COMMA = re.compile(r"[+-]?(?:\d*,\d{1,2}|\d*,\d{4,}|0?,\d+|\d{4,},\d+|\d{1,3}(?:\.\d{3})+,\d+)")


def _detect_style(rows: Rows, options: TableOptions, found: Dialect) -> None:
    """The style of numbers: decimal commas are detected where the delimiter is none and they can be nothing else."""
    decimal, thousands = options.decimal, options.thousands
    if decimal is None and thousands is None and found.delimiter != ",":
        clear, grouped = False, False
        for column in zip(*(row for row in rows if len(row) == len(rows[0])), strict=True):
            cells = [cell.strip() for cell in column if "," in cell]
            commas = [cell for cell in cells if COMMA.fullmatch(cell)]
            if cells and len(commas) == len(cells) and any(map(CLEAR_COMMA.fullmatch, cells)):
                clear = True
                grouped = grouped or any("." in cell for cell in cells)
        if clear and not _has_point_fractions(rows):
            decimal, thousands = ",", "." if grouped else None
            found.facts["decimal"] = "comma" + (", thousands by a point" if grouped else "")
    found.style = NumberStyle(decimal or ".", thousands, options.units)


def _has_point_fractions(rows: Rows) -> bool:
    """Whether a number has a decimal point that cannot separate thousands."""
    return any(
        "." in cell and NUMBER.fullmatch(cell.strip()) and not re.fullmatch(r"[+-]?\d{1,3}\.\d{3}", cell.strip())
        for cell in _cells(rows)
    )
