"""The conformance kit: checks that a plugin meets its contract. Each check tests one requirement.

In a plugin's own tests:

    from ssl_core import testing

    @testing.parametrize(MyObjective)
    def test_conformance(check):
        check()

Without a test framework: `sslx check NAME` (or PATH), or `testing.run(MyObjective)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssl_core.contracts import Dataset, Inputs, Masking, Objective, Probe, Tokenizer
from ssl_core.data import Fields
from ssl_core.nn.encoder import Encoder
from ssl_core.testing import datasets, encoders, maskings, objectives, options, probes, tokenizers
from ssl_core.testing.check import Check, ConformanceError, Result, match_xfail, run_checks

__all__ = ["Check", "ConformanceError", "Result", "checks", "parametrize", "run"]


def checks(
    plugin: type,
    *,
    options: Mapping[str, Any] | None = None,
    fields: Fields | None = None,
    samples: Sequence[Inputs] | None = None,
) -> list[Check]:
    """All checks of a plugin class. Nothing is built yet.

    Args:
        plugin: An objective, tokenizer, data set, masking, encoder or probe class.
        options: Values for its Options, if the defaults do not suffice.
        fields: For a tokenizer, the fields of a data set; by default those of its modality's default data set.
        samples: For a tokenizer, the raw inputs of at least two samples; by default from the same data set.

    Raises:
        TypeError: If the class is none of these.
    """
    values = dict(options or {})
    if issubclass(plugin, Objective):
        own = objectives.checks(plugin, values)
    elif issubclass(plugin, Tokenizer):
        own = tokenizers.checks(plugin, values, fields, samples)
    elif issubclass(plugin, Dataset):
        own = datasets.checks(plugin, values)
    elif issubclass(plugin, Masking):
        own = maskings.checks(plugin, values)
    elif issubclass(plugin, Encoder):
        values = encoders.small_options(plugin, values)
        own = encoders.checks(plugin, values)
    elif issubclass(plugin, Probe):
        values = probes.default_options(plugin, values)
        own = probes.checks(plugin, values)
    else:
        raise TypeError(f"{plugin.__name__} is no Objective, Tokenizer, Dataset, Masking, Encoder or Probe")
    return _option_checks(plugin, values) + own


def _option_checks(plugin: type, values: Mapping[str, Any]) -> list[Check]:
    subject = options.OptionsSubject(plugin, values)
    return [Check(plugin, spec, subject) for spec in options.CHECKS]


def run(plugin: type, *, xfail: Mapping[str, str] | None = None, **arguments: Any) -> Iterator[Result]:
    """Run all checks of a class and yield each result at once.

    Args:
        plugin: The class.
        xfail: Reasons of the checks that are expected to fail, by name; NAME stands for NAME-CASE of all cases.
        arguments: The keyword arguments of `checks`.

    Raises:
        ValueError: If a name in `xfail` belongs to no check.
    """
    yield from run_checks(checks(plugin, **arguments), xfail or {})


def parametrize(plugin: type, *, xfail: Mapping[str, str] | None = None, **arguments: Any) -> Any:
    """A decorator for pytest that calls the test function with each check as `check`, under the check's name.

    Args:
        plugin: The class.
        xfail: Reasons of the checks that are expected to fail, by name; NAME stands for NAME-CASE of all cases. The
            test of such a check fails if the check passes.
        arguments: The keyword arguments of `checks`.

    Raises:
        ValueError: If a name in `xfail` belongs to no check.
    """
    import pytest

    all_checks = checks(plugin, **arguments)
    reasons = match_xfail(all_checks, xfail or {})
    parameters = []
    for check in all_checks:
        reason = reasons.get(check.name)
        marks = [pytest.mark.xfail(reason=reason, raises=ConformanceError, strict=True)] if reason else []
        parameters.append(pytest.param(check, id=check.name, marks=marks))
    return pytest.mark.parametrize("check", parameters)
