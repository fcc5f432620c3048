"""What a process gives up before it opens a file that a stranger made: core dumps, new privileges, life beyond its
parent's, and, where that is asked for, memory over a limit and the network.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def confine(*, parent: int, memory_limit_bytes: int | None = None, network: bool = True) -> None:
    """Confine this process for good, and what it becomes by `exec`. It ends here when `parent` has died already."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit_bytes is not None:
        # Not the address space: a mapped model and a GPU driver's reservations take far more of it than of memory.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit_bytes, memory_limit_bytes))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if not network:  # refused in many containers
            libc.unshare(_CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # last: a change of credentials resets it
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the line above
