"""The folder of a run: nobody shares it, nothing in it is lost, and an evaluation does not pass for its report."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from ssl_core.config.resolve import resolve
from ssl_core.errors import ConfigError
from ssl_core.plugins import load
from ssl_core.runs import run_dir
from ssl_core.runs.run_dir import create_run_dir, default_folder, lock_run_dir, place_of_evaluation

OF_A_RUN = json.dumps({"objective": {}, "modality": "text", "train": {}})


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run_dir, "PATIENCE", 0.3)


@pytest.fixture
def running(tmp_path):
    """A run folder in which a run is at work."""
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "config.json").write_text(OF_A_RUN)
    (folder / "checkpoint").write_text("precious")
    with lock_run_dir(folder):
        yield folder


def test_runs_begun_in_the_same_second_have_folders_of_their_own(tmp_path):
    config, _ = resolve(load(), {"objective.name": "mae", "modality": "speech"})
    folders = [default_folder(config, tmp_path / "runs") for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.is_dir() for folder in folders)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--out"):
        default_folder(config, tmp_path / "file")


def test_a_run_at_work_is_not_overwritten(running, impatient):
    with pytest.raises(ConfigError, match="another run is at work"), create_run_dir(running, overwrite=True):
        pass
    assert (running / "checkpoint").read_text() == "precious"


def test_what_a_run_left_meanwhile_is_not_taken_for_empty(tmp_path, monkeypatch):
    """One that waits for the lock looks again once it has it."""
    folder = tmp_path / "r"
    folder.mkdir()
    monkeypatch.setattr(run_dir, "PATIENCE", 20.0)
    entered, refused = threading.Event(), []

    def second() -> None:
        try:
            with create_run_dir(folder):
                entered.set()
        except ConfigError as error:
            refused.append(str(error))

    with create_run_dir(folder):
        other = threading.Thread(target=second)
        other.start()
        assert not entered.wait(0.3)
        (folder / "config.json").write_text("{}")
    other.join(30)
    assert not entered.is_set()
    assert "is not empty" in refused[0]


def test_overwriting_leaves_nothing_but_the_lock(tmp_path):
    folder = tmp_path / "r"
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "config.json").write_text(OF_A_RUN)
    with create_run_dir(folder, overwrite=True):
        assert [path.name for path in folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("content", ['{"theme": "dark"}', '{"model_type": "vit"}', "[]", "{", "\xff"])
def test_a_folder_of_another_program_is_not_overwritten(tmp_path, content):
    folder = tmp_path / "thesis"
    (folder / "chapters").mkdir(parents=True)
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    (folder / "chapters" / "1.tex").write_text("precious")
    refused = pytest.raises(ConfigError, match="is not a run folder, so --overwrite will not delete it")
    with refused, create_run_dir(folder, overwrite=True):
        pass
    assert (folder / "chapters" / "1.tex").read_text() == "precious"


def test_a_report_of_an_earlier_end_is_not_that_of_a_run_that_was_resumed(tmp_path):
    (tmp_path / "report.json").write_text('{"steps": 4}')
    assert place_of_evaluation(tmp_path) == tmp_path
    for step, own in ((4, True), (6, False)):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        assert (place_of_evaluation(tmp_path) == tmp_path) == own


def test_an_evaluation_replaces_no_report_of_another_kind(tmp_path):
    assert place_of_evaluation(tmp_path) == tmp_path / "eval" / "own"  # a run that is not finished
    (tmp_path / "report.json").write_text("{}")
    assert place_of_evaluation(tmp_path) == tmp_path
    assert place_of_evaluation(tmp_path, "my walks, 2024") == tmp_path / "eval" / "my-walks-2024"
    assert place_of_evaluation(tmp_path, "..") == tmp_path / "eval" / "own"
    assert Path("..") not in place_of_evaluation(tmp_path, "../..").parents
