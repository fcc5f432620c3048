"""Build llama-bench from the engine's source package, and run it with the libraries of the installed engine.

So it has the same version, build and flags. It is built once and kept in the engine's cache beside the wheel, keyed by
version and flags. Only the program and its own library are kept: the others are those of the installed package, found
through LD_LIBRARY_PATH.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from infra import build_engine, setup

_ARTIFACTS = ("llama-bench", "libllama-bench-impl.so")


def measure(arguments: Mapping[str, object]) -> list[list[float]]:
    """Tokens per second of each repetition of each test (prompt processing first), for llama-bench's options."""
    program = _program()
    spec = find_spec("llama_cpp")
    engine = Path((spec.submodule_search_locations or [""])[0] if spec else "", "lib")
    command = [str(program), "-o", "json", *(str(word) for pair in arguments.items() for word in pair)]
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{engine}:{program.parent}"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    return [test["samples_ts"] for test in json.loads(process.stdout)]


def _program() -> Path:
    """The program, built first if it is missing. A file lock keeps two checkouts from building it twice."""
    flags = setup.installed_flags(Path(sys.prefix)) or build_engine.PORTABLE
    home = setup.engine_wheel(Path(sys.executable), flags).parent  # the source package is stored there too
    target = home / "llama-bench"
    with (home.parent / f"{home.name}.llama-bench.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            print(f"building llama-bench with {flags} (once, several minutes)", flush=True)
            with tempfile.TemporaryDirectory(dir=home.parent) as work:
                _build(home, Path(work), flags)
                Path(work, "out").rename(target)
    return target / "llama-bench"


def _build(packages: Path, work: Path, flags: str) -> None:
    """Build the program into `work/out`, as the wheel's libraries are built."""
    path = build_engine.install_tools(Path(sys.executable), work)
    built = build_engine.compile_targets(build_engine.unpack(packages, work), flags, path, ["llama-bench"])
    (work / "out").mkdir()
    for name in _ARTIFACTS:
        (built / name).rename(work / "out" / name)
