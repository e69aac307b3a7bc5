"""The cache holds compiled code, so nobody else may write to it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch._inductor.config as inductor

from ssl_core.errors import ConfigError
from ssl_core.training.accel import compiled_step
from ssl_core.training.accel.compiled_step import CODE_FOLDER, keep_code
from ssl_core.utils import cache
from ssl_core.utils.cache import cache_dir

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of Unix")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in (CODE_FOLDER, "PYTHONSAFEPATH"):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(compiled_step, "_set_here", set())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_new_folder_is_open_to_its_user_only(folder, umask):
    before = os.umask(umask)
    try:
        cache_dir()
        keep_code(folder)
    finally:
        os.umask(before)
    assert [mode(path) for path in (folder, folder / "compiled", folder / "compiled" / "inductor")] == [0o700] * 3


@pytest.mark.parametrize("open_to", [0o777, 0o775, 0o1777, 0o757])
def test_a_folder_that_others_can_write_is_refused_with_a_cure_that_works(folder, open_to):
    folder.mkdir()
    folder.chmod(open_to)
    with pytest.raises(ConfigError, match=f"other users can write to the cache folder {folder}.*SSLX_CACHE_DIR") as why:
        cache_dir()
    cure = str(why.value).split("; ")[1].split(", or")[0]
    assert cure == f"chmod -R go-w {folder}"
    subprocess.run(cure.split(), check=True)
    assert cache_dir() == folder


def test_a_folder_of_another_user_is_refused(folder, monkeypatch):
    folder.mkdir(mode=0o755)
    monkeypatch.setattr(cache.os, "geteuid", lambda: folder.stat().st_uid + 1)
    if folder.stat().st_uid == 0:  # a folder of the administrator is as safe as the installation
        assert cache_dir() == folder
        os.chown(folder, 1234, 1234)
    with pytest.raises(ConfigError, match=f"{folder} belongs to another user.*SSLX_CACHE_DIR to a folder of your own"):
        cache_dir()


def test_compiled_code_that_others_could_write_is_refused(folder):
    (folder / "compiled" / "inductor").mkdir(parents=True)
    (folder / "compiled").chmod(0o777)
    with pytest.raises(ConfigError, match=f"{folder}/compiled, and.*go-w {folder}/compiled"):
        keep_code(folder)
    (folder / "compiled").chmod(0o755)
    keep_code(folder)
    assert mode(folder / "compiled") == 0o700


def test_a_folder_of_code_that_the_user_names_keeps_its_mode_and_is_refused_if_others_can_write(
    folder, tmp_path, monkeypatch
):
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    monkeypatch.setenv(CODE_FOLDER, str(theirs))
    keep_code(folder)
    assert mode(theirs) == 0o755
    theirs.chmod(0o1777)
    with pytest.raises(ConfigError, match=f"{theirs}.*set {CODE_FOLDER} to a folder of your own"):
        keep_code(folder)


def test_no_header_of_the_temporary_folder_is_used(folder, monkeypatch):
    """torch writes precompiled headers below the temporary folder, where another user may have put them first."""
    from torch._inductor import codecache

    for name in ("_HEADER_DIR", "_HEADER_LOCK_DIR"):
        monkeypatch.setattr(codecache, name, "elsewhere/precompiled_headers")
    with inductor.patch(cpp_cache_precompile_headers=True):
        keep_code(folder)
        headers = folder / "compiled" / "headers"
        assert mode(headers) == 0o700
        assert (str(headers), str(headers / "locks")) == (codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR)
        monkeypatch.delattr(codecache, "_HEADER_DIR")  # as in a torch that keeps the folder elsewhere
        keep_code(folder)
        assert not inductor.cpp_cache_precompile_headers


def test_processes_of_the_compiler_import_nothing_from_the_working_directory(folder, tmp_path):
    """torch tests the instructions of the processor by `python -c`."""
    (tmp_path / "ctypes.py").write_text("print('foreign')")
    keep_code(folder)
    done = subprocess.run([sys.executable, "-c", "import ctypes"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_without_owners_of_files_nothing_is_checked(folder, monkeypatch):
    """As on Windows."""
    names = {name: getattr(os, name) for name in ("environ", "name")}
    monkeypatch.setattr(cache, "os", SimpleNamespace(**names))
    folder.mkdir()
    folder.chmod(0o777)
    assert cache_dir() == folder
