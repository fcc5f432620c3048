"""Confinement of child processes that read untrusted input: the engine, and the renderer of chat templates.

    policy      what a process may use, and the steps that confine it
    limits      what comes first in each child's program: no core dump, no new privileges, an end with its parent
    credentials the user and the capabilities that it keeps
    landlock    files;  places: which ones an engine needs
    seccomp     system calls
    parent      what protects the parent from its children
    kernel      calls by ctypes

Its types are named tuples, since the import of `dataclasses` takes longer than all that a child does here.

A child confines itself: it starts as our own program, and what is untrusted comes after. So nothing of it is needed
before an `exec`, and no helper program of the system is.
"""

from typing import Final

UNPRIVILEGED_USER: Final = 65432
"""A number that no system gives to a user. That of `nobody`, 65534, is also the user of other services."""
