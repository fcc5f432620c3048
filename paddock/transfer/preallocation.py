"""Space on the disk: taken before the first byte is fetched, and what it means when the disk says no."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from paddock.errors import NoPermission, NotEnoughDisk, PaddockError, TransferInterrupted

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ELOOP})
_UNABLE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})


def require_room(fd: int, path: Path, size: int) -> None:
    """Raise NotEnoughDisk where the file cannot have `size` bytes. OSError."""
    needed = size - os.fstat(fd).st_blocks * 512
    volume = os.fstatvfs(fd)
    free = volume.f_bavail * volume.f_frsize
    if needed > free:
        raise NotEnoughDisk(
            f"{path} needs {needed} bytes more, and {free} are free there",
            cure="free some space, or use a larger volume",
        )


def preallocate(fd: int, path: Path, size: int) -> None:
    """Give the file its size, with its blocks where the file system can. Raises NotEnoughDisk, and OSError."""
    require_room(fd, path, size)
    if not size:
        return
    before = os.fstat(fd).st_size
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _UNABLE:
            # What was taken until the disk was full is given back.
            os.ftruncate(fd, min(before, size))
            raise
    os.ftruncate(fd, size)


def disk_error(error: OSError, path: Path, size: int, *, kept: bool = True) -> PaddockError:
    """What an error of the disk means for a file that is to have `size` bytes. `kept`: what came can be resumed."""
    if error.errno in _FULL:
        return NotEnoughDisk(
            f"{path} cannot be written to its {size} bytes: {error.strerror}",
            cure="free some space or raise the quota"
            + ("; what came is kept and the next run goes on from there" if kept else ", then start again"),
        )
    if error.errno in _FORBIDDEN:
        return NoPermission(
            f"{path} cannot be written ({size} bytes): {error.strerror}",
            cure="correct what is at that path and its permissions, or mount it for writing",
        )
    return TransferInterrupted(
        f"{path} cannot be written or read ({size} bytes): {error.strerror}", cure="look at the disk, then try again"
    )


def write_at(fd: int, block: bytes, offset: int) -> None:
    """Write all of it: a single pwrite may write less."""
    view = memoryview(block)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
