"""The benchmark scripts run; what they measure is measured elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from ssl_core import DataError
from ssl_core.nn import attention, attention_xformers

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "speed.py"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def run_tiny(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The results and what was printed of a small run in a process of its own."""
    done = subprocess.run(
        [
            sys.executable, str(SCRIPT), "--tiny", "--no-page", "--repeats", "1", "--out", str(folder),
            "--cache", str(folder / "cache"), *options,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "speed-cpu.json").read_text())["results"], done.stdout


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "speed", module)
    spec.loader.exec_module(module)
    yield module
    module.allocate_as_usual()


def given(tmp_path: Path, **values: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"device": CPU, "tiny": True, "cache": tmp_path, "tokens": [16]} | values)


def program(path: Path, lines: str) -> str:
    """An executable that stands in for Python in processes of their own."""
    path.write_text("#!/bin/sh\n" + lines)
    path.chmod(0o755)
    return str(path)


@pytest.mark.release
def test_every_part_of_the_speed_benchmark_runs(tmp_path):
    results, printed = run_tiny(
        tmp_path, "--shapes", "speech", "--variants", "plain", "plain, memory kept", "fp32", "bf16"
    )
    parts = {
        "steps", "objectives", "kernels", "memory", "scaling", "starts", "data", "loop", "machine", "floor", "profile",
    }  # fmt: skip
    assert {key.split("/")[0] for key in results} == parts
    assert not [key for key, value in results.items() if "error" in value], results
    steps = results["steps/speech"]
    assert all(seconds > 0 for seconds in steps.values())
    assert {"metamae plain", "metamae plain, memory kept", "mae plain", "metamae bf16", "mae bf16"} <= steps.keys()
    assert "| MetaMAE step | plain, ms | plain, memory kept: ms | fp32: times faster |" in printed
    assert "| speech |" in printed
    memory = [value["memory_bytes"] for key, value in results.items() if key.startswith("memory/")]
    assert len(memory) == 3
    assert min(memory) > 0
    (shares,) = (value for key, value in results.items() if key.startswith("profile/"))
    assert sum(shares.values()) == pytest.approx(1)
    assert results["floor/speech/mae"]["operations"] < results["floor/speech/metamae"]["operations"] < 1e9
    decoder = results["kernels/decoder, 9 tokens, fp32, derivatives 2"]
    assert decoder["seconds"].keys() == {"math", "double_backward"}
    assert decoder["chosen"] in decoder["seconds"]
    assert results["kernels/encoder, 9 tokens, bf16, derivatives 1"]["seconds"].keys() == {
        "math",
        "sdpa",
        "double_backward",
    }


@pytest.mark.release
def test_steps_of_ids_and_of_dropout_run(tmp_path):
    results, _ = run_tiny(
        tmp_path, "--shapes", "genomics", "HIGGS", "--variants", "plain", "fp32", "bf16",
        "--parts", "steps", "floor", "profile",
    )  # fmt: skip
    for shape in ("genomics", "HIGGS"):
        assert results[f"steps/{shape}"].keys() == {
            f"{objective} {variant}" for objective in ("metamae", "mae") for variant in ("plain", "fp32", "bf16")
        }
        assert results[f"floor/{shape}/metamae"]["operations"] > results[f"floor/{shape}/mae"]["operations"]
    assert results["profile/HIGGS, bf16"]["random numbers"] > 0


@pytest.mark.release
@pytest.mark.parametrize("shape", ["speech", "genomics", "HIGGS"])
def test_compiled_steps_run(tmp_path, shape):
    results, printed = run_tiny(
        tmp_path, "--shapes", shape, "--variants", "plain", "bf16 compiled", "--parts", "steps", "profile"
    )
    assert {"metamae bf16 compiled", "mae bf16 compiled"} <= results[f"steps/{shape}"].keys()
    assert "MetaMAE : MAE, bf16 compiled" in printed
    assert results[f"profile/{shape}, bf16 compiled"]["fused pointwise work"] > 0


