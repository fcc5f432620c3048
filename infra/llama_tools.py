"""Build llama.cpp's measuring programs from the engine's source package, once for all checkouts.

`python -m infra.llama_tools llama-bench` builds the program with the flags of the engine installed in this virtual
environment, stores it in the engine's cache beside the wheel, and links it into the environment's `bin`, so that it is
on the PATH when the environment is active. It is the same llama.cpp as the wheel's, so the two can be compared. CMake
and Ninja are those of the environment (extra `dev`), else the system's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from infra import build_engine, setup

PROGRAMS = ("llama-bench", "llama-perplexity")


def main(arguments: list[str]) -> int:
    if not arguments or not set(arguments) <= set(PROGRAMS):
        print(f"unknown or missing program: name one or more of {', '.join(PROGRAMS)}", file=sys.stderr)
        return 3
    missing = [name for name in ("cmake", "c++") if shutil.which(name, path=_path()) is None]
    missing_programs = [name for name in arguments if find_built(name) is None]
    if missing_programs and missing:
        print(f"building {', '.join(missing_programs)} needs {' and '.join(missing)}: install them", file=sys.stderr)
        return 1
    try:
        if missing_programs:
            build(missing_programs)
    except subprocess.CalledProcessError as error:
        print(f"build failed: {' '.join(map(str, error.cmd))} exited with status {error.returncode}", file=sys.stderr)
        return 1
    for name in arguments:
        print(link(name))
    return 0


def find_built(name: str) -> Path | None:
    """The path of a program with the installed engine's version and flags, or None where it is not built yet."""
    path = _home() / "programs" / name
    return path if path.exists() else None


def build(names: list[str]) -> None:
    """Build the programs that are missing. A file lock keeps two checkouts from building the same twice."""
    home, flags = _home(), _flags()
    setup.engine_wheel(Path(sys.executable), flags)  # the source package is stored beside the wheel
    target = home / "programs"
    target.mkdir(exist_ok=True)
    with (home.parent / f"{home.name}.programs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing_programs = [name for name in names if find_built(name) is None]
        if not missing_programs:
            return
        print(f"building {', '.join(missing_programs)} with {flags} (once, several minutes)", flush=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as work:
            source = build_engine.unpack(home, Path(work)) / "vendor" / "llama.cpp"
            options = build_engine.compile_options({**build_engine.OPTIONS, "BUILD_SHARED_LIBS": "OFF"}, flags)
            path = _path()
            cmake: list[object] = [shutil.which("cmake", path=path)]
            generator = ["-G", "Ninja"] if shutil.which("ninja", path=path) else []
            configure = [*generator, "-S", source, "-B", f"{work}/build", *options]
            compilation = ["--build", f"{work}/build", "--parallel", os.cpu_count(), "--target", *missing_programs]
            build_engine.run([*cmake, *configure], environment={"PATH": path})
            build_engine.run([*cmake, *compilation], environment={"PATH": path})
            for name in missing_programs:
                Path(work, "build", "bin", name).rename(target / name)


def link(name: str) -> Path:
    """Link a built program into this environment's `bin`, and return the link. Raises FileNotFoundError."""
    program = find_built(name)
    if program is None:
        raise FileNotFoundError(name)
    target_link = Path(sys.prefix) / "bin" / name
    staged = target_link.with_name(f".{name}.{os.getpid()}")
    staged.symlink_to(program)
    staged.replace(target_link)
    return target_link


def _path() -> str:
    """The PATH with the programs of this environment first."""
    return os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", os.defpath)])


def _flags() -> str:
    return build_engine.requested_flags(os.environ.get("CMAKE_ARGS"), installed=setup.installed_flags(Path(sys.prefix)))


def _home() -> Path:
    version = build_engine.pinned_version(build_engine.ENGINE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddock" / "engine"
    return cache / setup.engine_key(version, _flags())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
