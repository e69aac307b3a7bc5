"""Read pickled arrays and tables without running the pickle.

A pickle names functions to call. Here it calls no function of numpy or pandas: arrays, tables and their parts become
records of a name, arguments and a state, from which arrays are built afterwards. All other names are refused. This also
reads tables that pandas 0.18 pickled in Python 2.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssl_core import DataError

DAMAGE_ERRORS = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, UnicodeError,
    OverflowError, MemoryError,
)  # fmt: skip


class Record:
    """An object of a pickle: the name of its class, its arguments and its state, without behaviour."""

    name: ClassVar[str] = "object"
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:
        record = object.__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class DtypeRecord(Record):
    """A type of numbers or texts: arguments (code, ...) and state (version, byte order, ...)."""

    def numpy(self) -> np.dtype[Any]:
        """The type.

        Raises:
            ValueError: if it is not a type of numbers, texts or objects.
        """
        code = str(self.args[0])
        if not re.fullmatch(r"O8?|[biufUS]\d+", code):
            raise ValueError(f"arrays of type '{code}' are not read")
        order = self.state[1] if self.state else "|"
        return np.dtype(object if code[0] == "O" else (order if order in ("<", ">") else "") + code)


class ArrayRecord(Record):
    """An array: empty with a state, or, in pickle protocol 5, a buffer with type, shape and order."""

    def numpy(self) -> np.ndarray:
        """The array. Numbers are not copied.

        Raises:
            ValueError: if the state does not fit.
        """
        if self.state is None:
            data, dtype, shape, order = self.args
            fortran = order == "F"
        else:
            _, shape, dtype, fortran, data = self.state
        kind = dtype.numpy()
        if kind.hasobject:
            flat = np.empty(len(data), dtype=object)
            for position, item in enumerate(data):  # assigned at once, numpy would unpack lists
                flat[position] = item
            return flat.reshape(shape)  # numpy pickles objects in C order, regardless of the flag
        flat = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=kind)
        return flat.reshape(shape, order="F" if fortran else "C")


class _Call:
    """A function that a pickle may call. A pickle cannot change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


def _bytes(data: bytes = b"") -> bytes:
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError("it makes bytes of something else")
    return bytes(data)


CALLS = {
    "encode": _Call(lambda text, encoding="latin1": text.encode("latin1")),  # how Python 3 writes bytes in protocol 2
    "_reconstructor": _Call(lambda cls, base, state: cls()),
    "slice": _Call(slice),
    "bytes": _Call(_bytes),
    "bytearray": _Call(_bytes),
}
ALLOWED = {
    "_codecs": ("encode",),
    "copyreg": ("_reconstructor",),
    "copy_reg": ("_reconstructor",),
    "builtins": ("slice", "bytes", "bytearray", "object"),
    "__builtin__": ("slice", "bytes", "bytearray", "object"),
}
ARRAYS = ("ndarray", "_reconstruct", "_frombuffer")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        top = module.partition(".")[0]
        if name in ALLOWED.get(module, ()):
            return CALLS.get(name, Record)
        if top == "numpy" and name in ARRAYS:
            return ArrayRecord
        if top == "numpy" and name == "dtype":
            return DtypeRecord
        if (top == "pandas" and "." not in name) or (top == "numpy" and name == "scalar"):
            return type(name, (Record,), {"name": name})
        raise DataError(f"it names {module}.{name}, which is no part of an array or a table")


@contextmanager
def translate_errors(path: Path, form: str = "pickle of the upstream's form") -> Iterator[None]:
    """Context in which errors of reading a file become a DataError.

    Args:
        path: file or folder that is read.
        form: expected format, for the message.

    Raises:
        DataError: for an error in the body, in one line that names the path.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except DataError as error:
        raise DataError(f"{path} is refused: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except DAMAGE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged or no {form} ({reason:.150})") from None


def load(path: Path) -> Any:
    """The content of a pickle, with arrays and tables as records.

    Raises:
        DataError: if the file cannot be read, or names anything but parts of arrays and tables.
    """
    with translate_errors(path), path.open("rb") as file:
        return _Unpickler(file, encoding="latin1").load()


def to_array(value: Any) -> Any:
    """The array of an ArrayRecord; other values unchanged."""
    return value.numpy() if isinstance(value, ArrayRecord) else value


def read_table(path: Path, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a pickled pandas table, each (n,).

    Raises:
        DataError: if the file is no table or lacks a column.
    """
    frame = load(path)
    with translate_errors(path):
        if not isinstance(frame, Record) or frame.name != "DataFrame":
            raise DataError("it holds no table")
        manager = frame.state["_mgr" if "_mgr" in frame.state else "_data"]
        axes, blocks = _axes_and_blocks(manager)
        names = [str(name) for name in to_array(axes[0].args[1]["data"])]
        table: dict[str, np.ndarray] = {}
        for values, location in blocks:
            numbers = range(*location.indices(len(names))) if isinstance(location, slice) else to_array(location)
            for number, column in zip(numbers, to_array(values), strict=True):
                table[names[number]] = column
        missing = next((name for name in columns if name not in table), None)
        if missing is not None:
            raise DataError(f"it has no column '{missing}', only {', '.join(sorted(table))}")
        return {name: table[name] for name in columns}


def _axes_and_blocks(manager: Record) -> tuple[Sequence[Record], list[tuple[Any, Any]]]:
    """Axes, and (values, locations) of each block: in the state up to pandas 1.2, in the arguments since."""
    if manager.state is not None:
        parts = manager.state[3]["0.14.1"]
        return parts["axes"], [(block["values"], block["mgr_locs"]) for block in parts["blocks"]]
    blocks, axes = manager.args
    return axes, [(block.args[0], block.args[1]) for block in blocks]