def test_products_of_parts_of_the_rows_are_of_linear_maps(speed):
    parts = torch.get_num_threads()
    assert speed.kind_of("aten::bmm", [[parts, 64, 4000], [parts, 4000, 64]]) == "matrix products of linear maps"
    assert speed.kind_of("aten::bmm", [[parts + 1, 65, 64], [parts + 1, 64, 65]]) == "matrix products of attention"
    assert speed.kind_of("aten::bmm", []) == "matrix products of attention"
    assert speed.kind_of("aten::mm", [[64, 64], [64, 64]]) == "matrix products of linear maps"
    assert speed.kind_of("aten::relu", [[64]]) == "other"


def test_the_default_variants_make_every_column(speed):
    assert {"plain", "plain, memory kept", "fp32 compiled", "bf16 compiled"} <= set(speed.VARIANTS)
    steps = {f"metamae {variant}": 1.0 for variant in speed.VARIANTS}
    head = speed.tables({"steps/speech": steps}).splitlines()[0]
    assert "plain, memory kept: ms" in head
    assert "fp32 compiled: times faster" in head
    assert "plain, memory kept: times faster" not in head


def test_the_peak_of_a_large_process_is_not_that_of_one_it_starts(speed, tmp_path):
    held = b"1" * 2**30
    assert speed.peak_memory(CPU) > len(held)
    code = "import torch; from ssl_core.training.device import peak_memory; print(peak_memory(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < 2**30
    assert speed.alone(given(tmp_path), "speech", "metamae", "fp32")["memory_bytes"] > 2**20


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux only")
def test_memory_is_counted_from_what_is_held(speed):
    held = b"1" * 2**29
    del held
    before = speed.peak_memory(CPU)
    speed.forget_peak(CPU)
    assert speed.peak_memory(CPU) < before - 2**28


