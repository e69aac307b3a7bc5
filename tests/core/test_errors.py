"""Errors on the command line: one line, the exit code, and where an unexpected one came from."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from ssl_core import Dataset
from ssl_core.cli.common import errors_in_one_line
from ssl_core.errors import ConfigError, place_of


def broken() -> None:
    torch.zeros(2) @ torch.zeros(3)


def test_the_place_is_the_last_line_that_is_no_librarys():
    with pytest.raises(RuntimeError) as caught:
        broken()
    line = broken.__code__.co_firstlineno + 1
    assert place_of(caught.value) == f"{__file__}:{line}"
    assert place_of(ValueError("never raised")) == ""


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (lambda: broken(), 1, "unexpected error: RuntimeError: "),
        (lambda: {}["views"], 1, "unexpected error: KeyError: 'views' ("),
        (lambda: (_ for _ in ()).throw(ConfigError("lower it")), 1, "error: lower it"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, "stopped by SIGTERM"),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "stopped by SIGINT"),
    ],
)
def test_one_line_and_a_code(capsys, request, raised, code, said):
    before = signal.getsignal(signal.SIGTERM)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, interrupt))
    with pytest.raises(SystemExit) as caught, errors_in_one_line(debug=False):
        raised()
    assert caught.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
    if said.startswith("unexpected"):
        assert __file__ in line
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8 TiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_too_little_memory_is_a_line_with_a_cure(capsys, error):
    with pytest.raises(SystemExit) as caught, errors_in_one_line(debug=False, less_memory="lower --batch-size"):
        raise error
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: out of memory: lower --batch-size ({error})"


def test_too_little_memory_for_the_data_has_another_cure(capsys):
    class Large(Dataset):
        def __init__(self):
            raise MemoryError("Unable to allocate 8 TiB")

    with pytest.raises(SystemExit), errors_in_one_line(debug=False, less_memory="lower --batch-size"):
        Large()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory: the data do not fit; use fewer or smaller files, or a machine with")


def test_commands_that_run_out_of_memory_name_flags_that_they_have():
    import re

    import typer

    from ssl_core.cli.app import app
    from ssl_core.cli.common import LESS_MEMORY

    commands = typer.main.get_command(app).commands
    for name, cure in LESS_MEMORY.items():
        flags = {flag for one in commands[name].params for flag in one.opts}
        assert set(re.findall(r"--[a-z-]+", cure)) <= flags, name


def test_debug_lets_the_error_through():
    with pytest.raises(KeyError), errors_in_one_line(debug=True):
        {}["views"]
