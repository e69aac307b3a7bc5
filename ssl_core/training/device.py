"""Device, number format and memory."""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch

from ssl_core.errors import ConfigError

Precision = Literal["fp32", "bf16"]


def pick_device(name: str) -> torch.device:
    """The device called `name`, from now on the current one; "auto" is CUDA where there is one, else the CPU.

    Errors: ConfigError.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device '{name}' is none; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{name}' was asked for, but torch sees no CUDA device; use --device cpu")
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # what speaks of the current device then speaks of this one
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    return device


def pick_precision(name: str, device: torch.device) -> Precision:
    """The number format of the step; "auto" is bf16 where the hardware multiplies it natively, else fp32.

    Decided by the hardware's capabilities and not by a clock, so that two runs on one machine choose the same.
    """
    if name == "fp32" or name == "bf16":
        return name  # type: ignore[return-value]
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has("amx_tile") or cpu_has("avx512_bf16") else "fp32"


def cpu_has(what: str) -> bool:
    """Whether this processor has an extension, by torch's name for it; no where torch does not say."""
    test = getattr(torch.cpu, f"_is_{what}_supported", None)
    return test is not None and bool(test())


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which forward passes run."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def peak_memory(device: torch.device) -> int:
    """Most memory held so far in bytes: of the device on CUDA, of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration):  # Linux: its ru_maxrss takes over the starting process's own
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def describe(device: torch.device) -> str:
    """The hardware in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{model}, {torch.get_num_threads()} threads"
