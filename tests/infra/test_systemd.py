"""The systemd units are what systemd accepts, and start commands that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.bootstrap import POOLS
from infra.local.state import CHECKOUT
from tests.support.deployed import environment
from tests.support.pages import COMMANDS

UNITS = CHECKOUT / "infra" / "systemd"
SERVICE, TIMER = UNITS / "paddock-maintain.service", UNITS / "paddock-maintain.timer"
WORKER, PREFECT = UNITS / "paddock-worker@.service", UNITS / "paddock-prefect.service"
INSTANCES = {pool.removeprefix("paddock-"): UNITS / f"paddock-worker@{pool[8:]}.service.d/pool.conf" for pool in POOLS}
STARTED = (
    "paddock-maintain.timer",
    "paddock-prefect.service",
    *(f"paddock-worker@{name}.service" for name in INSTANCES),
)


def verify(directory: Path, fault: tuple[str, str] = ("", "")) -> subprocess.CompletedProcess[str]:
    """Let systemd verify the units as they are installed, with this environment's programs in place of /opt/paddock."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here: apt-get install systemd")
    for path in UNITS.rglob("*.*"):
        if path.is_file():
            copy = directory / path.relative_to(UNITS)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text().replace("/opt/paddock/bin/", f"{sys.prefix}/bin/")
            copy.write_text(text.replace(*fault) if fault[0] else text)
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *(directory / name for name in STARTED)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    done = verify(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("original", "fault"),
    [
        ("KillMode=mixed", "KillMode=gentle"),
        ("TimeoutStopSec=30min", "TimeoutStopSec=half an hour"),
        ("StateDirectory=paddock-prefect", "StateDirectories=paddock-prefect"),
        ("PrivateDevices=true", "PrivateDevices=perhaps"),
    ],
)
def test_systemd_finds_an_injected_fault(tmp_path: Path, original: str, fault: str) -> None:
    done = verify(tmp_path, (original, fault))
    assert any(word in done.stderr for word in fault.split("="))


def test_each_pool_has_a_unit_with_a_health_check_of_its_own() -> None:
    assert all(path.exists() for path in INSTANCES.values())
    assert environment(WORKER)["POOL"] == "paddock-%i"
    assert environment(INSTANCES["gpu"])["OPTIONS"] == "--limit 1"
    assert environment(INSTANCES["gpu"])["CUDA_VISIBLE_DEVICES"] == "0"
    assert all("PREFECT_WORKER_WEBSERVER_PORT" in environment(path) for path in INSTANCES.values())


def test_a_unit_that_may_run_an_engine_lets_it_give_up_its_rights() -> None:
    for path in (WORKER, SERVICE):
        text = path.read_text()
        assert "\nRestrictNamespaces=user net\n" in text
        filters = re.findall(r"^SystemCallFilter=(.*)$", text, re.MULTILINE)
        allowed = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"}
        assert not filters or allowed <= set(" ".join(filters).split())


def test_secrets_are_in_files_that_root_reads() -> None:
    for path in (WORKER, PREFECT, SERVICE):
        assert re.search(r"^EnvironmentFile=-?/etc/paddock/", path.read_text(), re.MULTILINE)
        assert not {name for name in environment(path) if re.search(r"PASSWORD|TOKEN|AUTH|SECRET|KEY", name)}


def test_the_service_runs_commands_that_exist() -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", SERVICE.read_text(), re.MULTILINE)
    commands = re.findall(r"paddock ((?:[a-z-]+ ?)+)", line)
    assert [command.split()[0] for command in commands] == ["verify", "gc"]
    for command in commands:
        name, *options = command.split()
        COMMANDS[name].make_context(name, [option for option in options if option.startswith("-")])


@pytest.mark.parametrize(
    ("verify", "gc", "status"), [(0, 0, 0), (2, 0, 2), (0, 1, 1), (2, 1, 1)], ids=["both", "damage", "gc", "neither"]
)
def test_both_commands_run_and_the_service_fails_if_one_does(verify: int, gc: int, status: int) -> None:
    (line,) = re.findall(r"^ExecStart=/bin/sh -c '(.*)'$", SERVICE.read_text(), re.MULTILINE)
    script = (
        f'paddock() {{ echo "$1"; test "$1" = verify && return {verify}; return {gc}; }}; {line.replace("$$", "$")}'
    )
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["verify", "gc"], status)
