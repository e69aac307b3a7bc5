"""The terminal that all commands write to. Text from data, such as file names, cannot send it control sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ssl_core.utils.console import printable


class Terminal(Console):
    """rich's console, except that control characters are shown as escapes. Its own styles are added later."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of an object."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def render_str(self, text: str, **options: Any) -> Any:
        """A string as text; escapes take their place before lines are measured."""
        return super().render_str(printable(text), **options)
