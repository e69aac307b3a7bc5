"""Every code block of the documentation runs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md"])
SOONER = {"docs/quickstart.md", "docs/export.md"}  # the pages whose commands .ci/run runs
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def pages_with(language: str) -> list:
    found = [page for page in PAGES if any(kind == language for kind, _ in blocks(page))]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in found]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Blocks that train keep what they preprocess here."""
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def python_blocks(page: Path) -> list[str]:
    """Code of a page, without blocks that need a library of an extra that is not installed."""
    absent = [name for name in ("datasets",) if importlib.util.find_spec(name) is None]
    code = [code for kind, code in blocks(page) if kind == "python"]
    return [one for one in code if not any(re.search(rf"^import {name}\b", one, re.MULTILINE) for name in absent)]


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks_run(page):
    for code in python_blocks(page):
        exec(compile(code, str(page), "exec"), {"__name__": "docs"})


@pytest.mark.slow
def test_the_numbers_beside_the_code_are_what_it_prints(capsys):
    for page in PAGES:
        for code in python_blocks(page):
            exec(compile(code, str(page), "exec"), {"__name__": "docs"})
            printed = capsys.readouterr().out.splitlines()
            claims = re.findall(r"print\(.*\)  # (\S.*)$", code, re.MULTILINE)
            assert len(printed) == len(claims), f"{page.name} says {claims}, the code prints {printed}"
            for line, claim in zip(printed, claims, strict=True):
                stated = re.match(r"(\[[^\]]*\]|\d+)", claim)
                if stated:
                    assert line == stated.group(1), f"{page.name} says {claim!r}, the code prints {line!r}"


@pytest.fixture
def workplace(tmp_path):
    """A folder with what the pages speak of: recordings named by digit, speaker and take."""
    rng = np.random.default_rng(0)
    (tmp_path / "recordings").mkdir()
    for speaker, pitch in (("jackson", 110), ("lucas", 140), ("theo", 180)):
        for digit in range(3):
            for take in range(12):
                time = np.arange(5000) / 8000
                wave = 0.3 * np.sin(2 * np.pi * (pitch + 200 * digit) * time) + 0.02 * rng.standard_normal(5000)
                soundfile.write(tmp_path / "recordings" / f"{digit}_{speaker}_{take}.wav", wave, 8000)
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(*page.values, id=page.id, marks=pytest.mark.slow if page.id in SOONER else pytest.mark.release)
        for page in pages_with("sh")
        if "README" not in str(page.id)
    ],
)
def test_shell_blocks_run(page, workplace):
    """In order, in one folder, as a reader would type them. The README's are what CI runs word for word."""
    environment = os.environ | {
        "SSLX_CACHE_DIR": str(workplace / "cache"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    for kind, code in blocks(page):
        if kind == "toml":
            name = re.match(r"# (\S+)", code)
            assert name, "a toml block begins with the name of its file"
            (workplace / name.group(1)).write_text(code)
        if kind == "sh":
            done = subprocess.run(
                ["bash", "-euc", code], cwd=workplace, env=environment, capture_output=True, text=True, timeout=900
            )
            assert done.returncode == 0, f"{code}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_hook_is_documented_with_its_signature():
    """docs/hooks.md is the reference: each hook's signature letter by letter."""
    import inspect

    from ssl_core import hookspecs

    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    hooks = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "sslx_spec")]
    assert len(hooks) == 13
    for name in hooks:
        function = getattr(hookspecs, name)
        assert f"{name}{inspect.signature(function)}".replace("'", "") in page.replace("'", ""), name
        assert (function.__doc__ or "").splitlines()[0] in page, name
