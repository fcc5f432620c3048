"""infra/setup.py: which engine it installs, and when it has nothing to do. No engine is built here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import docs_assets
from infra.build_engine import PORTABLE, build_number, pinned_version, requested_flags
from infra.locked import ROOT
from infra.setup import FLAGS, READY, digest, engine_key, has_pip, is_ready

CUDA = "-DGGML_CUDA=ON"


@pytest.mark.parametrize(
    ("cmake_args", "installed", "flags"),
    [
        pytest.param(None, None, PORTABLE, id="first"),
        pytest.param(CUDA, None, f"{CUDA} {PORTABLE}", id="first with flags"),
        pytest.param(f" {CUDA}  -DX=1 ", PORTABLE, f"{CUDA} -DX=1 {PORTABLE}", id="other flags"),
        pytest.param(None, f"{CUDA} {PORTABLE}", f"{CUDA} {PORTABLE}", id="installed flags stay"),
        pytest.param("", f"{CUDA} {PORTABLE}", PORTABLE, id="back to the default"),
        pytest.param("-DGGML_NATIVE=ON", None, "-DGGML_NATIVE=ON", id="native by name"),
        pytest.param(PORTABLE, None, PORTABLE, id="portable by name"),
    ],
)
def test_flags_are_portable_and_stay_until_others_are_requested(
    cmake_args: str | None, installed: str, flags: str
) -> None:
    assert requested_flags(cmake_args, installed=installed) == flags


def test_each_set_of_flags_has_its_own_cache_directory() -> None:
    version = pinned_version("llama-cpp-python")
    assert engine_key(version, PORTABLE) == f"llama-cpp-python-{version}-server-DGGML_NATIVE=OFF"
    assert (
        engine_key(version, f"{CUDA} {PORTABLE}")
        == f"llama-cpp-python-{version}-server-DGGML_CUDA=ON_-DGGML_NATIVE=OFF"
    )


def test_the_build_number_orders_versions() -> None:
    assert build_number("0.3.36") == 3036
    assert build_number("0.3.9") < build_number("0.3.36") < build_number("0.4.0") < build_number("1.0.0")


def create_environment(target: Path, flags: str) -> Path:
    """The files that a finished set-up leaves, without the installed packages."""
    (target / "bin").mkdir(parents=True)
    (target / "bin" / "python").symlink_to(sys.executable)
    (target / FLAGS).write_text(flags)
    (target / READY).write_text(digest(flags))
    return target


def test_a_finished_environment_is_ready_for_its_own_flags_only(tmp_path: Path) -> None:
    target = create_environment(tmp_path / "venv", PORTABLE)
    assert is_ready(target, PORTABLE)
    assert not is_ready(target, f"{CUDA} {PORTABLE}")
    (target / "bin" / "python").unlink()
    assert not is_ready(target, PORTABLE)


def test_nothing_is_run_when_nothing_changed(tmp_path: Path) -> None:
    target = create_environment(tmp_path / "venv", f"{CUDA} {PORTABLE}")
    environment = {name: value for name, value in os.environ.items() if name != "CMAKE_ARGS"}
    done = subprocess.run(
        [sys.executable, "-m", "infra.setup", str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**environment, "PATH": str(tmp_path)},  # no compiler on the PATH: none is needed
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_incomplete_environment_has_no_pip(tmp_path: Path) -> None:
    target = tmp_path / "venv"
    assert not has_pip(target / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True, timeout=60)
    assert (target / "bin" / "python").exists()
    assert not has_pip(target / "bin" / "python")


def test_an_interrupted_set_up_prints_one_line_and_is_incomplete(tmp_path: Path) -> None:
    compiler = tmp_path / "tools" / "c++"
    compiler.parent.mkdir()
    compiler.symlink_to(sys.executable)  # its existence is checked; it is not run before the environment exists
    target = tmp_path / "venv"
    with subprocess.Popen(
        [sys.executable, "-m", "infra.setup", str(target)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PATH": os.pathsep.join([str(compiler.parent), os.environ["PATH"]])},
    ) as running:
        while not (target / "bin" / "python").exists():  # pip comes after it, and takes seconds
            assert running.poll() is None
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGINT)
        out, error = running.communicate(timeout=30)
    assert running.returncode == 128 + signal.SIGINT
    assert out == f"creating {target}\n"
    assert error.strip() == "set-up was interrupted: run it again to continue"
    assert not has_pip(target / "bin" / "python")


def test_a_failing_npm_leaves_data_docs_plain_and_does_not_fail_the_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\nexit 7\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")
    assert docs_assets.main(tmp_path / "cache") == 0
    assert "Data Docs will be plain" in capfd.readouterr().err
    assert not (tmp_path / "cache" / "paddock" / "docs-assets").exists()
