"""infra.system_packages, with a script in place of apt-get: nothing is installed here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra import system_packages
from tests.support.scripts import write_script


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on the PATH, with an apt-get that logs its arguments."""
    write_script(tmp_path / "bin" / "apt-get", f'#!/bin/sh\necho "$@" >> {tmp_path / "calls"}\n')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "bin"


def calls(programs: Path) -> list[str]:
    path = programs.parent / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_as_root_missing_programs_are_installed(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    write_script(programs / "chromium-browser")
    assert system_packages.main() == 0
    assert calls(programs) == ["-qq update", "-qq install --yes --no-install-recommends npm curl systemd redis-server"]


def test_nothing_is_run_when_nothing_is_missing(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("chromium", "npm", "curl", "systemd-analyze", "redis-server"):
        write_script(programs / name)
    assert system_packages.main() == 0
    assert calls(programs) == []


@pytest.mark.parametrize(("user", "apt"), [(1000, True), (0, False)], ids=["a user", "no apt-get"])
def test_without_root_or_apt_get_it_prints_what_to_install(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], user: int, apt: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if not apt:
        (programs / "apt-get").unlink()
    assert system_packages.main() == 0
    assert "apt-get install chromium npm curl systemd redis-server" in capsys.readouterr().err
    assert calls(programs) == []


def test_a_failing_apt_get_does_not_fail_the_set_up(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    write_script(programs / "apt-get", "#!/bin/sh\nexit 100\n")
    assert system_packages.main() == 0
    assert (
        "apt-get failed (CalledProcessError): chromium, npm, curl, systemd, redis-server not installed"
        in capfd.readouterr().err
    )
