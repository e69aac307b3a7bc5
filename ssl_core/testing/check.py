"""Checks of the conformance kit: specifications, results and failures.

Imports no test framework, so that `sslx check` runs without one.
"""

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

CheckOutcome = Literal["pass", "fail", "xfail", "xpass"]


class ConformanceError(AssertionError):
    """A failed check: what is expected, what the plugin did, and where to look.

    Args:
        message: The whole message.
        got: The part that says what the plugin did.
    """

    def __init__(self, message: str, got: str = "") -> None:
        super().__init__(message)
        self.got = got


class CheckFailed(Exception):
    """What a plugin did instead of what is expected. Functions of checks raise it; `Check` adds the context."""


@dataclass(frozen=True)
class CheckSpec:
    """One requirement of a contract, as a function that tests it.

    Args:
        function: Raises `CheckFailed` if the requirement is not met. Its docstring states the requirement.
        look: Name of the attribute of the class that is most likely at fault.
        only: The single case to run, for a slow check.
    """

    function: Callable[[Any], None]
    look: str
    only: str | None = None

    @property
    def name(self) -> str:
        """Name of the check: that of the function."""
        return self.function.__name__

    @property
    def text(self) -> str:
        """The requirement: the first paragraph of the function's docstring."""
        paragraph = (inspect.getdoc(self.function) or "").partition("\n\n")[0]
        return " ".join(paragraph.split())


CheckFunction: TypeAlias = Callable[[Any], None]
Registrar: TypeAlias = Callable[..., Callable[[CheckFunction], CheckFunction]]


def registrar(specs: list[CheckSpec]) -> Registrar:
    """A decorator that appends functions to a list of checks: `@check("forward")`."""

    def check(look: str, only: str | None = None) -> Callable[[CheckFunction], CheckFunction]:
        def add(function: CheckFunction) -> CheckFunction:
            specs.append(CheckSpec(function, look, only))
            return function

        return add

    return check


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: the models of the kit are so small that several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Check:
    """One check of one class, on one case such as a layout. Call it: it returns, or raises `ConformanceError`."""

    plugin: type
    spec: CheckSpec
    subject: Any
    case: str = ""

    @property
    def name(self) -> str:
        """Name of the check, as NAME-CASE if it has several cases."""
        return f"{self.spec.name}-{self.case}" if self.case else self.spec.name

    @property
    def text(self) -> str:
        """The requirement in words."""
        return self.spec.text

    def __call__(self) -> None:
        try:
            with torch.random.fork_rng(devices=[]), _one_thread():
                self.spec.function(self.subject)
        except CheckFailed as failure:
            raise self._error(str(failure)) from None
        except Exception as error:
            raise self._error(_describe(error)) from error

    def _error(self, got: str) -> ConformanceError:
        case = f" on {self.case}" if self.case else ""
        message = (
            f"{self.plugin.__name__} fails check '{self.spec.name}'{case}\n"
            f"  expected: {self.text}\n"
            f"  got:      {got}\n"
            f"  look at:  {_location(self.plugin, self.spec.look)}"
        )
        return ConformanceError(message, got)


@dataclass(frozen=True)
class Result:
    """The result of a check.

    Args:
        check: The check.
        error: None if the check passed.
        seconds: Time that it took.
        reason: Why the check is expected to fail; "" if it is not.
    """

    check: Check
    error: ConformanceError | None
    seconds: float
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the check passed."""
        return self.error is None

    @property
    def outcome(self) -> CheckOutcome:
        """As in pytest: "xfail" for an expected failure, "xpass" for a check that passes despite the expectation."""
        if self.reason:
            return "xpass" if self.passed else "xfail"
        return "pass" if self.passed else "fail"


def run_checks(checks: Iterable[Check], xfail: Mapping[str, str]) -> Iterator[Result]:
    """Run checks one after the other and yield each result at once. xfail: as for `match_xfail`."""
    checks = list(checks)
    reasons = match_xfail(checks, xfail)
    for check in checks:
        start, error = time.perf_counter(), None
        try:
            check()
        except ConformanceError as failure:
            error = failure
        yield Result(check, error, time.perf_counter() - start, reasons.get(check.name, ""))


def match_xfail(checks: Iterable[Check], xfail: Mapping[str, str]) -> dict[str, str]:
    """The reason of each check that is expected to fail, by name.

    Args:
        checks: All checks of a class.
        xfail: Reasons by the name of a check. The name without a case stands for all cases.

    Raises:
        ValueError: If a name belongs to no check.
    """
    names = {check.name: check.spec.name for check in checks}
    for key in xfail:
        if key not in names and key not in names.values():
            raise ValueError(f"xfail: no check '{key}'; {nearest(key, {*names, *names.values()}, 'check')}")
    reasons = {name: xfail.get(name, xfail.get(without_case, "")) for name, without_case in names.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def group_failures(results: Iterable[Result]) -> list[list[Result]]:
    """Failed checks grouped by what the plugin did, such as a constructor that raises; in order of appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.outcome == "fail" and result.error is not None:
            groups.setdefault(result.error.got, []).append(result)
    return list(groups.values())


def expect(condition: object, got: str) -> None:
    """Fail the check unless a condition holds. got: what the plugin did instead."""
    if not condition:
        raise CheckFailed(got)


def join_names(names: Sequence[str], limit: int = 8) -> str:
    """Names in one line: the first `limit`, and the number of those left out."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def expect_equal(first: Any, second: Any, subject: str) -> None:
    """Fail the check unless two values are exactly equal: numbers, arrays, tensors, or mappings and sequences of them.

    subject: what is compared, for the message.
    """
    difference = _difference(first, second)
    if difference:
        raise CheckFailed(f"{subject}: {difference}")


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
        return _leaf_difference(first, second)
    for place, one, other in pairs:
        inner = _difference(one, other)
        if inner:
            return f"{place}: {inner}"
    return None


def _leaf_difference(first: Any, second: Any) -> str | None:
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


def _describe(error: Exception) -> str:
    """An exception in one line: type, message and the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text} ({frame.filename}:{frame.lineno})"


def _location(plugin: type, attribute: str) -> str:
    """File and line of a method of the class, or of the class itself if it does not define the method."""
    own = plugin.__dict__.get(attribute)
    label = f"{plugin.__name__}.{attribute}" if own is not None else plugin.__name__
    try:
        code = inspect.unwrap(own) if inspect.isfunction(own) else own if isinstance(own, type) else plugin
        return f"{label} ({inspect.getsourcefile(code)}:{inspect.getsourcelines(code)[1]})"
    except (OSError, TypeError):  # defined in a shell or a notebook
        return label
