"""How fast this machine's memory is read: the ceiling of decode on a processor, measured.

Each token reads every weight once, so no engine decodes faster than memory is read. What is measured is a pure read,
many times the size of a cache: the C library's `memchr` looks for a byte that is not there, in as many threads as the
engine computes with, each in its own part. The best of several passes counts, since a ceiling is what can be reached.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from concurrent.futures import ThreadPoolExecutor

_BUFFER_BYTES = 512 * 2**20
_LEAST_BYTES = 64 * 2**20
_SHARE = 8  # of the memory that is free
_PASSES = 5


def read_bandwidth(*, threads: int, available_bytes: int) -> int | None:
    """Bytes a second that `threads` read together; None where there is too little memory to tell it from a cache."""
    part = min(_BUFFER_BYTES, available_bytes // _SHARE) // threads // mmap.PAGESIZE * mmap.PAGESIZE
    if part * threads < _LEAST_BYTES:
        return None
    memchr = ctypes.CDLL(None).memchr  # called without Python's lock
    memchr.argtypes, memchr.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    with mmap.mmap(-1, part * threads) as buffer:
        view = ctypes.c_char.from_buffer(buffer)
        start = ctypes.addressof(view)
        try:
            ctypes.memset(start, 1, part * threads)  # until it is written, all of it is one page of zeros
            with ThreadPoolExecutor(threads) as pool:

                def once() -> float:
                    began = time.perf_counter()
                    list(pool.map(lambda number: memchr(start + number * part, 0, part), range(threads)))
                    return time.perf_counter() - began

                best_s = min(once() for _ in range(_PASSES))
        finally:
            del view  # or the buffer could not be closed
    return round(part * threads / best_s)
