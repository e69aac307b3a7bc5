"""The report of a run: as JSON, as a table for the terminal, as a web page that needs no network."""

from __future__ import annotations

from ssl_core.report.page import write_html
from ssl_core.report.schema import REPORT, LayoutRow, Point, Report, Score, read, write_json
from ssl_core.report.scores import ScoreRow, ScoreValue, format_score, score_rows, score_table

__all__ = [
    "REPORT",
    "LayoutRow",
    "Point",
    "Report",
    "Score",
    "ScoreRow",
    "ScoreValue",
    "format_score",
    "read",
    "score_rows",
    "score_table",
    "write_html",
    "write_json",
]
