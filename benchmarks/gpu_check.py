"""Record the results of benchmarks/gpu_check.sh, and select the CUDA tests that it runs.

The script calls the commands of this module, and loads it into pytest with `-p benchmarks.gpu_check`. Only the command
`environment` imports torch: the others must be fast, and work where torch is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOG, SUMMARY, EVIDENCE, ENVIRONMENT = "log.txt", "summary.json", "evidence.json", "environment.json"
TAIL_LINES, TAIL_CHARACTERS = 15, 2000  # of a phase's output in the summary
TEST_PACKAGES = ("pytest", "hypothesis")
GOALS = {"speech: ms a MetaMAE step": 2.5, "speech: MetaMAE : MAE": 1.4}  # upper limits; printed, not asserted
VARIANTS = ("bf16 compiled", "bf16")  # of speed.py: the first one that has been measured counts
TIMED_OUT = (124, 137)  # exit codes of `timeout`: after SIGTERM, after SIGKILL
DRY_RUN_TESTS = 2  # tests without CUDA in a file in a dry run


def read_json(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file, or an empty dictionary if the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a JSON file atomically, so that an interrupted process leaves the old or the new contents."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def project() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# --- commands --------------------------------------------------------------------------------------------------------


def write_site(arguments: argparse.Namespace) -> int:
    """Write the metadata of an installed sslx, so that its plugins are found where it is not installed."""
    values = project()
    folder = arguments.folder / f"{values['name']}-{values['version']}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {values['name']}\nVersion: {values['version']}\n", encoding="utf-8"
    )
    lines = list[str]()
    for group, points in values["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def missing_packages() -> list[str]:
    """Return the requirements whose package is not installed, versions included as pyproject.toml states them."""
    values, missing = project(), []
    for requirement in (*values["dependencies"], *TEST_PACKAGES):
        words = re.match(r"[\w.-]+", requirement)
        assert words is not None
        try:
            importlib.metadata.version(words.group())
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.split(";")[0].strip())
    return missing


def output_of(*command: str) -> str | None:
    """Return the output of a command without surrounding space, or None if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
    return done.stdout.strip() if done.returncode == 0 else None


