"""Filter of system calls (seccomp): no network, no signals to others, no tracing, no change of a file's owner or mode.

It covers what file rules cannot, needs no privilege, and holds for every program that the process becomes. It is a list
of what is refused, not of what is allowed: GPU drivers use many calls, and other ones with each version.

    network           no socket but connected UNIX sockets, and no connection from here: the engine only listens
    other processes   no tracing, no reading of memory, no signal except to itself
    files             no change of owner, mode, times, attributes or length by name; no links; no watching
    the kernel        no io_uring (it opens and connects past this filter), namespaces, mounts, keys, bpf, modules, ...

A refused call fails with EPERM, a socket with EACCES, a connection with ENOENT, as in a file system without sockets.
The numbers are those of the kernel's `unistd.h`; for other processors than x86-64 and arm64 there is no filter.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final, NamedTuple

from paddock.confinement import kernel

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Offsets in `struct seccomp_data`: of an argument, its lower half on a little-endian processor."""
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_SET_MODE_FILTER = 1
_ALL_THREADS, _KEEP_SPECULATION = 1, 4
"""Flags. Without the second one, kernels before 5.16 slow a filtered process down by a mitigation."""
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020000
_TERMINAL_INPUT, _TERMINAL_PASTE = 0x5412, 0x541C
_UNIX, _STREAM, _SEQPACKET, _KIND = 1, 1, 5, 0xF

_SAME_NUMBERS: Final = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "process_mrelease": 448,
    "fchmodat2": 452,
    "setxattrat": 463,
    "removexattrat": 466,
}
"""Calls that are newer than the separate tables of numbers."""

_DENIED: Final = {
    # name: (x86-64, arm64); None where there is no such call
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "link": (86, None),
    "linkat": (265, 37),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "truncate": (76, 45),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}
_WRITES_FILES: Final = frozenset(
    {"chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat", "symlink", "symlinkat",
     "link", "linkat", "truncate", "inotify_init", "inotify_init1"}
)  # fmt: skip
"""Denied calls that a program needs which writes files and uses the network."""


class _Processor(NamedTuple):
    """A processor: its number in the kernel's `audit.h`, its column of `_DENIED`, and calls with filtered arguments."""

    audit: int
    column: int
    socket: int
    socketpair: int
    connect: int
    own_process: tuple[int, ...]
    """kill, tgkill, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo: the first argument is a process."""
    limits: int
    clone: int
    ioctl: int


_CLONE3: Final = 435
_PROCESSORS: Final = {
    "x86_64": _Processor(0xC000003E, 0, 41, 53, 42, (62, 234, 200, 129, 297), 302, 56, 16),
    "aarch64": _Processor(0xC00000B7, 1, 198, 199, 203, (129, 131, 130, 138, 240), 261, 220, 29),
}
_CALL: Final = {"x86_64": 317, "aarch64": 277}
"""Number of the call seccomp(2)."""


def is_supported() -> bool:
    """Whether there is a filter for this processor."""
    return os.uname().machine in _PROCESSORS and sys.byteorder == "little" and sys.maxsize > 2**32


def filter_self(*, network: bool) -> None:
    """Install the filter, for all threads. Needs `no_new_privs`. Raises OSError.

    `network` is for a program of ours that downloads files: it may connect, and write files.
    """
    machine = os.uname().machine
    program = make_program(_PROCESSORS[machine], own=os.getpid(), network=network)
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    # struct sock_fprog: the number of instructions, and a pointer to them
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    kernel.system_call(_CALL[machine], _SET_MODE_FILTER, _ALL_THREADS | _KEEP_SPECULATION, ctypes.byref(header))


def make_program(processor: _Processor, *, own: int, network: bool) -> list[tuple[int, int, int, int]]:
    """Return the filter's instructions as (code, jump if true, jump if false, value)."""
    fail = _FAIL | errno.EPERM
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, processor.audit),
        (_RETURN, 0, 0, _KILL),  # a call of the 32-bit interface, whose numbers mean other calls
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),  # on x86-64, the numbers of the x32 interface; elsewhere there are none so high
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
        (_EQUAL, 0, 1, _CLONE3),  # its flags are in memory: the C library falls back on `clone`
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
    ]
    for number in _denied_numbers(processor.column, network=network):
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, fail)]
    for number in processor.own_process:
        lines += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST), (_EQUAL, 0, 1, own), _allow(), (_RETURN, 0, 0, fail)]
    lines += [
        *[(_EQUAL, 0, 5, processor.limits), (_LOAD, 0, 0, _FIRST), (_EQUAL, 1, 0, 0), (_EQUAL, 0, 1, own), _allow()],
        (_RETURN, 0, 0, fail),
        *[(_EQUAL, 0, 4, processor.clone), (_LOAD, 0, 0, _FIRST), (_ANY_BIT, 0, 1, _NEW_NAMESPACES)],
        *[(_RETURN, 0, 0, fail), _allow()],
        *[(_EQUAL, 0, 5, processor.ioctl), (_LOAD, 0, 0, _SECOND), (_EQUAL, 1, 0, _TERMINAL_INPUT)],
        *[(_EQUAL, 0, 1, _TERMINAL_PASTE), (_RETURN, 0, 0, fail), _allow()],
    ]
    if not network:
        for number in (processor.socket, processor.socketpair):
            lines += [
                *[(_EQUAL, 0, 8, number), (_LOAD, 0, 0, _FIRST), (_EQUAL, 0, 5, _UNIX)],
                *[(_LOAD, 0, 0, _SECOND), (_AND, 0, 0, _KIND), (_EQUAL, 1, 0, _STREAM), (_EQUAL, 0, 1, _SEQPACKET)],
                *[_allow(), (_RETURN, 0, 0, _FAIL | errno.EACCES)],
            ]
        lines += [(_EQUAL, 0, 1, processor.connect), (_RETURN, 0, 0, _FAIL | errno.ENOENT)]
    return [*lines, _allow()]


def _allow() -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, _ALLOW


def _denied_numbers(column: int, *, network: bool) -> list[int]:
    kept = _WRITES_FILES if network else frozenset()
    by_name = {**{name: (number, number) for name, number in _SAME_NUMBERS.items()}, **_DENIED}
    return [number for name, numbers in by_name.items() if name not in kept and (number := numbers[column]) is not None]
