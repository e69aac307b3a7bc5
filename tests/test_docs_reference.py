"""The generated pages are up to date, and the tutorials contain the packages of docs/tutorial."""

from __future__ import annotations

import importlib.util
import re
import types
from pathlib import Path

import pytest

import ssl_core
from ssl_core import Dataset, Masking, Objective, Probe, Tokenizer, hookspecs, plugins, testing
from ssl_core.nn import Encoder, TransformerEncoder
from ssl_core.plugins import Catalogue
from ssl_core.testing.layouts import CASES

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


OPTION_PAGES = {
    **{kind: f"options/{kind}s.md" for kind in plugins.KINDS if kind != "command"},
    "engine": "options/engine.md",
    "index": "options/index.md",
}


@pytest.mark.parametrize("page", ["hooks.md", "checks.md", "reference.md", "presets.md", *OPTION_PAGES.values()])
def test_page_is_up_to_date(reference, page):
    assert reference.PAGES[page]() == (DOCS / page).read_text("utf-8"), "run python docs/make_reference.py"


def test_every_generated_page_is_checked_and_in_the_navigation(reference):
    navigation = (DOCS.parent / "mkdocs.yml").read_text("utf-8")
    assert set(reference.PAGES) == {"hooks.md", "checks.md", "reference.md", "presets.md", *OPTION_PAGES.values()}
    for page in reference.PAGES:
        assert re.search(rf": {re.escape(page)}$", navigation, re.MULTILINE), page


