"""Harden a child process before it opens an untrusted model file.

The process gives up core dumps and new privileges, and dies with its parent. Optionally its memory is limited and its
network access removed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def harden_process(*, parent: int, memory_limit_bytes: int | None = None, network: bool = True) -> None:
    """Restrict this process for its lifetime, including any program that it becomes by `exec`.

    `parent` is the expected parent's process id; this process exits at once if that parent has already died.
    `memory_limit_bytes` limits private memory (RLIMIT_DATA). `network=False` moves the process into an empty network
    namespace where the system permits it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit_bytes is not None:
        # Not RLIMIT_AS: a mapped model and a GPU driver's reservations use far more address space than memory.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit_bytes, memory_limit_bytes))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if not network:  # many containers refuse it; the result is deliberately not checked
            libc.unshare(_CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # last: a change of credentials resets it
    if os.getppid() != parent:
        os._exit(1)  # the parent died before PR_SET_PDEATHSIG took effect
