"""Compilation of the whole training step, if it saves time; the choice is made before the run starts.

A compiled step rounds differently from an eager one, so a run uses the same kind of step throughout. One graph holds
the inner gradients of an objective, from torch.func.grad, and the outer gradient; blocks that are compiled separately
cannot be differentiated twice.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ssl_core.errors import SslxError
from ssl_core.nn.attention_xformers import attend_xformers, xformers_fits
from ssl_core.nn.double_backward import double_backward_attention
from ssl_core.nn.indexing import embedding_lookup
from ssl_core.tokens import Outcome
from ssl_core.training.accel.torn_objects import drop_torn, is_load_error, set_aside
from ssl_core.utils.cache import make_private
from ssl_core.utils.cache_entries import COMPILED, Hold, hold_entry
from ssl_core.utils.source_digest import source_digest, source_files

Choice = Literal["auto", "on", "off"]
Result = TypeVar("Result")

NN, CPU_MATMUL = Path(__file__).parents[2] / "nn", Path(__file__).with_name("cpu_matmul.py")
CODE_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_set_here: set[str] = set()  # values of CODE_FOLDER that this process, and not the user, has set
# Shortest runs for which compilation saves time: its cost ("start" in benchmarks/README.md: one or two minutes on few
# cores, seconds if the code is cached) divided by the time that each compiled step saves. On the CPU this is 200 steps
# for Pfam to 1,100 for EuroSAT, whose steps are the shortest, and a fifth of it with cached code. For CUDA: estimates.
COLD_STEPS = {"cpu": 1500, "cuda": 2000}
COLD_SECONDS = {"cpu": 900, "cuda": 600}
WARM_STEPS, WARM_SECONDS = 200, 120


def decide(
    choice: Choice, steps: int, device: torch.device, key: str, cache: Path, seconds: float | None = None
) -> tuple[Literal["on", "off"], str]:
    """Whether to compile, and the reason.

    Args:
        key: digest of what the compiled code depends on, from `key_of`.
        seconds: length of a run that is limited by time, in place of `steps`.
    """
    if choice != "auto":
        return choice, f"{choice}, as set"
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
    """The tool that torch's compiler needs and this machine lacks; "" if none."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "triton"
        has_compiler = os.environ.get("CC") or any(shutil.which(name) for name in ("gcc", "clang"))
        return "" if has_compiler else "C compiler (gcc or clang), which triton needs"
    return "" if shutil.which(os.environ.get("CXX") or "g++") else "C++ compiler (g++, or what CXX names)"


def key_of(config: Mapping[str, Any], device: str, classes: Iterable[type] = ()) -> str:
    """A digest of what the compiled code of a step depends on: parts of the configuration, source code, hardware.

    Args:
        classes: classes of the step's modules.
    """
    sections = {name: config.get(name) for name in ("objective", "masking", "tokenizer", "encoder", "dataset")}
    train = config["train"]
    options = [train["batch_size"], train["precision"], train.get("cpu_matmul", True)]
    parts = [sections, *options, torch.__version__, device, *code_of(classes)]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def code_of(classes: Iterable[type]) -> list[str]:
    """Digests of the source that a step of these classes runs: their files, all of `nn`, and the graph rewrites."""
    return [source_digest(file) for file in source_files(classes) + sorted(map(str, [CPU_MATMUL, *NN.glob("*.py")]))]


def is_known(key: str, cache: Path) -> bool:
    """Whether a step with this key was compiled before, so that the compiler finds its code in the cache."""
    return (_code_folder(cache).parent / "known" / key).exists()


def _code_folder(cache: Path) -> Path:
    """The folder of compiled code: in the cache, unless the environment names another folder.

    Some modules of torch set the variable to a default, a temporary folder, when they are imported.
    """
    variable, own = os.environ.get(CODE_FOLDER), _own_code_folder(cache)
    if variable is None or variable in _set_here:
        return own
    is_default = Path(variable).parent == Path(gettempdir()) and Path(variable).name.startswith("torchinductor_")
    return own if is_default else Path(variable)


def _own_code_folder(cache: Path) -> Path:
    return (cache / "compiled" / "inductor").absolute()


def _make_own_code_folder(cache: Path) -> None:
    """Raises:
    ConfigError: other users could write to it until now.
    """
    folder = _own_code_folder(cache)
    for part in (folder.parent, folder):
        make_private(part, "SSLX_CACHE_DIR", close=True)


def keep_code(cache: Path) -> None:
    """Make the compiler store its code in the cache, unless the environment names another folder.

    The folders in the cache are private to the user. Precompiled headers are kept there, too: torch would read them
    from a folder below the temporary one, which another user may have made. Python processes that the compiler starts
    import nothing from the working directory.

    Raises:
        ConfigError: if other users can write to the folder.
    """
    import torch._inductor.codecache as codecache  # late: it takes seconds
    import torch._inductor.config as inductor

    folder = _code_folder(cache)
    if folder == _own_code_folder(cache):
        _make_own_code_folder(cache)
    else:
        make_private(folder, CODE_FOLDER)
    if str(folder) != os.environ.get(CODE_FOLDER):
        _set_here.add(str(folder))
        os.environ[CODE_FOLDER] = str(folder)
    headers = (cache / "compiled" / "headers").absolute()
    for part in (headers.parent, headers):
        make_private(part, "SSLX_CACHE_DIR", close=True)
    if hasattr(codecache, "_HEADER_DIR") and hasattr(codecache, "_HEADER_LOCK_DIR"):  # torch has no setting for it
        codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(headers), str(headers / "locks")
    else:
        inductor.cpp_cache_precompile_headers = False
    os.environ.setdefault("PYTHONSAFEPATH", "1")


