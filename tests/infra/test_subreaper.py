"""All processes of a service end with its owner, however the owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.local.service import Service, ServiceEnded, ServiceError, run, wait_until_gone
from infra.local.state import CHECKOUT

# A service of four processes that all ignore SIGTERM: itself, a child, a grandchild with a session of its own, and a
# daemon that was forked twice, so that its parent has ended. Each writes its pid to the given directory.
TREE = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def stay(name):
    staged = pathlib.Path(sys.argv[1], name + ".new")
    staged.write_text(str(os.getpid()))
    staged.rename(staged.with_suffix(".pid"))
    time.sleep(600)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        stay("grandchild")
    stay("child")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        stay("daemon")
    os._exit(0)
stay("service")
"""
MEMBERS = ("service", "child", "grandchild", "daemon")

# An owner starts the tree and waits. With `forks` it first forks a process that keeps all of the owner's descriptors.
OWNER = """
import os, sys, time
from pathlib import Path
from infra.local.service import Service
directory = Path(sys.argv[1])
service = Service("tree", [sys.executable, "-c", sys.argv[2], str(directory)], log=directory / "tree.log", grace_s=0.5)
if sys.argv[3] == "forks" and os.fork() == 0:
    Path(directory, "forked.pid").write_text(str(os.getpid()))
    time.sleep(600)
time.sleep(600)
"""


def eventually(condition: Callable[[], bool], *, within_s: float = 15) -> bool:
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def pids_of_tree(directory: Path) -> dict[str, int]:
    paths = {name: directory / f"{name}.pid" for name in MEMBERS}
    assert eventually(lambda: all(path.exists() for path in paths.values())), (directory / "tree.log").read_text()
    return {name: int(path.read_text()) for name, path in paths.items()}


def living(pids: dict[str, int]) -> list[str]:
    return [name for name, pid in pids.items() if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def owner(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    how = getattr(request, "param", "plain")
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), TREE, how], cwd=CHECKOUT) as process:
        yield process
        process.kill()


def tree(directory: Path, *, grace_s: float = 0.3) -> Service:
    command = [sys.executable, "-c", TREE, str(directory)]
    return Service("tree", command, log=directory / "tree.log", grace_s=grace_s)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
def test_the_whole_tree_ends_with_its_owner(
    owner: subprocess.Popen[bytes], tmp_path: Path, end: signal.Signals
) -> None:
    pids = pids_of_tree(tmp_path)
    subreapers = {"subreaper": psutil.Process(owner.pid).children()[0].pid}
    owner.send_signal(end)
    owner.wait()
    assert eventually(lambda: not living(pids | subreapers)), living(pids | subreapers)


