"""Regular expressions that a user gives, with a limit on the time that a match may take."""

from __future__ import annotations

from typing import Any

import regex

from ssl_core import ConfigError, nearest

SECONDS = 2.0
"""Time for one name. Names are short: an expression that needs longer backtracks without end."""
OPTION = "dataset.label_pattern"
MEANINGS = ("label", "group", "split", "band")
"""Names of groups that have a meaning."""


class NamePattern:
    """A regular expression that is searched in names of files.

    Raises:
        ConfigError: it is not one, or a group has a name without a meaning.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        try:
            self.regex = regex.compile(pattern)
        except regex.error as error:
            raise ConfigError(f"{OPTION} '{pattern}' is no regular expression: {error}") from None
        if unknown := sorted(self.groups - set(MEANINGS)):
            raise ConfigError(
                f"{OPTION} '{pattern}': the name '{unknown[0]}' of a group has no meaning; "
                f"{nearest(unknown[0], MEANINGS, 'name')}; a group without a name is (...)"
            )

    @property
    def groups(self) -> set[str]:
        """The names of its groups."""
        return set(self.regex.groupindex)

    def search(self, name: str) -> Any:
        """The first match in a name, or None.

        Raises:
            ConfigError: it takes too long.
        """
        try:
            return self.regex.search(name, timeout=SECONDS)
        except TimeoutError:
            raise ConfigError(
                f"{OPTION} '{self.pattern}' takes longer than {SECONDS:g} s for the name '{name:.80}'; write it "
                f"without repetitions of repetitions such as (a+)+, for example with [^/]+ or \\d+"
            ) from None