class CompiledStep:
    """A learner's forward pass, compiled for one set of shapes. Inputs of other shapes use the eager learner.

    The first call compiles the forward pass, and the first backward pass compiles the gradient. `retrying` calls a step
    of training and compiles it a second time if the cache holds damaged code. When the step is done, it is `ready`, and
    `key` is marked as known in the cache. Without `cpu_matmul` the compiler's own matrix products are used.
    """

    def __init__(self, learner: nn.Module, key: str, cache: Path, cpu_matmul: bool = True) -> None:
        self.learner, self.mark = learner, _code_folder(cache).parent / "known" / key
        self.cpu_matmul = cpu_matmul
        self.cache, self.hold = cache, Hold()
        hold_entry(cache / COMPILED, self.hold)
        keep_code(cache)
        self.shapes: dict[str, torch.Size] | None = None
        self.step: Any = None
        self.ready = False
        self.retried = False

    def retrying(self, attempt: Callable[[], Result]) -> Result:
        """Return `attempt()`, a forward and backward pass; repeat it once if compiled code could not be loaded.

        A run that is killed while it compiles leaves incomplete objects in the cache, which the compiler takes for
        complete ones. Before the second attempt they are deleted. Random state, buffers and gradients are restored.

        Raises:
            SslxError: if the compiler fails, at the second attempt where there is one.
        """
        if self.ready:
            return attempt()
        result = self._first(attempt)
        self.ready = True
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        self.mark.touch()
        return result

    def _first(self, attempt: Callable[[], Result]) -> Result:
        parameters, buffers = list(self.learner.parameters()), list(self.learner.buffers())
        devices = sorted({p.device.index or 0 for p in parameters if p.is_cuda})
        gradients = [None if p.grad is None else p.grad.clone() for p in parameters]
        values = [buffer.clone() for buffer in buffers]
        before = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]
        try:
            return attempt()
        except SslxError as error:
            if self.retried or not self._repair(error):
                raise
        self.retried = True
        torch.set_rng_state(before[0])
        for device, state in zip(devices, before[1], strict=True):
            torch.cuda.set_rng_state(state, device)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in zip(buffers, values, strict=True):
                buffer.copy_(value)
        return attempt()

    def _repair(self, error: SslxError) -> bool:
        """Delete damaged code after a failure, or use a fresh folder; whether there is reason to try again."""
        folder = Path(os.environ[CODE_FOLDER])
        if not drop_torn(folder):
            if not is_load_error(error.__cause__):
                return False
            if str(folder) in _set_here:
                set_aside(folder)
            else:  # the user's folder stays as it is
                _make_own_code_folder(self.cache)
                fresh = str(_own_code_folder(self.cache))
                _set_here.add(fresh)
                os.environ[CODE_FOLDER] = fresh
        from torch._inductor.utils import clear_caches

        clear_caches()
        torch.compiler.reset()
        self.step, self.shapes = None, None
        return True

    def __call__(self, inputs: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Outcome:
        """Return `learner(inputs, draws)`.

        Raises:
            SslxError: if the compiler fails.
        """
        shapes = {name: value.shape for name, value in (*inputs.items(), *draws.items())}
        if self.step is None:
            self.shapes, self.step = shapes, self._compile()
        elif shapes != self.shapes:  # draws of unusual size: rare, and not worth a compilation
            return self.learner(inputs, draws)
        with self.compiling():
            outcome: Outcome = self.step(inputs, draws)
        return outcome

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Context manager for calls that may compile: the step and the first backward pass.

        Raises:
            SslxError: if the compiler fails.
        """
        try:
            yield
        except SslxError:
            raise
        except Exception as error:
            if self.ready:  # compiled already
                raise
            cause = getattr(error, "inner_exception", error)  # the first line of torch's own error names no cause
            first = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
            raise SslxError(f"the step could not be compiled ({first}); set train.compile=off") from error

    def _compile(self) -> Any:
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        # late: it imports modules of the compiler, which takes seconds
        from ssl_core.training.accel.cpu_matmul import Rewrite

        # counted over all learners of a process, since they share the code of `forward`; each compiles once
        dynamo.recompile_limit = max(dynamo.recompile_limit, 2**16)
        dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 2**16)
        torch.compiler.allow_in_graph([double_backward_attention, attend_xformers, embedding_lookup])  # see there
        torch.compiler.assume_constant_result(xformers_fits)  # the import of xformers cannot be traced
        inductor.fallback_random = True  # dropout draws the same numbers as in the eager step
        code = code_of({type(module) for module in self.learner.modules()})
        inductor.post_grad_custom_post_pass = Rewrite(code) if self.cpu_matmul else None
        return torch.compile(self.learner.forward, fullgraph=True, dynamic=False)
