"""The training step compiled whole, when that pays; decided beforehand, never in the midst of a run.

A compiled step rounds differently from an eager one, so a run uses one of the two from its first step to its last. The
objective's inner gradients are taken by torch.func.grad, so that one graph holds them and the outer gradient as well
(blocks compiled one by one could not be differentiated twice).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_core.errors import SslxError
from ssl_core.nn.twice import attend_twice
from ssl_core.tokens import Outcome

Choice = Literal["auto", "on", "off"]
Step = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Outcome]

# A cold compilation takes minutes on few cores, a warm one seconds, so a short run does not earn a cold one back. Where
# exactly it does is for benchmarks/speed.py to say; these are estimates.
COLD_STEPS = {"cpu": 1500, "cuda": 2000}
WARM_STEPS = 50


def decide(wanted: Choice, steps: int, device: torch.device, key: str, cache: Path) -> tuple[Literal["on", "off"], str]:
    """Whether to compile, and why in a few words. `key`: what the compiled code depends on, from `key_of`."""
    if wanted != "auto":
        return wanted, f"{wanted}, as set"
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return "off", "off: there is no C++ compiler"
    warm = is_known(key, cache)
    least = WARM_STEPS if warm else COLD_STEPS[device.type]
    state = "compiled before" if warm else "not compiled before"
    if steps >= least:
        return "on", f"on: {state}, and {steps:,} steps are at least {least:,}"
    return "off", f"off: {state}, and {steps:,} steps are fewer than {least:,}"


def key_of(config: Mapping[str, Any], device: str) -> str:
    """A digest of what the compiled code of a step depends on: sections of the configuration, torch, the hardware."""
    kept = {name: config.get(name) for name in ("objective", "masking", "tokenizer", "encoder", "dataset")}
    train = config["train"]
    parts = [kept, train["batch_size"], train["precision"], torch.__version__, device]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def is_known(key: str, cache: Path) -> bool:
    """Whether such a step was compiled on this machine before, so that the compiled code is in the cache."""
    return (cache / "compiled" / "known" / key).exists()


def keep_code(cache: Path) -> None:
    """Have the compiler keep its code in the cache, across processes, unless the environment names another place.

    Parts of torch set the variable to their own default, a temporary folder, as soon as they are imported.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    name = "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(name) in (None, os.path.abspath(default_cache_dir())):
        os.environ[name] = str((cache / "compiled" / "inductor").absolute())


class CompiledStep:
    """A learner's forward pass, compiled for one set of shapes; any other goes through the eager learner.

    With `graph` it is replayed as a CUDA graph where there is one, and a call overwrites the outcome and the gradients
    of the one before: not for steps that add gradients up. The first call compiles, and
    marks `key` as known in the cache once the gradient is compiled, too.
    """

    def __init__(self, learner: nn.Module, key: str, cache: Path, graph: bool = True) -> None:
        keep_code(cache)
        self.learner, self.mark, self.graph = learner, cache / "compiled" / "known" / key, graph
        self.shapes: dict[str, torch.Size] | None = None
        self.step: Any = None

    def __call__(self, inputs: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Outcome:
        """The same as `learner(inputs, draws)`. Errors: SslxError if the compiler fails."""
        shapes = {name: value.shape for name, value in (*inputs.items(), *draws.items())}
        graph = self.graph and any(value.is_cuda for value in inputs.values())
        if graph:
            torch.compiler.cudagraph_mark_step_begin()
        if self.shapes is None:
            self.shapes = shapes
            self.step = self._compile(graph)
            try:
                outcome: Outcome = self.step(inputs, draws)
            except Exception as error:
                first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise SslxError(f"the step could not be compiled ({first}); set train.compile=off") from error
            if outcome.loss.requires_grad:
                outcome.loss.register_hook(self._known)
            return outcome
        if shapes != self.shapes:  # a batch whose draws overflow their room: rare, and not worth a compilation
            return self.learner(inputs, draws)
        return self.step(inputs, draws)

    def _compile(self, graph: bool) -> Any:
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        # counted over all learners of a process, since they have their forward pass in common; each is compiled once
        dynamo.recompile_limit = max(dynamo.recompile_limit, 2**16)
        dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 2**16)
        torch.compiler.allow_in_graph(attend_twice)  # says why
        inductor.fallback_random = True  # dropout draws the same numbers as in the eager step
        mode = "reduce-overhead" if graph else None  # CUDA graphs: a step of small kernels is bound by their launch
        return torch.compile(self.learner.forward, fullgraph=True, dynamic=False, mode=mode)

    def _known(self, gradient: Tensor) -> None:
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        self.mark.touch()
