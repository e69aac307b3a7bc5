"""Step times of MAE and MetaMAE at the paper's shapes, against the plain transcription of benchmarks/plain.py.

    python benchmarks/speed.py                     # everything, on the CPU
    python benchmarks/speed.py --device cuda
    python benchmarks/speed.py --parts steps --shapes speech HIGGS

All variants of a shape are timed in one process, one step of each in turn, and medians are compared: read the ratios.
The plain transcription is eager fp32 with softmax written out, as the published code has it, and with memory as the C
library comes; sslx keeps the memory that it frees, as `sslx run` does. "plain, memory kept" is the transcription with
that, too. Peak memory and cold starts are taken in processes of their own. Writes benchmarks/results/speed-DEVICE.json
as it goes, and the tables in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_core import Layout, Learner, plugins
from ssl_core.engine.compile import CompiledStep
from ssl_core.engine.device import (
    M_MMAP_MAX,
    M_TOP_PAD,
    M_TRIM_THRESHOLD,
    autocast,
    describe,
    keep_freed_memory,
    peak_memory,
)
from ssl_core.nn import Encoder, EncoderOptions
from ssl_core.nn.attention import LONG_TOKENS
from ssl_core.tokenizers import GridTokenizer, IdTokenizer

HERE = Path(__file__).resolve().parent
PARTS = ("steps", "objectives", "memory", "scaling", "starts", "data", "floor", "profile")
OTHER = "other"
KINDS = {  # of what a profiler sees: words in its name
    "matrix products of linear maps": ("aten::mm", "aten::addmm", "aten::linear", "gemm", "nvjet"),
    "matrix products of attention": ("aten::bmm", "aten::baddbmm"),
    "softmax of attention": ("_softmax", "sslx::attend", "aten::addcmul", "aten::cat", "fmha", "attention"),
    "random numbers": ("aten::random_", "sslx::draw_kept", "aten::randint", "philox"),
    "copies": ("aten::copy_", "Memcpy"),
    "fused pointwise work": ("CompiledFxGraph", "cpp_fused", "triton"),
    "optimiser": ("adam", "Adam"),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """A row of the paper's Table 8 with the shape of protocol section 2.11. space empty: ids of a vocabulary."""

    channels: int
    space: tuple[int, ...]
    patch: tuple[int, ...]
    batch: int
    alpha: float
    lam: float
    depth: int
    dropout: float
    ratio: float
    vocab: int = 0
    length: int = 0


SHAPES = {
    "speech": Shape(1, (224, 224), (16, 16), 64, 0.1, 1.0, 4, 0.0, 0.85),
    "genomics": Shape(0, (), (), 32, 0.1, 0.01, 2, 0.0, 0.50, vocab=4, length=250),
    "Pfam": Shape(0, (), (), 128, 0.1, 1.0, 4, 0.0, 0.15, vocab=26, length=128),
    "PAMAP2": Shape(52, (320,), (5,), 256, 0.5, 1.0, 4, 0.1, 0.85),
    "EuroSAT": Shape(13, (64, 64), (8, 8), 64, 0.1, 1.0, 4, 0.0, 0.85),
    "wafer": Shape(3, (32, 32), (4, 4), 128, 0.1, 0.1, 6, 0.0, 0.15),
    "HIGGS": Shape(1, (28,), (1,), 256, 1.0, 1.0, 6, 0.1, 0.50),
}
TINY = {"speech": replace(SHAPES["speech"], space=(80, 80), batch=4, depth=1)}


