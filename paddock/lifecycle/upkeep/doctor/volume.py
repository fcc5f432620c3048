"""Checks of the volume: that it is there, what its file system can do, its room, and who may read and write it."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.doctor.check import CheckResult, failure
from paddock.model.units import human_bytes
from paddock.store.durable import disk_error, was_refused
from paddock.store.volume.file_system import FILE_SYSTEM_FEATURES, probe_file_system

_OTHER_FILE_SYSTEM: Final = "put the volume on a local file system such as ext4 or XFS, and set PADDOCK_VOLUME to it"
_WALK_S: Final = 5.0
_WALK_ENTRIES: Final = 50_000


def check_volume(clients: Clients) -> Sequence[CheckResult]:
    """The volume is there, can be written, is one file system, and that one can do what Paddock needs."""
    root = clients.volume.root
    try:
        status = root.stat()
    except OSError as error:
        return [_missing(root, error)]
    if not stat.S_ISDIR(status.st_mode):
        return [CheckResult("volume", False, f"{root} is not a directory", "set PADDOCK_VOLUME to a directory")]
    if not os.access(root, os.R_OK | os.X_OK, effective_ids=True):
        refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root))
        return [failure("volume", disk_error(refused, root))]
    private = root / ".paddock"
    try:
        reports = probe_file_system(private if private.is_dir() else root)
    except OSError as error:
        return [_unwritable(root, error)]
    results = [CheckResult("volume", True, f"{root} can be read and written")]
    for feature, report in zip(FILE_SYSTEM_FEATURES, reports, strict=True):
        message = report.message if report.ok else f"{report.message}: {report.lost}"
        cure = "" if report.ok else _OTHER_FILE_SYSTEM
        results.append(CheckResult(f"volume: {feature.name}", report.ok, message, cure, feature.is_needed))
    return [*results, _one_file_system(clients)]


def _missing(root: Path, error: OSError) -> CheckResult:
    if isinstance(error, FileNotFoundError):
        cure = f"make it (`mkdir -p {root}`), or set PADDOCK_VOLUME to another directory"
        return CheckResult(
            "volume", False, f"there is no {root}", cure, fix=lambda: root.mkdir(parents=True, exist_ok=True)
        )
    return failure("volume", disk_error(error, root))


def _unwritable(root: Path, error: OSError) -> CheckResult:
    """The result for a volume where nothing can be written. One that may not be written is enough to serve."""
    problem = disk_error(error, root)
    problem.__cause__ = error
    if not was_refused(problem):
        return failure("volume", problem)
    message = f"{problem.message}; models are served and measured, and nothing is pulled, promoted or recorded"
    return CheckResult("volume", False, message, problem.cure, needed=False)


def _one_file_system(clients: Clients) -> CheckResult:
    name = "volume: one file system"
    if not clients.volume.exists:
        return CheckResult(name, True, "nothing was stored yet")
    try:
        clients.volume.disk.prepare()
    except PaddockError as error:
        return failure(name, error)
    return CheckResult(name, True, "files can be renamed between its directories")


def check_room(clients: Clients) -> Sequence[CheckResult]:
    """There is room for new files, beside the reserve, and there are inodes for them."""
    disk = clients.volume.disk
    try:
        if disk.root.is_dir() and os.statvfs(disk.root).f_flag & os.ST_RDONLY:
            return [CheckResult("room", True, f"not needed: {disk.root} is read-only")]
        disk.require(0, files=1)
    except PaddockError as error:
        return [failure("room", error)]
    return [CheckResult("room", True, f"{human_bytes(disk.free_bytes())} free on {disk.root}")]


def check_access(clients: Clients) -> Sequence[CheckResult]:
    """This user may read what other users stored, and write where it has to."""
    root = clients.volume.root
    if not root.is_dir():
        return []
    unreadable: list[Path] = []
    unwritable: list[Path] = []
    count, deadline, complete = 0, time.monotonic() + _WALK_S, True
    for path, is_directory in _walk(root):
        count += 1
        if count > _WALK_ENTRIES or time.monotonic() > deadline:
            complete = False
            break
        if not _is_allowed(path, os.R_OK | (os.X_OK if is_directory else 0)):
            unreadable.append(path)
        elif is_directory and not _is_allowed(path, os.W_OK):
            unwritable.append(path)
    user = os.geteuid()
    cure = (
        f"its owner runs `chgrp -R GROUP {root}` and `chmod -R g=u {root}`, with a group that all users are in; they"
        " set umask 002"
    )
    if unreadable:
        message = f"user {user} may not read {_listed(unreadable)}"
        return [CheckResult("access", False, message, cure)]
    if unwritable:
        message = f"user {user} may not write into {_listed(unwritable)}"
        return [CheckResult("access", False, message, cure, needed=False)]
    looked_at = f"{count} files and directories" if complete else f"the first {count - 1} files and directories"
    return [CheckResult("access", True, f"user {user} may use {looked_at}")]


def _walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """(path, whether it is a directory) of everything below the root that is no link."""
    yield root, True
    for directory, subdirectories, files in os.walk(root):
        for name in subdirectories:
            path = Path(directory, name)
            if not path.is_symlink():
                yield path, True
        for name in files:
            path = Path(directory, name)
            if not path.is_symlink():
                yield path, False


def _is_allowed(path: Path, mode: int) -> bool:
    """Whether this user has access to a path, or another process removed it meanwhile."""
    return os.access(path, mode, effective_ids=True) or not os.path.lexists(path)


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


def check_umask(clients: Clients) -> Sequence[CheckResult]:
    """Where users share the volume by a group, what this process makes can be changed by the others."""
    root = clients.volume.root
    found = re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None or not root.is_dir():
        return []
    umask, is_shared = int(found[1], 8), bool(root.stat().st_mode & stat.S_IWGRP)
    if is_shared and umask & stat.S_IWGRP:
        message = f"it is {umask:03o}, and the group may write {root}: others cannot change what this process makes"
        return [CheckResult("umask", False, message, "set it with `umask 002` before Paddock is started", needed=False)]
    return [CheckResult("umask", True, f"{umask:03o}")]
