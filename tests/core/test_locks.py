"""Locks between processes: exclusive, released when the holder is killed, and safe against links."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from ssl_core.compare.runner import locked
from ssl_core.errors import ConfigError
from ssl_core.runs import run_dir
from ssl_core.runs.run_dir import lock_run_dir
from ssl_core.utils.locks import file_lock

pytestmark = pytest.mark.fast

HOLDER = """
import sys, time
from pathlib import Path
from ssl_core.utils.locks import file_lock
with file_lock(Path(sys.argv[1]), lambda: None):
    print("locked", flush=True)
    time.sleep(600)
"""


class Busy(Exception):
    pass


def refuse() -> None:
    raise Busy


def never() -> None:
    pytest.fail("nobody else holds the lock")


def test_second_holder_is_refused(tmp_path):
    with file_lock(tmp_path / "x.lock", never), pytest.raises(Busy), file_lock(tmp_path / "x.lock", refuse):
        pass
    with file_lock(tmp_path / "x.lock", never):
        pass


@pytest.mark.parametrize("remove", [True, False])
def test_lock_file_is_removed_on_request(tmp_path, remove):
    with file_lock(tmp_path / "x.lock", never, remove=remove):
        pass
    assert (tmp_path / "x.lock").exists() is not remove


def test_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path / "x.lock", never):
        1 / 0  # noqa: B018
    with file_lock(tmp_path / "x.lock", never):
        pass


def test_waiting_process_excludes_a_third_after_the_first_removed_the_file(tmp_path):
    path = tmp_path / "x.lock"
    waiting, inside, leave = threading.Event(), threading.Event(), threading.Event()

    def second() -> None:
        with file_lock(path, waiting.set):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=second, daemon=True)
    with file_lock(path, waiting.clear):
        thread.start()
        assert waiting.wait(10)
    try:
        assert inside.wait(10)
        with pytest.raises(Timeout):
            FileLock(path).acquire(timeout=0)
    finally:
        leave.set()
        thread.join(10)
    assert not path.exists()


def test_lock_of_a_killed_process_is_released(tmp_path):
    path = tmp_path / "x.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(Busy), file_lock(path, refuse):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert path.exists(), "a killed process removes nothing"
    with file_lock(path, never):
        pass


LOCKS: dict[str, Callable[[Path], object]] = {
    "run": lock_run_dir,
    "comparison": locked,
    "file": lambda folder: file_lock(folder / ".lock", never),
}


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
@pytest.mark.parametrize("exists", [True, False])
def test_symbolic_link_is_refused_and_its_target_unchanged(tmp_path, lock, exists):
    target, folder = tmp_path / "precious.txt", tmp_path / "run"
    folder.mkdir()
    if exists:
        target.write_text("precious")
    (folder / ".lock").symlink_to(target)
    with pytest.raises(ConfigError, match=r"run/\.lock is a symbolic link.*; remove it"), lock(folder):
        pass
    assert (target.read_text() == "precious") if exists else not target.exists()


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_content_of_a_lock_file_is_kept(tmp_path, lock, monkeypatch):
    monkeypatch.setattr(run_dir, "PATIENCE", 0.3)
    (tmp_path / ".lock").write_text("precious")
    with lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == "precious"


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_read_only_folder_is_named(tmp_path, lock, monkeypatch):
    def acquire(self: FileLock, *arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / ".lock"))

    monkeypatch.setattr(FileLock, "acquire", acquire)
    expected = rf"cannot lock {tmp_path}/.lock \(Read-only file system\); make"
    with pytest.raises(ConfigError, match=expected), lock(tmp_path):
        pass


def test_folder_in_place_of_the_lock_file(tmp_path):
    (tmp_path / "x.lock").mkdir()
    with pytest.raises(ConfigError, match="cannot lock"), file_lock(tmp_path / "x.lock", never):
        pass
