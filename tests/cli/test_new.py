"""`sslx new` and `sslx plugins`: a package of each kind passes its tests, installs, runs and uninstalls."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

import ssl_core.plugins as plugins
from ssl_core import API_VERSION, hookimpl
from ssl_core.cli import app
from ssl_core.plugins import Catalogue, Origin
from ssl_core.scaffold import generate

KINDS = generate.KINDS
EMPTY = Catalogue()


@hookimpl
def nothing():
    return []


@pytest.fixture
def sslx(monkeypatch, tmp_path):
    """sslx(*arguments): exit status, standard output, standard error; with one plugin and a broken one installed."""
    plugin = ModuleType("theirs")
    code = """
from ssl_core import Dataset, Masking, hookimpl
class Comb(Masking):
    name = "comb"
    def __call__(self, batch, generator): ...
class Waves(Dataset):
    name, modality, aliases = "waves", "time-series", ("swell",)
    def __len__(self): return 0
    def __getitem__(self, index): ...
@hookimpl
def register_maskings(): return [Comb]
@hookimpl
def register_datasets(): return [Waves]
@hookimpl
def run_finished(folder, report): ...
"""
    exec(code, plugin.__dict__)
    later = SimpleNamespace(SSLX_API=">=99", register_maskings=nothing)

    def load(block=()):
        catalogue = Catalogue()
        for name, one in (("theirs:comb", plugin), ("other:later", later)):
            if name in block:
                catalogue.put_blocked(Origin(name, "3.1"))
            else:
                catalogue.add(Origin(name, "3.1"), one)
        return catalogue

    monkeypatch.setattr(plugins, "load", load)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        done = CliRunner().invoke(app.app, list(map(str, arguments)))
        return done.exit_code, done.stdout, done.stderr

    return call


# --- packages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["demo", "a-name-of-twentyeight-letter"])
def test_packages_are_complete_and_pass_ruff(kind, name, tmp_path):
    package = generate.make_package(kind, name, "mit", EMPTY)
    folder = generate.write_package(package, tmp_path)
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    module = f"sslx_{name.replace('-', '_')}"
    assert written >= {
        "pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/ci.yml",
        f"src/{module}/__init__.py", f"src/{module}/{kind}.py", f"tests/test_{module}.py",
    }  # fmt: skip
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT"
    for target in project["entry-points"]["sslx"].values():
        assert (folder / "src" / f"{target.replace('.', '/')}.py").is_file()
        assert 'SSLX_API = ">=2.0,<3"' in (folder / "src" / f"{target.replace('.', '/')}.py").read_text()
    assert "${{ matrix.python }}" in (folder / ".github/workflows/ci.yml").read_text()
    for path in folder.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")
    if shutil.which("ruff", path=str(Path(sys.executable).parent)):
        for command in (["check"], ["format", "--check"]):
            ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
            done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr


def test_packages_pass_their_own_tests(tmp_path):
    """All kinds in one process, which imports torch once."""
    folders = [generate.write_package(generate.make_package(k, f"trial-{k}", "mit", EMPTY), tmp_path) for k in KINDS]
    path = os.pathsep.join([*(str(one / "src") for one in folders), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
        + [str(one / "tests") for one in folders],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize(("licence", "first"), [("mit", "MIT License"), ("bsd-3-clause", "BSD 3-Clause License"),
                                                ("apache-2.0", "Apache License"), ("none", None)])  # fmt: skip
def test_licences(licence, first):
    texts = generate.render(generate.make_package("masking", "demo", licence, EMPTY))
    assert texts.get("LICENSE", "").strip().partition("\n")[0] == (first or "")
    assert ("license =" in texts["pyproject.toml"]) == (first is not None)


def test_a_class_never_has_the_name_of_its_base():
    assert generate.make_package("tokenizer", "grid", "mit", EMPTY).class_name("tokenizer") == "MyGridTokenizer"


def test_api_range():
    assert generate.api_range("1.2") == ">=1.2,<2"


# --- the commands ----------------------------------------------------------------------------------------------------


def test_new_prints_the_next_steps(sslx, tmp_path):
    code, out, err = sslx("new", "objective", "demo", "--out", tmp_path / "made")
    assert (code, err) == (0, "")
    assert (tmp_path / "made/sslx-demo/src/sslx_demo/objective.py").is_file()
    assert "sslx run --objective demo --modality speech" in out
    assert "Apache License" in (tmp_path / "made/sslx-demo/LICENSE").read_text()  # no terminal to prompt on


BAD = {
    "kind": (["objectiv", "demo"], "cannot write a new 'objectiv'; did you mean 'objective'?"),
    "capitals": (["objective", "Demo"], "'Demo' cannot be the name; use at most 28 lower-case letters"),
    "spaces": (["objective", "a b"], "'a b' cannot be the name"),
    "path": (["objective", "../demo"], "'../demo' cannot be the name"),
    "long": (["objective", "x" * 29], "cannot be the name; use at most 28"),
    "prefix": (["objective", "sslx-demo"], "leave out 'sslx-': the package of 'demo' is called 'sslx-demo' anyway"),
    "taken": (["masking", "comb"], "there is a masking 'comb' already, from theirs:comb 3.1; choose another name"),
    "alias taken": (["dataset", "swell"], "there is a data set 'time-series/swell' already, from theirs:comb 3.1"),
    "built-in command": (["command", "run"], "'run' is a command of sslx; choose another name"),
    "encoder": (["encoder", "Demo"], "'Demo' cannot be the name"),
    "licence": (["objective", "demo", "--licence", "gpl"], "there is no licence 'gpl'; known licences: apache-2.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_new_refuses_in_one_line(sslx, tmp_path, case):
    arguments, message = BAD[case]
    code, out, err = sslx("new", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_new_replaces_nothing(sslx, tmp_path):
    (tmp_path / "sslx-demo").mkdir()
    code, _, err = sslx("new", "objective", "demo")
    assert code == 1
    assert err == "error: sslx-demo exists already; choose another name or --out\n"
    (tmp_path / "file").touch()
    code, _, err = sslx("new", "objective", "demo", "--out", "file")
    assert (code, err.count("\n")) == (1, 1)
    assert list((tmp_path / "sslx-demo").iterdir()) == []


def test_a_name_may_be_taken_by_another_kind(sslx):
    assert sslx("new", "objective", "comb")[0] == 0


def test_plugins_lists_states_and_offers(sslx):
    code, out, err = sslx("plugins", "--json")
    assert (code, err) == (0, "")
    refusal = f"it is made for version '>=99' of the plugin interface, and this sslx has {API_VERSION}; "
    refusal += f"install a release of it that supports {API_VERSION}, or another sslx"
    comb = {
        "plugin": "comb", "state": "loaded", "reason": "", "offers": ["dataset time-series/waves", "masking comb"],
        "notices": ["run_finished"],
    }  # fmt: skip
    later = {"plugin": "later", "state": "set aside", "reason": refusal, "offers": [], "notices": []}
    assert json.loads(out) == [
        {"distribution": "other", "version": "3.1", "plugins": [later]},
        {"distribution": "theirs", "version": "3.1", "plugins": [comb]},
    ]
    table = sslx("plugins", "--block", "theirs:comb")[1]
    assert "theirs 3.1" in table
    assert "blocked" in table
    assert "waves" not in table
    assert "set aside: it is made for version '>=99'" in " ".join(table.split())


@pytest.mark.parametrize(
    ("version_range", "problem"),
    [
        (">=2.0,<3", None), (f"=={API_VERSION}", None), (">=1", None),
        ("<1", "it is made for version '<1' of the plugin interface, and this sslx has"),
        ("one", "its SSLX_API must be a range such as '>=2.0,<3', not 'one'"),
        (1.0, "its SSLX_API must be a range such as '>=2.0,<3', not 1.0"),
    ],
)  # fmt: skip
def test_versions_of_the_interface(version_range, problem):
    plugin = SimpleNamespace(SSLX_API=version_range, register_maskings=nothing)
    fine = SimpleNamespace(register_presets=nothing)
    catalogue = Catalogue.from_plugins({"a:one": plugin, "a:two": fine})
    assert [str(one).startswith(f"plugin 'a:one' was set aside: {problem}") for one in catalogue.set_aside] == (
        [True] if problem else []
    )
    assert catalogue.manager.get_plugin("a:two") is fine


# --- installed -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_objective_is_installed_run_compared_and_uninstalled(outside):
    """`sslx new`, pip install, its tests, run, compare beside metamae, pip uninstall: no trace."""
    fine = outside.fine
    tiny = [part for value in ("dataset.n_train=48", "dataset.n_test=24", "encoder.dim=32", "encoder.depth=1",
                               "encoder.heads=2", "train.batch_size=16") for part in ("--set", value)]  # fmt: skip
    before = fine("sslx", "plugins", "--json")
    fine("sslx", "new", "objective", "trial-one", "--licence", "mit")
    code, _, err = outside("pip", "install", "--quiet", "./sslx-trial-one")
    if code and importlib.util.find_spec("hatchling") is None:
        pytest.skip(f"hatchling is not installed and cannot be fetched: {err[-300:]}")
    assert code == 0, err
    fine("pytest", "-q", "-p", "no:cacheprovider", "sslx-trial-one/tests")
    assert "objective trial-one" in fine("sslx", "plugins")
    fine("sslx", "run", "--objective", "trial-one", "--modality", "speech", "--steps", 2, "--out", "run", *tiny)
    compared = fine(
        "sslx", "compare", "--objectives", "metamae,trial-one", "--modality", "speech", "--steps", 2, "--seeds", 1,
        "--out", "both", *tiny,
    )  # fmt: skip
    assert "trial-one" in compared
    assert "metamae" in compared
    fine("pip", "uninstall", "--yes", "--quiet", "sslx-trial-one")
    assert fine("sslx", "plugins", "--json") == before
    for arguments in (("eval", "run"), ("run", "--resume", "--out", "run")):
        code, _, err = outside("sslx", *arguments)
        assert code == 1
        assert err.splitlines()[-1] == (
            "error: run was trained with objective 'trial-one' of sslx-trial-one:objectives.trial-one 0.1.0, which is "
            "not installed; pip install sslx-trial-one==0.1.0"
        )


@pytest.mark.release
def test_encoder_probe_and_command_are_installed_and_run(outside):
    """`sslx new`, pip install, its tests, `sslx check`, and the first command that `sslx new` prints, in short."""
    fine = outside.fine
    tiny = [part for value in ("dataset.n_train=48", "dataset.n_test=24", "encoder.dim=32", "encoder.depth=1",
                               "encoder.heads=2", "train.batch_size=16") for part in ("--set", value)]  # fmt: skip
    kinds = ("encoder", "probe", "command")
    folders = [f"./sslx-trial-{kind}" for kind in kinds]
    for kind in kinds:
        fine("sslx", "new", kind, f"trial-{kind}", "--licence", "mit")
    code, _, err = outside("pip", "install", "--quiet", *folders)
    if code and importlib.util.find_spec("hatchling") is None:
        pytest.skip(f"hatchling is not installed and cannot be fetched: {err[-300:]}")
    assert code == 0, err
    fine("pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *(f"{one}/tests" for one in folders))
    plugins = fine("sslx", "plugins")
    for kind in kinds:
        assert f"{kind} trial-{kind}" in plugins
    assert "0 failed" in fine("sslx", "check", "trial-probe")
    assert "trial-command" in fine("sslx", "--help")
    assert "no score of probe 'linear' in runs" in fine("sslx", "trial-command")
    fine(
        "sslx", "run", "--objective", "mae", "--modality", "speech", "--steps", 2, "--out", "runs/one",
        "--set", "encoder.name=trial-encoder", "--set", 'evaluate.probes=["linear", "trial-probe"]', *tiny,
    )  # fmt: skip
    assert "one  mae  accuracy  " in fine("sslx", "trial-command", "--probe", "trial-probe")
