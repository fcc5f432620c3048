"""Starting to write to the disk what landed while more comes, so that the last fsync has little left to wait for."""

from __future__ import annotations

import ctypes
import os
import threading
from types import TracebackType
from typing import Self

_SYNC_FILE_RANGE_WRITE = 2


class WriteBack:
    """A thread that has the kernel begin to write an open file whenever it is told that more of it landed.

    It waits for nothing and learns of no error (sync_file_range(2)): whether the bytes are on the disk is for the
    caller's fsync alone to say, which must not miss an error that somebody else was told.
    """

    def __init__(self, fd: int) -> None:
        self._begin = getattr(ctypes.CDLL(None), "sync_file_range", None)
        self._more = threading.Event()
        self._ended = False
        # A daemon: a disk that hangs must not hold back a process that was told to stop.
        self._thread = threading.Thread(target=self._work, args=[os.dup(fd)], name="paddock-write-back", daemon=True)

    def landed(self) -> None:
        self._more.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._more.set()

    def _work(self, fd: int) -> None:
        try:
            while self._more.wait() and not self._ended:
                self._more.clear()
                if self._begin:
                    self._begin(fd, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))
        finally:
            os.close(fd)
