"""Writing to the disk what landed while more comes, so that the last fsync has little left to wait for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class WriteBack:
    """A thread that flushes an open file whenever it is told that more of it landed; `finish` makes all of it durable.

    `failed` is called before an error of the disk is raised: the kernel may then take pages for written that are not,
    and hashing them again would prove nothing (https://wiki.postgresql.org/wiki/Fsync_Errors).
    """

    def __init__(self, fd: int, *, failed: Callable[[], None]) -> None:
        self._fd = fd
        self._failed = failed
        self._more = threading.Event()
        self._ended = False
        self._error: OSError | None = None
        # A daemon: a disk that hangs must not hold back a process that was told to stop.
        self._thread = threading.Thread(target=self._work, args=[os.dup(fd)], name="paddock-write-back", daemon=True)

    def landed(self) -> None:
        """Start a flush, unless one is under way: then another one follows it. Raises OSError of an earlier one."""
        self._check()
        self._more.set()

    def finish(self) -> None:
        """Return when everything that was written is on the disk. Raises OSError."""
        self._stop()
        self._thread.join()
        # An error is told to one fsync alone, which may have been the thread's.
        self._check()
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._error = error
        self._check()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._ended = True
        self._more.set()

    def _check(self) -> None:
        if self._error:
            self._failed()
            raise self._error

    def _work(self, fd: int) -> None:
        try:
            while self._more.wait() and not self._ended:
                self._more.clear()
                os.fdatasync(fd)
        except OSError as error:
            self._error = error
        finally:
            os.close(fd)
