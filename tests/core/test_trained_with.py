"""What is said when a run's plugins are missing or of another version; by hand, on a checkpoint's state.json alone."""

from __future__ import annotations

import json
from types import ModuleType, SimpleNamespace

import pytest

from ssl_core.errors import ConfigError
from ssl_core.plugins import Catalogue, Origin
from ssl_core.runs.resume import PARTS, check_plugins
from ssl_core.training import checkpoint

CODE = """
from ssl_core import Dataset, Masking, hookimpl
class Comb(Masking):
    name = "comb"
    def __call__(self, batch, generator): ...
class Waves(Dataset):
    name, modality, aliases = "waves", "sea", ("swell",)
    def __len__(self): return 0
    def __getitem__(self, index): ...
@hookimpl
def register_maskings(): return [Comb]
@hookimpl
def register_datasets(): return [Waves]
"""
SAVED = SimpleNamespace(
    objective=SimpleNamespace(name="unrecorded"), maskings={"mask": SimpleNamespace(name="comb")}, modality="sea",
    tokenizer=SimpleNamespace(name="unrecorded"), dataset=SimpleNamespace(name="swell"),
    encoder=SimpleNamespace(name="unrecorded"),
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run folder whose checkpoint was made with version 1.2 of a plugin."""
    folder = tmp_path / checkpoint.FOLDER / "step-00000007"
    folder.mkdir(parents=True)
    origins = {"maskings": {"comb": "a:b 1.2"}, "datasets": {"sea/waves": "a:b 1.2", "sea/swell": "a:b 1.2"}}
    (folder / "state.json").write_text(json.dumps({"format": checkpoint.FORMAT, "step": 7, "origins": origins}))
    return tmp_path


def check(folder, catalogue, parts=PARTS):
    return check_plugins(folder, SAVED, catalogue, checkpoint.latest(folder), parts)


def catalogue(version: str, plugin: str = "a:b") -> Catalogue:
    module = ModuleType("theirs")
    exec(CODE, module.__dict__)
    made = Catalogue()
    made.add(Origin(plugin, version), module)
    return made


def test_the_same_version_needs_no_word(run):
    assert check(run, catalogue("1.2")) == []


def test_another_version_is_said_in_one_line(run):
    assert check(run, catalogue("1.3")) == [
        f"warning: {run} was trained with masking 'comb' of a:b 1.2 (now a:b 1.3), "
        "data set 'waves' of a:b 1.2 (now a:b 1.3); results may differ"
    ]
    assert "data set" not in check(run, catalogue("1.3"), PARTS[:-1])[0]


def test_another_plugin_with_the_same_name_is_said(run):
    assert "masking 'comb' of a:b 1.2 (now other:c 1.2)" in check(run, catalogue("1.2", "other:c"))[0]


def gone() -> Catalogue:
    return Catalogue()


def blocked() -> Catalogue:
    made = Catalogue()
    made.put_blocked(Origin("a:b", "1.2"))
    return made


def broken() -> Catalogue:
    made = Catalogue()
    made.add(Origin("a:b", "1.2"), SimpleNamespace())
    return made


def without() -> Catalogue:
    module = ModuleType("theirs")
    exec(CODE.replace('"comb"', '"brush"'), module.__dict__)
    made = Catalogue()
    made.add(Origin("a:b", "2.0"), module)
    return made


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (gone, "is not installed; pip install a==1.2"),
        (blocked, "is blocked; leave out --block and SSLX_BLOCK"),
        (broken, "was set aside: it has no hook; mark a function such as register_objectives with @hookimpl"),
        (without, "is not offered by a:b 2.0 any more; pip install a==1.2"),
    ],
)
def test_a_missing_plugin_stops_it_in_one_line(run, now, why):
    with pytest.raises(ConfigError) as caught:
        check(run, now())
    assert str(caught.value) == f"{run} was trained with masking 'comb' of a:b 1.2, which {why}"


def test_without_a_checkpoint_nothing_is_known(tmp_path):
    assert check(tmp_path, gone()) == []
