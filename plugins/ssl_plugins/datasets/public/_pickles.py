"""Reads what upstreams ship as pickles without running them: every class in one becomes an inert record.

A pickle names functions to call. Here none of numpy or pandas is ever called by one: arrays, tables and their parts
are recorded as names, arguments and states, and read afterwards. Anything else that a pickle names is refused. So a
table pickled by a pandas of ten years ago, in Python 2, can be read as well (protocol sections 2.1 and 2.10).
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

DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, UnicodeError,
    OverflowError, MemoryError,
)  # fmt: skip


class Record:
    """What a pickle says of an object: the name of its class, its arguments and its state; none of its behaviour."""

    name: ClassVar[str] = "object"
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:
        made = object.__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Dtype(Record):
    """A plain number or text type, as the pickle's (code, ...) and state (version, byte order, ...) say."""

    def numpy(self) -> np.dtype[Any]:
        """Errors: ValueError for one that is no plain type."""
        code = str(self.args[0])
        if not re.fullmatch(r"O8?|[biufUS]\d+", code):
            raise ValueError(f"arrays of type '{code}' are not read")
        order = self.state[1] if self.state else "|"
        return np.dtype(object if code[0] == "O" else (order if order in ("<", ">") else "") + code)


class Array(Record):
    """An array: made empty and given a state, or (protocol 5) from a buffer, a type, a shape and an order."""

    def numpy(self) -> np.ndarray:
        """The array; of bytes without copying them. Errors: ValueError for a state that does not fit."""
        if self.state is None:
            data, dtype, shape, order = self.args
            fortran = order == "F"
        else:
            _, shape, dtype, fortran, data = self.state
        kind = dtype.numpy()
        if kind.hasobject:
            flat = np.empty(len(data), dtype=object)
            for place, one in enumerate(data):  # at once, numpy would look into lists
                flat[place] = one
            return flat.reshape(shape)  # numpy lists objects in C order, whatever the flag says
        flat = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=kind)
        return flat.reshape(shape, order="F" if fortran else "C")


class _Call:
    """A function that a pickle may call; it cannot be changed by one."""

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
    "encode": _Call(lambda text, encoding="latin1": text.encode("latin1")),  # protocol 2 of Python 3 writes bytes so
    "_reconstructor": _Call(lambda made, base, state: made()),
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
            return Array
        if top == "numpy" and name == "dtype":
            return Dtype
        if (top == "pandas" and "." not in name) or (top == "numpy" and name == "scalar"):
            return type(name, (Record,), {"name": name})
        raise DataError(f"it names {module}.{name}, which is no part of an array or a table")


@contextmanager
def reading(path: Path, form: str = "pickle of the upstream's form") -> Iterator[None]:
    """Errors: DataError in one line that names the path, for whatever goes wrong within."""
    try:
        with np.errstate(all="ignore"):
            yield
    except DataError as error:
        raise DataError(f"{path} is refused: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except DAMAGE as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged or no {form} ({said:.150})") from None


def load(path: Path) -> Any:
    """A pickle's content, with arrays and tables as records. Errors: DataError."""
    with reading(path), path.open("rb") as file:
        return _Unpickler(file, encoding="latin1").load()


def plain(value: Any) -> Any:
    """The array that a record stands for; anything else as it is."""
    return value.numpy() if isinstance(value, Array) else value


def table(path: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Some columns of a pickled pandas table, each (n,). Errors: DataError, also for a column that is not there."""
    frame = load(path)
    with reading(path):
        if not isinstance(frame, Record) or frame.name != "DataFrame":
            raise DataError("it holds no table")
        manager = frame.state["_mgr" if "_mgr" in frame.state else "_data"]
        axes, blocks = _parts(manager)
        names = [str(name) for name in plain(axes[0].args[1]["data"])]
        columns: dict[str, np.ndarray] = {}
        for values, place in blocks:
            numbers = range(*place.indices(len(names))) if isinstance(place, slice) else plain(place)
            for number, column in zip(numbers, plain(values), strict=True):
                columns[names[number]] = column
        lacking = next((name for name in wanted if name not in columns), None)
        if lacking is not None:
            raise DataError(f"it has no column '{lacking}', only {', '.join(sorted(columns))}")
        return {name: columns[name] for name in wanted}


def _parts(manager: Record) -> tuple[Sequence[Record], list[tuple[Any, Any]]]:
    """Axes, and (values, places) of each block: by state up to pandas 1.2, by arguments since."""
    if manager.state is not None:
        parts = manager.state[3]["0.14.1"]
        return parts["axes"], [(block["continuous"], block["mgr_locs"]) for block in parts["blocks"]]
    blocks, axes = manager.args
    return axes, [(block.args[0], block.args[1]) for block in blocks]
