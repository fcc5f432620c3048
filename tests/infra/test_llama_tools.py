"""infra.llama_tools: building llama.cpp's programs from the engine's package. Nothing is built here."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from infra import build_engine, llama_tools, setup
from tests.support.scripts import write_script


def test_an_unknown_program_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert llama_tools.main(["llama-nothing"]) == 3
    assert "llama-bench" in capsys.readouterr().err


def test_a_built_program_is_cached_beside_its_wheel_and_linked_into_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    assert llama_tools.find_built("llama-bench") is None
    key = setup.engine_key(build_engine.pinned_version(build_engine.ENGINE), f"-DGGML_CUDA=ON {build_engine.PORTABLE}")
    program = tmp_path / "cache" / "paddock" / "engine" / key / "programs" / "llama-bench"
    program.parent.mkdir(parents=True)
    program.touch()
    for _ in range(2):
        assert llama_tools.main(["llama-bench"]) == 0
    link = tmp_path / "venv" / "bin" / "llama-bench"
    assert link.resolve() == program
    assert capsys.readouterr().out == f"{link}\n{link}\n"


CMAKE = """#!/bin/sh
command -v ninja >> "$CALLS"
echo "$@" >> "$CALLS"
while [ $# -gt 0 ]; do
    [ "$1" = --build ] && mkdir -p "$2/bin" && touch "$2/bin/llama-bench"
    shift
done
exit 0
"""


def test_cmake_and_ninja_of_the_environment_are_preferred_to_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls, programs = tmp_path / "calls", tmp_path / "venv" / "bin"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setattr(sys, "prefix", str(programs.parent))
    write_script(programs / "cmake", CMAKE)
    write_script(programs / "ninja", "#!/bin/sh")
    for name in ("cmake", "ninja"):
        write_script(tmp_path / "system" / name, "#!/bin/sh\nexit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'system'}:{os.environ['PATH']}")
    home = (
        tmp_path
        / "cache"
        / "paddock"
        / "engine"
        / setup.engine_key(build_engine.pinned_version(build_engine.ENGINE), build_engine.PORTABLE)
    )
    home.mkdir(parents=True)
    (home / "built-before.whl").touch()
    with tarfile.open(home / "source.tar.gz", "w:gz") as source:
        source.addfile(tarfile.TarInfo("package/vendor/llama.cpp/CMakeLists.txt"), io.BytesIO())
    assert llama_tools.main(["llama-bench"]) == 0, capfd.readouterr().err
    ninja, configure, _, compiled = calls.read_text().splitlines()
    assert ninja == str(programs / "ninja")
    assert configure.startswith("-G Ninja ")
    assert compiled.endswith("--target llama-bench")
    assert (programs / "llama-bench").resolve() == home / "programs" / "llama-bench"
