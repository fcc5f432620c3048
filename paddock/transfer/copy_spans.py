"""Copy the received parts of a partial file of another user to a file of this user's own.

Only the owner of a file may make it read-only, which a complete blob has to be. The copy is sparse: it takes the space
of the received bytes, however large the file is to become.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from paddock.transfer.preallocation import UNDER_UMASK, write_at
from paddock.untrusted.files import open_regular

_BLOCK_BYTES = 8 * 1024 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_of_another_user(path: Path) -> bool:
    """Whether a file belongs to another user, and this process is not root's."""
    with suppress(FileNotFoundError):
        return os.geteuid() not in {0, path.lstat().st_uid}
    return False


def copy_spans(source: Path, target: Path, spans: Iterable[tuple[int, int]]) -> bool:
    """Copy the spans (start, end) of a file to the same offsets of a new file. Returns False, and leaves no file, where
    the disk is full. Raises OSError."""
    source_fd = open_regular(source)
    try:
        target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, UNDER_UMASK)
        try:
            for start, end in spans:
                copy_span(source_fd, target_fd, start, end)
        finally:
            os.close(target_fd)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        target.unlink(missing_ok=True)
        return False
    finally:
        os.close(source_fd)
    return True


def copy_span(source_fd: int, target_fd: int, start: int, end: int) -> None:
    """Copy the bytes from `start` up to `end`, as far as the source has them, to the same offset. Raises OSError."""
    while start < end and (block := os.pread(source_fd, min(end - start, _BLOCK_BYTES), start)):
        write_at(target_fd, block, start)
        start += len(block)
