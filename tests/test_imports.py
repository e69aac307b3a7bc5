"""Each module imports alone, as the first module of this project in its process, with warnings as errors.

Other libraries are imported once, in a process that is forked for each module: importing torch and timm for each module
would take minutes. Warnings of these libraries are ignored.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "timm.models.vision_transformer", "pydantic", "pluggy", "typer", "rich", "sklearn", "librosa")
LIGHT = (
    "ssl_core",
    "ssl_core.cli.app",
    "ssl_core.errors",
    "ssl_core.hookspecs",
    "ssl_core.options",
    "ssl_core.plugins",
    "sslx",
)
HEAVY = ("torch", "timm", "numpy", "scipy", "sklearn", "pandas", "librosa", "matplotlib")

SERVER = """
import importlib, json, os, sys, traceback, warnings
libraries, modules = json.load(sys.stdin)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for library in libraries:
        importlib.import_module(library)
assert not [name for name in sys.modules if name.split(".")[0] in ("ssl_core", "ssl_plugins", "sslx")]
problems = {}
for module in modules:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        warnings.simplefilter("error")
        try:
            importlib.import_module(module)
        except BaseException:
            os.write(writer, traceback.format_exc()[-3000:].encode())
        os._exit(0)
    os.close(writer)
    said = b"".join(iter(lambda: os.read(reader, 65536), b""))
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if said or status:
        problems[module] = said.decode() or f"exit status {status}"
json.dump(problems, sys.stdout)
"""


def modules() -> list[str]:
    found = []
    for source in (ROOT / "ssl_core", ROOT / "plugins" / "ssl_plugins", ROOT / "plugins" / "sslx"):
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source.parent).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def import_alone(names: list[str], folder: Path) -> dict[str, str]:
    """What goes wrong when each module is the first of ours to be imported: by name, the traceback."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", SERVER],
        input=json.dumps([LIBRARIES, names]),
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


BROKEN = {
    "kit_fine": "x = 1",
    "kit_warns": "import warnings\nwarnings.warn('old')",
    "kit_raises": "1 / 0",
    "kit_exits": "import os\nos._exit(3)",
}


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What goes wrong with our modules, and with some that are broken on purpose."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    folder = tmp_path_factory.mktemp("broken")
    for name, code in BROKEN.items():
        (folder / f"{name}.py").write_text(code)
    return import_alone([*modules(), *BROKEN], folder)


@pytest.mark.release
def test_each_module_imports_alone_without_warnings(problems):
    assert len(modules()) > 20
    ours = {name: text for name, text in problems.items() if name not in BROKEN}
    assert ours == {}, "\n".join(f"{name}:\n{text}" for name, text in ours.items())


@pytest.mark.release
def test_import_problems_are_found(problems):
    found = {name: text for name, text in problems.items() if name in BROKEN}
    assert set(found) == {"kit_warns", "kit_raises", "kit_exits"}
    assert "UserWarning: old" in found["kit_warns"]
    assert "ZeroDivisionError" in found["kit_raises"]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_no_heavy_library(module):
    """The command line answers --help and finds plugins without loading torch."""
    code = f"import sys, {module}\nsys.exit(' '.join(name for name in {HEAVY!r} if name in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_catalogue_loads_no_library_that_only_a_run_needs():
    """Plugins import what they need when they are used, so that every command stays quick."""
    late = ("pandas", "pyarrow", "sklearn", "matplotlib", "scipy.stats", "numba")
    code = (
        "import sys\nfrom ssl_core import plugins\ncatalogue = plugins.load()\nassert catalogue.objectives\n"
        f"sys.exit(' '.join(name for name in {late!r} if name in sys.modules) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