class Subject:
    """A learner at a shape, its data, and the plain transcription of the same sizes."""

    def __init__(self, shape: Shape, objective: str, device: torch.device, tiny: bool = False) -> None:
        torch.manual_seed(0)
        self.shape, self.name, self.device = shape, objective, device
        encoder = EncoderOptions(dim=32, depth=2, heads=2) if tiny else EncoderOptions()
        encoder = encoder.model_copy(update={"dropout": shape.dropout})
        if shape.vocab:
            tokenizer: Any = IdTokenizer(
                IdTokenizer.Options(), {}, encoder.dim, field="x", length=shape.length, vocab=shape.vocab
            )
            x = torch.randint(shape.vocab, (shape.batch, shape.length))
        else:
            tokenizer = GridTokenizer(
                GridTokenizer.Options(normalise="none"), {}, encoder.dim,
                field="x", channels=shape.channels, shape=shape.space, patch=shape.patch,
            )  # fmt: skip
            x = torch.randn(shape.batch, shape.channels, *shape.space)
        self.inputs = {"x": x.to(device)}
        self.learner = self._learner(tokenizer, encoder, objective).to(device).train()
        self.draws = {
            name: value.to(device)
            for name, value in self.learner.objective.draw(shape.batch, torch.Generator().manual_seed(0)).items()
        }
        self.encoder_options = encoder

    def _learner(self, tokenizer: Any, encoder: EncoderOptions, name: str) -> Learner:
        catalogue = plugins.load()
        found = catalogue.objective(name)
        masking = None
        if found.masking_default is not None:
            kind = catalogue.masking(found.masking_default.name)
            ratio = self.shape.ratio if name in ("metamae", "mae") else found.masking_default.values["ratio"]
            masking = kind(kind.Options.model_validate({"ratio": ratio}), tokenizer.layout)
        values = {"alpha": self.shape.alpha, "lam": self.shape.lam, "depth": self.shape.depth}
        options = found.Options(**{k: v for k, v in values.items() if k in found.Options.model_fields})
        return Learner(
            tokenizer, Encoder(encoder, tokenizer.layout), found(options, tokenizer.layout, encoder.dim, masking)
        )

    def ours(self, precision: str, compiled: bool, cache: Path) -> Callable[[], None]:
        """One step of sslx: forward, backward, fused AdamW."""
        optimizer = torch.optim.AdamW(self.learner.parameters(), lr=1e-5, fused=True)
        step: Any = self.learner
        if compiled:
            step = CompiledStep(self.learner, f"speed-{precision}", cache)

        def run() -> None:
            with autocast(self.device, precision):  # type: ignore[arg-type]
                outcome = step(self.inputs, self.draws)
            outcome.loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def plain(self) -> Callable[[], None]:
        """One step of the plain transcription: eager fp32."""
        plain = load_plain()
        layout: Layout = self.learner.tokenizer.layout
        (segment,) = layout.segments
        options = self.learner.objective.options
        sizes = plain.Sizes(
            (plain.Piece(segment.target, segment.grid, segment.size, self.shape.patch),),
            dim=self.encoder_options.dim, depth=self.encoder_options.depth, heads=self.encoder_options.heads,
            mlp=2 * self.encoder_options.dim, decoder_depth=options.depth, dropout=self.shape.dropout, explicit=False,
        )  # fmt: skip
        named = plain.parameters_of(dict(self.learner.named_parameters()))
        parameters = {name: value.detach().clone().requires_grad_() for name, value in named.items()}
        optimizer = torch.optim.AdamW(parameters.values(), lr=1e-5)
        batch, visible = [self.inputs["x"]], self.draws["visible"]
        if self.name == "metamae":
            support, order = self.draws["support"], self.draws["order"]
            near = torch.zeros(order.shape, dtype=torch.bool, device=self.device)
            taken = support.bool().clone()
            taken[:, : visible.shape[1]] = False
            near.scatter_(1, order[:, : support.shape[1]], taken)

        def run() -> None:
            if self.name == "metamae":
                loss: Tensor = plain.metamae_loss(
                    parameters, batch, visible, near, sizes, alpha=options.alpha, lam=options.lam
                ).loss
            else:
                loss = plain.mae_loss(parameters, batch, visible, sizes)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def variant(self, name: str, cache: Path) -> Callable[[], None]:
        """The step called "plain", "plain, memory kept", "fp32", "bf16", "fp32 compiled" or "bf16 compiled"."""
        if name.startswith("plain"):
            return self.plain()
        precision, _, compiled = name.partition(" ")
        return self.ours(precision, bool(compiled), cache)