def test_a_process_killed_for_memory_is_told_and_the_rest_goes_on(speed, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", program(tmp_path / "killed", "kill -9 $$\n"))
    kept: dict[str, Any] = {}
    speed.measure_scaling(given(tmp_path), kept.__setitem__)
    assert [*kept] == ["scaling/16/plain", "scaling/16/fp32"]
    assert all("SIGKILL" in value["error"] for value in kept.values())
    assert "failed: killed by SIGKILL" in speed.tables(kept)


@pytest.mark.parametrize(("ending", "said"), [("echo why >&2; exit 3", "why"), ("exit 3", "ended with 3")])
def test_a_process_that_fails_says_why(speed, tmp_path, monkeypatch, ending, said):
    monkeypatch.setattr(sys, "executable", program(tmp_path / "fails", ending + "\n"))
    assert speed.alone(given(tmp_path), "speech", "metamae", "fp32") == {"error": said}


def test_the_reference_steps_in_a_process_of_its_own(speed, tmp_path, monkeypatch):
    with speed.Apart(given(tmp_path), "speech", "metamae", "plain") as step:
        step()
        step()
        assert step.process.poll() is None
    assert step.process.poll() is not None
    monkeypatch.setattr(sys, "executable", program(tmp_path / "fails", "exit 3\n"))
    with (
        speed.Apart(given(tmp_path), "speech", "metamae", "plain") as step,
        pytest.raises(RuntimeError, match="with 3"),
    ):
        step()


def test_a_step_apart_is_made_for_each_line(speed, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(speed, "Subject", lambda *_: SimpleNamespace(variant=lambda *_: lambda: made.append(1)))
    monkeypatch.setattr(sys, "stdin", ["\n", "\n"])
    speed.main(["--tiny", "--cache", str(tmp_path), "--apart", "speech", "mae", "plain"])
    assert made == [1, 1]
    assert capsys.readouterr().out == "\n\n"


def test_only_the_reference_steps_apart_and_twice_in_a_turn(speed, tmp_path, monkeypatch):
    calls: list[str] = []

    class Apart(contextlib.nullcontext):
        def __init__(self, arguments: object, shape: str, objective: str, variant: str) -> None:
            self.label = f"apart {objective} {variant}"

        def __enter__(self) -> Any:
            return self

        def __call__(self) -> None:
            calls.append(self.label)

    def subject(shape: object, objective: str, *_: object) -> SimpleNamespace:
        return SimpleNamespace(variant=lambda name, cache: lambda: calls.append(f"here {objective} {name}"))

    monkeypatch.setattr(speed, "Apart", Apart)
    monkeypatch.setattr(speed, "Subject", subject)
    kept: dict[str, Any] = {}
    variants = ["plain", "plain, memory kept", "fp32"]
    arguments = given(tmp_path, shapes=["speech"], known=speed.TINY, variants=variants, label="", repeats=1)
    speed.measure_steps(arguments, kept.__setitem__)
    turns = 3
    assert {label: calls.count(label) for label in calls} == {
        "apart metamae plain": 2 * turns, "here metamae plain, memory kept": turns, "here metamae fp32": turns,
        "apart mae plain": 2 * turns, "here mae fp32": turns,
    }  # fmt: skip
    assert kept["steps/speech"].keys() == {
        "metamae plain", "metamae plain, memory kept", "metamae fp32", "mae plain", "mae fp32",
    }  # fmt: skip


def test_compiled_code_of_this_process_does_not_warm_a_cold_start(speed, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    asks = """echo '{"folder": "'"$TORCHINDUCTOR_CACHE_DIR"'"}'\n"""
    monkeypatch.setattr(sys, "executable", program(tmp_path / "asks", asks))
    assert speed.alone(given(tmp_path), "speech", "metamae", "fp32") == {"folder": ""}


@pytest.mark.parametrize("other", ["hardware", "torch"])
def test_results_of_two_machines_are_not_mixed(speed, tmp_path, other):
    arguments = ["--tiny", "--no-page", "--parts", "data", "--out", str(tmp_path)]
    speed.main(arguments)
    speed.main(arguments)
    path = tmp_path / "speed-cpu.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {other: "another"}))
    before = path.read_text()
    with pytest.raises(SystemExit) as refused:
        speed.main(arguments)
    assert str(path) in str(refused.value.code)
    assert "--out" in str(refused.value.code)
    assert "\n" not in str(refused.value.code)
    assert path.read_text() == before


@pytest.mark.parametrize("kernel", ["xformers", "sdpa", "double_backward"])
def test_every_product_of_attention_is_counted_whatever_the_device_chooses(speed, monkeypatch, kernel):
    def count() -> dict[str, float]:
        return speed.count_products(speed.Subject(speed.TINY["genomics"], "metamae", CPU, tiny=True))

    expected = count()
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: kernel)
    assert count() == expected


class OnTheCpu(TorchFunctionMode):
    """Makes and moves tensors on the CPU where CUDA is asked for."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = ([self.there(value) for value in args], {k: self.there(v) for k, v in (kwargs or {}).items()})
        return function(*args, **kwargs)

    @staticmethod
    def there(value: Any) -> Any:
        return CPU if isinstance(value, torch.device) and value.type == "cuda" else value


def test_what_is_done_for_cuda_runs(speed, tmp_path, monkeypatch, capsys):
    """All but the GPU: its parts in this process, with tensors on the CPU."""
    waits: list[None] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: waits.append(None))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: None)
    peaks = iter([100, 350])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: next(peaks))

    event = SimpleNamespace(synchronize=lambda: None)
    stream = SimpleNamespace(wait_stream=lambda other: None, record_event=lambda: event)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: stream)
    for name in ("get_sync_debug_mode", "set_sync_debug_mode", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **how: contextlib.nullcontext())
    graphs: list[Graph] = []

    class Graph:
        def __init__(self) -> None:
            self.replays = 0
            graphs.append(self)

        def capture_begin(self) -> None: ...

        def capture_end(self) -> None: ...

        def replay(self) -> None:
            self.replays += 1

    class Refusing:
        SUPPORTED_MAX_K, CUDA_MINIMUM_COMPUTE_CAPABILITY, CUDA_MAXIMUM_COMPUTE_CAPABILITY = 256, (8, 0), None

        @staticmethod
        def is_available() -> bool:
            return True

        @staticmethod
        def apply(*parts: Any, **how: Any) -> None:
            raise NotImplementedError("No operator found")

    kernels = SimpleNamespace(FwOp=Refusing, BwOp=Refusing)
    ops = SimpleNamespace(fmha=SimpleNamespace(flash=kernels, cutlass=kernels, Inputs=lambda *parts: parts))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    for module in (speed, attention_xformers):  # xformers loads, and then has no kernel for this
        monkeypatch.setattr(module, "xformers_ops", lambda: ops)
    tiny = ["--device", "cuda", "--tiny", "--repeats", "1", "--variants", "plain", "fp32", "--cache", str(tmp_path)]
    parts = ["--parts", "objectives", "kernels", "data", "floor", "--shapes", "speech"]
    with OnTheCpu():
        speed.main([*tiny, "--parts", "steps", "--shapes", "speech", "--no-page", "--out", str(tmp_path)])
        # fp32 of MetaMAE and of MAE; the plain ones are launched kernel by kernel
        assert [graph.replays > 0 for graph in graphs] == [True, True]
        speed.main([*tiny, *parts, "--no-page", "--out", str(tmp_path)])
        assert "a GPU" in capsys.readouterr().out
        speed.main([*tiny, "--alone", "speech", "metamae", "fp32"])
    alone = json.loads(capsys.readouterr().out)
    assert alone["memory_bytes"] == 250
    kept = json.loads((tmp_path / "speed-cuda.json").read_text())
    assert kept["hardware"] == "a GPU"
    steps = sum(len(value) for key, value in kept["results"].items() if key.startswith("steps/"))
    assert len(waits) >= 2 * 3 * steps  # before and after each step
    one = kept["results"]["kernels/encoder, 9 tokens, bf16, derivatives 1"]
    assert one["failed"].keys() == {"xformers"}
    assert one["seconds"].keys() == {"math", "sdpa", "double_backward"}
    assert "| failed | xformers |" in speed.tables(kept["results"])
    cpu = speed.count_products(speed.Subject(speed.TINY["speech"], "metamae", CPU, tiny=True))
    assert kept["results"]["floor/speech/metamae"] == cpu


def test_real_data_is_laid_out_whole_or_not_at_all(tmp_path):
    data = tmp_path / "data"
    (data / "adult").mkdir(parents=True)
    (data / "adult" / "adult.data").write_text("39, Private, <=50K\n")
    command = [sys.executable, str(SCRIPT.with_name("real_data.py")), str(data), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "adult: left out" in done.stdout
    assert list((tmp_path / "out").iterdir()) == []
    (data / "adult" / "adult.test").write_text("25, Private, <=50K.\n\n38, ?, >50K.\n")
    subprocess.run(command, capture_output=True, check=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["adult"]
    assert (tmp_path / "out" / "adult" / "adult-test.csv").read_text() == "25, Private, <=50K\n38, ?, >50K\n"


@pytest.mark.release
def test_the_benchmark_of_waiting_threads_runs(tmp_path):
    script, out = SCRIPT.with_name("cores.py"), tmp_path / "cores.json"
    done = subprocess.run(
        [sys.executable, str(script), "--rounds", "1", "--seconds", "0.01", "--settings", "sslx", "--out", str(out)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]] == ["OpenMP default", "sslx"]
    rates = json.loads(out.read_text())["samples_per_second"]
    assert {name: sorted(by_count) for name, by_count in rates.items()} == {key: ["0", "1", "2"] for key in rates}
    assert all(rate > 0 for by_count in rates.values() for values in by_count.values() for rate in values)


# --- reliability ------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a script by its name."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    yield importlib.import_module
    for name in ("publish", "reliability", "communication", "mutations", "endurance", "criteria", "finetune"):
        sys.modules.pop(name, None)


def test_pages_hold_the_tables_of_the_results(script):
    reliability, communication, publish = map(script, ("reliability", "communication", "publish"))
    assert reliability.PAGE.read_text() == reliability.current()
    page = communication.PAGE.read_text()
    assert publish.fill(page, "communication", communication.table()) == page
    for name in ("criteria", "finetune", "throughput", "auto_preset"):
        module = script(name)
        page = module.PAGE.read_text()
        assert publish.fill(page, name.replace("_", "-"), module.current()) == page


def test_slopes_of_memory_have_an_offset_for_each_process(script, tmp_path):
    watch = script("endurance").Watch(tmp_path, threading.Event())
    for pid, offset in ((1, 500.0), (2, 900.0)):
        start = [(float(t), offset * t, 99) for t in range(0, 60, 5)]  # memory grows until a minute has passed
        flat = [(float(t), offset + t / 100, 7) for t in range(60, 400, 5)]
        watch.readings["training", pid] = start + flat
    watch.readings["training", 3] = [(0.0, 1.0, 1), (70.0, 1e6, 1)]  # has too few readings
    slope = watch.slopes("training")
    assert (slope["processes"], slope["readings"]) == (2, 136)
    assert slope["mb_per_hour"] == pytest.approx(36)
    assert slope["mb_per_hour_error"] == pytest.approx(0, abs=1e-6)
    assert slope["descriptors_per_hour"] == pytest.approx(0, abs=1e-9)
    assert watch.slopes("comparison") == {"processes": 0}


def raises(error):
    def read(path):
        raise error

    return read


def test_outcomes_of_damaged_files(script, tmp_path):
    mutations = script("mutations")
    path = tmp_path / "a.csv"
    outcomes = {
        "read": lambda path: None,
        "refused": raises(DataError(f"{path} is damaged")),
        "unclear": raises(DataError("a file is damaged")),
        "unexpected error": raises(ValueError("x")),
        "over 1 GB": raises(MemoryError()),
    }
    for outcome, read in outcomes.items():
        assert mutations._outcome(mutations.Format("csv", lambda path: None, read), path)[0] == outcome


def test_damaged_files_are_counted_and_a_crash_is_a_fault(script, monkeypatch):
    mutations = script("mutations")
    count = mutations.run("csv", range(20))
    assert sum(count.outcomes.values()) == 20
    assert set(count.outcomes) == {"read", "refused"}

    def crash(path):
        if path.read_bytes() != whole:
            os._exit(3)

    whole = b"a"
    monkeypatch.setitem(mutations.FORMATS, "csv", mutations.Format("csv", lambda path: path.write_bytes(whole), crash))
    count = mutations.run("csv", range(3))
    assert count.outcomes["crash"] >= 1
    assert sum(count.outcomes.values()) == 3


def test_criteria_are_compared_with_the_scores_along_a_run(script, tmp_path):
    """By hand: RankMe orders the four checkpoints as the scores do, alpha-ReQ prefers the worst, the last loses 0.1."""
    criteria = script("criteria")
    rows = [(10, 0.5, 3.0, 1.0), (20, 0.7, 5.0, 1.4), (30, 0.9, 9.0, 1.9), (40, 0.8, 7.0, 1.6)]
    lines = [{"step": 0, "probe/linear_accuracy": 0.99, "health/rankme": 90.0, "health/alpha_req": 1.0}]
    for step, score, rank, alpha in rows:
        lines += [
            {"step": step, "train/loss": 1 / step},
            {"step": step, "probe/linear_accuracy": score, "health/rankme": rank, "health/alpha_req": alpha},
        ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = criteria.measure(tmp_path, "linear")
    assert found["steps"] == [10, 20, 30, 40]
    assert found["criteria"]["rankme"] == {"spearman": pytest.approx(1), "lost": 0}
    assert found["criteria"]["alpha_req"] == {"spearman": pytest.approx(-1), "lost": pytest.approx(0.4)}
    assert found["criteria"]["last"] == {"spearman": pytest.approx(0.8), "lost": pytest.approx(0.1)}
    assert found["criteria"]["loss"] == found["criteria"]["last"]
    assert "lidar" not in found["criteria"]
    assert "| linear accuracy | 90.0, 50.0 | +1.00, 0.0 | -1.00, 40.0 | - |" in criteria.table([found])
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines[:5])))
    with pytest.raises(SystemExit, match="has 2 probes after step 0"):
        criteria.measure(tmp_path, "linear")
