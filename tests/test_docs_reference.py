"""The generated pages are up to date, and the tutorials are the packages that they describe."""

from __future__ import annotations

import importlib.util
import re
import types
from pathlib import Path

import pytest

import ssl_core
from ssl_core import Dataset, Masking, Objective, Probe, Tokenizer, hookspecs, plugins
from ssl_core.nn import Encoder
from ssl_core.plugins import Catalogue

HOOKS = 13
DOCS = Path(__file__).resolve().parents[1] / "docs"
TUTORIALS = {"writing-an-objective.md": "sslx-denoise", "writing-a-tokenizer.md": "sslx-video"}
BLOCK = re.compile(r'^(?P<fence>`{3,})\w+ title="(?P<file>[^"]+)"\n(?P<text>.*?)^(?P=fence)$', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def reference():
    """docs/make_reference.py, which is no package."""
    spec = importlib.util.spec_from_file_location("sslx_make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["hooks.md", "promises.md", "reference.md"])
def test_page_is_up_to_date(reference, page):
    assert reference.PAGES[page]() == (DOCS / page).read_text("utf-8"), "run python docs/make_reference.py"


def test_reference_has_every_public_name(reference):
    named = re.findall(r"^::: (\S+)$", reference.reference_page(), re.MULTILINE)
    assert len(named) == len(set(named))
    for name in set(ssl_core.__all__) - {"__version__"}:
        assert any(one.endswith(f".{name}") for one in named), name
    for name in ("ssl_core.nn.heads.ReconstructionHead", "ssl_core.tokenizers.GridTokenizer",
                 "ssl_core.testing.parametrize"):  # fmt: skip
        assert name in named
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_every_hook_says_when_it_is_called_and_has_an_example(reference):
    hooks = reference.hooks()
    assert len(hooks) == HOOKS
    for name, function in hooks.items():
        parts = reference.parts(function)
        assert parts["text"].endswith(".")
        assert parts["Called"].endswith(".")
        assert f"def {name}(" in parts["Example"]


def examples():
    """The python blocks of docs/hooks.md by the name of their hook."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "hooks.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return {re.search(r"^def (\w+)", code, re.MULTILINE)[1]: code for code in blocks}


def of(base, **names):
    """A small class of one of the contracts."""
    methods = dict.fromkeys(("forward", "__len__", "__getitem__", "__call__", "fit"), lambda self, *a: None)
    return type(names["name"].title().replace("-", ""), (base,), {"__doc__": "For an example.", **methods, **names})


def test_the_examples_work(tmp_path, capsys):
    """Each is a plugin that loads, offers what it says, and gets notices."""
    names = {
        "Denoise": of(Objective, name="denoise"),
        "Video": of(Tokenizer, name="video"),
        "MovingShapes": of(Dataset, name="synthetic", modality="video"),
        "Comb": of(Masking, name="comb"),
        "ParallelEncoder": of(Encoder, name="parallel"),
        "NearestCentroid": of(Probe, name="nearest-centroid"),
    }
    blocks = examples()
    assert len(blocks) == HOOKS
    modules = {}
    for name, code in blocks.items():
        module = types.ModuleType(f"example_{name}")
        module.__dict__.update(names)
        exec(code, module.__dict__)
        modules[f"docs:{name}"] = module
    catalogue = Catalogue.from_plugins(modules)
    assert catalogue.problems == []
    for kind in plugins.KINDS:
        assert len(catalogue.entries(kind)) == 1, kind
    config = types.SimpleNamespace(objective=types.SimpleNamespace(name="denoise"), modality="video")
    failures = catalogue.notify("run_started", config=config, folder=tmp_path)
    failures += catalogue.notify("metrics_logged", folder=tmp_path, step=10, metrics={"train/loss": 0.5})
    report = types.SimpleNamespace(scores=(1, 2), dataset="synthetic")
    failures += catalogue.notify("run_finished", folder=tmp_path, report=report)
    failures += catalogue.notify("run_failed", folder=tmp_path, error=MemoryError("no memory"))
    failures += catalogue.notify("eval_finished", folder=tmp_path, report=report)
    assert failures == []
    assert capsys.readouterr().out.splitlines() == [
        f"denoise on video goes to {tmp_path}",
        "step 10: loss 0.500",
        f"{tmp_path} stopped: no memory",
        f"synthetic: 2 scores in {tmp_path}",
    ]
    assert (tmp_path / "done.txt").read_text() == "2 scores"


def test_examples_use_real_attributes_of_a_configuration_and_a_report():
    from ssl_core.config.schema import RunConfig
    from ssl_core.report import Report

    assert {"objective", "modality"} <= set(RunConfig.model_fields)
    assert {"scores", "dataset"} <= set(Report.model_fields)
    assert hookspecs.run_started.__annotations__ == {"config": "RunConfig", "folder": "Path", "return": "None"}


# --- the tutorials ---------------------------------------------------------------------------------------------------


def put_together(page: Path) -> dict[str, str]:
    """The files that the titled blocks of a page make, joined in order."""
    files: dict[str, str] = {}
    for block in BLOCK.finditer(page.read_text("utf-8")):
        file, text = block["file"], block["text"]
        if file in files:  # as a formatter separates them: two empty lines before top-level code
            top_level = file.endswith(".py") and not text.startswith(" ")
            text = files[file] + "\n" * (1 + top_level) + text
        files[file] = text
    return files


@pytest.mark.parametrize("page", TUTORIALS)
def test_tutorial_equals_the_files_of_its_package(page):
    folder = DOCS / "tutorial" / TUTORIALS[page]
    blocks = put_together(DOCS / page)
    for file, text in blocks.items():
        assert text == (folder / file).read_text("utf-8"), f"{page} and {file} of {folder.name} differ"
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    files = {str(path) for path in paths if not {"__pycache__", "dist", "build"} & set(path.parts)}
    assert set(blocks) == {file for file in files if not file.startswith(".")} - {"LICENSE"}


@pytest.mark.parametrize("folder", TUTORIALS.values())
def test_tutorial_has_the_licence(folder):
    own = (DOCS / "tutorial" / folder / "LICENSE").read_text("utf-8")
    assert own == (DOCS.parent / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize("kind", ["objective", "tokenizer"])
def test_tutorial_has_the_files_that_sslx_new_writes(kind):
    from ssl_core.scaffold import generate

    name = {"objective": "denoise", "tokenizer": "video"}[kind]
    written = generate.render(generate.make_package(kind, name, "apache-2.0", Catalogue()))
    folder = DOCS / "tutorial" / f"sslx-{name}"
    missing = {file for file in written if not (folder / file).is_file()}
    assert missing == {".gitignore", ".github/workflows/ci.yml"}  # the repository has its own