def load_plain() -> Any:
    """benchmarks/plain.py; it is no package."""
    if "plain" not in sys.modules:
        spec = importlib.util.spec_from_file_location("plain", HERE / "plain.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["plain"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["plain"])
    return sys.modules["plain"]


def allocate_as_usual() -> None:
    """Undo `keep_freed_memory`: glibc's limits as it sets them itself once blocks of up to 32 MiB have been freed."""
    with contextlib.suppress(AttributeError):
        m_mmap_threshold, library = -3, ctypes.CDLL(None)
        for name, value in (
            (M_MMAP_MAX, 65536), (m_mmap_threshold, 2**25), (M_TRIM_THRESHOLD, 2**26), (M_TOP_PAD, 2**17),
        ):  # fmt: skip
            library.mallopt(name, value)


def set_memory(variant: str) -> bool:
    """Memory as the variant has it; "plain" as the C library comes. Returns whether freed memory is kept."""
    if variant.endswith("plain"):
        allocate_as_usual()
        return False
    return keep_freed_memory()


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def interleaved(steps: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, one step of each in turn; the first two of each do not count."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    before = False
    for turn in range(repeats + 2):
        for name, step in steps.items():
            kept = set_memory(name)
            if kept and not before and turn:
                step()  # takes back the pages that the one before has given to the system
            before = kept
            seconds = timed(step, device)
            if turn >= 2:
                taken[name].append(seconds)
    return {name: statistics.median(values) for name, values in taken.items()}


def measure_steps(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Each shape: plain and ours, MAE and MetaMAE."""
    for name in arguments.shapes:
        steps = {}
        for objective in ("metamae", "mae"):
            subject = Subject(arguments.known[name], objective, arguments.device, arguments.tiny)
            for variant in arguments.variants:
                steps[f"{objective} {variant}"] = subject.variant(variant, arguments.cache)
        keep(f"steps/{name}{arguments.label}", interleaved(steps, arguments.repeats, arguments.device))


def measure_objectives(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Every installed objective at the speech shape, eager."""
    name = arguments.shapes[0]
    steps = {}
    for entry in plugins.load().entries("objective"):
        for variant in [v for v in arguments.variants if v in DTYPES]:
            subject = Subject(arguments.known[name], entry.name, arguments.device, arguments.tiny)
            steps[f"{entry.name} {variant}"] = subject.variant(variant, arguments.cache)
    keep(f"objectives/{name}", interleaved(steps, arguments.repeats, arguments.device))


def alone(arguments: argparse.Namespace, *given: str, cache: Path | None = None) -> dict[str, Any]:
    """A variant in a process of its own: its first steps, its median step, the memory it adds."""
    command = [sys.executable, __file__, "--device", str(arguments.device), "--alone", *given]
    command += ["--tiny"] if arguments.tiny else []
    command += ["--cache", str(cache or arguments.cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def report_alone(arguments: argparse.Namespace) -> None:
    """The other side of `alone`: SHAPE OBJECTIVE VARIANT [TOKENS]."""
    name, objective, variant, *tokens = arguments.alone
    began = time.perf_counter()
    shape = arguments.known[name]
    if tokens:
        side = round(int(tokens[0]) ** 0.5)
        shape = replace(shape, space=(16 * side, 16 * side), batch=max(2, 4096 // int(tokens[0])))
    subject = Subject(shape, objective, arguments.device, arguments.tiny)
    step = subject.variant(variant, arguments.cache)
    if not variant.startswith("plain"):  # a fresh process has the C library's own limits
        keep_freed_memory()
    before = peak_memory(arguments.device)
    first = timed(step, arguments.device)
    times = [timed(step, arguments.device) for _ in range(3)]
    print(
        json.dumps(
            {
                "made_seconds": time.perf_counter() - began - first - sum(times), "first_step_seconds": first,
                "step_seconds": statistics.median(times), "memory_bytes": peak_memory(arguments.device) - before,
                "batch": shape.batch,
            }
        )
    )  # fmt: skip


def measure_memory(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Peak memory of a step beyond the model and its data; eager, since the compiler's own would count as well."""
    for name in arguments.shapes:
        for variant in [v for v in arguments.variants if "compiled" not in v]:
            keep(f"memory/{name}/{variant}", alone(arguments, name, "metamae", variant))


def measure_scaling(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """MetaMAE on longer and longer rows, eager fp32, as many tokens in a batch."""
    for tokens in (16,) if arguments.tiny else arguments.tokens:
        for variant in ("plain", "fp32"):
            keep(f"scaling/{tokens}/{variant}", alone(arguments, "speech", "metamae", variant, str(tokens)))


def measure_starts(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Commands, and the first compiled step with an empty and with a filled cache."""
    for command in ("--help", "list"):
        times = []
        for _ in range(1 if arguments.tiny else 5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "ssl_core.cli", command], capture_output=True, check=True)
            times.append(time.perf_counter() - began)
        keep(f"starts/sslx {command}", {"seconds": statistics.median(times)})
    times = [first_step() for _ in range(2 if arguments.tiny else 6)][1:]  # the first one prepares the data
    keep("starts/sslx run, to the first step of MetaMAE on the embedded table", {"seconds": statistics.median(times)})
    variants = [variant for variant in arguments.variants if "compiled" in variant]
    with tempfile.TemporaryDirectory() as cold:
        for variant in variants:
            for state in ("cold", "warm"):
                found = alone(arguments, arguments.shapes[0], "metamae", variant, cache=Path(cold))
                keep(f"starts/{arguments.shapes[0]} {variant}, {state} cache", found)


def first_step() -> float:
    """Seconds from the command to the line that its first optimiser step writes, eager."""
    with tempfile.TemporaryDirectory() as out:
        options = ["train.compile=off", "train.log_every=1"]
        command = [sys.executable, "-m", "ssl_core.cli", "run", "--objective", "metamae", "--modality", "tabular"]
        command += ["--steps", "1000", "--out", out + "/run", *(part for one in options for part in ("--set", one))]
        began = time.perf_counter()
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (lines := Path(out, "run", "metrics.jsonl")).exists() or not lines.stat().st_size:
                if running.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with {running.returncode}")
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            running.kill()
            running.wait()


def measure_data(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Examples a second from the prepared arrays, and one by one as a Dataset with a DataLoader gives them."""
    import numpy as np

    from ssl_core.engine.loader import Prepared, batch_index

    for name, width, size in (("HIGGS", 28, 256), ("speech", 224 * 224, 64)):
        count = (1000 if arguments.tiny else 200_000) if name == "HIGGS" else 500
        data = Prepared({"x": np.random.default_rng(0).random((count, width), dtype=np.float32)}, None)
        turns = 3 if arguments.tiny else 50
        began = time.perf_counter()
        for step in range(turns):
            data.take(batch_index(0, step, count, size))
        gathered = turns * size / (time.perf_counter() - began)
        rows: Any = torch.utils.data.DataLoader(data.arrays["x"], batch_size=size, shuffle=True)  # type: ignore[arg-type]
        began, seen = time.perf_counter(), 0
        for batch in rows:
            seen += len(batch)
            if seen >= turns * size:
                break
        keep(f"data/{name}", {"gather": gathered, "one by one": seen / (time.perf_counter() - began)})


def measure_floor(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """What the machine can do, and what the matrix products of a step ask for: no step can be quicker than these."""
    peaks = {}
    for precision, dtype in DTYPES.items():
        rate = 0.0
        for rows, inner, columns in ((4096, 1024, 1024), (12608, 128, 384)):
            x, w = (torch.randn(size, device=arguments.device).to(dtype) for size in ((rows, inner), (columns, inner)))
            seconds = interleaved(
                {"": functools.partial(_product, x, w)}, 3 if arguments.tiny else 15, arguments.device
            )
            rate = max(rate, 2 * rows * inner * columns / seconds[""])
        peaks[precision] = rate
    block = torch.randn(2**22 if arguments.tiny else 2**26, device=arguments.device)
    other = torch.empty_like(block)
    seconds = interleaved({"": functools.partial(other.copy_, block)}, 3 if arguments.tiny else 7, arguments.device)
    keep("machine/peaks", {**peaks, "bytes": 2 * 4 * block.numel() / seconds[""]})
    for name in arguments.shapes:
        for objective in ("metamae", "mae"):
            subject = Subject(arguments.known[name], objective, arguments.device, arguments.tiny)
            keep(f"floor/{name}/{objective}", count_products(subject))


def _product(x: Tensor, w: Tensor) -> None:
    torch.nn.functional.linear(x, w)


def count_products(subject: Subject) -> dict[str, float]:
    """Operations of a step's matrix products, and the numbers that they read and write."""
    names = ("mm", "bmm", "addmm", "baddbmm")
    counted = {"operations": 0.0, "numbers": 0.0}

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            if function.overloadpacket.__name__ in names:
                one, other = args[-2:]
                counted["operations"] += 2 * one.numel() * other.shape[-1]
                counted["numbers"] += one.numel() + other.numel() + out.numel()
            return out

    step = subject.ours("fp32", False, Path())
    whole = dict.fromkeys(LONG_TOKENS, 10**9)  # softmax written out, whose products can be seen
    before = dict(LONG_TOKENS)
    try:
        LONG_TOKENS.update(whole)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), Counting():
            step()
    finally:
        LONG_TOKENS.update(before)
    return counted


def measure_profile(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Where the time of a MetaMAE step goes, in the last of the variants; shares of what the profiler saw."""
    from torch.profiler import ProfilerActivity, profile

    variant = arguments.variants[-1]
    activities = [ProfilerActivity.CUDA if arguments.device.type == "cuda" else ProfilerActivity.CPU]
    for name in arguments.shapes:
        step = Subject(arguments.known[name], "metamae", arguments.device, arguments.tiny).variant(
            variant, arguments.cache
        )
        set_memory(variant)
        for _ in range(3):
            step()
        with profile(activities=activities) as seen:
            step()
        shares = dict.fromkeys((*KINDS, OTHER), 0.0)
        for event in seen.key_averages():
            spent = event.self_device_time_total if arguments.device.type == "cuda" else event.self_cpu_time_total
            kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), OTHER)
            shares[kind] += spent
        total = sum(shares.values())
        keep(f"profile/{name}, {variant}", {kind: spent / total for kind, spent in shares.items()})


def tables(results: dict[str, Any]) -> str:
    """Markdown of what is there."""
    steps, lines = _part(results, "steps"), list[str]()
    if steps:
        variants = list(dict.fromkeys(key.split(" ", 1)[1] for found in steps.values() for key in found))
        ours = [variant for variant in variants if variant != "plain"]
        for objective, word in (("metamae", "MetaMAE"), ("mae", "MAE")):
            head = [f"{word} step", "plain, ms", *(f"{variant}: times faster" for variant in ours)]
            head += [f"{word} : MAE, {variant}" for variant in ours if objective != "mae"]
            rows = []
            for name, found in steps.items():
                plain = found.get(f"{objective} plain")
                row = [name, _number(plain, 1000, ",.0f")]
                row += [_ratio(plain, found.get(f"{objective} {variant}")) for variant in ours]
                if objective != "mae":
                    row += [_ratio(found.get(f"{objective} {v}"), found.get(f"mae {v}")) for v in ours]
                rows.append(row)
            lines += _table(head, rows)
    for part, what in (("memory", "memory of a MetaMAE step"), ("scaling", "tokens of a MetaMAE step, fp32")):
        found = _part(results, part)
        if found:
            lines += _table(
                [what, "plain, MiB", "sslx, of that", "plain, ms a row", "sslx: times faster"],
                [_beside(name, one) for name, one in _pairs(found)],
            )
    objectives = _part(results, "objectives")
    for name, found in objectives.items():
        rows = [[key, _number(seconds, 1000, ",.0f")] for key, seconds in sorted(found.items())]
        lines += _table([f"objective at {name}", "ms a step"], rows)
    lines += _floor_table(results)
    profiles = _part(results, "profile")
    if profiles:
        rows = [[name, *(f"{100 * found[kind]:.0f}" for kind in (*KINDS, OTHER))] for name, found in profiles.items()]
        lines += _table(["where a MetaMAE step's time goes, %", *KINDS, OTHER], rows)
    starts = _part(results, "starts")
    if starts:
        rows = [
            [name, _number(one.get("seconds", one.get("first_step_seconds")), 1, ".2f")] for name, one in starts.items()
        ]
        lines += _table(["start", "s"], rows)
    data = _part(results, "data")
    if data:
        rows = [[name, f"{one['gather']:,.0f}", f"{one['one by one']:,.0f}"] for name, one in data.items()]
        lines += _table(["data", "examples/s, one gather a batch", "one by one"], rows)
    return "\n".join(lines).strip()


def _floor_table(results: dict[str, Any]) -> list[str]:
    """The least time of a MetaMAE step's matrix products beside the time that it takes."""
    peaks, floors = results.get("machine/peaks"), _part(results, "floor")
    if not peaks or not floors:
        return []
    lines = [
        "",
        f"The machine: {peaks['fp32'] / 1e9:,.0f} GFLOP/s in fp32, {peaks['bf16'] / 1e9:,.0f} in bf16 "
        f"(products of large matrices), {peaks['bytes'] / 1e9:,.0f} GB/s (a copy of 256 MiB).",
    ]
    rows = []
    for name in dict.fromkeys(key.split("/")[0] for key in floors):
        need, mae = floors[f"{name}/metamae"], floors[f"{name}/mae"]
        row = [name, f"{need['operations'] / 1e9:,.0f}", f"{need['operations'] / mae['operations']:.2f}"]
        for precision, size in (("fp32", 4), ("bf16", 2)):
            least = max(need["operations"] / peaks[precision], size * need["numbers"] / peaks["bytes"])
            best = min(
                (value for found in (_part(results, "steps").get(name, {}),) for key, value in found.items()
                 if key.startswith(f"metamae {precision}")),
                default=None,
            )  # fmt: skip
            row += [f"{1000 * least:,.0f}", _number(best, 1000, ",.0f"), "-" if best is None else f"{least / best:.2f}"]
        rows.append(row)
    head = ["floor of a MetaMAE step", "GFLOP of matrix products", "MetaMAE : MAE"]
    for precision in DTYPES:
        head += [f"{precision}: least, ms", "taken, ms", "share"]
    return lines + _table(head, rows)


def _part(results: dict[str, Any], part: str) -> dict[str, Any]:
    return {key.split("/", 1)[1]: value for key, value in results.items() if key.startswith(f"{part}/")}


def _pairs(found: dict[str, Any]) -> list[tuple[str, tuple[dict[str, Any], dict[str, Any]]]]:
    """Each variant of ours beside the plain one of the same case."""
    cases = [(key.rsplit("/", 1), value) for key, value in found.items()]
    plain = {case: value for (case, variant), value in cases if variant == "plain"}
    return [
        (f"{case}, {variant}", (plain.get(case, {}), value)) for (case, variant), value in cases if variant != "plain"
    ]


def _beside(name: str, pair: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    plain, ours = pair
    seconds = plain.get("step_seconds")
    return [
        name, _number(plain.get("memory_bytes"), 2**-20, ",.0f"),
        _ratio(ours.get("memory_bytes"), plain.get("memory_bytes")),
        _number(seconds and seconds / plain["batch"], 1000, ",.1f"), _ratio(seconds, ours.get("step_seconds")),
    ]  # fmt: skip


def _number(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(factor * value, form)


def _ratio(one: float | None, other: float | None) -> str:
    return "-" if not one or not other else f"{one / other:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["", *("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))]


def main() -> None:
    """Measure what was asked for, writing after each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--shapes", nargs="+", help="shapes by name; by default all")
    parser.add_argument("--variants", nargs="+", default=["plain", "fp32", "bf16", "fp32 compiled", "bf16 compiled"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[196, 400, 784, 1600, 4096], help="lengths of scaling")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON file")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sslx-speed")
    parser.add_argument("--label", default="", help="behind the shapes' names, for a second run beside the first")
    parser.add_argument("--tiny", action="store_true", help="small sizes: whether it runs at all")
    parser.add_argument("--no-page", action="store_true", help="leave benchmarks/README.md alone")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.known = TINY if arguments.tiny else SHAPES
    arguments.shapes = arguments.shapes or list(arguments.known)
    if arguments.alone:
        report_alone(arguments)
        return
    path = arguments.out / f"speed-{arguments.device.type}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    kept |= {
        "hardware": describe(arguments.device), "cpus": os.cpu_count(), "torch": torch.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    results = kept.setdefault("results", {})

    def keep(key: str, value: Any) -> None:
        results[key] = value
        path.write_text(json.dumps(kept, indent=1) + "\n")
        print(key, json.dumps(value), flush=True)

    for part in arguments.parts:
        globals()[f"measure_{part}"](arguments, keep)
    made = tables(results)
    print(made)
    begin, end = (f"<!-- speed {arguments.device.type}: {word} -->" for word in ("begin", "end"))
    page = HERE / "README.md"
    if not arguments.no_page and begin in page.read_text():
        before, _, rest = page.read_text().partition(begin)
        _, _, after = rest.partition(end)
        page.write_text(
            f"{before}{begin}\nMeasured on {kept['hardware']}, torch {kept['torch']}.\n\n{made}\n{end}{after}"
        )


if __name__ == "__main__":
    main()
