"""Confine a child process that reads untrusted input: another user, no capabilities, few files, no network.

`confine` is the last step before untrusted bytes are read, or before the program is started that reads them; it takes
a few milliseconds. What the kernel or the container does not permit is left out and named in the report, so that the
engine still runs there; `paddock doctor` shows it.

    credentials another user where this one is root; no capability
    landlock    files: the engine's libraries, and the model by its open descriptors
    seccomp     no network, no other process, no change of files' attributes
    namespaces  where the kernel lacks one of the last two: an empty network namespace, and for an unprivileged process
                a user namespace, from which it can trace no process outside
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from paddock.confinement import UNPRIVILEGED_USER, kernel, landlock, places, seccomp
from paddock.confinement.credentials import Credentials, bounding_set, choose_credentials, give, take_credentials
from paddock.confinement.landlock import Rule
from paddock.confinement.limits import end_with_parent


class ConfinementPolicy(NamedTuple):
    """Things that a confined process may use.

    `rules` name files and directories. `needed` are those of them that must be readable for the process to work at all.
    `home` is a directory in which it makes a UNIX socket. `user` is the user that it becomes where it is root; None
    leaves it root. `gpu` adds what drivers need.
    """

    rules: tuple[Rule, ...] = ()
    needed: tuple[str, ...] = ()
    home: str | None = None
    user: int | None = UNPRIVILEGED_USER
    gpu: bool = False
    network: bool = False


class Confinement(NamedTuple):
    """Restrictions of a process. `landlock` is the version of its interface, 0 for none.

    `capabilities` and `bounding` are bit masks: those that it has, and those that an executed program could gain if
    `no_new_privs` did not keep it from that. `namespaces`: it has namespaces of its own.
    """

    user: int
    capabilities: int
    bounding: int
    landlock: int
    seccomp: bool
    namespaces: bool = False

    def to_json(self) -> dict[str, Any]:
        return self._asdict()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Confinement:
        """Raises TypeError for other keys."""
        return cls(**value)


def confine(policy: ConfinementPolicy, *, parent: int | None = None) -> Confinement:
    """Confine this process for good, and every program that it becomes. It must have one thread.

    `parent` is the process that it ends with (see `limits`), where it does. What a system does not permit is left out.
    Raises OSError for a defect: a confinement that failed half-way.
    """
    with suppress(OSError):
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    files = open_files()
    groups = places.gpu_groups() if policy.gpu else []
    abi = landlock.abi_version()
    ruleset = _ruleset(policy, files, abi) if abi else None
    filters = seccomp.is_supported()
    namespaces = bool(not (ruleset is not None and filters) and not policy.network and _own_namespaces())
    _take(policy, files, groups)
    if ruleset is not None:
        landlock.restrict_self(ruleset)
    if filters:
        try:
            seccomp.filter_self(network=policy.network)
        except OSError:
            filters = False
    if parent is not None:
        end_with_parent(parent)
    capabilities, _ = kernel.capabilities()
    return Confinement(
        user=os.geteuid(),
        capabilities=capabilities,
        bounding=bounding_set(),
        landlock=abi if ruleset is not None else 0,
        seccomp=filters,
        namespaces=namespaces,
    )


def open_files() -> dict[int, os.stat_result]:
    """Return the regular files that this process holds open, by descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own descriptor
            status = os.fstat(int(name))
            if stat.S_ISREG(status.st_mode):
                found[int(name)] = status
    return found


def _take(policy: ConfinementPolicy, files: Mapping[int, os.stat_result], groups: Sequence[int]) -> None:
    own = Credentials(os.geteuid(), os.getegid(), tuple(os.getgroups()))
    credentials = own
    if policy.user is not None:
        credentials = choose_credentials(
            policy.user, files=files, needed=policy.needed, groups=groups, home=policy.home
        )
    if policy.home is not None:
        give(policy.home, credentials)
    take_credentials(credentials)


def _ruleset(policy: ConfinementPolicy, files: Mapping[int, os.stat_result], abi: int) -> int | None:
    landlock.pin([rule.path for rule in policy.rules if rule.path.startswith("/proc/")])
    rules = [*policy.rules, *([Rule(policy.home, landlock.LISTEN)] if policy.home else [])]
    try:
        return landlock.make_ruleset(rules, files=files, abi=abi, network=policy.network)
    except OSError:
        return None


def _own_namespaces() -> bool:
    # A user namespace is what an unprivileged process needs to make others; in it, it can trace no process outside.
    user = 0 if os.geteuid() == 0 else kernel.CLONE_NEWUSER
    try:
        kernel.unshare(user | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC)
    except OSError:
        return False
    return True
