"""llama.cpp's own programs, built from the engine's package. Nothing is built here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from infra import llama_tools, setup


def test_a_program_that_is_not_known_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert llama_tools.main(["llama-nothing"]) == 3
    assert "llama-server" in capsys.readouterr().err


def test_a_built_program_lies_beside_its_wheel_and_comes_onto_the_path_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    assert llama_tools.built("llama-server") is None
    key = setup.engine_key(setup.pinned(setup.ENGINE), f"-DGGML_CUDA=ON {setup.PORTABLE}")
    program = tmp_path / "cache" / "paddock" / "engine" / key / "programs" / "llama-server"
    program.parent.mkdir(parents=True)
    program.touch()
    for _ in range(2):
        assert llama_tools.main(["llama-server"]) == 0
    link = tmp_path / "venv" / "bin" / "llama-server"
    assert link.resolve() == program
    assert capsys.readouterr().out == f"{link}\n{link}\n"
