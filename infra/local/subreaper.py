"""The guard: the program between a service and its owner, that lets nothing of the service outlive the owner.

A *service* is a program that runs for its *owner*. The guard is a small process, in a session of its own, that is the
service's parent. It ends the whole tree (a polite signal first, SIGKILL after a grace) as soon as

- the owner asks for it: it closes the pipe that is the guard's standard input;
- the owner dies, by SIGKILL too: the pipe closes, and the guard's pidfd of the owner becomes readable. The pipe alone
  would not do, since a process that the owner forked can hold it open;
- the service ends by itself: what it started is not left behind.

As the child subreaper the guard inherits every orphan of the tree, so that a daemon with a session of its own is found
as well. When the guard itself is killed, the kernel kills the service (PR_SET_PDEATHSIG). The service sets that
between fork and exec, in a guard of one thread: it follows the *thread* that forked, and the owner may have many.

What a guard cannot do: when it dies by SIGKILL, what the service started is nobody's to end any more, but for the
service's own process group, which the owner then ends.

Linux only, and nothing but the standard library. It is started by `infra.local.service`, as

    python guard.py OWNER GRACE SIGNAL (plain|mapped) REPORT COMMAND...

with the owner's pid, seconds, a signal's number, whether root is mapped to an ordinary user, and the descriptor to
which the service's pid is written. Its exit status is the service's, or 128 and the signal's number.
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
_MAPPED_ID = 1000  # who root is inside a service that refuses to run as root
_POLL_S = 0.02


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
        signal_group(service, polite)
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


def signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except OSError:  # ended meanwhile
        return


if __name__ == "__main__":
    main()
