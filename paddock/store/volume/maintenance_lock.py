"""Maintenance lock: one maintenance of the volume at a time.

The lock is an exclusive flock on `.paddock/maintenance.lock`, which ends with its holder, however that ends. The file's
JSON (pid, host, since) names the holder. The lock saves the work of reading everything twice; nothing is wrong where
two maintenances run at once, as they may on a file system without flock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from paddock.store.durable import UNDER_UMASK, disk_errors, disk_errors_in
from paddock.store.volume.layout import Layout

_HELD = frozenset({errno.EWOULDBLOCK, errno.EACCES})
_MAX_BYTES = 4096


class MaintenanceLock:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @contextmanager
    def hold(self) -> Iterator[str | None]:
        """Hold the lock until the block ends. Yields None; or, where another process holds it, that process as text for
        messages, and then the block does not hold it. Raises NoPermission on a volume that cannot be written."""
        descriptor = self._open()
        try:
            with disk_errors_in(self.root):
                holder = _take(descriptor)
            yield holder
        finally:
            os.close(descriptor)

    @disk_errors
    def _open(self) -> int:
        self._layout.make_directory(self._layout.private)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._layout.private / "maintenance.lock", flags, UNDER_UMASK)


def _take(descriptor: int) -> str | None:
    """Take the lock, and write who holds it. Returns its holder where that is another process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return _holder(os.pread(descriptor, _MAX_BYTES, 0))
    own = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(own).encode(), 0)
    return None


def _holder(content: bytes) -> str:
    try:
        own = json.loads(content)
        return f"process {own['pid']} on {own['host']} since {own['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
