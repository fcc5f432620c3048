"""Programs that never outlive their owner.

A *service* is a program that runs for its *owner*, this process. Between the two stands a *guard*: a small process, in
a session of its own, that is the service's parent. It ends the whole tree (a polite signal first, SIGKILL after a
grace) as soon as

- the owner asks for it: `Service.stop` closes the pipe that is the guard's standard input;
- the owner dies, by SIGKILL too: the pipe closes, and the guard's pidfd of the owner becomes readable. The pipe alone
  would not do, since a process that the owner forked can hold it open;
- the service ends by itself: what it started is not left behind.

As the child subreaper the guard inherits every orphan of the tree, so that a daemon with a session of its own is found
as well. When the guard itself is killed, the kernel kills the service (PR_SET_PDEATHSIG). The service sets that
between fork and exec, in a guard of one thread: it follows the *thread* that forked, and the owner may have many.

What a guard cannot do: when it dies by SIGKILL, what the service started is nobody's to end any more, but for the
service's own process group, which `Service.stop` then ends.

Linux only. As a program, `python guard.py OWNER GRACE SIGNAL MAPPED REPORT COMMAND...`, it needs nothing but the
standard library. It knows nothing of what the services are.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_MAPPED_ID = 1000  # who root is inside a service that refuses to run as root
_TAIL_BYTES = 4000
_POLL_S = 0.02


class ServiceError(Exception):
    """A service did not start, did not become ready, or ended early. The message ends with the tail of its log."""


class Service:
    """A program under guard. It runs from the constructor on, until `stop` or the end of this process."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path | None,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        polite: signal.Signals = signal.SIGTERM,
        grace_s: float = 5.0,
        mapped: bool = False,
    ) -> None:
        """Start `command`, with `environment` as its whole environment (default: ours).

        `log` is written anew by each start; without one the program writes where this process does. `polite` is the
        signal that asks it to stop, `grace_s` how long it may take. `mapped` runs it in a user namespace in which we
        are an ordinary user: for programs that refuse to run as root.
        """
        self.name = name
        self.log = log
        self._grace_s = grace_s
        guard = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
        options = [str(os.getpid()), str(grace_s), str(int(polite)), "mapped" if mapped else "plain"]
        report, reported = os.pipe()
        output = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            self._guard = subprocess.Popen(
                [*guard, *options, str(reported), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(os.environ if environment is None else environment),
                cwd=directory,
                pass_fds=[reported],
                start_new_session=True,
            )
        finally:
            os.close(reported)
            if output is not None:
                os.close(output)
        with os.fdopen(report, "rb") as pipe:
            self.pid = int(pipe.read() or 0)

    @property
    def guard_pid(self) -> int:
        return self._guard.pid

    def poll(self) -> int | None:
        """None while it runs, then its exit status, negative for a signal."""
        status = self._guard.poll()
        return None if status is None else (128 - status if status > 128 else status)

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit status, once it and all that it started have ended."""
        self._guard.wait(timeout_s)
        status = self.poll()
        assert status is not None  # noqa: S101 - for the type checker: wait returned
        return status

    def stop(self) -> None:
        """End it with all that it started, and wait until that is done. When it has ended already, do nothing."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        try:
            self._guard.wait(self._grace_s + 10)
        except subprocess.TimeoutExpired:  # a guard that is itself stopped (SIGSTOP)
            self._guard.kill()
            self._guard.wait()
        if self._guard.returncode < 0 and self.pid:
            _signal_group(self.pid, signal.SIGKILL)

    def wait_until(self, ready: Callable[[], bool], *, deadline_s: float, interval_s: float = 0.1) -> None:
        """Ask `ready` until it says so. Raises ServiceError when the service ends or the deadline passes first."""
        end = time.monotonic() + deadline_s
        while True:
            status = self.poll()
            if status is not None:
                raise ServiceError(f"{self.name} ended with status {status} before it was ready{self.tail()}")
            if ready():
                return
            if time.monotonic() > end:
                raise ServiceError(f"{self.name} was not ready within {deadline_s:.0f} s{self.tail()}")
            time.sleep(interval_s)

    def tail(self) -> str:
        """The end of its log, as the last part of a message."""
        if self.log is None or not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            text = log.read().decode(errors="replace").strip()
        return f". The end of {self.log}:\n{text}" if text else f". {self.log} is empty"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def run(
    name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None, mapped: bool = False
) -> None:
    """Run a program to its end, under guard. Raises ServiceError when it fails."""
    with Service(name, command, log=log, environment=environment, mapped=mapped) as service:
        status = service.wait()
        if status != 0:
            raise ServiceError(f"{name} ended with status {status}{service.tail()}")


# The rest runs in the guard's own process.


def main() -> None:
    owner, grace_s, polite = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    mapped, report, command = sys.argv[4] == "mapped", int(sys.argv[5]), sys.argv[6:]
    os.set_inheritable(report, False)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit(f"guard: no subreaper: {os.strerror(ctypes.get_errno())}")
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    stop_asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: stop_asked.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler of its own: only then does the wake-up pipe tell of it
    try:
        owner_fd = os.pidfd_open(owner)
    except ProcessLookupError:
        return
    if os.getppid() != owner:  # it died, and the number may be another's by now
        return

    service = os.fork()
    if service == 0:
        _become(libc, command, mapped=mapped, parent=os.getppid())
    os.write(report, str(service).encode())
    os.close(report)

    watched = select.poll()
    for descriptor in (0, owner_fd, wake):
        watched.register(descriptor, select.POLLIN | select.POLLHUP)
    status: int | None = None
    while status is None and not stop_asked:
        events = watched.poll()
        status = _reap(service)
        if any(descriptor in (0, owner_fd) for descriptor, _ in events):
            break
        if any(descriptor == wake for descriptor, _ in events):
            os.read(wake, 4096)
    if status is None:
        _signal_group(service, polite)
    status = _end_all(service, status, time.monotonic() + grace_s)
    os._exit(128 - status if status < 0 else status)


def _become(libc: ctypes.CDLL, command: list[str], *, mapped: bool, parent: int) -> None:
    """In the forked child: turn into the service. Never returns."""
    try:
        os.setsid()
        if mapped:
            _map_root(libc)
        # After the namespace: a change of credentials clears it.
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.execvp(command[0], command)  # noqa: S606 - no shell: that is the point
    except OSError as error:
        os.write(2, f"{command[0]} could not be started: {error}\n".encode())
    finally:
        os._exit(127)


def _map_root(libc: ctypes.CDLL) -> None:
    """Enter a user namespace in which we are an ordinary user who owns our files, as `unshare --map-user` does."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "no user namespace: " + os.strerror(ctypes.get_errno()))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_MAPPED_ID} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_MAPPED_ID} {group} 1")


def _reap(service: int) -> int | None:
    """Collect who has ended among our children. The service's exit status once it is among them."""
    status = None
    while True:
        try:
            pid, how = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == service:
            status = os.waitstatus_to_exitcode(how)


def _end_all(service: int, status: int | None, deadline: float) -> int:
    """Wait for the service until the deadline, then for nobody: end every descendant. The service's exit status."""
    asked: set[int] = set()
    while True:
        reaped = _reap(service)
        status = reaped if status is None else status
        left = _descendants(os.getpid())
        if not left:
            return 1 if status is None else status
        if time.monotonic() > deadline:
            _signal(left, signal.SIGKILL)
        elif status is not None:  # the service has ended: what it left behind has the rest of the grace
            _signal(left - asked, signal.SIGTERM)
            asked |= left
        time.sleep(_POLL_S)


def _descendants(root: int) -> set[int]:
    """Every process below `root`, zombies too. Complete, since a subreaper's orphans stay below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_bytes()
            except OSError:
                continue
            # The command's name, in parentheses, may hold anything: the parent is the second field after the last one.
            children.setdefault(int(stat[stat.rindex(b")") + 2 :].split()[1]), []).append(int(entry.name))
    found: set[int] = set()
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found.update(below)
        pending.extend(below)
    return found


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:  # ended meanwhile
            continue


def _signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except OSError:  # ended meanwhile
        return


if __name__ == "__main__":
    main()
