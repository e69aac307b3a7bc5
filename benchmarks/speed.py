"""Benchmark steps of MAE and MetaMAE at the paper's shapes against the reference implementation in benchmarks/plain.py.

    python benchmarks/speed.py                     # all parts, on the CPU
    python benchmarks/speed.py --device cuda
    python benchmarks/speed.py --parts steps --shapes speech HIGGS
    python benchmarks/speed.py --parts kernels     # attention kernels, for the thresholds in ssl_core/nn/attention.py

The steps of all variants of a shape alternate within one run, and their medians are compared: read the ratios.
The reference implementation ("plain") is eager fp32 with softmax written out, as in the published code. On the CPU its
steps run in a process of its own with the default memory allocation of the C library; sslx keeps freed memory in the
process, as `sslx run` does. "plain, memory kept" is the reference implementation with the allocation of sslx, for
MetaMAE only. Peak memory and cold starts are measured in separate processes. The script updates
benchmarks/results/speed-DEVICE.json after each measurement, and the tables in benchmarks/README.md at the end. One file
holds the results of one machine and one version of torch.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import gc
import importlib.util
import json
import os
import platform
import signal
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
from ssl_core.contracts import PROGRESS
from ssl_core.nn import EncoderOptions, TransformerEncoder
from ssl_core.nn.attention import Attention, Kernel, attend, choose_kernel
from ssl_core.nn.attention_xformers import xformers_ops
from ssl_core.tokenizers import GridTokenizer, IdTokenizer
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.accel.cpu_matmul import mkl_is_slow
from ssl_core.training.accel.cuda_graph import FIRST_STEPS, GraphedStep
from ssl_core.training.accel.memory import M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, keep_freed_memory
from ssl_core.training.device import autocast, describe, peak_memory
from ssl_core.training.loop import train
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.training.plan import TrainingPlan

HERE = Path(__file__).resolve().parent
PARTS = ("steps", "objectives", "kernels", "memory", "scaling", "starts", "data", "loop", "floor", "profile")
PLAIN_MEMORY_KEPT = "plain, memory kept"
VARIANTS = ("plain", PLAIN_MEMORY_KEPT, "fp32", "bf16", "fp32 compiled", "bf16 compiled")
CUDA_VARIANTS = ("plain", "bf16 by kernel", "fp32", "bf16", "fp32 compiled", "bf16 compiled")
OTHER = "other"
CUDA_STEPS, CUDA_CALLS = 5, 20  # steps between two synchronisations; short calls in one CUDA graph
PROFILES = 7  # profiles of a step on the CPU; the fastest one counts
LONGEST = 15  # number of the longest kernels that a profile lists
LINEAR = "matrix products of linear maps"
KINDS = {  # kind of a profiled operation: substrings of its name
    LINEAR: (
        "aten::mm",
        "aten::addmm",
        "aten::linear",
        "_linear_pointwise",
        "sslx::product",
        "gemm",
        "nvjet",
    ),
    "matrix products of attention": ("aten::bmm", "aten::baddbmm"),
    "softmax of attention": ("_softmax", "sslx::attend", "aten::addcmul", "aten::cat", "fmha", "attention", "flash"),
    "random numbers": ("aten::random_", "sslx::dropout_mask", "aten::randint", "philox"),
    "copies": ("aten::copy_", "sslx::patchify", "Memcpy"),
    "fused pointwise work": ("CompiledFxGraph", "cpp_fused", "triton"),
    "optimiser": ("adam", "Adam"),
}
CODE_FOLDERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """Input shape of a data set and its row of the MetaMAE paper's Table 8.

    An empty `space` means ids of a vocabulary of size `vocab`, `length` of them in a sample.
    """

    channels: int
    space: tuple[int, ...]
    patch: tuple[int, ...]
    batch: int
    alpha: float
    contrast_weight: float
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
TINY = {  # a grid, ids, and a shape with dropout
    "speech": replace(SHAPES["speech"], space=(80, 80), batch=4, depth=1),
    "genomics": replace(SHAPES["genomics"], length=24, batch=4, depth=1),
    "HIGGS": replace(SHAPES["HIGGS"], space=(12,), batch=4, depth=1),
}

HEADS, HEAD_WIDTH = {"encoder": 8, "decoder": 4}, 32  # the paper's Table 7
# Decoder lengths with the cls token: HIGGS 29; PAMAP2, EuroSAT and wafer 65; Pfam 129; speech 197. 17 is close to the
# lengths in their encoders; 513 and 1025 are longer than any in the paper.
KERNEL_TOKENS = (17, 29, 65, 129, 197, 513, 1025)
KERNEL_BATCH, KERNEL_ROWS = 256, 64 * 197  # limits: the batch size of HIGGS, the tokens of a batch of speech
KERNEL_SCORES = {"cpu": 2**24, "cuda": 2**27}  # most attention scores in a call, which bounds its time


class Subject:
    """A learner for a shape, its data, and the reference implementation with the same sizes."""

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
        self.learner.start_teacher()
        draws = self.learner.draw(shape.batch, torch.Generator().manual_seed(0)) | {PROGRESS: torch.tensor(0.5)}
        self.draws = {name: value.to(device) for name, value in draws.items()}
        self.encoder_options = encoder

    def _learner(self, tokenizer: Any, encoder: EncoderOptions, name: str) -> Learner:
        catalogue = plugins.load()
        plugin = catalogue.objective(name)
        maskings = {}
        for key, choice in plugin.masking_choices().items():
            kind = catalogue.masking(choice.name)
            chosen = {**choice.values, **({"ratio": self.shape.ratio} if name in ("metamae", "mae") else {})}
            maskings[key] = kind(kind.Options.model_validate(chosen), tokenizer.layout)
        values = {"alpha": self.shape.alpha, "contrast_weight": self.shape.contrast_weight, "depth": self.shape.depth}
        options = plugin.Options(**{k: v for k, v in values.items() if k in plugin.Options.model_fields})
        return Learner(
            tokenizer,
            TransformerEncoder(encoder, tokenizer.layout),
            plugin(options, tokenizer.layout, encoder.dim, maskings),
        )

    def ours(self, precision: str, compiled: bool, cache: Path, graphed: bool = True) -> Callable[[], None]:
        """Return a step of sslx without the gradient norm: forward, backward, fused AdamW; on CUDA one CUDA graph."""
        graphed = graphed and self.device.type == "cuda"
        optimizer = make_optimizer(self.learner, TrainOptions(lr=1e-5), graphed)
        step: Any = self.learner
        if compiled:
            step = CompiledStep(self.learner, f"speed-{precision}", cache)

        def update(inputs: Any, draws: Any) -> dict[str, Tensor]:
            with autocast(self.device, precision):  # type: ignore[arg-type]
                outcome = step(inputs, draws)
            outcome.loss.backward()
            optimizer.step()
            self.learner.update_teacher(draws[PROGRESS])
            optimizer.zero_grad()
            return {"loss": outcome.loss.detach()}

        whole = GraphedStep(update, self.device, fail, optimizer.zero_grad) if graphed else update

        def run() -> None:
            whole(self.inputs, self.draws)

        return run

    def plain(self) -> Callable[[], None]:
        """Return a step of the reference implementation: eager fp32."""
        plain = load_plain()
        layout: Layout = self.learner.tokenizer.layout
        (segment,) = layout.segments
        options = self.learner.objective.options
        sizes = plain.Sizes(
            (plain.Piece(segment.target, segment.grid, segment.size, self.shape.patch),),
            dim=self.encoder_options.dim, depth=self.encoder_options.depth, heads=self.encoder_options.heads,
            mlp=2 * self.encoder_options.dim, decoder_depth=options.depth, dropout=self.shape.dropout, explicit=False,
        )  # fmt: skip
        learner_parameters = plain.parameters_of(dict(self.learner.named_parameters()))
        parameters = {name: value.detach().clone().requires_grad_() for name, value in learner_parameters.items()}
        optimizer = torch.optim.AdamW(parameters.values(), lr=1e-5)
        batch, visible = [self.inputs["x"]], self.draws["visible"]
        if self.name == "metamae":
            support, order = self.draws["support"], self.draws["order"]
            near = torch.zeros(order.shape, dtype=torch.bool, device=self.device)
            nearby = support.bool().clone()
            nearby[:, : visible.shape[1]] = False
            near.scatter_(1, order[:, : support.shape[1]], nearby)

        def run() -> None:
            if self.name == "metamae":
                loss: Tensor = plain.metamae_loss(
                    parameters,
                    batch,
                    visible,
                    near,
                    sizes,
                    alpha=options.alpha,
                    contrast_weight=options.contrast_weight,
                ).loss
            else:
                loss = plain.mae_loss(parameters, batch, visible, sizes)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def variant(self, name: str, cache: Path) -> Callable[[], None]:
        """Return the step of a variant, one of VARIANTS or CUDA_VARIANTS."""
        if name.startswith("plain"):
            return self.plain()
        precision, _, how = name.partition(" ")
        return self.ours(precision, how == "compiled", cache, how != "by kernel")


def fail(why: str) -> None:
    """Raise RuntimeError: a step that cannot be captured as a CUDA graph must not be timed as if it were."""
    raise RuntimeError(why)


def load_plain() -> Any:
    """Import benchmarks/plain.py by its path, since benchmarks is not a package."""
    if "plain" not in sys.modules:
        spec = importlib.util.spec_from_file_location("plain", HERE / "plain.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["plain"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["plain"])
    return sys.modules["plain"]


def allocate_as_usual() -> None:
    """Undo `keep_freed_memory`: restore the limits that glibc sets after blocks of up to 32 MiB have been freed."""
    with contextlib.suppress(AttributeError):
        m_mmap_threshold, library = -3, ctypes.CDLL(None)
        for name, value in (
            (M_MMAP_MAX, 65536), (m_mmap_threshold, 2**25), (M_TRIM_THRESHOLD, 2**26), (M_TOP_PAD, 2**17),
        ):  # fmt: skip
            library.mallopt(name, value)


def give_back_memory() -> None:
    """Return freed memory to the system, since a child process may need all of it."""
    gc.collect()
    allocate_as_usual()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak(device: torch.device) -> None:
    """Reset the peak that `peak_memory` reports to the current use. Only Linux and CUDA support it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def timed(step: Callable[[], None], device: torch.device, count: int = CUDA_STEPS) -> float:
    """Return the seconds of a step, device work included; on CUDA the mean of `count` steps without waiting between."""
    if device.type != "cuda":
        began = time.perf_counter()
        step()
        return time.perf_counter() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def recorded(call: Callable[[], None], device: torch.device) -> tuple[Callable[[], None], int]:
    """Return a function that repeats a short call, and the repetitions; on CUDA a graph, without launch times."""
    if device.type != "cuda":
        return call, 1
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
        call()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        for _ in range(CUDA_CALLS):
            call()
        graph.capture_end()
    return graph.replay, CUDA_CALLS


