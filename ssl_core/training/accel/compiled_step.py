"""The training step compiled whole, when that pays; decided beforehand, never in the midst of a run.

A compiled step rounds differently from an eager one, so a run uses one of the two from its first step to its last. The
objective's inner gradients are taken by torch.func.grad, so that one graph holds them and the outer gradient as well
(blocks compiled one by one could not be differentiated twice).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_core.errors import SslxError
from ssl_core.nn.attention_xformers import attend_xformers, xformers_fits
from ssl_core.nn.double_backward import double_backward_attention
from ssl_core.nn.indexing import embedding_lookup
from ssl_core.tokens import Outcome
from ssl_core.utils.source_digest import source_digest, source_files

Choice = Literal["auto", "on", "off"]

NN, PRODUCTS = Path(__file__).parents[2] / "nn", Path(__file__).with_name("cpu_matmul.py")
CODE_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_set_here: set[str] = set()  # what this process, and not the user, has put there
# From where compiling pays: what it costs ("start" in benchmarks/README.md: a minute or two on few cores, seconds where
# it was compiled before) by what it then saves at each step. On the CPU that is from 200 steps on for Pfam to 1,100 for
# EuroSAT, whose steps are the shortest, and a fifth of these where it was compiled before. On CUDA they are estimates.
COLD_STEPS = {"cpu": 1500, "cuda": 2000}
COLD_SECONDS = {"cpu": 900, "cuda": 600}
WARM_STEPS, WARM_SECONDS = 200, 120


def decide(
    wanted: Choice, steps: int, device: torch.device, key: str, cache: Path, seconds: float | None = None
) -> tuple[Literal["on", "off"], str]:
    """Whether to compile, and why in a few words. `key`: what the compiled code depends on, from `key_of`.

    `seconds`: the length of a run that goes by the clock, in place of `steps`.
    """
    if wanted != "auto":
        return wanted, f"{wanted}, as set"
    if missing := _missing(device):
        return "off", f"off: there is no {missing}"
    warm = is_known(key, cache)
    state = "compiled before" if warm else "not compiled before"
    if seconds is None:
        length, least, unit = float(steps), WARM_STEPS if warm else COLD_STEPS[device.type], "steps"
    else:
        length, least, unit = seconds, WARM_SECONDS if warm else COLD_SECONDS[device.type], "s"
    if length >= least:
        return "on", f"on: {state}, and {length:,.0f} {unit} are at least {least:,}"
    return "off", f"off: {state}, and {length:,.0f} {unit} are fewer than {least:,}"


def _missing(device: torch.device) -> str:
    """What the compiler of torch needs and this machine lacks; "" if nothing."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "triton"
        found = os.environ.get("CC") or any(shutil.which(name) for name in ("gcc", "clang"))
        return "" if found else "C compiler (gcc or clang), which triton needs"
    return "" if shutil.which(os.environ.get("CXX") or "g++") else "C++ compiler (g++, or what CXX names)"


def key_of(config: Mapping[str, Any], device: str, classes: Iterable[type] = ()) -> str:
    """A digest of what the compiled code of a step depends on: parts of the configuration, the code, the hardware.

    classes: those of the step's modules.
    """
    kept = {name: config.get(name) for name in ("objective", "masking", "tokenizer", "encoder", "dataset")}
    train = config["train"]
    parts = [kept, train["batch_size"], train["precision"], torch.__version__, device, *code_of(classes)]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def code_of(classes: Iterable[type]) -> list[str]:
    """Digests of what a step of modules of these classes runs: their code, all of `nn`, and what changes its graphs."""
    return [source_digest(file) for file in source_files(classes) + sorted(map(str, [PRODUCTS, *NN.glob("*.py")]))]


def is_known(key: str, cache: Path) -> bool:
    """Whether such a step was compiled on this machine before, so that its code is where the compiler looks for it."""
    return (_code_folder(cache).parent / "known" / key).exists()


def _code_folder(cache: Path) -> Path:
    """Where the compiler keeps its code: in the cache, unless the environment names another place.

    Parts of torch set the variable to their own default, a temporary folder, as soon as they are imported.
    """
    said, own = os.environ.get(CODE_FOLDER), (cache / "compiled" / "inductor").absolute()
    if said is None or said in _set_here:
        return own
    torchs = Path(said).parent == Path(gettempdir()) and Path(said).name.startswith("torchinductor_")
    return own if torchs else Path(said)


def keep_code(cache: Path) -> None:
    """Have the compiler keep its code in the cache, across processes, unless the environment names another place."""
    folder = str(_code_folder(cache))
    if folder != os.environ.get(CODE_FOLDER):
        _set_here.add(folder)
        os.environ[CODE_FOLDER] = folder


class CompiledStep:
    """A learner's forward pass, compiled for one set of shapes; any other goes through the eager learner.

    The first call compiles the forward pass and the first gradient its own part; the second call, which both must have
    preceded, marks `key` as known in the cache.
    """

    def __init__(self, learner: nn.Module, key: str, cache: Path) -> None:
        self.learner, self.mark = learner, _code_folder(cache).parent / "known" / key
        keep_code(cache)
        self.shapes: dict[str, torch.Size] | None = None
        self.step: Any = None
        self.calls = 0

    def __call__(self, inputs: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Outcome:
        """The same as `learner(inputs, draws)`. Errors: SslxError if the compiler fails."""
        shapes = {name: value.shape for name, value in (*inputs.items(), *draws.items())}
        if self.step is None:
            self.shapes, self.step = shapes, self._compile()
        elif shapes != self.shapes:  # a batch whose draws overflow their room: rare, and not worth a compilation
            return self.learner(inputs, draws)
        self.calls += 1
        if self.calls == 2:
            self.mark.parent.mkdir(parents=True, exist_ok=True)
            self.mark.touch()
        with self.compiling():
            outcome: Outcome = self.step(inputs, draws)
        return outcome

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Around whatever may compile: the step itself, and the first backward pass. Errors: SslxError."""
        try:
            yield
        except Exception as error:
            if self.calls > 1:  # compiled already
                raise
            cause = getattr(error, "inner_exception", error)  # what torch wraps: its own first line names no cause
            first = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
            raise SslxError(f"the step could not be compiled ({first}); set train.compile=off") from error

    def _compile(self) -> Any:
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        from ssl_core.training.accel.cpu_matmul import (
            Rewrite,  # with the compiler's own modules, which take a while to import
        )

        # counted over all learners of a process, since they have their forward pass in common; each is compiled once
        dynamo.recompile_limit = max(dynamo.recompile_limit, 2**16)
        dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 2**16)
        torch.compiler.allow_in_graph([double_backward_attention, attend_xformers, embedding_lookup])  # they say why
        torch.compiler.assume_constant_result(xformers_fits)  # what loads xformers can't be traced into
        inductor.fallback_random = True  # dropout draws the same numbers as in the eager step
        inductor.post_grad_custom_post_pass = Rewrite(code_of({type(module) for module in self.learner.modules()}))
        return torch.compile(self.learner.forward, fullgraph=True, dynamic=False)
