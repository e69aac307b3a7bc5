"""Memory allocation on the CPU: the C library keeps freed blocks, in huge pages if Linux offers them on request."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from pathlib import Path

# parameters of mallopt, from glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
HUGE_PAGE_BYTES, MADV_HUGEPAGE = 2**21, 14  # Linux: size of a huge page, and the advice that requests them
HUGE_PAGES, OVERCOMMIT = Path("/sys/kernel/mm/transparent_hugepage/enabled"), Path("/proc/sys/vm/overcommit_memory")


def keep_freed_memory() -> bool:
    """Make the C library keep the memory of freed tensors for the next tensors. Returns whether it does.

    By default glibc maps each block larger than 32 MiB anew and unmaps it when it is freed, so the system clears its
    pages in each step. Nothing changes if the C library is not glibc, or if the environment sets the allocator
    (`MALLOC_...`, `GLIBC_TUNABLES`, `LD_PRELOAD`).
    """
    set_by_user = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if set_by_user or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26))
    accepted = all(library.mallopt(name, value) == 1 for name, value in settings)
    if accepted:
        _request_huge_pages(library)
    return accepted


def _request_huge_pages(library: ctypes.CDLL) -> None:
    """Allocate half of the machine's memory without writing to it, request huge pages for it, and free it.

    malloc keeps the freed block and places tensors in it; no page is in use before it is written. glibc has a setting
    for huge pages, but reads it only at the start of a program. Nothing is done if the system counts memory that is
    allocated but not written (strict overcommit).
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
            start = -(-block // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
            library.madvise(start, (block + size - start) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES, MADV_HUGEPAGE)
            library.free(block)
