"""Refuse system calls, as a kernel that does not know them, or a container runtime, does."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

from paddock.confinement import kernel, seccomp


def refuse(numbers: Iterable[int]) -> None:
    """Let these calls fail with ENOSYS in this process and all that it starts."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    program = [(0x20, 0, 0, 0)]
    for number in numbers:
        program += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.ENOSYS)]
    program += [(0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    kernel.system_call(seccomp._CALL[os.uname().machine], 1, 0, ctypes.byref(header))
