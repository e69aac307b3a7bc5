"""Device, precision and peak memory."""

from __future__ import annotations

import contextlib
import platform
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch

from ssl_core.errors import ConfigError

Precision = Literal["fp32", "bf16"]


def pick_device(name: str) -> torch.device:
    """The device called `name`, made the current one; "auto" is CUDA if torch sees a CUDA device, else the CPU.

    Raises:
        ConfigError: if there is no such device, or it is neither a CPU nor a CUDA device.
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
        torch.cuda.set_device(device)  # functions that use the current device then use this one
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    return device


def pick_precision(name: str, device: torch.device) -> Precision:
    """The number format of the step; "auto" is bf16 if the hardware multiplies it natively, else fp32.

    The choice depends on the hardware's capabilities, not on a timing, so two runs on one machine choose the same.
    """
    if name == "fp32" or name == "bf16":
        return name  # type: ignore[return-value]
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has("amx_tile") or cpu_has("avx512_bf16") else "fp32"


def cpu_has(extension: str) -> bool:
    """Whether this processor has an instruction set extension, by torch's name for it; False if torch cannot tell."""
    test = getattr(torch.cpu, f"_is_{extension}_supported", None)
    return test is not None and bool(test())


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context manager for forward passes."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the device on CUDA, of the process on the CPU; 0 where the platform reports none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux: ru_maxrss starts at the peak of the process that started this one, VmHWM does not
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, other systems KiB


def describe(device: torch.device) -> str:
    """Name of the device, for reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{model}, {torch.get_num_threads()} threads"
