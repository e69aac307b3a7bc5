"""docs/mistakes.md: every mistake on the page is made, and gives the message that stands below it.

After a change of a message that is meant: SSLX_UPDATE_DOCS=1 python -m pytest tests/test_docs_mistakes.py
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path

import pytest

from ssl_core import PluginError, plugins, testing

PAGE = Path(__file__).resolve().parents[1] / "docs" / "mistakes.md"
MISTAKE = re.compile(
    r'^### (?P<title>[^\n]+)\n(?:(?!^##).)*?^```python title="sslx_demo.py"\n(?P<code>.*?)^```\n\n'
    r"^```text\n(?P<message>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
MISTAKES = {found["title"]: (found["code"], found["message"]) for found in MISTAKE.finditer(PAGE.read_text("utf-8"))}
CHECKS = {
    "A loss that is no outcome": "loss_is_a_finite_scalar-continuous_1d",
    "A tokenizer whose length is not its layout's": "embeddings_fit_the_layout",
    "An objective that ignores the encoder": "gradient_reaches_every_parameter-continuous_1d",
    "An objective that looks at names of segments": "segment_names_do_not_matter-continuous_2d",
    "A data set with labels out of range": "labels_fit_the_task",
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(code): the code as an installed package of one module, `sslx_demo`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(code):
        (tmp_path / "sslx_demo.py").write_text(code, encoding="utf-8")
        info = tmp_path / "sslx_demo-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sslx-demo\nVersion: 0.1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text("[sslx]\ndemo = sslx_demo\n", encoding="utf-8")
        importlib.invalidate_caches()

    yield install
    sys.modules.pop("sslx_demo", None)


def message_of_loading():
    """What loading all plugins says of this one."""
    try:
        catalogue = plugins.load()
    except PluginError as error:
        return str(error)
    (problem,) = [str(one) for one in catalogue.set_aside if one.origin.plugin == "sslx-demo:demo"]
    assert "mae" in catalogue.objectives  # it stopped nothing else
    return problem


def message_of_check(name):
    """What one check of the kit says of the class in the module."""
    module = importlib.import_module("sslx_demo")
    given = {"fields": module.FIELDS, "samples": module.SAMPLES} if hasattr(module, "FIELDS") else {}
    (check,) = [check for check in testing.checks(module.Demo, **given) if check.name == name]
    with pytest.raises(testing.ConformanceError) as caught:
        check()
    return str(caught.value)


def as_on_the_page(message, folder):
    """Without the folders of this machine."""
    return message.replace(str(folder) + os.sep, "").replace(str(Path(plugins.__file__).parents[2]) + os.sep, "")


def alike(text):
    """What may differ from machine to machine taken out: losses, and the version of sslx."""
    return re.sub(r"\d+\.\d{3,}|(?<=mae )\d+\.\d+\.\d+\w*", "#", text).strip()


@pytest.mark.parametrize("title", MISTAKES)
def test_message_is_the_pages(title, installed, tmp_path):
    code, stated = MISTAKES[title]
    installed(code)
    message = as_on_the_page(message_of_check(CHECKS[title]) if title in CHECKS else message_of_loading(), tmp_path)
    if os.environ.get("SSLX_UPDATE_DOCS") == "1":
        text = PAGE.read_text("utf-8")
        block = f"{code}```\n\n```text\n"
        assert text.count(block + stated) == 1
        PAGE.write_text(text.replace(block + stated, f"{block}{message}\n"), encoding="utf-8")
        stated = message
    assert alike(stated) == alike(message)


def test_page_is_read_whole():
    headings = [line[4:] for line in PAGE.read_text("utf-8").splitlines() if line.startswith("### ")]
    assert list(MISTAKES) == headings
    assert len(headings) >= 10
    assert set(CHECKS) < set(headings)


def test_losses_and_versions_are_all_that_may_differ():
    assert alike("the loss: 0.1234 became 1.25") == alike("the loss: 9.87654 became 1.25")
    assert alike("the loss: 0.1234 became 1.25") != alike("the loss: 0.1234 became 1.26")