@pytest.mark.parametrize("owner", ["forks"], indirect=True)
def test_a_process_that_holds_the_pipe_of_a_killed_owner_keeps_nothing_alive(
    owner: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    pids = pids_of_tree(tmp_path)
    assert eventually((tmp_path / "forked.pid").exists)
    owner.kill()
    owner.wait()
    try:
        assert eventually(lambda: not living(pids)), living(pids)
    finally:
        os.kill(int((tmp_path / "forked.pid").read_text()), signal.SIGKILL)


def test_stop_ends_a_tree_that_ignores_the_stop_signal(tmp_path: Path) -> None:
    with tree(tmp_path) as service:
        pids = pids_of_tree(tmp_path)
        assert sorted(living(pids)) == sorted(MEMBERS)
        service.stop()
        assert not living(pids)
        assert service.poll() == -signal.SIGKILL
        service.stop()


def test_stop_sends_the_stop_signal_first(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 7' INT; echo ready; while :; do sleep 0.05; done"
    log = tmp_path / "log"
    with Service("handler", ["sh", "-c", script], log=log, stop_signal=signal.SIGINT) as service:
        service.wait_until(lambda: "ready" in log.read_text(), deadline_s=10)
    assert service.poll() == 7
    assert log.read_text().split() == ["ready", "bye"]


def test_processes_that_a_service_started_end_with_it(tmp_path: Path) -> None:
    with tree(tmp_path) as service:
        pids = pids_of_tree(tmp_path)
        os.kill(service.pid, signal.SIGKILL)
        assert service.wait(10) == -signal.SIGKILL
        assert not living(pids)


def test_the_service_does_not_outlive_a_killed_subreaper(tmp_path: Path) -> None:
    with Service("sleeper", ["sleep", "600"], log=tmp_path / "log") as service:
        os.kill(service.subreaper_pid, signal.SIGKILL)
        assert eventually(lambda: not living({"service": service.pid}))
        assert service.poll() == -signal.SIGKILL


def test_stop_ends_the_process_group_left_by_a_killed_subreaper(tmp_path: Path) -> None:
    script = "sleep 600 & echo $! > child.pid.new; mv child.pid.new child.pid; wait"
    with Service("group", ["sh", "-c", script], log=tmp_path / "log", directory=tmp_path) as service:
        assert eventually((tmp_path / "child.pid").exists)
        pids = {"service": service.pid, "child": int((tmp_path / "child.pid").read_text())}
        os.kill(service.subreaper_pid, signal.SIGKILL)
        service.stop()
        assert eventually(lambda: not living(pids)), living(pids)


def test_a_service_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    started: list[Service] = []
    thread = threading.Thread(target=lambda: started.append(Service("sleeper", ["sleep", "600"], log=tmp_path / "log")))
    thread.start()
    thread.join()
    with started[0] as service:
        # PR_SET_PDEATHSIG is sent when the thread that forked ends: here it has ended.
        assert living({"service": service.pid, "subreaper": service.subreaper_pid}) == ["service", "subreaper"]
        assert service.poll() is None


def test_a_service_that_ends_early_is_reported_with_the_last_lines_of_its_log(tmp_path: Path) -> None:
    script = "echo the port is taken >&2; exit 3"
    with (
        Service("server", ["sh", "-c", script], log=tmp_path / "log") as service,
        pytest.raises(ServiceEnded, match=r"server exited with status 3 before it was ready(.|\n)*the port is taken"),
    ):
        service.wait_until(lambda: False, deadline_s=10)


def test_a_service_that_never_gets_ready_is_reported_after_the_deadline(tmp_path: Path) -> None:
    with (
        Service("server", ["sleep", "600"], log=tmp_path / "log") as service,
        pytest.raises(ServiceError, match=r"server was not ready within 0 s"),
    ):
        service.wait_until(lambda: False, deadline_s=0.1)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceEnded, match=r"status 127(.|\n)*no-such-program could not be started"):
        run("nothing", ["no-such-program"], log=tmp_path / "log")


def test_only_one_service_at_a_time_writes_to_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = Service("first", ["sleep", "600"], log=log)
    assert not wait_until_gone(log, 0.1)
    threading.Timer(0.3, first.stop).start()
    with Service("second", ["sleep", "600"], log=log) as second:
        assert first.poll() is not None
        assert second.poll() is None
    assert wait_until_gone(log, 0.1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is mapped to another user")
def test_a_service_in_a_user_namespace_is_an_ordinary_user_who_owns_our_files(tmp_path: Path) -> None:
    script = "id -u; stat -c %u .; touch made; exec sleep 600"
    with Service(
        "mapped", ["sh", "-c", script], log=tmp_path / "log", directory=tmp_path, in_user_namespace=True
    ) as service:
        if not eventually(lambda: (tmp_path / "made").exists() or service.poll() is not None) or service.poll():
            pytest.skip(f"this machine gives root no user namespaces{service.tail()}")
        assert (tmp_path / "log").read_text().split() == ["1000", "1000"]
        os.kill(service.subreaper_pid, signal.SIGKILL)
        assert eventually(lambda: not living({"service": service.pid}))
    assert (tmp_path / "made").stat().st_uid == 0
