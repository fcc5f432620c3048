"""Work lock: one maintenance of the volume at a time, and one refresh.

The lock is an exclusive flock on `.paddock/leases/<work>.lock`, which ends with its holder, however that ends. The
file's JSON (pid, host, since) names the holder. The lock saves the work of doing everything twice; nothing is wrong
where two run at once. So there is none on a file system without flock, nor on a full disk, which needs its maintenance
most.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from paddock.errors import NotEnoughDisk
from paddock.store.durable import UNDER_UMASK, disk_errors
from paddock.store.volume.layout import Layout
from paddock.store.volume.lock_holder import MAX_BYTES, process_text
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular_to_append, read_descriptor

_HELD = frozenset({errno.EWOULDBLOCK, errno.EACCES})


class WorkLock:
    """`work` is the name of what one process does at a time."""

    def __init__(self, layout: Layout, work: str) -> None:
        self.root = layout.root
        self._layout = layout
        self._work = work

    @contextmanager
    def hold(self) -> Iterator[str | None]:
        """Hold the lock until the block ends. Yields None; or, where another process holds it, that process as text for
        messages, and then the block does not hold it. Raises NoPermission on a volume that cannot be written."""
        try:
            descriptor = self._open()
        except NotEnoughDisk:
            yield None
            return
        try:
            yield _take(descriptor)
        finally:
            os.close(descriptor)

    @disk_errors
    def _open(self) -> int:
        directory = self._layout.make_directory(self._layout.private / "leases")
        return open_regular_to_append(directory / f"{self._work}.lock", mode=UNDER_UMASK)


def _take(descriptor: int) -> str | None:
    """Take the lock, and write who holds it. Returns its holder where that is another process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return _holder(descriptor)
    own = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if os.fstat(descriptor).st_nlink == 1:  # else it has another name, and may be anybody's file
        with suppress(OSError):  # a full disk: the holder has no name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(own).encode())
    return None


def _holder(descriptor: int) -> str:
    try:
        return process_text(read_descriptor(descriptor, max_bytes=MAX_BYTES))
    except (OSError, UnusableContent):
        return "another process"
