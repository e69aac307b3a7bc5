"""The server of `sslx ui`: a few read-only pages, drawn here, without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ssl_core.report.page import style
from ssl_core.ui import views
from ssl_core.ui.scan import COMPARISON, STATES, RunEntry, Scanner, read_metrics, report_page, safe_file

HOSTS = ("127.0.0.1", "localhost")
"""Names that a request may call this server by. A page of another site, whose name was pointed at this machine (DNS
rebinding), calls it by its own."""
REFRESH = 5
"""Seconds after which a page with a running run is loaded again."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)
"""A report is a file that anybody may have written: it runs no script and is of no origin."""


def make_app(root: Path) -> Starlette:
    """The application for the runs below a folder."""
    pages = Pages(root)
    routes = [
        Route("/", pages.index),
        Route("/compare", pages.compare),
        Route("/runs/{id}", pages.run),
        Route("/runs/{id}/report", pages.report),
        Route("/comparisons/{id}", pages.comparison),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)],
        exception_handlers={HTTPException: pages.problem, Exception: pages.problem},
    )
    app.router.redirect_slashes = False
    return app


def _with(request: Request, **changes: str) -> str:
    """The address of a request with other values in its query."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in changes]
    return f"{request.url.path}?{urlencode([*kept, *changes.items()])}"


class Pages:
    """The pages, each a function of a request."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scanner = Scanner(root)
        self.templates = jinja2.Environment(
            autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
        )  # fmt: skip
        self.style = style() + Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8"))

    def index(self, request: Request) -> Response:
        """The list of runs and comparisons."""
        query, listing = views.Query.of(request.query_params), self.scanner.scan()
        return self._page(
            "index.html.j2", "Runs", request, any(run.state == "running" for run in listing.runs), query=query,
            runs=query.apply(listing.runs), listing=listing, columns=views.COLUMNS, states=STATES,
            most=views.MAX_COMPARED, root=str(self.root),
        )  # fmt: skip

    def run(self, request: Request) -> Response:
        """A run: its state and its curves."""
        run = self._run(request)
        curves = views.run_curves(read_metrics(run.folder, self.root))
        return self._page(
            "run.html.j2", run.name, request, run.state == "running", run=run, facts=views.facts(run), curves=curves,
            scores=views.score_lines([run]), has_report=report_page(run.folder, self.root) is not None,
        )  # fmt: skip

    def compare(self, request: Request) -> Response:
        """Several runs: one metric in one plot, scores and different options side by side."""
        listing = self.scanner.scan()
        chosen = dict.fromkeys(request.query_params.getlist("run"))
        runs = [run for id_ in chosen if (run := listing.run(id_)) is not None][: views.MAX_COMPARED]
        lines = {run.id: read_metrics(run.folder, self.root) for run in runs}
        metrics = views.metric_names([line for of in lines.values() for line in of])
        wanted = request.query_params.get("metric", "")
        metric = wanted if wanted in metrics else next(iter(metrics), "")
        return self._page(
            "compare.html.j2", "Compare runs", request, any(run.state == "running" for run in runs), runs=runs,
            metrics=metrics, metric=metric, plot=views.overlay(runs, lines, metric) if metric else None,
            scores=views.score_lines(runs), differences=views.differences(runs), facts=[views.facts(r) for r in runs],
            left_out=max(0, len(chosen) - len(runs)),
        )  # fmt: skip

    def report(self, request: Request) -> Response:
        """The report.html of a run."""
        run = self._run(request)
        return self._file(report_page(run.folder, self.root), "this run has no report.html yet")

    def comparison(self, request: Request) -> Response:
        """The comparison.html of a comparison."""
        found = self.scanner.scan().comparison(request.path_params["id"])
        if found is None:
            raise HTTPException(404, "there is no such comparison")
        return self._file(safe_file(found.folder, COMPARISON, self.root), "this comparison has no table yet")

    def problem(self, request: Request, error: Exception) -> Response:
        """The page of an error. What went wrong inside is not shown."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = error.detail if isinstance(error, HTTPException) else "this page cannot be drawn; see the terminal"
        response = self._page("problem.html.j2", f"Error {status}", request, False, text=text)
        response.status_code = status
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    def _run(self, request: Request) -> RunEntry:
        run = self.scanner.scan().run(request.path_params["id"])
        if run is None:
            raise HTTPException(404, "there is no such run; it may have been moved")
        return run

    def _file(self, path: Path | None, missing: str) -> Response:
        try:
            content = None if path is None else path.read_bytes()
        except OSError:
            content = None
        if content is None:
            raise HTTPException(404, missing)
        return HTMLResponse(content, headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})

    def _page(self, template: str, title: str, request: Request, live: bool, **values: Any) -> Response:
        paused = request.query_params.get("pause") == "1"
        text = self.templates.get_template(template).render(
            title=title, style=self.style, refresh=REFRESH if live and not paused else None, live=live, paused=paused,
            pause=_with(request, pause="0" if paused else "1"),
            **values,
        )  # fmt: skip
        return HTMLResponse(text, headers={**HEADERS, "Content-Security-Policy": POLICY})
