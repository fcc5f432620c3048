"""Reserve disk space before the first byte is fetched, and map disk errors to Paddock's errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from paddock.errors import NoPermission, NotEnoughDisk, PaddockError, TransferInterrupted

UNDER_UMASK = 0o666
"""The mode to create a file with: the umask decides whether another user may resume it."""
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ELOOP})
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})


def require_space(fd: int, path: Path, size: int) -> None:
    """Raise NotEnoughDisk if the file system has no space to grow the file to `size` bytes. Raises OSError."""
    missing = size - os.fstat(fd).st_blocks * 512
    volume = os.fstatvfs(fd)
    free = volume.f_bavail * volume.f_frsize
    if missing > free:
        raise NotEnoughDisk(
            f"{path} needs {missing} bytes more, and {free} are free there",
            cure="free some space, or use a larger volume",
        )


def preallocate(fd: int, path: Path, size: int) -> None:
    """Set the size of a file and reserve its blocks, if the file system supports that.

    Raises NotEnoughDisk, and OSError.
    """
    require_space(fd, path, size)
    if not size:
        return
    before = os.fstat(fd).st_size
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            # Release the blocks that were reserved before the disk was full.
            os.ftruncate(fd, min(before, size))
            raise
    os.ftruncate(fd, size)


def disk_error(error: OSError, path: Path, size: int, *, kept: bool = True) -> PaddockError:
    """Map an OSError on a file of `size` bytes. `kept`: the received bytes stay, so that a next run resumes."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in _DISK_FULL:
        return NotEnoughDisk(
            f"{path} cannot be written to its {size} bytes: {reason}",
            cure="free some space or raise the quota"
            + ("; the received bytes are kept, and the next run resumes" if kept else ", then start again"),
        )
    if error.errno in _FORBIDDEN:
        return NoPermission(
            f"{path} cannot be written ({size} bytes): {reason}",
            cure="check what is at that path, its mount and its permissions; users who share a volume need umask 002"
            " and a common group",
        )
    return TransferInterrupted(
        f"{path} cannot be written or read ({size} bytes): {reason}", cure="check the disk, then try again"
    )


def write_at(fd: int, block: bytes | memoryview, offset: int) -> None:
    """Write the whole block: a single pwrite may write less."""
    view = memoryview(block)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
