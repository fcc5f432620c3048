"""Program of a hostile engine: it tries to reach what it must not, and says what came of each attempt.

It runs in the engine's place, with the standard library alone. A test runs it without confinement, too, to see that
each attempt succeeds there.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

_PROCESS_VM_READV, _PTRACE, _IO_URING_SETUP, _PIDFD_OPEN, _PIDFD_GETFD = 310, 101, 425, 434, 438
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17


def attempts(place: Mapping[str, Any]) -> dict[str, str]:
    """Return "reached" or the reason why not, for each attempt. `place` names what the test has prepared."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = place["parent"]

    def call(number: int, *arguments: Any) -> int:
        result = int(
            libc.syscall(*(ctypes.c_long(one) if isinstance(one, int) else one for one in (number, *arguments)))
        )
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    def read_memory() -> None:
        buffer = ctypes.create_string_buffer(16)
        local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 16)
        remote = (ctypes.c_void_p * 2)(place["address"], 16)
        call(_PROCESS_VM_READV, parent, local, 1, remote, 1, 0)

    def trace() -> None:
        call(_PTRACE, _PTRACE_ATTACH, parent, 0, 0)
        os.waitpid(parent, 0)
        call(_PTRACE, _PTRACE_DETACH, parent, 0, 0)

    def take_descriptor() -> None:
        call(_PIDFD_GETFD, call(_PIDFD_OPEN, parent, 0), 0, 0)

    def connect(family: int, kind: int, address: Any) -> None:
        with socket.socket(family, kind) as client:
            client.settimeout(2)
            client.connect(address)
            client.send(b"x")

    def send(family: int, address: Any) -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", address)

    def listen() -> None:
        with socket.socket(socket.AF_INET) as server:
            server.bind(("127.0.0.1", 0))
            server.listen()

    def write(path: str) -> None:
        Path(path).write_text("x")

    tried: dict[str, Callable[[], object]] = {
        **{f"read {path}": partial(_read, path) for path in place["files"]},
        **{f"list {path}": partial(os.listdir, path) for path in place["directories"]},
        **{
            f"read /proc/parent/{name}": partial(_read, f"/proc/{parent}/{name}")
            for name in ("environ", "maps", "cmdline")
        },
        "read /proc/parent/mem": lambda: os.pread(os.open(f"/proc/{parent}/mem", os.O_RDONLY), 1, place["address"]),
        "list /proc/parent/fd": lambda: os.listdir(f"/proc/{parent}/fd"),
        "list /proc": lambda: os.listdir("/proc"),
        "read the parent's memory": read_memory,
        "trace the parent": trace,
        "take the parent's descriptor": take_descriptor,
        "signal the parent": lambda: os.kill(parent, 0),
        "limit the parent": lambda: __import__("resource").prlimit(parent, 7),
        "TCP to loopback": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, tuple(place["tcp"])),
        "TCP to another network": lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", place["tcp"][1])),
        "UDP": lambda: send(socket.AF_INET, tuple(place["udp"])),
        "listen on TCP": listen,
        "UNIX socket": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, place["unix"]),
        "abstract UNIX socket": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + place["abstract"]),
        "UNIX datagram": lambda: send(socket.AF_UNIX, place["datagram"]),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "io_uring": lambda: os.close(call(_IO_URING_SETUP, 1, ctypes.create_string_buffer(120))),
        "write to /tmp": lambda: write(place["written"]),
        "write to the user's file": lambda: write(place["own"]),
        "change a mode": lambda: Path(place["own"]).chmod(0o666),
        "make a link": lambda: Path(place["link"]).symlink_to("/"),
        "read the environment": lambda: _refuse_unless("canary" in str(dict(os.environ))),
    }
    return {name: _outcome(attempt) for name, attempt in tried.items()}


def allowed(place: Mapping[str, Any]) -> dict[str, str]:
    """Return the outcome of what an engine needs."""
    model = f"/proc/self/fd/{place['model']}"
    return {
        "open the model": _outcome(lambda: _refuse_unless(_read(model) == b"G")),
        "map the model": _outcome(lambda: _map(model)),
        "read the processors": _outcome(lambda: Path("/proc/cpuinfo").read_text()),
    }


def identity() -> dict[str, str]:
    """Return the user and capabilities of this process, as the kernel shows them."""
    lines = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return {name: lines[name] for name in ("Uid", "Groups", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")}


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(1)


def _map(path: str) -> None:
    import mmap

    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        _refuse_unless(mapped[:4] == b"GGUF")


def _refuse_unless(found: bool) -> None:
    if not found:
        raise OSError(0, "not there")


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
    return "reached"


def main() -> None:
    place = json.loads(sys.argv[1])
    print(json.dumps({"tried": attempts(place), "allowed": allowed(place), "identity": identity()}), file=sys.stderr)


if __name__ == "__main__":
    main()
