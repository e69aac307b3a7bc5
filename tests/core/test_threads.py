"""The number of threads and how they wait, from the affinity, control groups and the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_core.errors import ConfigError
from ssl_core.training.accel import threads
from ssl_core.training.accel.threads import available_cores, configure_threads, describe_threads, share_cores

pytestmark = pytest.mark.fast

V2_LINE, V1_LINE = "0::/a/b", "4:cpu,cpuacct:/a/b\n3:memory:/a"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A process that may use 8 cores, with control groups under tmp_path."""
    (tmp_path / "own").write_text(V2_LINE)
    monkeypatch.setattr(threads, "_affinity", lambda: 8)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(threads, "_set_here", {})

    def groups(line: str = V2_LINE, **files: str) -> None:
        (tmp_path / "own").write_text(line)
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path = path.with_name(path.name.replace("_max", ".max").replace("cpu_cfs", "cpu.cfs"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return groups


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        (V2_LINE, {}, 8),
        (V2_LINE, {"a__b__cpu_max": "max 100000\n"}, 8),
        (V2_LINE, {"a__b__cpu_max": "250000 100000\n"}, 2),
        (V2_LINE, {"a__b__cpu_max": "50000 100000\n"}, 1),
        (V2_LINE, {"a__b__cpu_max": "1600000 100000\n"}, 8),
        (V2_LINE, {"a__b__cpu_max": "400000 100000", "a__cpu_max": "300000 100000"}, 3),
        ("0::/docker/gone", {"cpu_max": "200000 100000"}, 2),
        (V2_LINE, {"unified__a__b__cpu_max": "200000 100000"}, 2),
        (V2_LINE, {"a__b__cpu_max": "nonsense"}, 8),
        (V1_LINE, {"cpu__a__b__cpu_cfs_quota_us": "300000", "cpu__a__b__cpu_cfs_period_us": "100000"}, 3),
        (V1_LINE, {"cpu,cpuacct__cpu_cfs_quota_us": "300000", "cpu,cpuacct__cpu_cfs_period_us": "100000"}, 3),
        (V1_LINE, {"cpu__a__b__cpu_cfs_quota_us": "-1", "cpu__a__b__cpu_cfs_period_us": "100000"}, 8),
        ("3:memory:/a", {"a__cpu_max": "200000 100000"}, 8),
    ],
)
def test_cores_by_quota(machine, line, files, cores):
    machine(line, **files)
    assert available_cores() == cores


def test_cores_without_control_groups(machine, tmp_path):
    (tmp_path / "own").unlink()
    assert available_cores() == 8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_by_affinity():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ssl_core.training.accel.threads import available_cores; print(available_cores())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_auto_lets_threads_sleep_soon_and_leaves_the_count_to_openmp(machine):
    environment: dict[str, str] = {}
    configure_threads(environment)
    assert environment == threads.WAIT


def test_auto_respects_a_quota(machine):
    machine(a__b__cpu_max="300000 100000")
    environment: dict[str, str] = {}
    configure_threads(environment)
    assert environment == threads.WAIT | {"OMP_NUM_THREADS": "3"}


def test_auto_keeps_what_the_user_has_set(machine):
    machine(a__b__cpu_max="300000 100000")
    environment = {"OMP_NUM_THREADS": "5", "GOMP_SPINCOUNT": "7"}
    configure_threads(environment)
    assert environment == {"OMP_NUM_THREADS": "5", "GOMP_SPINCOUNT": "7"}


def test_number_of_threads(machine):
    environment = {"SSLX_THREADS": "3", "OMP_NUM_THREADS": "5"}
    configure_threads(environment)
    assert environment == threads.WAIT | {"SSLX_THREADS": "3", "OMP_NUM_THREADS": "3"}


def test_system_changes_nothing(machine):
    machine(a__b__cpu_max="300000 100000")
    environment = {"SSLX_THREADS": "system"}
    configure_threads(environment)
    assert environment == {"SSLX_THREADS": "system"}


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_other_values_are_refused(machine, value):
    with pytest.raises(ConfigError, match=f"SSLX_THREADS={value} is not a setting; use auto, system or a number"):
        configure_threads({"SSLX_THREADS": value})


def test_processes_share_the_cores(machine):
    assert share_cores({"A": "1"}, 4) == {"A": "1", "OMP_NUM_THREADS": "2"}
    assert share_cores({}, 100) == {"OMP_NUM_THREADS": "1"}
    assert share_cores({"OMP_NUM_THREADS": "5"}, 4) == {"OMP_NUM_THREADS": "5"}
    assert share_cores({"SSLX_THREADS": "6"}, 4) == {"SSLX_THREADS": "6"}


def test_processes_share_a_quota_that_was_applied_automatically(machine):
    machine(a__b__cpu_max="400000 100000")
    environment: dict[str, str] = {}
    configure_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "4"
    assert share_cores(environment, 2)["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("count", "environment", "text"),
    [
        (4, {"OMP_WAIT_POLICY": "PASSIVE"}, "4 of 8, waiting passively"),
        (4, {"OMP_WAIT_POLICY": "active"}, "4 of 8, waiting actively"),
        (4, threads.WAIT, "4 of 8, spinning shortly, then sleeping"),
        (4, {"GOMP_SPINCOUNT": "9"}, "4 of 8, waiting as set by GOMP_SPINCOUNT=9"),
        (8, {}, "8 of 8, waiting as OpenMP does by default"),
        (1, {"OMP_WAIT_POLICY": "PASSIVE"}, "1 of 8"),
    ],
)
def test_header(machine, count, environment, text):
    assert describe_threads(count, environment) == text


def sslx(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    return subprocess.run(
        [sys.executable, "-m", "ssl_core.cli", *arguments], capture_output=True, text=True, cwd=folder,
        env=clean | {"SSLX_CACHE_DIR": str(folder / "cache")} | variables, timeout=300,
    )  # fmt: skip


def test_command_refuses_another_value_in_one_line(tmp_path):
    done = sslx("--version", folder=tmp_path, SSLX_THREADS="many")
    assert done.returncode == 1
    assert done.stderr.startswith("error: SSLX_THREADS=many is not a setting")
    assert done.stderr.count("\n") == 1


def test_openmp_gets_the_settings_before_it_is_loaded(tmp_path):
    """OMP_DISPLAY_ENV has GNU's OpenMP print its settings when it is loaded."""
    code = (
        "import sys; from ssl_core.cli import app; app.configure_threads(); assert 'torch' not in sys.modules\n"
        "import torch; print(torch.get_num_threads())"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True,
        env=clean | {"OMP_DISPLAY_ENV": "VERBOSE", "SSLX_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout == "1\n"
    if "OPENMP DISPLAY ENVIRONMENT" not in done.stderr:
        pytest.skip("this OpenMP does not print its settings")
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
