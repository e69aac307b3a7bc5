"""Atomic writes: what a kill leaves is removed by the next write, and what another process writes stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ssl_core import ConfigError
from ssl_core.utils.files import new_file, new_folder, write_text

HOLD = """
import os, sys, tempfile
from pathlib import Path
from ssl_core.utils import files
replace, os.replace = os.replace, lambda old, new: (print(old, flush=True), sys.stdin.readline(), replace(old, new))
files.write_text(Path("x.txt"), "of the other")
"""
HOLD_FOLDER = """
import sys
from pathlib import Path
from ssl_core.utils.files import new_folder
with new_folder(Path("out"), overwrite=True, marker="m", known=()) as work:
    (work / "m").write_text("of the other")
    print(work, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def start(tmp_path):
    """Start a program in the folder; returns it when it has printed its first line."""
    started = []

    def call(program):
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline()
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_write_leaves_nothing_after_the_next(start, tmp_path):
    process = start(HOLD)
    process.kill()
    process.wait()
    assert len(names(tmp_path)) == 1
    (tmp_path / ".x.txt-own notes").write_text("not ours")
    (tmp_path / ".x.txt-abcdefgh").symlink_to(tmp_path / ".x.txt-own notes")
    write_text(tmp_path / "x.txt", "whole")
    assert names(tmp_path) == [".x.txt-abcdefgh", ".x.txt-own notes", "x.txt"]  # links are not followed
    assert (tmp_path / ".x.txt-own notes").read_text() == "not ours"


def test_two_processes_write_the_same_file(start, tmp_path):
    process = start(HOLD)
    write_text(tmp_path / "x.txt", "of this")
    assert len(names(tmp_path)) == 2
    process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "x.txt").read_text() == "of the other"
    assert names(tmp_path) == ["x.txt"]


HOLD_FILE = """
import sys
from pathlib import Path
from ssl_core.utils.files import new_file
with new_file(Path("x.csv")) as work:
    work.write_text("of the other")
    print(work, flush=True)
    sys.stdin.readline()
"""


def test_a_killed_write_of_a_table_leaves_nothing_after_the_next(start, tmp_path):
    process = start(HOLD_FILE)
    with pytest.raises(ConfigError, match="another process writes .*x.csv"), new_file(tmp_path / "x.csv"):
        pass
    process.kill()
    process.wait()
    assert names(tmp_path) == [".x-unfinished.csv", ".x-unfinished.csv.lock"]
    with new_file(tmp_path / "x.csv") as work:
        assert not work.exists()
        assert work.suffix == ".csv"
        work.write_text("whole")
    assert names(tmp_path) == ["x.csv"]


def write_folder(path, text, overwrite=True):
    with new_folder(path, overwrite=overwrite, marker="m", known=()) as work:
        (work / "m").write_text(text)


def test_a_killed_write_of_a_folder_leaves_nothing_after_the_next(start, tmp_path):
    process = start(HOLD_FOLDER)
    process.kill()
    process.wait()
    assert names(tmp_path) == [".out-unfinished", ".out-unfinished.lock"]
    write_folder(tmp_path / "out", "whole")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "m").read_text() == "whole"


def test_a_folder_that_another_process_writes_is_refused(start, tmp_path):
    process = start(HOLD_FOLDER)
    with pytest.raises(ConfigError, match="another process writes .*out; wait for it, or name another place"):
        write_folder(tmp_path / "out", "of this")
    process.communicate("\n", timeout=60)
    assert (tmp_path / "out" / "m").read_text() == "of the other"
    assert names(tmp_path) == ["out"]


def test_a_kill_between_the_two_renames_loses_no_folder(tmp_path):
    write_folder(tmp_path / "out", "old")
    os.rename(tmp_path / "out", tmp_path / ".out-unfinished-old")
    (tmp_path / ".out-unfinished").mkdir()
    with pytest.raises(ConfigError, match="not empty"):
        write_folder(tmp_path / "out", "new", overwrite=False)
    assert (tmp_path / "out" / "m").read_text() == "old"
    assert names(tmp_path) == ["out"]
