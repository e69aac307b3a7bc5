"""What a promise, a check and a failure are. Imports no test framework, so that `sslx check` can run the kit, too."""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from ssl_core.errors import nearest


class ConformanceError(AssertionError):
    """A promise that a plugin does not keep: what was promised, what happened, where to look."""


class CheckFailed(Exception):
    """What happened instead of what was promised. Raised by promises, turned into a ConformanceError by checks."""


@dataclass(frozen=True)
class CheckSpec:
    """One promise of a contract. `look` names the attribute of the class that is most likely at fault."""

    function: Callable[[Any], None]
    look: str
    only: str | None = None
    """The one case that it is tested on, where testing all would take long."""

    @property
    def name(self) -> str:
        """Its name: the function's."""
        return self.function.__name__

    @property
    def text(self) -> str:
        """The promise in words: the first paragraph of the function's docstring."""
        paragraph = (inspect.getdoc(self.function) or "").partition("\n\n")[0]
        return " ".join(paragraph.split())


Registrar: TypeAlias = Callable[..., Callable[[Callable[[Any], None]], Callable[[Any], None]]]


def recorder(specs: list[CheckSpec]) -> Registrar:
    """A decorator that adds functions to a list of promises: @check("forward")."""

    def check(look: str, only: str | None = None) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
        def add(function: Callable[[Any], None]) -> Callable[[Any], None]:
            specs.append(CheckSpec(function, look, only))
            return function

        return add

    return check


@contextmanager
def _one_thread() -> Iterator[None]:
    """The models of the kit are so small that several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Check:
    """One promise of one class, on one case such as a layout. Call it: it raises ConformanceError or returns."""

    plugin: type
    spec: CheckSpec
    subject: Any
    case: str = ""

    @property
    def name(self) -> str:
        """The promise's name; with `-case` behind it where there are several cases."""
        return f"{self.spec.name}-{self.case}" if self.case else self.spec.name

    @property
    def text(self) -> str:
        """The promise in words."""
        return self.spec.text

    def __call__(self) -> None:
        try:
            with torch.random.fork_rng(devices=[]), _one_thread():
                self.spec.function(self.subject)
        except CheckFailed as broken:
            raise ConformanceError(self._message(str(broken))) from None
        except Exception as error:
            raise ConformanceError(self._message(_what_happened(error))) from error

    def _message(self, happened: str) -> str:
        case = f" on {self.case}" if self.case else ""
        return (
            f"{self.plugin.__name__} breaks '{self.spec.name}'{case}\n"
            f"  promised: {self.text}\n"
            f"  happened: {happened}\n"
            f"  look at:  {_where(self.plugin, self.spec.look)}"
        )


@dataclass(frozen=True)
class Result:
    """What came of a check. error: None if the promise is kept; reason: why it is known to fail, "" if it is not."""

    check: Check
    error: ConformanceError | None
    seconds: float
    reason: str = ""

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        return self.error is None

    @property
    def outcome(self) -> Literal["kept", "broken", "known", "mended"]:
        """Known is broken as expected; mended is kept although it is known to fail, so that the list is out of date."""
        if self.reason:
            return "mended" if self.kept else "known"
        return "kept" if self.kept else "broken"


def run_checks(checks: Iterable[Check], known: Mapping[str, str]) -> Iterator[Result]:
    """Run checks one after the other; results come as they are ready. known: as `match_known` takes it."""
    checks = list(checks)
    reasons = match_known(checks, known)
    for check in checks:
        began, error = time.perf_counter(), None
        try:
            check()
        except ConformanceError as caught:
            error = caught
        yield Result(check, error, time.perf_counter() - began, reasons.get(check.name, ""))


def expect(true: object, happened: str) -> None:
    """Break the promise unless something holds."""
    if not true:
        raise CheckFailed(happened)


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in one line; of many the first, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def same(first: Any, second: Any, what: str) -> None:
    """Break the promise unless two values of numbers, arrays, tensors, mappings and sequences are exactly equal."""
    difference = _difference(first, second)
    if difference:
        raise CheckFailed(f"{what}: {difference}")


def _difference(first: Any, second: Any) -> str | None:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        if list(first) != list(second):
            return f"{list(first)} became {list(second)}"
        pairs = ((f"'{key}'", first[key], second[key]) for key in first)
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return f"{len(first)} became {len(second)} parts"
        pairs = ((f"part {i}", a, b) for i, (a, b) in enumerate(zip(first, second, strict=True)))
    else:
        return _unequal(first, second)
    for where, one, other in pairs:
        inner = _difference(one, other)
        if inner:
            return f"{where}: {inner}"
    return None


def _unequal(first: Any, second: Any) -> str | None:
    if first is None or second is None or isinstance(first, str):
        return None if first == second else f"{first!r} became {second!r}"
    if isinstance(first, np.ndarray) and first.dtype.kind == "U":  # torch has no text
        equal = isinstance(second, np.ndarray) and first.dtype == second.dtype and np.array_equal(first, second)
        return None if equal else f"{first!r} became {second!r}"
    one, other = torch.as_tensor(first), torch.as_tensor(second)
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{one.dtype} {tuple(one.shape)} became {other.dtype} {tuple(other.shape)}"
    if torch.equal(one, other):
        return None
    if one.numel() == 1:
        return f"{one.item()!r} became {other.item()!r}"
    unequal = one != other
    return f"{int(unequal.sum())} of {one.numel()} numbers differ, the first at {unequal.nonzero()[0].tolist()}"


def match_known(checks: Iterable[Check], known: Mapping[str, str]) -> dict[str, str]:
    """For each check that is known to fail its reason, by name. `known` may name a promise or a promise and a case.

    Errors: ValueError for a name that fits no check.
    """
    names = {check.name: check.spec.name for check in checks}
    for key in known:
        if key not in names and key not in names.values():
            raise ValueError(f"known: no check '{key}'; {nearest(key, {*names, *names.values()}, 'check')}")
    reasons = {name: known.get(name, known.get(check_spec, "")) for name, check_spec in names.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _what_happened(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text} ({frame.filename}:{frame.lineno})"


def _where(plugin: type, attribute: str) -> str:
    """The file and line of a method of the class, or of the class itself where it does not define one."""
    own = plugin.__dict__.get(attribute)
    label = f"{plugin.__name__}.{attribute}" if own is not None else plugin.__name__
    try:
        code = inspect.unwrap(own) if inspect.isfunction(own) else own if isinstance(own, type) else plugin
        return f"{label} ({inspect.getsourcefile(code)}:{inspect.getsourcelines(code)[1]})"
    except (OSError, TypeError):  # defined in a shell or a notebook
        return label
