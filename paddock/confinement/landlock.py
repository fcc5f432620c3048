"""File access by Landlock: a process that restricts itself opens nothing but what a rule names.

It is in Linux since 5.13, needs no privilege, and holds for every program that the process becomes and every process
that it starts. Descriptors that are open already stay usable. A restricted process can also neither trace nor read the
memory and environment of a process outside. Each version of the interface (ABI) added rights:

    1  files and directories       3  truncation               5  ioctl of devices
    2  links between directories   4  TCP connect and bind     6  signals and abstract UNIX sockets to other processes

See https://docs.kernel.org/userspace-api/landlock.html. `stat`, `chmod`, `chown` and their kin are not covered, nor are
UNIX sockets with a path: `seccomp` refuses those.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from paddock.confinement import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REGULAR, _MAKE_SOCKET = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 9
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE

READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
"""Read files, list directories, and load or run programs."""
LISTEN: Final = _READ_FILE | _READ_DIR | _MAKE_SOCKET | _REMOVE_FILE
"""Read files of a directory, and make a UNIX socket in it."""
WRITE: Final = (
    _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | _REFER | _MAKE_DIR | _MAKE_REGULAR | _REMOVE_DIR | _REMOVE_FILE
)
"""Make, change and remove files and directories below a directory."""
DEVICE: Final = _READ_FILE | _READ_DIR | _WRITE_FILE | _IOCTL_DEVICE
"""Use device nodes."""


class Rule(NamedTuple):
    """Rights (`READ`, `LISTEN`, `WRITE` or `DEVICE`) to `path`, and to everything below it if it is a directory."""

    path: str
    rights: int


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathAttributes(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def abi_version() -> int:
    """Return the version of the kernel's Landlock, 0 where there is none, or it is switched off."""
    try:
        return kernel.system_call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def make_ruleset(rules: Iterable[Rule], *, files: Iterable[int] = (), abi: int, network: bool = False) -> int:
    """Make a ruleset, and return its descriptor. Paths that do not exist are left out.

    The open files `files` may be opened again for reading, by their names in `/proc/self/fd`. `network` leaves TCP and
    abstract UNIX sockets alone. Raises OSError.
    """
    handled = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
    scoped = 0 if abi < 6 else 0b10 if network else 0b11
    attributes = _RulesetAttributes(handled, 0 if network or abi < 4 else 0b11, scoped)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = kernel.system_call(_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    try:
        for descriptor in files:
            _add(ruleset, descriptor, _READ_FILE)
        for rule in rules:
            with suppress(OSError):
                descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
                try:
                    is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
                    _add(ruleset, descriptor, rule.rights & handled & (-1 if is_directory else _OF_A_FILE))
                finally:
                    os.close(descriptor)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def restrict_self(ruleset: int) -> None:
    """Restrict this thread, and what it starts, to a ruleset, and close that. Raises OSError."""
    try:
        kernel.system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _add(ruleset: int, descriptor: int, rights: int) -> None:
    attributes = _PathAttributes(rights, descriptor)
    try:
        kernel.system_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(attributes), 0)
    except OSError as error:
        if error.errno != errno.EBADFD:  # of an anonymous file, which needs no rule
            raise


def pin(paths: Iterable[str]) -> None:
    """Keep files of `/proc` open, by their path alone, so that a rule about them stays true over an `exec`.

    A rule holds for an inode, and `/proc` makes a new one for a name that the kernel has dropped from its cache.
    """
    for path in paths:
        with suppress(OSError):
            os.set_inheritable(os.open(Path(path).resolve(), os.O_PATH), True)
