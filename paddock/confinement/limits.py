"""Bind a child process to its parent, and limit it, as the first step of its program."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress

from paddock.confinement import kernel


def limit_process(*, parent: int, memory_limit_bytes: int | None = None) -> None:
    """Give up core dumps and new privileges, and end with the parent; inherited by a program that is started by `exec`.

    `parent` is the expected parent's process id; this process exits at once if that parent has already died.
    `memory_limit_bytes` limits private memory (RLIMIT_DATA).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit_bytes is not None:
        # Not RLIMIT_AS: a mapped model and a GPU driver's reservations use far more address space than memory.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit_bytes, memory_limit_bytes))
    with suppress(OSError):
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    end_with_parent(parent)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends. A change of credentials resets it."""
    with suppress(OSError):
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the line above took effect
