"""Measured read bandwidth of this machine's memory: the upper limit of decode speed on a processor.

Each token reads every weight once, so no engine decodes faster than memory can be read. The measurement is a pure read
of a buffer many times larger than a cache: the C library's `memchr` searches for a byte that does not occur, in as many
threads as the engine computes with, each in its own part of the buffer. The fastest of several passes counts, since an
upper limit is what can be reached.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from concurrent.futures import ThreadPoolExecutor

_BUFFER_BYTES = 512 * 2**20
_MIN_BUFFER_BYTES = 64 * 2**20
_FREE_MEMORY_DIVISOR = 8  # the buffer takes at most this fraction of the free memory
_PASSES = 5


def read_bandwidth(*, threads: int, available_bytes: int) -> int | None:
    """Return the bytes per second that `threads` threads read together.

    None if free memory is too small for a buffer that does not fit in a cache.
    """
    part = min(_BUFFER_BYTES, available_bytes // _FREE_MEMORY_DIVISOR) // threads // mmap.PAGESIZE * mmap.PAGESIZE
    if part * threads < _MIN_BUFFER_BYTES:
        return None
    memchr = ctypes.CDLL(None).memchr  # ctypes releases the GIL during the call
    memchr.argtypes, memchr.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    # Private and populated at once: shared pages, faulted in one by one, cost twice the CPU time.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    with mmap.mmap(-1, part * threads, flags=flags) as buffer:
        view = ctypes.c_char.from_buffer(buffer)
        start = ctypes.addressof(view)
        try:
            ctypes.memset(start, 1, part * threads)  # pages that were never written all map to one page of zeros
            with ThreadPoolExecutor(threads) as pool:

                def run_pass() -> float:
                    began = time.perf_counter()
                    list(pool.map(lambda number: memchr(start + number * part, 0, part), range(threads)))
                    return time.perf_counter() - began

                best_s = min(run_pass() for _ in range(_PASSES))
        finally:
            del view  # a live view would prevent closing the buffer
    return round(part * threads / best_s)
