"""Run a service as a child, and end its whole process tree when the process that started it ends.

A *service* is a program that runs on behalf of its *owner*, another process. The *subreaper*, this program, is a small
process between the two, in its own session: the service's parent. It ends the whole tree, first with a stop signal and
after a grace period with SIGKILL, as soon as

- the owner requests it, by closing the pipe that is the subreaper's standard input;
- the owner dies, even by SIGKILL: the pipe closes, and the subreaper's pidfd of the owner becomes readable. The pipe
  alone is not enough, since a process that the owner forked can hold it open;
- the service ends by itself: processes that it started are ended too.

Being a child subreaper (PR_SET_CHILD_SUBREAPER in prctl(2)), it inherits every orphan of the tree, so that a daemon
with its own session is found as well. When the subreaper itself is killed, the kernel kills the service
(PR_SET_PDEATHSIG). The service sets that between fork and exec, in the subreaper, because it is bound to the *thread*
that forked: the subreaper has one thread, and the owner may have many.

Limitation: when the subreaper is killed with SIGKILL, processes that the service started are left over, except for the
service's own process group, which the owner then ends.

Linux only; it needs nothing but the standard library. `infra.local.service` starts it as

    python subreaper.py OWNER GRACE SIGNAL (plain|mapped) REPORT COMMAND...

with the owner's pid, the grace period in seconds, the number of the stop signal, whether to map root to an ordinary
user in a user namespace, and the descriptor to which the service's pid is written. Its exit status is that of the
service, or 128 plus the signal's number.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_MAPPED_ID = 1000  # the id of root inside a service that refuses to run as root
_POLL_S = 0.02


def main() -> None:
    owner, grace_s, stop_signal = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    mapped, report, command = sys.argv[4] == "mapped", int(sys.argv[5]), sys.argv[6:]
    os.set_inheritable(report, False)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit(f"cannot become a child subreaper: {os.strerror(ctypes.get_errno())}")
    wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    stop_requests: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: stop_requests.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a Python handler nothing is written to the wake-up pipe
    try:
        owner_fd = os.pidfd_open(owner)
    except ProcessLookupError:
        return
    if os.getppid() != owner:  # the owner has died, and its pid may belong to another process by now
        return

    service = os.fork()
    if service == 0:
        _exec_service(libc, command, mapped=mapped, parent=os.getppid())
    os.write(report, str(service).encode())
    os.close(report)

    watched = select.poll()
    for descriptor in (0, owner_fd, wakeup_read):
        watched.register(descriptor, select.POLLIN | select.POLLHUP)
    status: int | None = None
    while status is None and not stop_requests:
        events = watched.poll()
        status = _reap(service)
        if any(descriptor in (0, owner_fd) for descriptor, _ in events):
            break
        if any(descriptor == wakeup_read for descriptor, _ in events):
            os.read(wakeup_read, 4096)
    if status is None:
        signal_group(service, stop_signal)
    status = _end_all(service, status, time.monotonic() + grace_s)
    os._exit(128 - status if status < 0 else status)


def _exec_service(libc: ctypes.CDLL, command: list[str], *, mapped: bool, parent: int) -> None:
    """In the forked child: execute the service. Never returns."""
    try:
        os.setsid()
        if mapped:
            _map_root(libc)
        # After entering the namespace, since a change of credentials clears it.
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.execvp(command[0], command)  # noqa: S606 - deliberately without a shell
    except OSError as error:
        os.write(2, f"{command[0]} could not be started: {error}\n".encode())
    finally:
        os._exit(127)


def _map_root(libc: ctypes.CDLL) -> None:
    """Enter a user namespace in which root is an ordinary user who owns root's files, as `unshare --map-user` does."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "cannot create a user namespace: " + os.strerror(ctypes.get_errno()))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_MAPPED_ID} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_MAPPED_ID} {group} 1")


def _reap(service: int) -> int | None:
    """Collect all children that have ended. Returns the service's exit status if it is one of them."""
    status = None
    while True:
        try:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == service:
            status = os.waitstatus_to_exitcode(wait_status)


def _end_all(service: int, status: int | None, deadline: float) -> int:
    """End every descendant, with SIGKILL after the deadline (monotonic seconds). Returns the service's exit status."""
    terminated: set[int] = set()
    while True:
        reaped = _reap(service)
        status = reaped if status is None else status
        remaining = _descendants(os.getpid())
        if not remaining:
            return 1 if status is None else status
        if time.monotonic() > deadline:
            _signal(remaining, signal.SIGKILL)
        elif status is not None:  # the service has ended: its other processes have the rest of the grace period
            _signal(remaining - terminated, signal.SIGTERM)
            terminated |= remaining
        time.sleep(_POLL_S)


def _descendants(root: int) -> set[int]:
    """Every process below `root`, including zombies. Complete, since orphans stay below a subreaper."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_bytes()
            except OSError:
                continue
            # The command's name, in parentheses, may contain anything: look for the last parenthesis. Two fields on is
            # the parent.
            children.setdefault(int(stat[stat.rindex(b")") + 2 :].split()[1]), []).append(int(entry.name))
    descendants: set[int] = set()
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        descendants.update(below)
        pending.extend(below)
    return descendants


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:  # it has ended
            continue


def signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except OSError:  # it has ended
        return


if __name__ == "__main__":
    main()