def short(calls: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, float]:
    """Do the same as `interleaved` for calls that take microseconds."""
    many = {name: recorded(call, device) for name, call in calls.items()}
    seconds = interleaved({name: call for name, (call, _) in many.items()}, repeats, device)
    return {name: seconds[name] / count for name, (_, count) in many.items()}


def interleaved(steps: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each step. The steps alternate; the first two rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    if device.type == "cuda":
        for step in steps.values():
            for _ in range(FIRST_STEPS + 1):  # the last one is captured as a graph
                step()
    else:
        keep_freed_memory()
    for turn in range(repeats + 2):
        for name, step in steps.items():
            if isinstance(step, Apart):
                step()  # warm up: the first step after another process has run is slower if it allocates memory
            seconds = timed(step, device)
            if turn >= 2:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def measure_steps(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure steps of MAE and MetaMAE for each shape, in all variants."""
    cuda = arguments.device.type == "cuda"
    for name in arguments.shapes:
        steps: dict[str, Callable[[], None]] = {}
        with contextlib.ExitStack() as stack:
            for objective in ("metamae", "mae"):
                subject = None
                for variant in arguments.variants:
                    if variant == PLAIN_MEMORY_KEPT and objective == "mae":
                        continue  # the share of memory allocation in a ratio is measured for MetaMAE only
                    label = f"{objective} {variant}"
                    if variant == "plain" and not cuda:
                        steps[label] = stack.enter_context(Apart(arguments, name, objective, variant))
                        continue
                    if subject is None or cuda:  # each CUDA graph is captured on its own stream
                        subject = Subject(arguments.known[name], objective, arguments.device, arguments.tiny)
                    steps[label] = subject.variant(variant, arguments.cache)
            seconds = interleaved(steps, arguments.repeats, arguments.device)
        keep(f"steps/{name}{arguments.label}", seconds)


class Apart:
    """A variant's step in its own process, one step for each call, so that no other variant affects its allocation."""

    def __init__(self, arguments: argparse.Namespace, *case: str) -> None:
        command = own_command(arguments, "--apart", *case)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        if not self.process.stdout.readline():
            raise RuntimeError(f"the process of a step ended with {self.process.wait()}")

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def step_apart(arguments: argparse.Namespace) -> None:
    """Run in the child process of `Apart`: one step of SHAPE OBJECTIVE VARIANT for each line of the input."""
    name, objective, variant = arguments.apart
    step = Subject(arguments.known[name], objective, arguments.device, arguments.tiny).variant(variant, arguments.cache)
    for _ in sys.stdin:
        step()
        print(flush=True)


def measure_objectives(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure every installed objective at the first shape, eager."""
    name = arguments.shapes[0]
    steps = {}
    for entry in plugins.load().entries("objective"):
        for variant in [v for v in arguments.variants if v in DTYPES]:
            subject = Subject(arguments.known[name], entry.name, arguments.device, arguments.tiny)
            steps[f"{entry.name} {variant}"] = subject.variant(variant, arguments.cache)
    keep(f"objectives/{name}", interleaved(steps, arguments.repeats, arguments.device))


def own_command(arguments: argparse.Namespace, side: str, *case: str, cache: Path | None = None) -> list[str]:
    """Return the command that runs this script in a child process, with `side` as its hidden option."""
    tiny_option = ["--tiny"] if arguments.tiny else []
    cache_option = ["--cache", str(cache or arguments.cache)]
    return [sys.executable, __file__, "--device", str(arguments.device), side, *case, *tiny_option, *cache_option]


def alone(arguments: argparse.Namespace, *case: str, cache: Path | None = None) -> dict[str, Any]:
    """Measure a variant in its own process: first step, median step and added memory."""
    command = own_command(arguments, "--alone", *case, cache=cache)
    # compiling in this process sets these variables; in the child, --cache alone must choose the directory
    environment = {name: value for name, value in os.environ.items() if name not in CODE_FOLDERS}
    give_back_memory()
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        return {"error": why_failed(result)}
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


def why_failed(result: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a process wrote to stderr, or the signal that ended it."""
    if result.returncode == -signal.SIGKILL:
        return "killed by SIGKILL, probably because memory ran out"
    if result.returncode < 0:
        return f"killed by {signal.Signals(-result.returncode).name}"
    return next(reversed(result.stderr.strip().splitlines()), f"ended with {result.returncode}")


def report_alone(arguments: argparse.Namespace) -> None:
    """Run in the child process of `alone`: measure SHAPE OBJECTIVE VARIANT [TOKENS] and print the result as JSON."""
    name, objective, variant, *tokens = arguments.alone
    began = time.perf_counter()
    shape = arguments.known[name]
    if tokens:
        side = round(int(tokens[0]) ** 0.5)
        shape = replace(shape, space=(16 * side, 16 * side), batch=max(2, 4096 // int(tokens[0])))
    subject = Subject(shape, objective, arguments.device, arguments.tiny)
    step = subject.variant(variant, arguments.cache)
    if not variant.startswith("plain"):  # a new process has the default limits of the C library
        keep_freed_memory()
    forget_peak(arguments.device)
    before = peak_memory(arguments.device)
    first = timed(step, arguments.device, 1)
    setup_seconds = time.perf_counter() - began - first
    for _ in range(FIRST_STEPS if arguments.device.type == "cuda" else 0):
        step()
    times = [timed(step, arguments.device) for _ in range(3)]
    print(
        json.dumps(
            {
                "made_seconds": setup_seconds, "first_step_seconds": first,
                "step_seconds": statistics.median(times), "memory_bytes": peak_memory(arguments.device) - before,
                "batch": shape.batch,
            }
        )
    )  # fmt: skip


def measure_memory(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure the peak memory of a step beyond model and data. Eager, since the compiler's memory would count."""
    for name in arguments.shapes:
        for variant in [v for v in arguments.variants if v in ("plain", *DTYPES)]:
            keep(f"memory/{name}/{variant}", alone(arguments, name, "metamae", variant))


def measure_scaling(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure MetaMAE on increasing sequence lengths, eager fp32, at about the same number of tokens in a batch."""
    for tokens in (16,) if arguments.tiny else arguments.tokens:
        for variant in ("plain", "fp32"):
            keep(f"scaling/{tokens}/{variant}", alone(arguments, "speech", "metamae", variant, str(tokens)))


def measure_starts(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure the start of commands, and the first compiled step with an empty and with a filled cache."""
    for command in ("--help", "list"):
        times = []
        for _ in range(1 if arguments.tiny else 5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "ssl_core.cli", command], capture_output=True, check=True)
            times.append(time.perf_counter() - began)
        keep(f"starts/sslx {command}", {"seconds": statistics.median(times)})
    times = [first_step() for _ in range(2 if arguments.tiny else 6)][1:]  # the first run prepares the data
    keep("starts/sslx run, to the first step of MetaMAE on the embedded table", {"seconds": statistics.median(times)})
    variants = [variant for variant in arguments.variants if "compiled" in variant]
    with tempfile.TemporaryDirectory() as cold:
        for variant in variants:
            for state in ("cold", "warm"):
                result = alone(arguments, arguments.shapes[0], "metamae", variant, cache=Path(cold))
                keep(f"starts/{arguments.shapes[0]} {variant}, {state} cache", result)


def first_step() -> float:
    """Return the seconds from the start of an eager run to the metrics line of its first optimiser step."""
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


def measure_kernels(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure each attention kernel at the paper's lengths and beyond, for each number of derivatives.

    Only a decoder has a second derivative.
    """
    device = arguments.device
    for where, heads in HEADS.items():
        for tokens in (5, 9) if arguments.tiny else KERNEL_TOKENS:
            most = KERNEL_SCORES[device.type] // (heads * tokens**2)
            batch = 2 if arguments.tiny else max(1, min(KERNEL_BATCH, KERNEL_ROWS // tokens, most))
            for precision, dtype in DTYPES.items():
                for derivatives in (0, 1) if where == "encoder" else (0, 1, 2):
                    calls, failed = dict[str, Callable[[], None]](), dict[str, str]()
                    for kernel in usable_kernels(device, derivatives):
                        call = kernel_call((batch, heads, tokens, HEAD_WIDTH), dtype, device, kernel, derivatives)
                        try:
                            call()
                        except RuntimeError as error:  # unsupported by hardware or number format, or out of memory
                            failed[kernel] = str(error).strip().splitlines()[0]
                        else:
                            calls[kernel] = call
                    chosen = choose_kernel(device, dtype, tokens, derivatives, HEAD_WIDTH)
                    case = {
                        "batch": batch, "chosen": chosen, "failed": failed,
                        "seconds": short(calls, arguments.repeats, device),
                    }  # fmt: skip
                    keep(f"kernels/{where}, {tokens} tokens, {precision}, derivatives {derivatives}", case)


def usable_kernels(device: torch.device, derivatives: int) -> tuple[Kernel, ...]:
    """Return the kernels with this number of derivatives on the device."""
    if derivatives == 2:
        return ("math", "double_backward")
    fused: tuple[Kernel, ...] = ("math", "sdpa", "double_backward")
    return (*fused, "xformers") if device.type == "cuda" and xformers_ops() is not None else fused


def kernel_call(
    size: tuple[int, ...], dtype: torch.dtype, device: torch.device, kernel: Kernel, derivatives: int
) -> Callable[[], None]:
    """Return a call of a kernel on (B, h, N, e) with its backward passes, which start from random gradients."""
    rows, heads, tokens, width = size  # in memory as (B, N, h, e), like the tensors in `Attention`
    q, k, v, gradient, *second = (
        torch.randn(rows, tokens, heads, width, device=device).to(dtype).transpose(1, 2) for _ in range(7)
    )

    def run() -> None:
        if derivatives == 0:
            with torch.no_grad():
                attend(q, k, v, kernel)
            return
        leaves = [part.detach().requires_grad_() for part in (q, k, v)]
        start = gradient.detach().requires_grad_(derivatives == 2)
        out = attend(leaves[0], leaves[1], leaves[2], kernel)
        first = torch.autograd.grad(out, leaves, start, create_graph=derivatives == 2)
        if derivatives == 2:
            torch.autograd.grad(first, [*leaves, start], second)

    return run


def measure_data(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure samples per second from memory-mapped arrays: one gather for a batch, and a DataLoader of single samples.

    Both read a file that the system has in memory, in the same order, which is drawn in advance.
    """
    import numpy as np

    from ssl_core.pipeline.cache import PreprocessedSplit
    from ssl_core.pipeline.sampler import batch_index

    class Rows(torch.utils.data.Dataset[Tensor]):
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __len__(self) -> int:
            return len(self.array)

        def __getitem__(self, index: int) -> Tensor:
            return torch.from_numpy(np.array(self.array[index]))

    for name, width, size in (("HIGGS", 28, 256), ("speech", 224 * 224, 64)):
        count = (1000 if arguments.tiny else 200_000) if name == "HIGGS" else 500
        turns = 3 if arguments.tiny else 50
        order = [batch_index(0, step, count, size) for step in range(turns)]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "x.npy"
            np.save(file, np.random.default_rng(0).random((count, width), dtype=np.float32))
            data = PreprocessedSplit({"x": np.load(file, mmap_mode="r")}, None)
            data.arrays["x"].max()  # touch every page, as a first epoch does
            began = time.perf_counter()
            for index in order:
                data.take(index)
            gathered = turns * size / (time.perf_counter() - began)
            rows: Any = torch.utils.data.DataLoader(
                Rows(data.arrays["x"]), batch_sampler=[index.tolist() for index in order]
            )
            began = time.perf_counter()
            seen = sum(len(batch) for batch in rows)
            keep(f"data/{name}", {"gather": gathered, "one by one": seen / (time.perf_counter() - began)})
            del data, rows


def measure_loop(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure steps of `train`, with batches from a memory-mapped file, draws, metrics and checkpoints."""
    import numpy as np

    from ssl_core.pipeline.cache import PreprocessedSplit

    name, device = arguments.shapes[0], arguments.device
    variant = arguments.variants[-1]
    precision, _, how = variant.partition(" ")
    subject = Subject(arguments.known[name], "metamae", device, arguments.tiny)
    steps = arguments.steps or (20 if arguments.tiny or device.type == "cpu" else 5000)
    options = TrainOptions(steps=steps, batch_size=subject.shape.batch, lr=1e-4)
    x = subject.inputs["x"].cpu().numpy()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.npy"
        np.save(file, np.concatenate([x] * (2 if arguments.tiny else 32)))
        data = PreprocessedSplit({"x": np.load(file, mmap_mode="r")}, None)
        compiled = CompiledStep(subject.learner, "speed-loop", arguments.cache) if how == "compiled" else None
        keep_freed_memory()
        plan = TrainingPlan(
            options, seed=0, device=device, precision=precision,
            folder=Path(folder), compiled=compiled, warn=fail,
        )  # fmt: skip
        lines = train(subject.learner, data, plan).log.lines
        del data
    steady = lines[len(lines) // 5 :]  # compilation and graph capture are over by then
    seconds = sum(options.log_every / line["train/samples_per_second"] for line in steady) * options.batch_size
    per_step = seconds / (len(steady) * options.log_every)
    result = {"steps": steps, "step_seconds": per_step, "minutes of 100,000": per_step * 1e5 / 60}
    keep(f"loop/{name}, {variant}", result)


def measure_floor(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure the peak rates of the machine and count a step's matrix products: together a lower bound of its time."""
    peaks: dict[str, float] = {}
    for precision, dtype in DTYPES.items():
        for rows, inner, columns in ((4096, 1024, 1024), (12608, 128, 384)):
            x, w = (torch.randn(size, device=arguments.device).to(dtype) for size in ((rows, inner), (columns, inner)))
            ways: dict[str, Any] = {f"{precision} by torch": functools.partial(torch.nn.functional.linear, x, w)}
            if precision == "fp32" and arguments.device.type == "cpu" and mkl_is_slow():
                ways["fp32 by oneDNN"] = functools.partial(torch.ops.sslx.product, x, w.T, None)
            for way, seconds in short(ways, 3 if arguments.tiny else 15, arguments.device).items():
                rate = 2 * rows * inner * columns / seconds
                for name in (way, precision):
                    peaks[name] = max(peaks.get(name, 0.0), rate)
    block = torch.randn(2**22 if arguments.tiny else 2**26, device=arguments.device)
    other = torch.empty_like(block)
    copied = short({"": functools.partial(_copy, other, block)}, 3 if arguments.tiny else 7, arguments.device)
    keep("machine/peaks", {**peaks, "bytes": 2 * 4 * block.numel() / copied[""]})
    for name in arguments.shapes:
        for objective in ("metamae", "mae"):
            # on the CPU, where every product is visible; their number is the same on any device
            subject = Subject(arguments.known[name], objective, torch.device("cpu"), arguments.tiny)
            keep(f"floor/{name}/{objective}", count_products(subject))


def _copy(to: Tensor, block: Tensor) -> None:
    to.copy_(block)


def count_products(subject: Subject) -> dict[str, float]:
    """Count the operations of a step's matrix products, and the numbers that they read and write.

    Sets the attention of the subject to "math" permanently.
    """
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

    for part in subject.learner.modules():
        if isinstance(part, Attention):
            part.backend = "math"  # the products inside a fused kernel are not visible
    step = subject.ours("fp32", False, Path())
    with Counting():
        step()
    return counted


def measure_profile(arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Profile a MetaMAE step in the last of the variants: the share of each kind of operation in its time."""
    from torch.profiler import ProfilerActivity, profile

    variant = arguments.variants[-1]
    precision, _, how = variant.partition(" ")
    cuda = arguments.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    for name in arguments.shapes:
        subject = Subject(arguments.known[name], "metamae", arguments.device, arguments.tiny)
        # without a CUDA graph, in which the profiler cannot tell which operation launched a kernel
        step = (
            subject.plain()
            if precision == "plain"
            else subject.ours(precision, how == "compiled", arguments.cache, False)
        )
        if precision != "plain":
            keep_freed_memory()
        for _ in range(3):
            step()
        profiles = []
        # the profiler's own memory makes some steps allocate new pages: the fastest is closest to an unprofiled step
        for _ in range(1 if cuda else PROFILES):
            with profile(activities=activities, record_shapes=not cuda) as trace:
                step()
            profiles.append(trace.key_averages(group_by_input_shape=not cuda))
        events = min(profiles, key=lambda one: sum(event.self_cpu_time_total for event in one))
        shares = dict.fromkeys((*KINDS, OTHER), 0.0)
        if cuda:
            calls = {event.key: event.count for event in events if "xformers" in event.key}
            events = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
            # an annotation spans kernels that are counted on their own
            events = [event for event in events if not event.is_user_annotation]
            keep(f"kernel calls/{name}, {variant}", {"all": sum(event.count for event in events), **calls})
            longest = sorted(events, key=lambda event: -event.self_device_time_total)[:LONGEST]
            times = {event.key[:100]: round(event.self_device_time_total) for event in longest}
            keep(f"longest kernels/{name}, {variant}, us", times)
        for event in events:
            spent = event.self_device_time_total if cuda else event.self_cpu_time_total
            shares[kind_of(event.key, event.input_shapes or [])] += spent
        total = sum(shares.values())
        keep(f"profile/{name}, {variant}", {kind: spent / total for kind, spent in shares.items()})


def kind_of(name: str, shapes: list[list[int]]) -> str:
    """Return the kind of an operation, one of KINDS or OTHER. `shapes` are the shapes of its inputs."""
    # engine/products.py splits a product by rows among the threads; attention has one for each head of each sample
    if name == "aten::bmm" and shapes and shapes[0] and shapes[0][0] <= torch.get_num_threads():
        return LINEAR
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), OTHER)


def tables(results: dict[str, Any]) -> str:
    """Format the results as Markdown tables."""
    lines = _step_tables(_part(results, "steps"))
    for part, what in (("memory", "memory of a MetaMAE step"), ("scaling", "tokens of a MetaMAE step, fp32")):
        part_results = _part(results, part)
        if part_results:
            lines += _table(
                [what, "plain, MiB", "sslx, of that", "plain, ms a row", "sslx: times faster"],
                [_beside(name, one) for name, one in _pairs(part_results)],
            )
    objectives = _part(results, "objectives")
    for name, part_results in objectives.items():
        rows = [[key, _ms(seconds)] for key, seconds in sorted(part_results.items())]
        lines += _table([f"objective at {name}", "ms a step"], rows)
    lines += _kernel_table(_part(results, "kernels"))
    lines += _floor_table(results)
    profiles = _part(results, "profile")
    if profiles:
        rows = [[name, *(f"{100 * one[kind]:.0f}" for kind in (*KINDS, OTHER))] for name, one in profiles.items()]
        lines += _table(["where a MetaMAE step's time goes, %", *KINDS, OTHER], rows)
    starts = _part(results, "starts")
    if starts:
        rows = [
            [name, _failed(one) or _number(one.get("seconds", one.get("first_step_seconds")), 1, ".2f")]
            for name, one in starts.items()
        ]
        lines += _table(["start", "s"], rows)
    loops = _part(results, "loop")
    if loops:
        rows = [
            [name, f"{one['steps']:,}", _number(one["step_seconds"], 1000, ",.2f"), f"{one['minutes of 100,000']:,.1f}"]
            for name, one in loops.items()
        ]
        lines += _table(["MetaMAE trained, data and all", "steps", "ms a step", "minutes for 100,000"], rows)
    data = _part(results, "data")
    if data:
        rows = [[name, f"{one['gather']:,.0f}", f"{one['one by one']:,.0f}"] for name, one in data.items()]
        lines += _table(["data", "examples/s, one gather a batch", "one by one"], rows)
    return "\n".join(lines).strip()


def _step_tables(steps: dict[str, Any]) -> list[str]:
    lines = list[str]()
    for objective, word in (("metamae", "MetaMAE"), ("mae", "MAE")):
        variants = {key.split(" ", 1)[1] for one in steps.values() for key in one if key.startswith(f"{objective} ")}
        if not variants:
            continue
        known = dict.fromkeys((*VARIANTS, *CUDA_VARIANTS))
        ours = [variant for variant in known if variant in variants and not variant.startswith("plain")]
        beside = ours if objective != "mae" else []
        memory_kept = [PLAIN_MEMORY_KEPT] if PLAIN_MEMORY_KEPT in variants else []
        head = [f"{word} step", "plain, ms", *(f"{variant}: ms" for variant in memory_kept)]
        head += [f"{variant}: times faster" for variant in ours]
        head += [f"{word} : MAE, {variant}" for variant in beside]
        rows = []
        for name, one in steps.items():
            plain = one.get(f"{objective} plain")
            row = [name, *(_ms(one.get(f"{objective} {variant}")) for variant in ("plain", *memory_kept))]
            row += [_ratio(plain, one.get(f"{objective} {variant}")) for variant in ours]
            row += [_ratio(one.get(f"{objective} {variant}"), one.get(f"mae {variant}")) for variant in beside]
            rows.append(row)
        lines += _table(head, rows)
    return lines


def _kernel_table(kernel_results: dict[str, Any]) -> list[str]:
    """Format the time of each kernel, the kernel that `choose_kernel` returns, and the fastest one."""
    if not kernel_results:
        return []
    kernels = list(
        dict.fromkeys(kernel for one in kernel_results.values() for kernel in (*one["seconds"], *one["failed"]))
    )
    rows = []
    for name, one in kernel_results.items():
        seconds, chosen = one["seconds"], one["chosen"]
        fastest = min(seconds, key=seconds.get, default="-")
        row = [name, str(one["batch"])]
        row += [
            "failed"
            if kernel in one["failed"]
            else _number(seconds.get(kernel), 1000, ",.3f" if min(seconds.values()) < 1e-3 else ",.2f")
            for kernel in kernels
        ]
        rows.append([*row, chosen, fastest, _ratio(seconds.get(chosen), seconds.get(fastest))])
    head = ["attention", "batch", *(f"{kernel}, ms" for kernel in kernels)]
    return _table([*head, "chosen", "fastest", "chosen : fastest"], rows)


def _floor_table(results: dict[str, Any]) -> list[str]:
    """Format the least time of the matrix products of a MetaMAE step and the measured time of the step."""
    peaks, floors = results.get("machine/peaks"), _part(results, "floor")
    if not peaks or not floors:
        return []
    torchs = f" ({peaks['fp32 by torch'] / 1e9:,.0f} by torch's own products)" if "fp32 by oneDNN" in peaks else ""
    lines = [
        "",
        f"The machine: {peaks['fp32'] / 1e9:,.0f} GFLOP/s in fp32{torchs}, {peaks['bf16'] / 1e9:,.0f} in bf16 "
        f"(products of large matrices), {peaks['bytes'] / 1e9:,.0f} GB/s (a copy of 256 MiB).",
    ]
    rows = []
    for name in dict.fromkeys(key.split("/")[0] for key in floors):
        need, mae = floors[f"{name}/metamae"], floors[f"{name}/mae"]
        row = [name, f"{need['operations'] / 1e9:,.0f}", f"{need['operations'] / mae['operations']:.2f}"]
        for precision, size in (("fp32", 4), ("bf16", 2)):
            least = max(need["operations"] / peaks[precision], size * need["numbers"] / peaks["bytes"])
            best = min(
                (value for shape_steps in (_part(results, "steps").get(name, {}),) for key, value in shape_steps.items()
                 if key.startswith(f"metamae {precision}")),
                default=None,
            )  # fmt: skip
            row += [_ms(least), _ms(best), "-" if best is None else f"{least / best:.2f}"]
        rows.append(row)
    head = ["floor of a MetaMAE step", "GFLOP of matrix products", "MetaMAE : MAE"]
    for precision in DTYPES:
        head += [f"{precision}: least, ms", "taken, ms", "share"]
    return lines + _table(head, rows)


def _part(results: dict[str, Any], part: str) -> dict[str, Any]:
    return {key.split("/", 1)[1]: value for key, value in results.items() if key.startswith(f"{part}/")}


def _pairs(measurements: dict[str, Any]) -> list[tuple[str, tuple[dict[str, Any], dict[str, Any]]]]:
    """Pair each variant of sslx with the plain variant of the same case."""
    cases = [(key.rsplit("/", 1), value) for key, value in measurements.items()]
    plain = {case: value for (case, variant), value in cases if variant == "plain"}
    return [
        (f"{case}, {variant}", (plain.get(case, {}), value)) for (case, variant), value in cases if variant != "plain"
    ]


def _beside(name: str, pair: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    plain, ours = pair
    seconds = plain.get("step_seconds")
    return [
        name, _failed(plain) or _number(plain.get("memory_bytes"), 2**-20, ",.0f"),
        _failed(ours) or _ratio(ours.get("memory_bytes"), plain.get("memory_bytes")),
        _number(seconds and seconds / plain["batch"], 1000, ",.1f"), _ratio(seconds, ours.get("step_seconds")),
    ]  # fmt: skip


def _failed(one: dict[str, Any]) -> str:
    """Return the table entry of a failed process; empty if it succeeded."""
    return f"failed: {one['error']}".replace("|", "/") if "error" in one else ""


def _number(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(factor * value, form)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else format(1000 * seconds, ",.0f" if seconds > 0.02 else ".2f")


def _ratio(one: float | None, other: float | None) -> str:
    return "-" if not one or not other else f"{one / other:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["", *("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))]


def read_results(path: Path, here: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of the file, if any, updated with `here`.

    Raises:
        SystemExit: The file is of another machine or another version of torch than `here`.
    """
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if record.get("results"):
        there, now = (f"{one.get('hardware')}, torch {one.get('torch')}" for one in (record, here))
        if there != now:
            sys.exit(
                f"{path} holds results of {there}, and this is {now}: "
                "move the file away, or choose another directory with --out"
            )
    return record | here


def main(argv: list[str] | None = None) -> None:
    """Measure the selected parts, saving after each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (default: all)"
    )
    parser.add_argument("--shapes", nargs="+", help="names of shapes (default: all)")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=[*dict.fromkeys((*VARIANTS, *CUDA_VARIANTS))],
        help="variants to measure (default: all of the device); profile and loop use the last one",
    )
    parser.add_argument("--steps", type=int, help="number of training steps of the part loop")
    parser.add_argument(
        "--tokens",
        nargs="+",
        type=int,
        default=[196, 400, 784, 1600, 4096],
        help="sequence lengths of the part scaling",
    )
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds (default: 7)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory of the JSON file")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "sslx-speed", help="directory of compiled code"
    )
    parser.add_argument("--label", default="", help="suffix of the shape names, to keep repeated measurements apart")
    parser.add_argument("--tiny", action="store_true", help="use small sizes, to test the script")
    parser.add_argument("--no-page", action="store_true", help="do not update benchmarks/README.md")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--apart", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.known = TINY if arguments.tiny else SHAPES
    arguments.shapes = arguments.shapes or list(arguments.known)
    arguments.variants = arguments.variants or (CUDA_VARIANTS if arguments.device.type == "cuda" else VARIANTS)
    if arguments.alone:
        report_alone(arguments)
        return
    if arguments.apart:
        step_apart(arguments)
        return
    path = arguments.out / f"speed-{arguments.device.type}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    here = {
        "hardware": describe(arguments.device), "cpus": os.cpu_count(), "torch": torch.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    record = read_results(path, here)
    results = record.setdefault("results", {})

    def keep(key: str, value: Any) -> None:
        results[key] = value
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(key, json.dumps(value), flush=True)

    for part in arguments.parts:
        globals()[f"measure_{part}"](arguments, keep)
    page_text = f"Measured on {record['hardware']}, torch {record['torch']}.\n\n{tables(results)}"
    print(page_text)
    begin, end = (f"<!-- speed {arguments.device.type}: {word} -->" for word in ("begin", "end"))
    page = HERE / "README.md"
    if not arguments.no_page and begin in page.read_text():
        before, _, rest = page.read_text().partition(begin)
        _, _, after = rest.partition(end)
        page.write_text(f"{before}{begin}\n{page_text}\n{end}{after}")


if __name__ == "__main__":
    main()
