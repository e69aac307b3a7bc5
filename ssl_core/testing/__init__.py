"""The conformance kit: does a plugin keep the promises of its contract? One small named function per promise.

In a plugin's own tests:

    from ssl_core import testing

    @testing.parametrize(MyObjective)
    def test_conforms(check):
        check()

Without a test framework: `sslx check NAME` (or PATH), or `testing.run(MyObjective)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssl_core.contracts import Dataset, Inputs, Masking, Objective, Tokenizer
from ssl_core.data import Fields
from ssl_core.testing import datasets, maskings, objectives, options, tokenizers
from ssl_core.testing.check import Check, ConformanceError, Result, match_known, run_checks

__all__ = ["Check", "ConformanceError", "Result", "checks", "parametrize", "run"]


def checks(
    plugin: type,
    *,
    options: Mapping[str, Any] | None = None,
    fields: Fields | None = None,
    samples: Sequence[Inputs] | None = None,
) -> list[Check]:
    """All checks of an objective, tokenizer, data set or masking class. Nothing is built yet.

    options: values for its Options, where the defaults do not suffice. fields, samples: for a tokenizer, what a data
    set would hand over, at least two samples' raw inputs; by default those of its modality's default data set.
    """
    values = dict(options or {})
    made = _option_checks(plugin, values)
    if issubclass(plugin, Objective):
        return made + objectives.checks(plugin, values)
    if issubclass(plugin, Tokenizer):
        return made + tokenizers.checks(plugin, values, fields, samples)
    if issubclass(plugin, Dataset):
        return made + datasets.checks(plugin, values)
    if issubclass(plugin, Masking):
        return made + maskings.checks(plugin, values)
    raise TypeError(f"{plugin.__name__} is no Objective, Tokenizer, Dataset or Masking")


def _option_checks(plugin: type, values: Mapping[str, Any]) -> list[Check]:
    subject = options.OptionsSubject(plugin, values)
    return [Check(plugin, check_spec, subject) for check_spec in options.CHECKS]


def run(plugin: type, *, known: Mapping[str, str] | None = None, **given: Any) -> Iterator[Result]:
    """Run all checks, given what `checks` takes; yields each result as soon as it is there.

    known: names of checks that are known to fail (a promise, or promise-case), each with the reason, which its result
    then has. Errors: ValueError for a name that fits no check.
    """
    yield from run_checks(checks(plugin, **given), known or {})


def parametrize(plugin: type, *, known: Mapping[str, str] | None = None, **given: Any) -> Any:
    """A decorator for pytest: the test function gets each check in turn as `check`, under a readable id.

    known: names of checks that are known to fail (a promise, or promise-case), each with the reason. They are
    expected to fail: one that passes fails the test. The other arguments are those of `checks`.
    """
    import pytest

    made = checks(plugin, **given)
    reasons = match_known(made, known or {})
    parameters = []
    for check in made:
        reason = reasons.get(check.name)
        marks = [pytest.mark.xfail(reason=reason, raises=ConformanceError, strict=True)] if reason else []
        parameters.append(pytest.param(check, id=check.name, marks=marks))
    return pytest.mark.parametrize("check", parameters)
