"""The report and the pages of `sslx ui` in a real browser: no error on its console, nothing wider than the window."""

import os
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest

from ssl_core.contracts import PictureStyle
from ssl_core.report.figures import Figures, Map, Maps, Neighbour, Neighbours, Predicted
from ssl_core.report.page import page
from ssl_core.report.reconstruction import SegmentValues
from ssl_core.report.schema import FiguresReport
from tests.core.test_report import METRICS, make_report, reconstruction, text_reconstruction

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, such as Debian's package chromium")


def browse(address, folder, *options, width=1280):
    """The document after it is loaded, and the lines of the browser's console."""
    command = [
        CHROMIUM, "--headless=new", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--enable-logging=stderr",
        "--timeout=20000", *options, "--dump-dom", address,
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.insert(1, "--no-sandbox")  # Chromium refuses to run as root with it
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def report_file(tmp_path_factory):
    """A report with every kind of figure."""
    rng = np.random.default_rng(0)
    names = [f"class number {n}" for n in range(12)]
    labels, guesses = rng.integers(0, 12, (2, 300))
    maps = {kind: Map(rng.normal(size=(300, 2)), labels, (0.4, 0.2)) for kind in ("trained", "random_init")}
    values = [
        SegmentValues("photo", "continuous", (2, 2), rng.random((3, 3, 16, 16))),
        SegmentValues("wave", "continuous", (4,), rng.random((3, 2, 40))),
        SegmentValues("words", "discrete", (40,), np.array([[" <b>word</b>"] * 40] * 3)),
        SegmentValues(
            "column", "discrete", (1,), np.array([["a" * 60]] * 3), style=PictureStyle(names=("long name " * 5,))
        ),
    ]
    found = [Neighbour(1, "one", "x", 0.01), Neighbour(2, "/a/very/long/path" * 5, "y" * 50, 0.5)]
    neighbours = Neighbours(values, [(Neighbour(0, "q", "x"), found)], {0: (np.sin(np.arange(8000) / 9), 8000)}, 99)
    pictures = [
        reconstruction("spectrogram", (1, 8, 8), (4, 4)),
        reconstruction("sensor", (5, 40), (10,)),
        text_reconstruction(
            np.array([list("ACGT" * 50)]), np.arange(200)[None] % 2 == 1, np.array([list("ACCT" * 50)])
        ),
    ]
    figures = Figures(
        FiguresReport(seconds=1),
        Maps(maps, "PCA", names, False, "kind"),
        Predicted("linear", "kind", "classes", names, labels, guesses),
        neighbours,
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(make_report(), pictures, METRICS, figures), encoding="utf-8")
    return path


def test_report_has_no_console_message(report_file, tmp_path):
    document, messages = browse(report_file.as_uri(), tmp_path)
    assert messages == []
    assert "Nearest neighbours" in document


def test_a_console_message_is_seen(tmp_path):
    """The check above: a style that the policy forbids makes a message."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\"><p style='color: red'>x</p>"
    path = tmp_path / "bad.html"
    path.write_text(f"<!DOCTYPE html>{policy}")
    _, messages = browse(path.as_uri(), tmp_path)
    assert messages


def test_report_is_as_wide_as_a_telephone(report_file, tmp_path):
    wrapper = report_file.parent / "wrapper.html"
    wrapper.write_text(
        "<iframe src='report.html' style='border: 0; width: 400px; height: 900px' "
        "onload='document.body.dataset.width = this.contentDocument.documentElement.scrollWidth'></iframe>"
    )
    document, _ = browse(wrapper.as_uri(), tmp_path, "--allow-file-access-from-files")
    assert re.search(r'data-width="(\d+)"', document)[1] == "400"


def test_pages_of_the_server_have_no_console_message(tmp_path):
    pytest.importorskip("starlette", reason="needs the extra ui")
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra ui")
    from ssl_core.cli.ui import listen
    from ssl_core.ui.app import make_app
    from tests.cli.test_ui import make_run

    make_run(tmp_path / "runs" / "a", report=make_report())
    make_run(tmp_path / "runs" / "b")
    listener = listen(0)
    server = uvicorn.Server(uvicorn.Config(make_app(tmp_path / "runs"), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        document, messages = browse(f"{base}/", tmp_path)
        assert messages == []
        assert "2 of 2 runs" in document
        ids = re.findall(r'name="run" value="(\w+)"', document)
        for address in (f"/runs/{ids[0]}", f"/compare?run={ids[0]}&run={ids[1]}"):
            document, messages = browse(base + address, tmp_path)
            assert messages == []
            assert "train/loss" in document
    finally:
        server.should_exit = True
        thread.join(timeout=20)
