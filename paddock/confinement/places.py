"""Directories and device nodes that an engine's process needs beside the model: libraries, programs and GPUs.

A rule covers everything below a directory. So what the loader's configuration or the environment names is left out
where it holds `private` directories, those of the user and the volume, or files of all sorts. The process computes this
at each start, before it confines itself: it is plain work on strings, so that it takes about a millisecond.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from paddock.confinement.landlock import DEVICE, READ, Rule

_LIBRARIES: Final = (
    *("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/local/lib"),
    *("/usr/local/lib64", "/nix/store", "/gnu/store", "/run/opengl-driver"),
)
_LOADER: Final = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/usr/share/zoneinfo")
_PROCESSORS: Final = ("/sys/devices/system", "/sys/fs/cgroup")
_PROC: Final = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat")
_GPU_PROC: Final = ("/proc/driver", "/proc/devices", "/proc/modules")
_GPU_FILES: Final = (
    *("/sys", "/etc/OpenCL", "/etc/vulkan", "/usr/share/vulkan", "/usr/share/nvidia", "/usr/share/libdrm"),
    *("/usr/local/cuda", "/opt/rocm", "/etc/alternatives"),
)
_GPU_NODES: Final = ("nvidia", "nvhost", "nvgpu", "nvmap", "nvsciipc", "dri", "kfd", "dxg", "accel")
"""Beginnings of names."""
_GPU_LIBRARIES: Final = tuple(f"libggml-{name}" for name in ("cuda", "hip", "vulkan", "sycl", "opencl", "musa", "cann"))
_NODES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_SHARED: Final = ("/", "/etc", "/home", "/root", "/run", "/tmp", "/var", "/var/tmp", "/usr", "/opt", "/srv", "/mnt")  # noqa: S108
"""Directories that hold much else than libraries."""


def is_for_gpus(libraries: str) -> bool:
    """Whether a directory of the engine's libraries holds one for a GPU."""
    with suppress(OSError):
        return any(name.startswith(_GPU_LIBRARIES) for name in os.listdir(libraries))
    return False


def gpu_nodes(devices: str = "/dev") -> list[str]:
    """Return the device nodes of GPUs, and directories of them."""
    with suppress(OSError):
        names = sorted(os.listdir(devices))
        return [f"{devices}/{name}" for name in names if name.startswith(_GPU_NODES)]
    return []


def gpu_groups(devices: str = "/dev") -> list[int]:
    """Return the groups, such as `render` and `video`, whose members alone may use the GPUs' device nodes."""
    groups = set()
    for path in gpu_nodes(devices):
        for node in [f"{path}/{name}" for name in os.listdir(path)] if os.path.isdir(path) else [path]:
            with suppress(OSError):
                status = os.stat(node)
                if stat.S_ISCHR(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) == stat.S_IWGRP:
                    groups.add(status.st_gid)
    return sorted(groups - {0})


def library_rules(
    *, private: Sequence[str], library_path: str = "", gpu: bool = False, devices: str = "/dev"
) -> list[Rule]:
    """Return rules for the system's libraries, what the loader reads, and the processors; `gpu`: for GPUs, too.

    `library_path` is the LD_LIBRARY_PATH of the process.
    """
    named = {*_configured("/etc/ld.so.conf"), *library_path.split(":")}.difference(_LIBRARIES)
    read = [*_LIBRARIES, *_LOADER, *_PROCESSORS, *_PROC, *libraries_only(sorted(named), private=private)]
    read += [*_GPU_PROC, *_GPU_FILES] if gpu else []
    nodes = [*_NODES, *(gpu_nodes(devices) if gpu else ())]
    return [*(Rule(path, READ) for path in read), *(Rule(path, DEVICE) for path in nodes)]


def named_libraries(library_path: str) -> tuple[str, ...]:
    """Return the directories of an LD_LIBRARY_PATH that are there: drivers are loaded from them at any time."""
    return tuple(path for path in library_path.split(":") if path.startswith("/") and os.path.isdir(path))


def python_rules(*, private: Sequence[str]) -> list[Rule]:
    """Return rules for this interpreter's libraries and modules, and for Paddock's own."""
    own = os.path.dirname(os.path.dirname(__file__))
    modules = [own, *(f"{root}/lib" for root in dict.fromkeys((sys.base_prefix, sys.prefix)))]
    modules += [path for path in sys.path if path.endswith(("/site-packages", "/dist-packages", "/lib-dynload"))]
    return [Rule(path, READ) for path in libraries_only(modules, private=private)]


def program_rules(program: Path, *, private: Sequence[str]) -> list[Rule]:
    """Return rules for a program: the files beside it, and for a script its interpreter and Python's libraries."""
    found = [str(program), *libraries_only([str(program.parent)], private=private)]
    interpreter = _interpreter(program)
    if interpreter is not None:
        for path in dict.fromkeys((interpreter, interpreter.resolve())):
            installation = path.parent.parent
            found += [str(path), str(installation / "pyvenv.cfg")]
            found += libraries_only([str(path.parent), str(installation / "lib")], private=private)
    return [*(Rule(path, READ) for path in found), *(python_rules(private=private) if interpreter else ())]


def libraries_only(directories: Iterable[str], *, private: Sequence[str]) -> Iterator[str]:
    """Leave out directories that hold one of `private`, or files of all sorts."""
    for directory in directories:
        if directory.startswith("/"):
            path = os.path.realpath(directory)
            if path not in _SHARED and not any(f"{other}/".startswith(f"{path}/") for other in private):
                yield directory


def _configured(file: str, depth: int = 3) -> Iterator[str]:
    """The directories that the loader's configuration names."""
    with suppress(OSError), open(file, errors="replace") as lines:
        for line in lines:
            words = line.split("#", maxsplit=1)[0].split()
            if words[:1] == ["include"] and depth:
                for pattern in words[1:]:  # in practice `ld.so.conf.d/*.conf`
                    directory = os.path.dirname(os.path.join("/etc", pattern))
                    for name in sorted(os.listdir(directory)):
                        if name.endswith(".conf"):
                            yield from _configured(f"{directory}/{name}", depth - 1)
            elif words:
                yield words[0]


def _interpreter(program: Path) -> Path | None:
    with suppress(OSError), program.open("rb") as file:
        line = file.readline(256)
        if line.startswith(b"#!") and (words := line[2:].split()):
            return Path(os.fsdecode(words[0]))
    return None