def write_environment(arguments: argparse.Namespace) -> int:
    """Write GPU, driver, torch, Python and commit; 1 if a package is missing, or torch does not find a CUDA device."""
    path = arguments.results / ENVIRONMENT
    changes = output_of("git", "status", "--porcelain")
    record: dict[str, Any] = {
        "commit": os.environ.get("COMMIT") or output_of("git", "rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "missing_packages": missing_packages(),
    }
    write_json(path, record)  # torch may take long to import, or crash
    for name in record["missing_packages"]:
        print(f"missing package: {name}")
    import torch

    record |= {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": None}
    if torch.cuda.is_available():
        record |= {"gpu": torch.cuda.get_device_name(), "gpu_bytes": torch.cuda.get_device_properties(0).total_memory}
    write_json(path, record)
    names = ("gpu", "driver", "torch", "cuda", "python", "commit")
    print(", ".join(f"{name} {record[name] or 'unknown'}" for name in names))
    if record["gpu"] is None and not arguments.dry_run:
        print("torch finds no CUDA device; run with --dry-run to test the script on a CPU")
        return 1
    return int(bool(record["missing_packages"]))


def start(arguments: argparse.Namespace) -> int:
    """Add a phase to the summary."""
    record = read_json(arguments.results / SUMMARY) or {"phases": []}
    log = arguments.results / LOG
    record["phases"].append(
        {
            "phase": arguments.phase,
            "status": "running",
            "limit_seconds": arguments.limit,
            "log_begins_at": log.stat().st_size if log.exists() else 0,
        }
    )
    write_json(arguments.results / SUMMARY, record)
    return 0


def finish(arguments: argparse.Namespace) -> int:
    """Write how a phase ended to the summary, with the end of its output and all measurements so far."""
    record = read_json(arguments.results / SUMMARY)
    phase = record["phases"][-1] if record else {}
    if (phase.get("phase"), phase.get("status")) != (arguments.phase, "running"):
        return 0  # interrupted before the start of the phase was recorded, or after its end was
    with (arguments.results / LOG).open("rb") as file:
        file.seek(phase["log_begins_at"])
        lines = file.read().decode(errors="replace").splitlines()[1:]  # the first line is the command
    status = arguments.status or {0: "passed"}.get(arguments.exit_code, "failed")
    if arguments.exit_code in TIMED_OUT and arguments.seconds >= phase["limit_seconds"]:
        status = "timed out"
    phase |= {
        "status": status,
        "exit_code": arguments.exit_code,
        "seconds": arguments.seconds,
        "tail": "\n".join(lines[-TAIL_LINES:])[-TAIL_CHARACTERS:],
    }
    if arguments.run is not None:
        evidence = read_json(arguments.results / EVIDENCE)
        evidence[arguments.run.name] = read_run(arguments.run)
        write_json(arguments.results / EVIDENCE, evidence)
    record["measured"] = measured(arguments.results)
    write_json(arguments.results / SUMMARY, record)
    print(f"{arguments.phase}: {status}, {arguments.seconds} s of {phase['limit_seconds']} s", flush=True)
    if status != "passed":
        print("\n".join(f"    {line}" for line in phase["tail"].splitlines()), flush=True)
    return 0


def read_run(folder: Path) -> dict[str, Any]:
    """Return cost and scores of a run; of an unfinished one the last line of its metrics."""
    report = read_json(folder / "report.json")
    if report:
        names = ("dataset", "seed", "steps", "precision", "pretrain_seconds", "wall_seconds", "samples_per_second")
        scores = ("task", "probe", "metric", "features", "value", "standard_error", "n_test")
        return {
            **{name: report[name] for name in names},
            "scores": [{name: score[name] for name in scores} for score in report["scores"]],
        }
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    for line in reversed(lines):
        try:
            return {"unfinished": json.loads(line)}
        except ValueError:
            continue  # the process was stopped while it wrote this line
    return {"unfinished": {}}


def measured(results: Path) -> dict[str, float]:
    """Return the measurements that the summary shows, by name."""
    values: dict[str, float] = {}
    for path in sorted(results.glob("speed-*.json")):
        for key, seconds in read_json(path)["results"].items():
            shape = key.removeprefix("steps/")
            variant = next((one for one in VARIANTS if f"metamae {one}" in seconds), None)
            if variant is not None:
                ours, mae = seconds[f"metamae {variant}"], seconds[f"mae {variant}"]
                values[f"{shape}: ms a MetaMAE step"] = 1000 * ours
                values[f"{shape}: MetaMAE : MAE"] = ours / mae
                if "metamae plain" in seconds:
                    values[f"{shape}: times faster than plain"] = seconds["metamae plain"] / ours
    for objective, run in read_json(results / EVIDENCE).items():
        for score in run.get("scores", ()):
            name = f"{run['dataset']} {score['task']}, {score['probe']} {score['metric']}"
            who = f"{objective}, {run['steps']:,} steps" if score["features"] == "trained" else score["features"]
            if score["value"] is not None:
                values[f"{name}: {who}"] = score["value"]
    return values


def print_table(arguments: argparse.Namespace) -> int:
    """Print the phases, and the measurements beside the goals."""
    record = read_json(arguments.results / SUMMARY)
    print(f"\n{'phase':<60}{'status':>12}{'seconds':>10}{'limit':>8}")
    for phase in record["phases"]:
        print(f"{phase['phase']:<60}{phase['status']:>12}{phase['seconds']:>10}{phase['limit_seconds']:>8}")
    values = record["measured"]
    print(f"\n{'measured':<60}{'value':>12}{'goal':>10}")
    for name in dict.fromkeys((*GOALS, *values)):
        value = f"{values[name]:.3f}" if name in values else "-"
        goal = f"<= {GOALS[name]}" if name in GOALS else "-"
        print(f"{name:<60}{value:>12}{goal:>10}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("site", help=write_site.__doc__)
    one.add_argument("folder", type=Path)
    one.set_defaults(call=write_site)
    one = commands.add_parser("environment", help=write_environment.__doc__)
    one.add_argument("results", type=Path)
    one.add_argument("--dry-run", action="store_true", help="do not require a CUDA device")
    one.set_defaults(call=write_environment)
    one = commands.add_parser("start", help=start.__doc__)
    one.add_argument("results", type=Path)
    one.add_argument("phase")
    one.add_argument("--limit", type=int, required=True, help="seconds")
    one.set_defaults(call=start)
    one = commands.add_parser("finish", help=finish.__doc__)
    one.add_argument("results", type=Path)
    one.add_argument("phase")
    one.add_argument("--exit-code", type=int)
    one.add_argument("--status", help="status of a phase without an exit code")
    one.add_argument("--seconds", type=int, required=True)
    one.add_argument("--run", type=Path, help="directory of the run whose scores are recorded")
    one.set_defaults(call=finish)
    one = commands.add_parser("table", help=print_table.__doc__)
    one.add_argument("results", type=Path)
    one.set_defaults(call=print_table)
    arguments = parser.parse_args(argv)
    return arguments.call(arguments)


# --- pytest plugin ---------------------------------------------------------------------------------------------------


def needs_cuda(item: Any) -> bool:
    """Return whether a test is skipped where there is no CUDA device, which the reason of its mark states."""
    return any("needs CUDA" in mark.kwargs.get("reason", "") for mark in item.iter_markers("skipif"))


def pytest_addoption(parser: Any) -> None:
    """Add the options of this plugin."""
    group = parser.getgroup("gpu-check")
    group.addoption("--gpu-check-results", type=Path, required=True, help="JSON file of the outcomes")
    group.addoption("--gpu-check-dry-run", action="store_true", help=f"add {DRY_RUN_TESTS} tests without CUDA per file")


def pytest_configure(config: Any) -> None:
    """Record outcomes, except in the worker processes of pytest-xdist, whose reports reach the main process."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(
            Outcomes(config.getoption("--gpu-check-results"), config.getoption("--gpu-check-dry-run"))
        )


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Select the tests that need CUDA, and in a dry run some more."""
    more: dict[Path, int] = {}
    selected, rest = list[Any](), list[Any]()
    for item in items:
        keep = needs_cuda(item)
        if not keep and config.getoption("--gpu-check-dry-run"):
            more[item.path] = more.get(item.path, 0) + 1
            keep = more[item.path] <= DRY_RUN_TESTS
        (selected if keep else rest).append(item)
    items[:] = selected
    config.hook.pytest_deselected(items=rest)


class Outcomes:
    """Writes the outcome of each test as soon as it is known."""

    def __init__(self, path: Path, dry_run: bool) -> None:
        self.path, self.dry_run = path, dry_run
        self.passed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Record the call of a test, and a setup or teardown that did not pass."""
        if report.when != "call" and report.outcome == "passed":
            return
        self.passed += report.outcome == "passed"
        record = read_json(self.path)
        entry = {"outcome": report.outcome, "seconds": round(report.duration, 3)}
        if report.outcome == "failed":
            entry["message"] = report.longreprtext[-TAIL_CHARACTERS:]
        elif report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            entry["message"] = report.longrepr[2]
        record[report.nodeid] = entry
        write_json(self.path, record)

    def pytest_sessionfinish(self, session: Any, exitstatus: int) -> None:
        """Let a session fail in which every CUDA test was skipped."""
        if exitstatus == 0 and not self.passed and not self.dry_run:
            session.exitstatus = 1


if __name__ == "__main__":
    sys.exit(main())
