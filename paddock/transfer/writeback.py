"""Start writing received bytes to disk while more arrive, so that the final fsync has little left to do."""

from __future__ import annotations

import ctypes
import os
import threading
from types import TracebackType
from typing import Self

_SYNC_FILE_RANGE_WRITE = 2


class WriteBack:
    """A thread that makes the kernel start to write an open file, each time `notify` is called.

    It uses sync_file_range(2), which neither waits nor reports errors: the caller's fsync alone decides whether the
    bytes are on disk, and it must not miss an error because another call was given it.
    """

    def __init__(self, fd: int) -> None:
        self._sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
        self._more = threading.Event()
        self._ended = False
        # A daemon: a disk that hangs must not keep a process from exiting.
        self._thread = threading.Thread(target=self._work, args=[os.dup(fd)], name="paddock-write-back", daemon=True)

    def notify(self) -> None:
        """More bytes were written to the file."""
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
                if self._sync_file_range:
                    flags = ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
                    self._sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), flags)
        finally:
            os.close(fd)
