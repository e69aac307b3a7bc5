"""Memory of the C library: freed blocks are kept, in huge pages where Linux offers them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from pathlib import Path

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
