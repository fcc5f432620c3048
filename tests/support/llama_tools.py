"""Build llama.cpp's own measuring programs from the engine's source package, linked with the installed libraries.

So a program has the version, build and flags of the engine. Its own sources take seconds to compile, once: it is kept
in the engine's cache beside the wheel.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from infra import build_engine, setup

Tool = Literal["llama-bench", "llama-perplexity"]
_SOURCES: dict[Tool, tuple[str, ...]] = {
    "llama-bench": ("tools/llama-bench/llama-bench.cpp", "tools/llama-bench/main.cpp"),
    "llama-perplexity": ("tools/perplexity/perplexity.cpp", str(Path(__file__).with_name("llama_perplexity.cpp"))),
}
"""Relative to llama.cpp's own directory."""
_INCLUDES = ("include", "ggml/include", "common", "vendor")
_LIBRARIES = ("llama-common", "llama", "ggml", "ggml-base")


def program(tool: Tool) -> Path:
    """The program, built first if it is missing. Needs a C++ compiler."""
    flags = setup.installed_flags(Path(sys.prefix)) or build_engine.PORTABLE
    home = setup.engine_wheel(Path(sys.executable), flags).parent  # the source package is stored there too
    target = home / "tools" / tool
    with (home.parent / f"{home.name}.tools.lock").open("w") as lock:  # two checkouts may build it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home.parent) as work:
                built = Path(work, tool)
                _compile(build_engine.unpack(home, Path(work)) / "vendor" / "llama.cpp", tool, built)
                built.rename(target)
    return target


def environment() -> dict[str, str]:
    """The environment to run a program in, with the libraries of the installed engine."""
    return {**os.environ, "LD_LIBRARY_PATH": str(_library()), "GGML_NO_BACKTRACE": "1"}


def _compile(source: Path, tool: Tool, target: Path) -> None:
    subprocess.run(
        [
            *("c++", "-O2", "-std=c++17", "-o", target),
            *(f"-I{source / name}" for name in _INCLUDES),
            *(source / name for name in _SOURCES[tool]),
            f"-L{_library()}",
            *(f"-l{name}" for name in _LIBRARIES),
            f"-Wl,-rpath-link,{_library()}",
            "-pthread",
        ],
        check=True,
    )


def _library() -> Path:
    spec = find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("llama-cpp-python is not installed")
    return Path(spec.submodule_search_locations[0], "lib")
