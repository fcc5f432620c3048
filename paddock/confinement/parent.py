"""Protect this process from its children: their memory and environment are closed to it, and so are its own to them.

Without other protection a process may read the memory and the environment of every process of the same user, by
`/proc/<pid>/mem` and `/proc/<pid>/environ`. Linux refuses that for a process that is not "dumpable" (prctl(2)). As long
as that holds, the process dumps no core, and only root can attach a debugger or profiler to it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from paddock.confinement import kernel

_lock = threading.Lock()
_holders = 0
_before = 1


@contextmanager
def unreadable() -> Iterator[None]:
    """Keep this process unreadable to others of its user until the block ends, and as long as another block runs."""
    global _holders, _before  # noqa: PLW0603 - the flag belongs to the process
    with _lock, suppress(OSError):
        _holders += 1
        if _holders == 1:
            _before = kernel.prctl(kernel.PR_GET_DUMPABLE)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    try:
        yield
    finally:
        with _lock, suppress(OSError):
            _holders -= 1
            if _holders == 0 and _before == 1:
                kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
