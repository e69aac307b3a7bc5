"""What the key of a cache knows of the code: everything that a plugin's class imports from its own package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ssl_core.contracts import Dataset
from ssl_core.pipeline.cache import preprocess_dataset
from ssl_core.training.accel.compiled_step import code_of
from ssl_core.utils.console import Console
from ssl_core.utils.source_digest import source_digest, source_files

pytestmark = pytest.mark.fast

DATA = """
import numpy as np

from ssl_core import Continuous, Dataset, Options
from digest_kit import text
from digest_kit.readers.wave import rate
from ..helpers import scale as scaling
from .base import Base


class Data(Base):
    modality, name, task = "toy", "digest", None
    fields = {"x": Continuous(2, (16,))}

    def __init__(self, options, split):
        self.options, self.split = options, split

    def __len__(self):
        from digest_kit.lazy import length
        return length()

    def __getitem__(self, index):
        return {"inputs": {"x": np.full((2, 16), scaling.factor(), dtype=np.float32)}, "label": None}

    def fingerprint(self):
        return "same"
"""
BASE = """
from ssl_core import Dataset
from digest_kit.mixins import Mixin


class Base(Mixin, Dataset): ...
"""
FILES = {
    "__init__.py": "from digest_kit.unrelated import nothing\n",
    "text.py": "",
    "lazy.py": "def length(): return 4\n",
    "unrelated.py": "nothing = None\n",
    "sets/__init__.py": "",
    "sets/data.py": DATA,
    "sets/base.py": BASE,
    "sets/beside.py": "",
    "mixins/__init__.py": "from ._impl import Mixin\n",
    "mixins/_impl.py": "class Mixin: ...\n",
    "helpers/__init__.py": "",
    "helpers/scale.py": "import digest_kit.helpers.constants as constants\ndef factor(): return constants.FACTOR\n",
    "helpers/constants.py": "FACTOR = 1\n",
    "readers/wave.py": "rate = 8000\n",
    "readers/other.py": "",
}
RELEVANT = {
    "text.py", "lazy.py", "sets/data.py", "sets/base.py", "mixins/__init__.py", "mixins/_impl.py", "helpers/scale.py",
    "helpers/constants.py", "readers/wave.py",
}  # fmt: skip
UNRELATED = {"unrelated.py", "sets/beside.py", "readers/other.py", "__init__.py"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a data set in a sub-package and helpers in others."""
    folder = tmp_path / "site" / "digest_kit"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder.parent)
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "digest_kit"]:
        del sys.modules[name]


@pytest.fixture
def data_class(package) -> type[Dataset]:
    return importlib.import_module("digest_kit.sets.data").Data


def own_files(folder: Path, cls: type) -> set[str]:
    return {
        Path(file).relative_to(folder).as_posix() for file in source_files([cls]) if Path(file).is_relative_to(folder)
    }


def test_files_are_those_that_the_module_imports(package, data_class):
    assert own_files(package, data_class) == RELEVANT


def test_base_classes_of_other_packages_are_included_without_their_imports(data_class):
    core = [file for file in source_files([data_class]) if "digest_kit" not in file]
    assert [Path(file).parts[-2:] for file in core] == [("ssl_core", "contracts.py")]


@pytest.mark.parametrize("changed", sorted(RELEVANT | UNRELATED))
def test_change_of_a_file_changes_the_keys_if_it_is_relevant(package, data_class, toy, tmp_path, changed):
    def keys():
        dataset = data_class(data_class.Options(), "train")
        tokenizer = toy.Tokenizer(toy.Tokenizer.Options(), dataset.fields, 16)
        preprocess_dataset(dataset, tokenizer, tmp_path, Console())
        return {path.name for path in (tmp_path / "prepared").iterdir()}, code_of([data_class])

    prepared, compiled = keys()
    with (package / changed).open("a") as file:
        file.write("\n# changed\n")
    prepared_again, compiled_again = keys()
    assert len(prepared_again - prepared) == (changed in RELEVANT)
    assert (compiled_again != compiled) is (changed in RELEVANT)


def test_single_module_is_its_only_file(tmp_path, monkeypatch):
    (tmp_path / "digest_single.py").write_text("import json\nfrom ssl_core import Dataset\nclass Data(Dataset): ...\n")
    (tmp_path / "json.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    cls = importlib.import_module("digest_single").Data
    assert own_files(tmp_path, cls) == {"digest_single.py"}


def test_class_without_a_file_is_left_out():
    space: dict[str, type] = {}
    exec("from ssl_core import Dataset\nclass Data(Dataset): ...", {"__name__": "digest_shell"}, space)
    assert [Path(file).name for file in source_files([space["Data"]])] == ["contracts.py"]


def test_digest_depends_on_the_content_alone(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("x = 1")
    assert source_digest(str(tmp_path / "a.py")) == source_digest(str(tmp_path / "b.py"))
    (tmp_path / "b.py").write_text("x = 2")
    assert source_digest(str(tmp_path / "a.py")) != source_digest(str(tmp_path / "b.py"))
