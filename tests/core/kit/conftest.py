"""Shared by the tests of the conformance kit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ssl_core import testing


@pytest.fixture
def error_of() -> Callable[..., str]:
    """error_of(plugin, name): what the check of that name (a promise, or promise-case) raises."""

    def run(plugin: type, name: str, **given: Any) -> str:
        found = [check for check in testing.checks(plugin, **given) if name in (check.name, check.spec.name)]
        assert found, f"no check {name}"
        with pytest.raises(testing.ConformanceError) as caught:
            found[0]()
        return str(caught.value)

    return run


@pytest.fixture
def assert_all_kept() -> Callable[..., None]:
    """assert_all_kept(plugin): every check passes."""

    def run(plugin: type, **given: Any) -> None:
        broken = [str(result.error) for result in testing.run(plugin, **given) if not result.kept]
        assert not broken, "\n".join(broken)

    return run
