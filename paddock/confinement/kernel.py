"""Calls into the Linux kernel that Python's standard library does not offer, by ctypes.

The numbers are those of the kernel's headers `linux/prctl.h`, `linux/capability.h` and `linux/landlock.h`. On another
system than Linux every call fails with ENOSYS.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache

PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE = 1, 3, 4
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000

_CAPABILITY_VERSION_3 = 0x20080522


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int = 0) -> int:
    """Call prctl(2), and return its result. Raises OSError."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return _checked(_libc().prctl(option, *map(ctypes.c_ulong, (argument, 0, 0, 0))))


def unshare(flags: int) -> None:
    """Call unshare(2). Raises OSError."""
    _checked(_libc().unshare(flags))


def system_call(number: int, *arguments: object) -> int:
    """Make a system call by its number, and return its result. Raises OSError.

    Integers are passed as C's `long`; `arguments` may also be pointers of ctypes, or None.
    """
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *passed))


def capabilities() -> tuple[int, int]:
    """Return the (effective, permitted) capabilities of this thread, as bit masks. Raises OSError."""
    data = (_CapabilityData * 2)()
    _checked(_libc().capget(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0)), data))
    return data[0].effective | data[1].effective << 32, data[0].permitted | data[1].permitted << 32


def set_capabilities(effective: int, permitted: int) -> None:
    """Set the effective and permitted capabilities of this thread, and clear the inheritable ones. Raises OSError."""
    low = 0xFFFFFFFF
    data = (_CapabilityData * 2)(
        _CapabilityData(effective & low, permitted & low, 0), _CapabilityData(effective >> 32, permitted >> 32, 0)
    )
    _checked(_libc().capset(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0)), data))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
