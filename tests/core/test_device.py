"""What the process is told about memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = """
import resource, torch
from ssl_core.engine.device import keep_freed_memory
kept = keep_freed_memory()
def step():
    for _ in range(20):
        torch.ones(2**24).add(1)  # two blocks of 64 MiB
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def ask(**environment: str) -> tuple[str, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRE"))}
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env=clean | environment
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    kept, faults = ask()
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert faults < 1000  # two blocks have 32,768 pages of 4 KiB


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_what_the_environment_says_about_memory_stands() -> None:
    kept, faults = ask(MALLOC_TOP_PAD_="131072", THP_MEM_ALLOC_ENABLE="0")
    assert kept == "False"
    assert faults > 1000
