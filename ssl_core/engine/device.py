"""Device, number format and memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
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


# mallopt's names for these in glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
# Linux: pages of 2 MiB, and who gets them
HUGE, MADV_HUGEPAGE = 2**21, 14
HUGE_PAGES, OVERCOMMIT = Path("/sys/kernel/mm/transparent_hugepage/enabled"), Path("/proc/sys/vm/overcommit_memory")


def keep_freed_memory() -> bool:
    """Have the C library keep the memory that tensors free, for the next tensors. Returns whether it does.

    glibc maps every block over 32 MiB anew and hands it back when it is freed, so that each step pays for the system's
    clearing of its pages. What is kept lies in pages of 2 MiB where the system has them for those who ask. Left alone
    where the C library is another one, and where the environment says how memory is to be allocated.
    """
    said = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if said or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26))
    kept = all(library.mallopt(name, value) == 1 for name, value in wanted)
    if kept:
        _ask_for_huge_pages(library)
    return kept


def _ask_for_huge_pages(library: ctypes.CDLL) -> None:
    """Take half the machine's memory from malloc, untouched, ask for huge pages there and give it back to malloc.

    malloc keeps it, so tensors come to lie there; nothing is in use before they are written to. glibc has a setting for
    this, too, but only for programs that are started with it. Not where the system counts what is not touched.
    """
    with contextlib.suppress(OSError, ValueError):
        if "[madvise]" not in HUGE_PAGES.read_text() or OVERCOMMIT.read_text().strip() == "2":
            return
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        library.free.argtypes = [ctypes.c_void_p]
        block = library.malloc(size)
        if block:
            start = -(-block // HUGE) * HUGE
            library.madvise(start, (block + size - start) // HUGE * HUGE, MADV_HUGEPAGE)
            library.free(block)


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
