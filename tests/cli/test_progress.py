"""Progress without a terminal: a line now and then."""

from __future__ import annotations

import itertools

from ssl_core.cli import terminal


def test_lines_every_ten_seconds_and_at_the_end(monkeypatch, capsys):
    clock = itertools.count(step=4)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    console = terminal.RichConsole()
    assert not console.console.is_terminal
    with console.progress("pretraining", 8) as progress:
        for _ in range(8):
            progress.advance(**{"train/loss": 0.5})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "pretraining 3 of 8, about 20 s left  loss 0.5",
        "pretraining 6 of 8, about 8.0 s left  loss 0.5",
        "pretraining 8 of 8, 36 s  loss 0.5",
    ]
