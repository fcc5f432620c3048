"""The user and the capabilities that a confined process keeps: none, as far as its files can still be read.

A process of root becomes another user. Which one depends on what it has to read, since files that root alone may read
stay readable to root alone:

    1  the unprivileged user, with the groups of GPUs and of files that only a group may read
    2  root without a capability, where the engine or the model lies where only root may read
    3  the owner of the model's file, where only that one may read it
    4  root with the one capability to read all files; the file rules still hold

A process of another user stays that user. In each case the bounding, ambient and inheritable sets are emptied, as far
as the process may.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from paddock.confinement import kernel

_CHOWN, _READ_ALL, _KILL, _SETGID, _SETUID, _SETPCAP = 0, 2, 5, 6, 7, 8
"""Capabilities of `linux/capability.h`; `_READ_ALL` is CAP_DAC_READ_SEARCH."""
_TO_SWITCH = 1 << _CHOWN | 1 << _KILL | 1 << _SETGID | 1 << _SETUID
_LAST = 63


class Credentials(NamedTuple):
    """User and group, supplementary groups, and the capabilities that are kept."""

    user: int
    group: int
    groups: tuple[int, ...] = ()
    capabilities: int = 0


def choose_credentials(
    user: int,
    *,
    files: Mapping[int, os.stat_result],
    needed: Sequence[str] = (),
    groups: Sequence[int] = (),
    home: str | None = None,
) -> Credentials:
    """Return the least privileged credentials that can read `needed`, and open the files of descriptors again.

    `user` is the unprivileged user, `groups` those that it needs for devices. `home` will be given to it. For a process
    that is not root, or may not change its user, they are its own.
    """
    own = Credentials(os.geteuid(), os.getegid(), tuple(os.getgroups()))
    effective, _ = kernel.capabilities()
    if own.user != 0:
        return own
    if effective & _TO_SWITCH != _TO_SWITCH:
        reads_all = Credentials(0, own.group, own.groups, effective & 1 << _READ_ALL)
        return own if _can_read(own, needed, files) else reads_all
    shared = {one.st_gid for one in files.values() if not one.st_mode & stat.S_IROTH and one.st_mode & stat.S_IRGRP}
    owners = {one.st_uid: one.st_gid for one in files.values() if not one.st_mode & stat.S_IROTH}
    candidates = [
        Credentials(user, user, tuple(sorted({*groups, *shared} - {0}))),
        own,
        *(Credentials(owner, group, tuple(groups)) for owner, group in owners.items() if owner),
    ]
    for candidate in candidates:
        if _can_read(candidate, needed, files, home=home):
            return candidate
    return Credentials(0, own.group, own.groups, 1 << _READ_ALL)


def take_credentials(credentials: Credentials) -> None:
    """Become `credentials` for good. Raises OSError."""
    own_user = os.geteuid()
    with suppress(OSError, ValueError):  # pinned memory (mlock) is bounded for a process without capabilities
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    _empty_bounding_set(kept=credentials.capabilities)
    with suppress(OSError):
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    if own_user != credentials.user:
        os.setgroups(credentials.groups)
        os.setresgid(credentials.group, credentials.group, credentials.group)
        os.setresuid(credentials.user, credentials.user, credentials.user)  # clears all capabilities
    _, permitted = kernel.capabilities()
    kernel.set_capabilities(credentials.capabilities & permitted, credentials.capabilities & permitted)


def give(home: str, credentials: Credentials) -> None:
    """Give a directory and the regular files in it to `credentials`; root's group keeps its access. Raises OSError."""
    if os.geteuid() != 0 or credentials.user == 0:
        return
    for entry in os.scandir(home):
        if entry.is_file(follow_symlinks=False):
            os.chown(entry.path, credentials.user, -1, follow_symlinks=False)
    os.chown(home, credentials.user, -1)
    os.chmod(home, stat.S_IMODE(os.stat(home).st_mode) | stat.S_IRWXG)  # noqa: S103 - root's group


def bounding_set() -> int:
    """Return the capabilities that this process could still gain."""
    found = 0
    for capability in range(_LAST + 1):
        try:
            found |= kernel.prctl(kernel.PR_CAPBSET_READ, capability) << capability
        except OSError:  # beyond the last one that this kernel has
            break
    return found


def _empty_bounding_set(*, kept: int) -> None:
    effective, _ = kernel.capabilities()
    if effective & 1 << _SETPCAP:
        for capability in range(_LAST + 1):
            if not kept & 1 << capability:
                try:
                    kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
                except OSError:
                    break


def _can_read(
    credentials: Credentials, needed: Sequence[str], files: Iterable[int], *, home: str | None = None
) -> bool:
    try:
        with _effectively(credentials):
            if home is not None and not os.access(Path(home).parent, os.X_OK, effective_ids=True):
                return False
            if not all(os.access(path, os.R_OK | os.X_OK, effective_ids=True) for path in needed):
                return False
            for descriptor in files:
                os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True


@contextmanager
def _effectively(credentials: Credentials) -> Iterator[None]:
    """Take credentials for a while, without capabilities."""
    effective, permitted = kernel.capabilities()
    own_user, own_group, own_groups = os.geteuid(), os.getegid(), os.getgroups()
    try:
        if credentials.user != own_user:
            os.setgroups(credentials.groups)
            os.setegid(credentials.group)
            os.seteuid(credentials.user)
        kernel.set_capabilities(0, permitted)
        yield
    finally:
        if credentials.user != own_user:
            os.seteuid(own_user)
        kernel.set_capabilities(effective, permitted)
        if credentials.user != own_user:
            os.setegid(own_group)
            os.setgroups(own_groups)
