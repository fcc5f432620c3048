"""The filter of system calls, computed instruction by instruction for both processors, and installed in a child."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path

import pytest

from paddock.confinement import kernel, seccomp

_OWN = 4711
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_X86, _ARM = seccomp._PROCESSORS["x86_64"], seccomp._PROCESSORS["aarch64"]


def verdict(processor: seccomp._Processor, number: int, *arguments: int, network: bool = False, audit: int = 0) -> str:
    """The action of the filter on a call: "allow", "kill", or the name of the error."""
    data = {0: number, 4: audit or processor.audit, **{16 + 8 * at: value for at, value in enumerate(arguments)}}
    program = seccomp.make_program(processor, own=_OWN, network=network)
    value, at = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x20:
            value = data.get(operand, 0)
        elif code == 0x54:
            value &= operand
        elif code == 0x06:
            return {_ALLOW: "allow", _KILL: "kill"}.get(operand) or errno.errorcode[operand & 0xFFFF]
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            at += if_true if holds else if_false


UNIX, INET, NETLINK = socket.AF_UNIX, socket.AF_INET, 16
CASES = [
    # x86-64, arm64, arguments, verdict, verdict for a program that downloads
    pytest.param(0, 63, (3,), "allow", "allow", id="read"),
    pytest.param(202, 98, (), "allow", "allow", id="futex"),
    pytest.param(41, 198, (UNIX, 1 | socket.SOCK_CLOEXEC), "allow", "allow", id="stream"),
    pytest.param(41, 198, (UNIX, 5), "allow", "allow", id="seqpacket"),
    pytest.param(41, 198, (UNIX, 2), "EACCES", "allow", id="datagram"),
    pytest.param(53, 199, (UNIX, 2 | socket.SOCK_NONBLOCK), "EACCES", "allow", id="pair of datagrams"),
    pytest.param(41, 198, (INET, 1), "EACCES", "allow", id="TCP"),
    pytest.param(41, 198, (socket.AF_INET6, 2), "EACCES", "allow", id="UDP"),
    pytest.param(41, 198, (NETLINK, 3), "EACCES", "allow", id="netlink"),
    pytest.param(42, 203, (3,), "ENOENT", "allow", id="connect"),
    pytest.param(49, 200, (3,), "allow", "allow", id="bind"),
    pytest.param(62, 129, (_OWN, 6), "allow", "allow", id="signal to itself"),
    pytest.param(62, 129, (1, 9), "EPERM", "EPERM", id="signal to another"),
    pytest.param(234, 131, (_OWN, 7, 6), "allow", "allow", id="signal to a thread"),
    pytest.param(234, 131, (8, 8, 6), "EPERM", "EPERM", id="signal to another's thread"),
    pytest.param(424, 424, (3, 9), "EPERM", "EPERM", id="signal by descriptor"),
    pytest.param(302, 261, (0, 7), "allow", "allow", id="own limits"),
    pytest.param(302, 261, (_OWN, 7), "allow", "allow", id="own limits by number"),
    pytest.param(302, 261, (1, 7), "EPERM", "EPERM", id="another's limits"),
    pytest.param(56, 220, (0x3D0F00,), "allow", "allow", id="thread"),
    pytest.param(56, 220, (0x10000011,), "EPERM", "EPERM", id="user namespace"),
    pytest.param(435, 435, (), "ENOSYS", "ENOSYS", id="clone3"),
    pytest.param(272, 97, (0x40000000,), "EPERM", "EPERM", id="unshare"),
    pytest.param(16, 29, (0, 0x5401), "allow", "allow", id="ioctl"),
    pytest.param(16, 29, (0, 0x5412), "EPERM", "EPERM", id="input for a terminal"),
    pytest.param(101, 117, (16, 1), "EPERM", "EPERM", id="ptrace"),
    pytest.param(310, 270, (1,), "EPERM", "EPERM", id="memory of another"),
    pytest.param(425, 425, (), "EPERM", "EPERM", id="io_uring"),
    pytest.param(268, 53, (), "EPERM", "allow", id="mode"),
    pytest.param(260, 54, (), "EPERM", "EPERM", id="owner"),
    pytest.param(266, 36, (), "EPERM", "allow", id="link"),
    pytest.param(321, 280, (), "EPERM", "EPERM", id="bpf"),
]


@pytest.mark.parametrize(("x86", "arm", "arguments", "expected", "downloading"), CASES)
def test_a_call_gets_its_verdict_on_both_processors(
    x86: int, arm: int, arguments: tuple[int, ...], expected: str, downloading: str
) -> None:
    for processor, number in ((_X86, x86), (_ARM, arm)):
        assert verdict(processor, number, *arguments) == expected
        assert verdict(processor, number, *arguments, network=True) == downloading


def test_calls_of_another_interface_end_the_process_or_do_not_exist() -> None:
    assert verdict(_X86, 20, audit=0x40000003) == "kill"  # getpid of the 32-bit interface
    assert verdict(_X86, 0x40000000 + 41, INET, 1) == "ENOSYS"  # socket of the x32 interface


def test_the_numbers_are_those_of_the_kernels_headers() -> None:
    column, path = {"x86_64": (0, "x86_64-linux-gnu/asm/unistd_64.h"), "aarch64": (1, "asm-generic/unistd.h")}[
        os.uname().machine
    ]
    header = Path("/usr/include", path)
    if not header.exists():
        pytest.skip("the kernel's headers are not installed: apt-get install linux-libc-dev")
    numbers = {
        name: int(number)
        for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    }
    denied = {name: pair[column] for name, pair in seccomp._DENIED.items()} | seccomp._SAME_NUMBERS
    known = {name: number for name, number in denied.items() if name in numbers}
    assert known == {name: numbers[name] for name in known}
    assert len(known) > 50


@pytest.mark.skipif(not seccomp.is_supported(), reason="there is no filter for this processor")
def test_the_kernel_takes_the_filter() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            seccomp.filter_self(network=False)
            try:
                socket.socket(socket.AF_INET)
            except PermissionError as error:
                os.write(writer, (error.strerror or "").encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        assert answer.read() == os.strerror(errno.EACCES)
