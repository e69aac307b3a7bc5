"""`sslx check`: by name and by path, with expected failures, as text and as JSON."""

import json
import sys
from pathlib import Path

import pytest

from ssl_core import plugins
from ssl_core.plugins.source import temporarily_installed

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial"

HALF = '''
"""A masking in a file."""
import torch
from ssl_core import Mask, Masking, hookimpl


class Half(Masking):
    """Hide half of the tokens."""

    name = "half-in-a-file"

    def __call__(self, batch, generator, geometry=None):
        order = torch.rand(batch, self.layout.length, generator=generator).argsort(dim=1)
        mask = Mask.from_order(order, self.layout.length - max(1, self.layout.length // 2), geometry)
        return Mask(mask.visible, mask.hidden)


@hookimpl
def register_maskings():
    return [Half]
'''
UNSORTED = HALF.replace("Mask(mask.visible,", "Mask(mask.visible.flip(1),")
RAISES = HALF.replace(
    "    def __call__",
    """    def __init__(self, options, layout):
        raise RuntimeError("no disk")

    def __call__""",
)


@pytest.fixture(autouse=True)
def fresh_modules(monkeypatch):
    """Each test imports its own file, though several have one name."""
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith(("half", "noise_", "sslx_")):
            del sys.modules[name]


@pytest.fixture
def half(tmp_path):
    path = tmp_path / "half.py"
    path.write_text(HALF)
    return path


@pytest.fixture
def raising(tmp_path):
    path = tmp_path / "half_raising.py"
    path.write_text(RAISES)
    return path


@pytest.fixture
def unsorted(tmp_path):
    path = tmp_path / "half_unsorted.py"
    path.write_text(UNSORTED)
    return path


def test_a_module_that_is_not_installed(quick, half):
    before = list(sys.path)
    code, out, err = quick("check", str(half))
    assert code == 0, err
    assert "masking half-in-a-file" in out
    assert "0 failed" in out
    assert sys.path == before


def test_failure_names_the_file(quick, unsorted):
    code, out, _ = quick("check", str(unsorted))
    assert code == 1
    assert "fails check 'visible_position_ids_ascend'" in out
    assert "half_unsorted.py:" in out


def test_xfail_passes_and_xpass_fails(quick, half):
    bare = half.with_name("half_bare.py")
    bare.write_text(HALF.replace('"""Hide half of the tokens."""', ""))
    code, out, _ = quick("check", str(bare), "--xfail", "class_is_described=described in the next version")
    assert code == 0
    assert "described in the next version" in out
    assert "0 failed" in out
    assert "1 failed as expected" in out
    code, out, _ = quick(
        "check", str(half), "--xfail", "visible_position_ids_ascend-discrete=sorted in the next version"
    )
    assert code == 1
    assert "visible_position_ids_ascend-discrete passes; remove it from --xfail" in out
    assert "1 failed" in out


def test_json_has_every_check(quick, unsorted):
    code, out, _ = quick("check", str(unsorted), "--json", "--xfail", "visible_position_ids_ascend-discrete=why")
    assert code == 1
    (entry,) = json.loads(out)
    assert (entry["kind"], entry["name"], entry["plugin"]) == (
        "masking", "half-in-a-file", "half-unsorted:half_unsorted",
    )  # fmt: skip
    outcomes = {row["name"]: row["outcome"] for row in entry["checks"]}
    assert outcomes["visible_position_ids_ascend-discrete"] == "xfail"
    assert outcomes["visible_position_ids_ascend-continuous_2d"] == "fail"
    assert outcomes["options_survive_json"] == "pass"
    failed = next(row for row in entry["checks"] if row["name"] == "visible_position_ids_ascend-continuous_2d")
    assert failed["check"] == "visible_position_ids_ascend"
    assert failed["case"] == "continuous_2d"
    assert failed["expected"] in failed["message"]
    assert all(row["message"] == "" for row in entry["checks"] if row["outcome"] == "pass")


def test_common_failure_is_printed_once(quick, raising):
    code, out, _ = quick("check", str(raising))
    assert code == 1
    assert out.count("RuntimeError: no disk") == 1
    assert out.count("got: ") == 1
    (line,) = [line for line in out.splitlines() if "the same failure in" in line]
    assert line == (
        "  the same failure in 64 checks: mask_has_shapes_and_dtypes-continuous_1d, "
        "visible_and_hidden_are_complementary-continuous_1d, every_row_hides_the_same_number-continuous_1d and 61 more"
    )
    assert out.splitlines()[-1] == "4 passed, 64 failed"


def test_json_has_every_check_of_a_common_failure(quick, raising):
    code, out, _ = quick("check", str(raising), "--json")
    assert code == 1
    (masking,) = json.loads(out)
    failed = [row for row in masking["checks"] if row["outcome"] == "fail"]
    assert len(failed) == 64
    assert all("RuntimeError: no disk" in row["message"] for row in failed)


