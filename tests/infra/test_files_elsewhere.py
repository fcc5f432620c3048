"""The local stack writes to its state directory, to Paddock's cache, and to temporary files, which it removes.

The stack runs with a home and a temporary directory of its own, where every file is of its doing. The checkout, and the
directories of the system and of the user, are compared before, during and after a night, but for those that other
programs write to at the same time.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from infra.local import supervisor
from infra.local.prefect_server import prefect_program
from infra.local.state import CHECKOUT
from tests.support.tiny_demo import fill_demo_cache
from tests.support.tiny_hub import own_cache

HOME = str(Path.home())
SYSTEM = (HOME, "/boot", "/etc", "/home", "/mnt", "/opt", "/run", "/srv", "/usr", "/var")
BESIDES = {
    *(f"{HOME}/{name}" for name in (".cache", ".config", ".prefect")),
    *("/var/log", "/var/cache", "/var/tmp", "/var/lib/systemd"),
}
NOT_COMPARED = {"__pycache__"}
"""Python compiles a module into it when it first imports it."""


class FileState(NamedTuple):
    size: int
    modified_ns: int
    mode: int


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`state`, `home`, `cache` and `tmp` in one directory, and the environment set to the last three."""
    for name in ("state", "home", "tmp"):
        (tmp_path / name).mkdir(mode=0o700)
    fill_demo_cache(tmp_path / "state")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache(tmp_path)))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    for name in ("PREFECT_HOME", "HF_HOME", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PADDOCK_THREADS", "1")
    monkeypatch.setenv("PADDOCK_BENCHMARK_BUDGET_S", "0")
    yield tmp_path
    supervisor.stop(tmp_path / "state")


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_the_stack_leaves_no_file_outside_of_its_state_and_cache(directories: Path) -> None:
    before, own = listing(), states(directories)
    local(directories, "up")
    stack = supervisor.running(directories / "state")
    assert stack is not None
    ports = ports_of(stack.pid)
    assert ports
    run = ["deployment", "run", "refresh-catalog/nightly", "--watch"]
    environment = {**os.environ, **stack.environment}
    # In its state directory: Prefect's command line reads a `prefect.toml` of the current one.
    subprocess.run([prefect_program(), *run], env=environment, cwd=directories, check=True, capture_output=True)
    assert "\n".join(changes(before, listing())) == ""
    local(directories, "down")

    assert "\n".join(changes(before, listing())) == ""
    assert [path for port in ports for path in Path("/tmp").glob(f"*-{port}.sock")] == []  # where S3's sockets are
    left = {path for path in states(directories).keys() - own.keys() if not path.is_relative_to(directories / "state")}
    cache = directories / "cache" / "paddock"
    assert {path for path in left if not path.is_relative_to(cache)} == set()
    assert (directories / "state" / "volume" / ".paddock").is_dir()
    assert not any((directories / "tmp").iterdir())


def test_a_file_that_is_made_changed_or_removed_is_a_difference(tmp_path: Path) -> None:
    for name in ("same", "changed", "touched", "removed", "another mode"):
        (tmp_path / name).write_text("a")
    before = states(tmp_path)
    (tmp_path / "changed").write_text("ab")
    os.utime(tmp_path / "touched", ns=(0, 0))
    (tmp_path / "removed").unlink()
    (tmp_path / "another mode").chmod(0o600)
    (tmp_path / "new").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    names = {"changed", "touched", "removed", "another mode", "new", "link"}
    assert {Path(line.partition(": ")[2]).name for line in changes(before, states(tmp_path))} == names


def local(directories: Path, command: str) -> None:
    line = [sys.executable, "-m", "infra.local", "--state", str(directories / "state"), command]
    done = subprocess.run(line, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def ports_of(pid: int) -> set[int]:
    """The ports on which a process and its descendants listen."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {
        connection.laddr.port
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def listing() -> dict[Path, FileState]:
    """All files of the system, of the user's home and of the checkout."""
    found = states(CHECKOUT)
    for root in SYSTEM:
        found |= states(Path(root))
    return found


def states(root: Path) -> dict[Path, FileState]:
    """Each file and directory below a directory, links not followed. A directory has neither a size nor a time: the
    names in it say what was made there and removed."""
    found = dict[Path, FileState]()
    for name, folders, file_names in os.walk(root):
        folders[:] = [one for one in folders if one not in NOT_COMPARED and os.path.join(name, one) not in BESIDES]  # noqa: PTH118 - 10 times faster
        for one in (*file_names, *folders):
            path = Path(name, one)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            size, time_ns = (0, 0) if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
            found[path] = FileState(size, time_ns, status.st_mode)
    return found


def changes(before: dict[Path, FileState], after: dict[Path, FileState]) -> list[str]:
    made = [f"made: {path}" for path in after.keys() - before.keys()]
    removed = [f"removed: {path}" for path in before.keys() - after.keys()]
    changed = [f"changed: {path}" for path in after.keys() & before.keys() if after[path] != before[path]]
    return sorted(made + removed + changed)
