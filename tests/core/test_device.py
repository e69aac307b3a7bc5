"""Memory settings of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
import resource, torch
from ssl_core.training.accel.memory import keep_freed_memory
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
def test_freed_memory_is_reused_without_new_pages() -> None:
    kept, faults = ask()
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert faults < 1000  # two blocks have 32,768 pages of 4 KiB


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_allocator_settings_of_the_environment_are_kept() -> None:
    kept, faults = ask(MALLOC_TOP_PAD_="131072", THP_MEM_ALLOC_ENABLE="0")
    assert kept == "False"
    assert faults > 1000


HUGE = """
import re, sys, torch
from pathlib import Path
from ssl_core.training.accel import memory as device
if sys.argv[1] == "strict":
    device.OVERCOMMIT = Path(sys.argv[2])
kept = device.keep_freed_memory()
def measured(file, name):
    return int(re.search(name + ":[^0-9]*([0-9]+) kB", Path(file).read_text())[1]) // 1024
resident = measured("/proc/self/status", "VmRSS")
x = torch.ones(2**26)  # 256 MiB
print(kept, resident, measured("/proc/self/smaps_rollup", "AnonHugePages"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux's")
@pytest.mark.parametrize("how", ["as it is", "strict"])
def test_tensors_use_huge_pages_if_the_system_gives_them_on_request(tmp_path: Path, how: str) -> None:
    """No huge pages are requested if the system counts memory that is allocated but not written."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[madvise]" not in setting.read_text():
        pytest.skip("the system decides on huge pages by itself")
    (strict := tmp_path / "strict").write_text("2\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRE"))}
    command = [sys.executable, "-c", HUGE, how, str(strict)]
    kept, resident, huge = subprocess.run(command, capture_output=True, text=True, check=True, env=clean).stdout.split()
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert int(resident) < 1500  # half of the memory is advised, and not used
    assert int(huge) >= 200 if how == "as it is" else int(huge) < 100
