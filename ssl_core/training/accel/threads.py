"""Number of CPU threads, and how they wait for each other.

OpenMP threads that wait at the end of a parallel section spin by default. When another process needs the core, a thread
spins away its time slice while the thread that it waits for is not running. If threads sleep at once instead, small
models lose about 40 % of their speed on an idle machine. The settings here let threads spin for some microseconds and
then sleep, and start no more of them than the process has cores.

OpenMP reads its settings when it is loaded, so `configure_threads` must run before torch is imported.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from ssl_core.errors import ConfigError

VARIABLE = "SSLX_THREADS"
COUNT = "OMP_NUM_THREADS"
# GNU's OpenMP, measured in benchmarks/cores.py; LLVM's and Intel's OpenMP, not measured.
WAIT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
WAIT_VARIABLES = (*WAIT, "OMP_WAIT_POLICY", "KMP_LIBRARY")
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

_set_here: dict[str, str] = {}  # variables that this process, and not the user, has set


def configure_threads(environment: MutableMapping[str, str] | None = None) -> None:
    """Set the OpenMP variables that the user has not set, as the variable SSLX_THREADS says.

    "auto", the default: threads spin shortly and then sleep when they wait, and there are no more threads than the
    cores that the process may use.
    A number: as "auto", with this number of threads. "system": no variable is changed.

    Raises:
        ConfigError: for another value of SSLX_THREADS.
    """
    environment = os.environ if environment is None else environment
    choice = environment.get(VARIABLE) or "auto"
    if choice == "system":
        return
    if choice != "auto" and not (choice.isascii() and choice.isdigit() and int(choice)):
        raise ConfigError(f"{VARIABLE}={choice} is not a setting; use auto, system or a number of threads, such as 2")
    values = {} if any(name in environment for name in WAIT_VARIABLES) else dict(WAIT)
    if choice != "auto":
        values[COUNT] = choice
    elif COUNT not in environment and available_cores() < _affinity():
        values[COUNT] = str(available_cores())  # OpenMP respects the affinity, but not a quota
    environment.update(values)
    _set_here.update(values)


def share_cores(environment: Mapping[str, str], processes: int) -> dict[str, str]:
    """The environment of each of several `sslx` processes that run at once: equal shares of the cores.

    A number of threads that the user has set is kept.
    """
    if VARIABLE in environment or (COUNT in environment and environment[COUNT] != _set_here.get(COUNT)):
        return dict(environment)
    return {**environment, COUNT: str(max(1, available_cores() // processes))}


def available_cores() -> int:
    """Logical cores that this process may use: by its affinity and by the CPU quota of its control groups."""
    quota = _quota(CGROUPS, OWN_CGROUP)
    return _affinity() if quota is None else max(1, min(_affinity(), math.floor(quota)))


def describe_threads(threads: int, environment: Mapping[str, str] | None = None) -> str:
    """The number of threads, the cores, and how threads wait, for the header of a run."""
    environment = os.environ if environment is None else environment
    return f"{threads} of {available_cores()}{'' if threads == 1 else f', {_waiting(environment)}'}"


def _waiting(environment: Mapping[str, str]) -> str:
    policy = environment.get("OMP_WAIT_POLICY", "").upper()
    if policy in ("PASSIVE", "ACTIVE"):
        return f"waiting {policy.lower()}ly"
    if all(environment.get(name) == value for name, value in WAIT.items()):
        return "spinning shortly, then sleeping"
    settings = [f"{name}={environment[name]}" for name in WAIT_VARIABLES if name in environment]
    return f"waiting as set by {' '.join(settings)}" if settings else "waiting as OpenMP does by default"


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(root: Path, own: Path) -> float | None:
    """The smallest CPU quota of the process's control groups, in cores; None without a quota.

    Args:
        root: where control groups are mounted, of version 1 or 2.
        own: the file that lists the groups of the process.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:  # not Linux
        return None
    quotas: list[float] = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if not controllers:
            mounts = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / controllers, root / "cpu"]
        else:
            continue
        for mount in mounts:
            group = mount / path.strip("/")  # in a container the path may not exist below its own mount
            for folder in (group, *group.parents):
                if (quota := _quota_of(folder)) is not None:
                    quotas.append(quota)
                if folder == mount:
                    break
    return min(quotas, default=None)


def _quota_of(group: Path) -> float | None:
    """The quota of one control group: cpu.max of version 2, or cpu.cfs_quota_us of version 1."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