@pytest.mark.parametrize(("name", "kind"), [("transformer", "encoder"), ("knn", "probe")])
def test_encoders_and_probes_are_checked_by_name(quick, name, kind):
    code, out, err = quick("check", name)
    assert code == 0, err
    assert out.startswith(f"{kind} {name}\n")
    assert out.splitlines()[-1].endswith(" passed, 0 failed")


def test_a_project_folder_offers_all_its_entry_points(quick, tmp_path):
    folder = tmp_path / "sslx-halves"
    for part in ("one", "two"):
        source = folder / "src" / f"half_{part}"
        source.mkdir(parents=True)
        (source / "__init__.py").write_text("")
        (source / "parts.py").write_text(f"NAME = 'half-{part}'\n")
        text = HALF.replace('"half-in-a-file"', "NAME").replace("import torch", "import torch\nfrom .parts import NAME")
        (source / "masking.py").write_text(text)
    (folder / "pyproject.toml").write_text(
        "[project]\nname = 'sslx-halves'\nversion = '1.2'\n"
        "[project.entry-points.sslx]\none = 'half_one.masking'\n'maskings.two' = 'half_two.masking'\n"
    )
    code, out, err = quick("check", str(folder), "--json")
    assert code == 0, err
    entry = json.loads(out)
    assert [(one["name"], one["plugin"], one["version"]) for one in entry] == [
        ("half-two", "sslx-halves:maskings.two", "1.2"),
        ("half-one", "sslx-halves:one", "1.2"),
    ]
    code, out, err = quick("check", str(folder / "src" / "half_one" / "masking.py"))  # one of them, by its full name
    assert code == 0, err
    assert "masking half-one" in out


def test_tutorial_folder_passes_without_installation(quick):
    code, out, err = quick("check", str(TUTORIAL / "sslx-denoise"))
    assert code == 0, err
    assert "objective denoise" in out


def test_options_are_passed_to_the_classes_that_have_them(quick):
    assert quick("check", "random", "--set", "ratio=0.5")[0] == 0
    code, _, err = quick("check", "random", "--set", "ratoi=0.5")
    assert code == 1
    assert "no option 'ratoi'; did you mean 'ratio'" in err


@pytest.mark.parametrize(
    ("write", "argument", "message"),
    [
        ({}, "nowhere/half.py", "there is no nowhere/half.py"),
        ({"a.txt": "x"}, "./a.txt", "a.txt is not a Python module"),
        ({"a/x.txt": ""}, "./a", "a has no pyproject.toml; give a plugin's project folder or one .py file"),
        (
            {"a/pyproject.toml": "[project]\nname = 'a'\n"},
            "./a",
            "names no plugin; add one under [project.entry-points",
        ),
        ({"a/pyproject.toml": "[project"}, "./a", "pyproject.toml cannot be read"),
        ({"a/pyproject.toml": "project = 3"}, "./a", "pyproject.toml cannot be read"),
        ({"half-a.py": HALF}, "half-a.py", "'half-a' of"),
        ({"half_b.py": "1 / 0\n"}, "half_b.py", "it cannot be imported: ZeroDivisionError"),
        ({"half_c.py": "x = 1\n"}, "half_c.py", "it has no hook"),
        (
            {"half_d.py": "from ssl_core import hookimpl\n@hookimpl\ndef register_maskings():\n    return []\n"},
            "half_d.py",
            "half_d.py offers no objective, tokenizer, data set, masking, encoder or probe",
        ),
        ({"half_e.py": HALF.replace("half-in-a-file", "random")}, "half_e.py", "'random' is offered twice"),
        ({"half": "x"}, "half", "for the path, write ./half"),
    ],
)
def test_what_is_no_plugin_is_refused_in_one_line(quick, tmp_path, monkeypatch, write, argument, message):
    for name, text in write.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    code, _, err = quick("check", argument)
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err


@pytest.mark.parametrize("text", ["loss_falls", "loss_falls=", "=why"])
def test_xfail_needs_a_reason(quick, text):
    code, _, err = quick("check", "random", "--xfail", text)
    assert code == 1
    assert "give the check and the reason" in err


def test_xfail_that_names_no_check_is_refused(quick):
    code, _, err = quick("check", "random", "--xfail", "visible_position_ids_acsend=why")
    assert code == 1
    assert "no check 'visible_position_ids_acsend'; did you mean 'visible_position_ids_ascend'" in err


def test_a_folder_stands_before_an_installed_plugin_of_its_name(tmp_path):
    folders = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"half_v{number}.py").write_text(HALF)
        (folder / "pyproject.toml").write_text(
            f"[project]\nname = 'sslx-half'\nversion = '{number}'\n"
            f"[project.entry-points.sslx]\none = 'half_v{number}'\n"
        )
        folders.append(folder)
    with temporarily_installed(folders[0]), temporarily_installed(folders[1]):
        assert str(plugins.load().get("masking", "half-in-a-file").origin) == "sslx-half:one 2"
    assert plugins.load().find("masking", "half-in-a-file") is None
