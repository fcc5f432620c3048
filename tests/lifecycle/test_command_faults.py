"""A command whose system calls fail ends with one clean error, and succeeds the next time.

Behind `make torture`, since each try starts the program twice. `tests/store/test_faults.py` has a sample of the same
faults in operations of the library.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from tests.support import fault_shim
from tests.support.damage import flip
from tests.support.fault_injection import copy_tree
from tests.support.fault_shim import ERRORS, Kind, Mode, Shim
from tests.support.fault_totals import Faults
from tests.support.tiny_hub import NAME
from tests.support.volume_checks import WRONG_BYTES, problems


def nothing(_clients: Clients, _manifest: Manifest) -> None: ...


def damaged(clients: Clients, manifest: Manifest) -> None:
    flip(clients.volume.blob_path(weights(manifest)), 20_000)


def removed(clients: Clients, manifest: Manifest) -> None:
    clients.volume.remove(manifest.model)


def withdrawn(clients: Clients, manifest: Manifest) -> None:
    clients.volume.promotions.remove([manifest.id])


def weights(manifest: Manifest) -> Any:
    return next(file.sha256 for file in manifest.files if file.path.endswith(".gguf"))


@dataclass(frozen=True)
class Command:
    """A command, the change of the volume before it, and the command that must succeed after a fault."""

    arguments: tuple[str, ...]
    before: Callable[[Clients, Manifest], None] = nothing
    next: tuple[str, ...] = ()
    quarantines: bool = False
    """A blob that cannot be read, or is damaged, is quarantined, until the next repair."""


FAULTS = 40
"""How many faults are injected into a command."""
COMMANDS = {
    "ls": Command(("ls",)),
    "promote": Command(("promote", f"{NAME}:Q8_0"), withdrawn),
    "pull": Command(("pull", NAME), removed),
    "verify": Command(("verify",), next=("verify", "--repair"), quarantines=True),
    "repair": Command(("verify", "--repair"), damaged, quarantines=True),
}


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_calls_fail_ends_with_a_clean_error_and_succeeds_the_next_time(
    clients: Clients, pulled: Manifest, tmp_path: Path, faults: Faults, name: str
) -> None:
    command = COMMANDS[name]
    command.before(clients, pulled)
    root = clients.volume.root
    copy_tree(root, tmp_path / "template")
    environment = fault_shim.environment(tmp_path)
    shim = Shim(environment)

    def run(
        arguments: tuple[str, ...], mode: Mode, target: int = 0, error: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        shim.arm(mode, root, target=target, error=error)
        done = subprocess.run(
            [sys.executable, "-m", "paddock", *arguments, "--json"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        shim.disarm()
        return done

    def fresh() -> None:
        subprocess.run(["rm", "-rf", str(root)], check=True)
        copy_tree(tmp_path / "template", root)

    whole = run(command.arguments, Mode.COUNT)
    assert whole.returncode == 0, whole.stderr
    calls = shim.calls
    possible = [
        (target, kind, error)
        for target, kind in enumerate(calls, 1)
        for error, kinds in ERRORS.items()
        if kind in kinds
    ]
    for target, kind, error in possible[:: max(1, len(possible) // FAULTS)]:
        where = f"{kind.name.lower()}, call {target}, {errno.errorcode[error]}"
        fresh()
        done = run(command.arguments, Mode.FAIL, target, error)
        wrong = [] if command.quarantines else list(problems(root))
        faults.add(shim.injected, wrong_bytes=sum(WRONG_BYTES in problem for problem in wrong), failed=len(wrong))
        assert done.returncode in {0, 1, 2, 3}, f"{where}: {done.returncode}, {done.stderr}"
        assert "Traceback" not in done.stderr, f"{where}: {done.stderr}"
        assert json.loads(done.stdout).get("error") != "fault", f"{where}: {done.stdout}"
        assert not wrong, f"{where}: {wrong}"
        again = run(command.next or command.arguments, Mode.OFF)
        assert again.returncode == 0, f"{where}, repeated: {again.stdout}{again.stderr}"
        assert not list(problems(root)), where
    assert Kind.READ in calls
