"""Which engine a set-up installs, and when there is nothing to do. No engine is built here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import docs_assets, setup
from infra.setup import PORTABLE, digest, engine_key, has_pip, is_ready, pinned, wanted_flags

CUDA = "-DGGML_CUDA=ON"


@pytest.mark.parametrize(
    ("asked", "installed", "flags"),
    [
        pytest.param(None, None, PORTABLE, id="first"),
        pytest.param(CUDA, None, f"{CUDA} {PORTABLE}", id="first with flags"),
        pytest.param(f" {CUDA}  -DX=1 ", PORTABLE, f"{CUDA} -DX=1 {PORTABLE}", id="other flags"),
        pytest.param(None, f"{CUDA} {PORTABLE}", f"{CUDA} {PORTABLE}", id="what is there stays"),
        pytest.param("", f"{CUDA} {PORTABLE}", PORTABLE, id="back to the first"),
        pytest.param("-DGGML_NATIVE=ON", None, "-DGGML_NATIVE=ON", id="native by name"),
        pytest.param(PORTABLE, None, PORTABLE, id="portable by name"),
    ],
)
def test_flags_are_portable_and_stay_until_others_are_asked_for(asked: str | None, installed: str, flags: str) -> None:
    assert wanted_flags(asked, installed=installed) == flags


def test_each_choice_of_flags_has_its_own_place_in_the_cache() -> None:
    version = pinned("llama-cpp-python")
    assert engine_key(version, PORTABLE) == f"llama-cpp-python-{version}-DGGML_NATIVE=OFF"
    assert engine_key(version, f"{CUDA} {PORTABLE}") == f"llama-cpp-python-{version}-DGGML_CUDA=ON_-DGGML_NATIVE=OFF"


def made(target: Path, flags: str) -> Path:
    """What a finished set-up leaves, without what is installed."""
    (target / "bin").mkdir(parents=True)
    (target / "bin" / "python").symlink_to(sys.executable)
    (target / ".engine").write_text(flags)
    (target / ".ready").write_text(digest(flags))
    return target


def test_a_finished_environment_is_ready_for_its_own_engine_alone(tmp_path: Path) -> None:
    target = made(tmp_path / "venv", PORTABLE)
    assert is_ready(target, PORTABLE)
    assert not is_ready(target, f"{CUDA} {PORTABLE}")
    (target / "bin" / "python").unlink()
    assert not is_ready(target, PORTABLE)


def test_where_nothing_changed_nothing_is_run(tmp_path: Path) -> None:
    target = made(tmp_path / "venv", f"{CUDA} {PORTABLE}")
    environment = {name: value for name, value in os.environ.items() if name != "CMAKE_ARGS"}
    done = subprocess.run(
        [sys.executable, setup.__file__, str(target)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**environment, "PATH": str(tmp_path)},  # no compiler: it is not asked for
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_environment_whose_making_was_cut_short_has_no_pip(tmp_path: Path) -> None:
    target = tmp_path / "venv"
    assert not has_pip(target / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True, timeout=60)
    assert (target / "bin" / "python").exists()
    assert not has_pip(target / "bin" / "python")


def test_an_interrupted_set_up_says_so_in_one_line_and_is_known_for_unfinished(tmp_path: Path) -> None:
    compiler = tmp_path / "tools" / "c++"
    compiler.parent.mkdir()
    compiler.symlink_to(sys.executable)  # it is looked for, and not used before there is an environment
    target = tmp_path / "venv"
    with subprocess.Popen(
        [sys.executable, setup.__file__, str(target)],
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
    assert out == f"making {target}\n"
    assert error.strip() == "set-up was interrupted: run it again, and it goes on"
    assert not has_pip(target / "bin" / "python")


def test_an_npm_that_fails_leaves_the_pages_plain_and_setup_goes_on(
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
