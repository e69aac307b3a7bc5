"""Shared by the tests of the conformance kit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ssl_core import testing


@pytest.fixture
def error_of() -> Callable[..., str]:
    """error_of(plugin, name): the message of the failed check of that name, with or without its case."""

    def run(plugin: type, name: str, **arguments: Any) -> str:
        checks = [check for check in testing.checks(plugin, **arguments) if name in (check.name, check.spec.name)]
        assert checks, f"no check {name}"
        with pytest.raises(testing.ConformanceError) as caught:
            checks[0]()
        return str(caught.value)

    return run


@pytest.fixture
def assert_all_pass() -> Callable[..., None]:
    """assert_all_pass(plugin): every check passes."""

    def run(plugin: type, **arguments: Any) -> None:
        messages = [str(result.error) for result in testing.run(plugin, **arguments) if not result.passed]
        assert not messages, "\n".join(messages)

    return run