def rows_below(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading; escaped bars are part of a cell."""
    text = (DOCS / page).read_text("utf-8")
    assert f"\n{heading}\n" in text, f"{page} has no {heading!r}"
    lines = text.partition(f"\n{heading}\n")[2].partition("\n#")[0].splitlines()
    table = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in lines if line.startswith("| ")]
    return [cells for cells in table if cells[0] != "option"]


@pytest.mark.parametrize("kind", [kind for kind in plugins.KINDS if kind not in ("preset", "command")])
def test_option_page_has_every_option_of_each_shipped_plugin(kind):
    """Compared with the classes, not with the functions that write the page."""
    page = OPTION_PAGES[kind]
    headings = re.findall(r"^#{2,3} (.+)$", (DOCS / page).read_text("utf-8"), re.MULTILINE)
    shipped = [entry for entry in plugins.load().entries(kind) if entry.origin.plugin.startswith("sslx:")]
    assert shipped
    for entry in shipped:
        (heading,) = [one for one in headings if entry.full_name in one.split(", ")]
        rows = rows_below(page, f"{'###' if kind == 'dataset' else '##'} {heading}")
        section = f"evaluate.probe_options.{entry.name}" if kind == "probe" else kind
        fields = entry.value.Options.model_fields
        assert [row[0] for row in rows] == [f"`{section}.{name}`" for name in fields], entry.full_name
        for row, (name, info) in zip(rows, fields.items(), strict=True):
            assert all(row[1:]), f"{entry.full_name}: a cell of {name} is empty"
            if name in getattr(entry.value, "evaluate_options", ()):
                assert row[2] == f"`evaluate.{name}`"
            elif info.is_required():
                assert row[2] == "required"
            else:
                assert row[2].strip("`") == repr(info.get_default(call_default_factory=True)).replace("|", "\\|")


def test_option_page_of_the_engine_has_every_section():
    from ssl_core.config.resolve import ENGINE_SECTIONS
    from ssl_core.training.options import FinetuneOptions

    sections = {**ENGINE_SECTIONS, "finetune": FinetuneOptions}
    sections.pop("encoder")  # on the page of encoders
    for section, options in sections.items():
        rows = rows_below("options/engine.md", f"## {section}")
        assert [row[0] for row in rows] == [f"`{section}.{name}`" for name in options.model_fields]


def test_option_page_of_presets_has_every_value():
    for entry in plugins.load().entries("preset"):
        if not entry.origin.plugin.startswith("sslx:"):
            continue
        rows = rows_below("options/presets.md", f"## {entry.name}")
        for path, value in entry.value.values.items():
            values = [row[1] for row in rows if row[0] == f"`{path}`"]
            assert any(f"`{value!r}`" in cell for cell in values), f"{entry.name}: {path}"
        assert all(all(row) for row in rows)


def test_cells_show_what_markdown_would_interpret(reference):
    assert reference.cell("a | b < c * d [e] `f|g <h>`") == r"a \| b &lt; c \* d \[e\] `f\|g <h>`"


def test_checks_page_has_every_check_and_the_sizes(reference):
    page = reference.checks_page()
    for plugin in (Objective, Tokenizer, Dataset, Masking, TransformerEncoder, plugins.load().probe("knn")):
        for check in testing.checks(plugin, **({} if plugin is not Tokenizer else {"fields": {}, "samples": []})):
            assert f"| `{check.spec.name}` |" in page
    for case in CASES:
        assert f"| `{case}` |" in page
    assert "width 32, depth 2, 4 heads" in page
    assert "8 rows" in page


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
    assert len(hooks) == 13
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
    methods = dict.fromkeys(("forward", "fit", "__len__", "__getitem__", "__call__"), lambda self, *a: None)
    return type(names["name"].capitalize(), (base,), {"__doc__": "For an example.", **methods, **names})


def test_the_examples_work(tmp_path, capsys):
    """Each example is a plugin that loads, offers one thing, and receives notices."""
    names = {
        "Denoise": of(Objective, name="denoise"),
        "Video": of(Tokenizer, name="video"),
        "MovingShapes": of(Dataset, name="synthetic", modality="video"),
        "Comb": of(Masking, name="comb"),
        "ParallelEncoder": of(Encoder, name="parallel"),
        "NearestCentroid": of(Probe, name="centroid"),
    }
    hooks = examples()
    assert len(hooks) == 13
    modules = {}
    for name, code in hooks.items():
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
    failures += catalogue.notify("run_finished", folder=tmp_path, report=types.SimpleNamespace(scores=(1, 2)))
    failures += catalogue.notify("run_failed", folder=tmp_path, error=ValueError("no data"))
    report = types.SimpleNamespace(dataset="speech/files", scores=(1, 2))
    failures += catalogue.notify("eval_finished", folder=tmp_path, report=report)
    assert failures == []
    assert capsys.readouterr().out.splitlines() == [
        f"denoise on video goes to {tmp_path}",
        "step 10: loss 0.500",
        f"{tmp_path} stopped: no data",
        f"speech/files: 2 scores in {tmp_path}",
    ]
    assert (tmp_path / "done.txt").read_text() == "2 scores"


def test_examples_use_real_attributes_of_a_configuration_and_a_report():
    from ssl_core.config.schema import RunConfig
    from ssl_core.report import Report

    assert {"objective", "modality"} <= set(RunConfig.model_fields)
    assert "scores" in Report.model_fields
    assert hookspecs.run_started.__annotations__ == {"config": "RunConfig", "folder": "Path", "return": "None"}


# --- the tutorials ---------------------------------------------------------------------------------------------------


def put_together(page: Path) -> dict[str, str]:
    """The files that the titled blocks of a page make, one block after the other."""
    files: dict[str, str] = {}
    for block in BLOCK.finditer(page.read_text("utf-8")):
        file, text = block["file"], block["text"]
        if file in files:  # as a formatter sets them apart: two empty lines before what stands at the margin
            wide = file.endswith(".py") and not text.startswith(" ")
            text = files[file] + "\n" * (1 + wide) + text
        files[file] = text
    return files


@pytest.mark.parametrize("page", TUTORIALS)
def test_tutorial_grows_the_package_letter_by_letter(page):
    folder = DOCS / "tutorial" / TUTORIALS[page]
    made = put_together(DOCS / page)
    for file, text in made.items():
        assert text == (folder / file).read_text("utf-8"), f"{page} and {file} of {folder.name} differ"
    ignored = {"LICENSE"}
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    kept = {str(path) for path in files if not any(part in ("__pycache__", "dist", "build") for part in path.parts)}
    assert set(made) == {file for file in kept if not file.startswith(".")} - ignored


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
