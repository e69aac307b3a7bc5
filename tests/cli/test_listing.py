"""`sslx list` is kept between calls, and made again when anything has changed."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ssl_core import plugins
from ssl_core.cli import app, listing


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Call `sslx list` in this process, counting how often the plugins are loaded."""
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    catalogue, loads = plugins.load(), []
    monkeypatch.setattr(plugins, "load", lambda block=(): loads.append(block) or catalogue)

    def call(*arguments):
        done = CliRunner().invoke(app.app, ["list", *arguments])
        return done.exit_code, done.output, len(loads)

    call.catalogue = catalogue
    return call


def test_a_second_call_prints_the_same_and_loads_nothing(listed):
    code, first, loads = listed()
    assert (code, loads) == (0, 1)
    assert "speech/synthetic (default)" in first
    assert listed() == (0, first, 1)
    assert listed("objektives")[0] == 1
    assert listed("modalities") == listed("tokenizers")
    assert "speech" in listed("modalities")[1]


def test_it_is_made_again_when_a_plugin_is_edited_added_or_blocked(listed, tmp_path, monkeypatch):
    package = tmp_path / "site" / "listed_plugin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(package.parent))
    point = importlib.metadata.EntryPoint("one", "listed_plugin", "sslx")
    usual = importlib.metadata.entry_points
    listed()
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **given: [*usual(**given), point])
    assert listed()[2] == 2
    assert listed()[2] == 2
    (package / "more.py").write_text("x = 1\n")
    assert listed()[2] == 3
    assert listed("--block", "sslx:objectives.mae")[2] == 4
    monkeypatch.setenv("SSLX_BLOCK", "sslx:objectives.mae")
    assert listed()[2] == 5


def test_problems_and_a_damaged_file_are_not_kept(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(listed.catalogue, "problems", ["'broken' was set aside"])
    assert [listed()[2], listed()[2]] == [1, 2]
    assert "warning: 'broken' was set aside" in listed()[1]
    monkeypatch.undo()
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    listing.save_cached({"objectives": {"columns": ["name"], "rows": [["mae"]]}})
    assert listing.load_cached() is not None
    (tmp_path / "cache" / "listing.json").write_text("{")
    assert listing.load_cached() is None


def test_a_kept_listing_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path))
    listing.save_cached({"objectives": {"columns": ["name"], "rows": [["mae"]]}})
    code = (
        "import sys\nfrom ssl_core.cli import app as cli\n"
        "try: cli.app(['list'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "mae" in done.stdout
