"""Nothing needs Linux at import, and a CPU run needs no module that Windows lacks.

The platforms are imitated: modules and functions that they lack are removed before the modules of this package load.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNIX_MODULES = ("fcntl", "resource", "termios", "pwd", "grp")
LIBRARIES = (
    "torch", "timm.models.vision_transformer", "pydantic", "pluggy", "typer", "rich.console", "rich.progress",
    "sklearn.linear_model", "scipy.signal", "librosa", "PIL.Image", "soundfile", "tifffile", "tokenizers", "jinja2",
    "safetensors.torch", "filelock", "pandas", "matplotlib.figure", "torch._inductor.custom_graph_pass",
)  # fmt: skip

IMITATE = """
import importlib, json, sys, traceback, warnings
platform, libraries, modules, unix_modules = json.load(sys.stdin)
warnings.simplefilter("ignore")
for library in libraries:
    importlib.import_module(library)
import ctypes, os, signal
if platform == "win32":
    sys.modules.update(dict.fromkeys(unix_modules))
    for name in ("fork", "forkpty", "getuid", "geteuid", "sysconf", "sched_getaffinity", "uname", "mkfifo", "fchmod",
                 "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "O_NONBLOCK", "killpg", "getpgid", "setsid"):
        delattr(os, name)
    for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "setitimer", "alarm", "pause"):
        delattr(signal, name)
    load = ctypes.CDLL

    def refuse(name, *arguments, **options):
        if name is None:
            raise TypeError("Windows has no library of the process itself")
        return load(name, *arguments, **options)

    ctypes.CDLL = refuse
else:
    for name in ("sched_getaffinity", "posix_fadvise", "O_DIRECT"):
        delattr(os, name)
sys.platform = platform
problems = {}
for module in modules:
    try:
        importlib.import_module(module)
    except Exception:
        problems[module] = traceback.format_exc()[-2000:]
json.dump(problems, sys.stdout)
"""

RUN = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))
from ssl_core.cli.app import main
main()
"""

SMALL = [
    "--set", "dataset.n_train=8", "--set", "dataset.n_test=8", "--set", "encoder.dim=32", "--set", "encoder.depth=1",
    "--set", "encoder.heads=2", "--set", "objective.width=16", "--set", "objective.heads=1", "--set",
    "objective.depth=1", "--batch-size", "4", "--preset", "none", "--steps", "2", "--device", "cpu",
]  # fmt: skip


def own_modules() -> list[str]:
    names = []
    for source in (ROOT / "ssl_core", ROOT / "plugins" / "ssl_plugins"):
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not name.endswith("__main__")]


UNIX_CODE = {
    "needs_fcntl": "import fcntl",
    "needs_resource": "import resource",
    "needs_own_library": "import ctypes; ctypes.CDLL(None)",
    "needs_open_flag": "import os; os.O_NOFOLLOW",
    "needs_signal": "import signal; signal.SIGKILL",
}


@pytest.mark.skipif(sys.platform != "linux", reason="imitates other platforms on Linux")
@pytest.mark.parametrize(("platform", "failing"), [("win32", set(UNIX_CODE)), ("darwin", set())])
def test_every_module_imports(tmp_path, platform, failing):
    """The modules of UNIX_CODE check the imitation itself."""
    for name, code in UNIX_CODE.items():
        (tmp_path / f"{name}.py").write_text(code)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    modules = own_modules()
    assert len(modules) > 20
    importlib.import_module("matplotlib.font_manager")  # writes its cache of fonts, which needs the real platform
    done = subprocess.run(
        [sys.executable, "-c", IMITATE],
        input=json.dumps([platform, LIBRARIES, [*modules, *UNIX_CODE], UNIX_MODULES]),
        capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    problems = json.loads(done.stdout)
    assert set(problems) == failing, "\n".join(text for name, text in problems.items() if name not in failing)


def test_run_without_unix_modules(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, ",".join(UNIX_MODULES), "run", "--objective", "mae", "--modality", "speech",
         *SMALL, "--out", "r"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=os.environ | {"SSLX_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "r" / "report.json").read_text())["steps"] == 2
