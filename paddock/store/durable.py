"""Atomic, durable changes to a directory tree: a crash leaves the old state or the new one, and so does a power loss.

A *staging name* begins with `.staging-` and is used by one writer alone. A file or directory is written under it,
becomes visible by one rename, and its parent directory is fsynced after that. Staging names that a dead writer left
have no meaning; `sweep` removes them when they are a day old.

Several users may share the tree: files that change are made under the umask, so that with umask 002 and a common group
each of them can change what another made.

This module knows nothing of models, blobs or manifests, and follows no symbolic link.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from paddock.errors import NoPermission, NotEnoughDisk, PaddockError, StoreUnavailable
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import list_directory, open_regular

P = ParamSpec("P")
T = TypeVar("T")

STAGING_PREFIX = ".staging-"
READ_ONLY = 0o444
UNDER_UMASK = 0o666
"""The mode to create a file with: the umask decides who else may read and write it."""
STALE_S = 24 * 3600
"""The age from which on a staging name that nobody holds belongs to a dead writer."""
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # linux/fs.h
_AT_FDCWD = -100
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MISPLACED = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG})
_NO_HARD_LINK = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES})
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_MAX_TRIES = 10


def disk_error(error: OSError, where: object) -> PaddockError:
    """Map an OSError to an error of Paddock. `where` is named when the error has no file name of its own."""
    named = [name for name in (error.filename2, error.filename) if name and not isinstance(name, int)]
    path = named[0] if named else where  # an integer is a descriptor
    reason = error.strerror or str(error)
    if error.errno == errno.EROFS:
        return NoPermission(
            f"{where} is read-only: {path} cannot be written ({reason})",
            cure="mount it writable, or set PADDOCK_VOLUME to another volume",
        )
    if error.errno in _REFUSED:
        message = f"{path} may not be written or read by user {os.geteuid()} ({reason})"
        if isinstance(where, Path) and os.access(where, os.R_OK) and not os.access(where, os.W_OK):
            message = f"{where} is read-only for user {os.geteuid()}: {path} cannot be written ({reason})"
        return NoPermission(
            message,
            cure="give this user access, or set PADDOCK_VOLUME to another place; users who share a volume need umask"
            " 002 and a common group, and for what is there already its owner runs"
            f" `chgrp -R GROUP {where}` and `chmod -R g=u {where}`",
        )
    if error.errno in _FULL:
        if error.errno == errno.ENOSPC and has_no_inodes(where):
            return NotEnoughDisk(
                f"{path} could not be written: its file system has no free inodes",
                cure="remove files there, or make the file system with more inodes",
            )
        return NotEnoughDisk(
            f"{path} could not be written ({reason})", cure="free space, or raise the limit, and try again"
        )
    if error.errno in _MISPLACED:
        return NoPermission(
            f"{path} is in the way ({reason})", cure="move it away, or set PADDOCK_VOLUME to another place"
        )
    return StoreUnavailable(f"{path} could not be used ({reason})", cure="check the disk or the mount")


def was_refused(error: PaddockError) -> bool:
    """Whether an error means that nothing can be written: the file system is read-only or full, or this user may not.
    What is only refused by Paddock itself, such as a planted link, is not meant."""
    refused = _REFUSED | _FULL | {errno.EROFS}
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in refused


def has_no_inodes(path: object) -> bool:
    """Whether the file system of an existing path has no free inode for a process without privileges."""
    try:
        status = os.statvfs(str(path))
    except OSError:
        return False
    return status.f_files > 0 and status.f_favail == 0  # no number of files: they are not limited


def disk_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a method so that it raises no OSError, but an error of Paddock. The error names the path, or the
    object's `root`."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with disk_errors_in(getattr(args[0], "root", "the disk")):
            return function(*args, **kwargs)

    return guarded


@contextmanager
def disk_errors_in(where: object) -> Iterator[None]:
    """Map each OSError that a block raises to an error of Paddock, and UnusableContent that it does not handle."""
    try:
        yield
    except PaddockError:  # some are an OSError too
        raise
    except OSError as error:
        raise disk_error(error, where) from error
    except UnusableContent as error:
        raise NoPermission(
            f"{error.source or where} is in the way: {error.reason}",
            cure="move it away, or set PADDOCK_VOLUME to another place",
        ) from error


def staging_name(directory: Path) -> Path:
    return directory / f"{STAGING_PREFIX}{os.urandom(8).hex()}"


def names(directory: Path, *, below: Path | None = None) -> list[str]:
    """The names in a directory, sorted; empty when there is no such directory. With `below`, a directory above it, a
    link is no directory, nor is what lies behind one."""
    try:
        return list_directory(directory, below=below)
    except (FileNotFoundError, NotADirectoryError):
        return []


def statuses(directory: Path) -> Iterator[os.stat_result]:
    """The status of every file below a directory. What another process removes or renames meanwhile is left out."""
    for parent, _, files in os.walk(directory):
        for name in files:
            with suppress(OSError):
                yield os.lstat(Path(parent, name))


def despite_removals(change: Callable[[], T]) -> T:
    """Call `change`, and again where it raises FileNotFoundError, at most ten times: another process may remove a
    directory that is empty just when this one is about to put something there."""
    for _ in range(_MAX_TRIES - 1):
        with suppress(FileNotFoundError):
            return change()
    return change()


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such call, and write through
            raise
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    descriptor = open_regular(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Fsync every directory of a tree, the deepest first."""
    for directory, _, _ in os.walk(path, topdown=False):
        sync_directory(Path(directory))


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of the content to an open file: a single write may write less."""
    while content:
        content = content[os.write(descriptor, content) :]


def write_new(path: Path, content: bytes, *, read_only: bool = False, sync: bool = True) -> None:
    """Write a file that must not exist yet, and fsync it. `read_only`: nobody may write it afterwards."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, UNDER_UMASK)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        if read_only:
            os.fchmod(descriptor, READ_ONLY)
        if sync:
            os.fsync(descriptor)


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replace a file as a whole. Without `sync`, a power loss may leave an earlier content, or none."""
    replace_content(path, content, sync=sync)
    if sync:
        sync_directory(path.parent)


def replace_content(path: Path, content: bytes, *, sync: bool = True) -> None:
    """As `write_atomically`, but the directory is not fsynced: a power loss may leave the earlier content. An error
    means that the earlier content is still there."""
    staged = staging_name(path.parent)
    try:
        write_new(staged, content, sync=sync)
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


@contextmanager
def staged_directory(parent: Path) -> Iterator[Path]:
    """Make a directory under a staging name. Whatever has that name when the block ends is removed."""
    staged = staging_name(parent)
    staged.mkdir()
    descriptor = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with _shared(descriptor):
            yield staged
    finally:
        os.close(descriptor)
        remove(staged)


def place_directory(staged: Path, final: Path) -> None:
    """Make a staged directory visible at `final` by one rename; a directory that was there takes the staging name.

    Where the file system cannot exchange two names (some network file systems), the old directory is moved away first,
    and `final` is absent for that instant.
    """
    for _ in range(100):  # an attempt fails only when another writer placed or moved a directory in between
        try:
            staged.rename(final)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
        else:
            return
        try:
            if exchange(staged, final):
                return
            aside = staging_name(final.parent)
            final.rename(aside)
            try:
                staged.rename(final)
                return
            finally:
                remove(aside)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST}:
                raise
    raise StoreUnavailable(
        f"{final} is replaced by other processes all the time, and could not be written", cure="try again"
    )


def rename_noreplace(staged: Path, final: Path) -> None:
    """Rename without replacing. Raises FileExistsError when `final` exists. Atomic where the file system supports
    RENAME_NOREPLACE."""
    if not _rename2(staged, final, _RENAME_NOREPLACE):
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
        staged.rename(final)


def exchange(path: Path, other: Path) -> bool:
    """Exchange two names at once. False, and nothing is done, where that is not supported."""
    return _rename2(path, other, _RENAME_EXCHANGE)


def _rename2(source: Path, target: Path, flag: int) -> bool:
    """Call renameat2(2). False where the kernel, the C library or the file system does not support the flag."""
    import ctypes  # takes longer than a short command

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flag)) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def link(existing: Path, name: Path) -> None:
    """Make a hard link, or a relative symbolic one where hard links are refused. Raises FileNotFoundError when
    `existing` is gone."""
    try:
        os.link(existing, name, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINK:
            raise
        existing.lstat()
        name.symlink_to(os.path.relpath(existing, name.parent))


def remove(path: Path) -> None:
    """Remove a file, a link (not its target) or a tree. Does nothing when it is not there. Other processes may remove
    it, or write into it, at the same time."""
    tries = 0
    while True:
        try:
            if stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
        except OSError as error:
            tries += 1
            if error.errno not in _NOT_EMPTY or tries == _MAX_TRIES:
                raise
        else:
            return


def sweep(directory: Path) -> None:
    """Remove the staging names in `directory` that are older than a day, and that no process on this machine holds."""
    for path, age_s in leftovers(directory):
        if age_s > STALE_S:
            with suppress(PermissionError):  # another user's
                remove(path)


def leftovers(directory: Path) -> Iterator[tuple[Path, float]]:
    """The staging names in `directory` that no process on this machine holds, each with its age in seconds. A file is
    held by nobody: one that is younger than STALE_S may be in use."""
    for name in names(directory) if not directory.is_symlink() else ():
        path = directory / name
        if not name.startswith(STAGING_PREFIX):
            continue
        with suppress(FileNotFoundError, PermissionError):
            status = path.lstat()
            if not _is_held(path, status):
                yield path, time.time() - status.st_mtime


@contextmanager
def _shared(descriptor: int) -> Iterator[None]:
    """Hold a shared flock, where the file system supports it: it only keeps `sweep` away from a live writer's
    directory."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    yield


def _is_held(path: Path, status: os.stat_result) -> bool:
    if not stat.S_ISDIR(status.st_mode):
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
