"""Own, adopt and remove staging directories: `staging/<key>/<token>/`, with the files `data` and `journal`.

`<key>` names the bytes, `<token>` the process that fetches them. The owner holds a `flock` on its journal. A directory
whose lock is free is an *orphan*: the next process renames it to a token of its own and resumes it. While an owner
lives, other processes wait for it.

**Locks only save bandwidth.** If `flock` does nothing (some network file systems), or a process that was taken for dead
resumes, two processes may write one inode. Correctness rests on this:

- an owner on this kernel is judged by its lock, which works between the processes of one kernel on any file system; an
  owner on another kernel (`boot` in the journal) must also have written nothing for `quiet_s`, longer than a living
  process ever pauses;
- adoption renames the directory, so that a process that lost it finds nothing at its path: it checks before each
  request (`StagingDirectory.is_owned`), and can publish nothing;
- the data of another user is copied, since only its owner may make it read-only once it is complete;
- all that it can still write is the rest of one range, of the bytes that the same digest names. Readers of the
  published file compare it with that digest later (the audit before a load, and the scrub).

Bytes without a digest have no name that two processes could agree on, so their partial files are never adopted.

A *seed* has bytes that are here already (`paddock.transfer.seed`). It is made in `staging/seed-<key>/<token>/`, and
moved to the others when it is complete: a process that is killed in between leaves none, and the next makes it anew.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from paddock.errors import TransferInterrupted, UnsafeName
from paddock.model.names import SegmentDigest
from paddock.model.source import Expected
from paddock.transfer.copy_spans import copy_spans, is_of_another_user
from paddock.transfer.journal import Journal, JournalHeader, Piece
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import list_directory

_UNDIGESTED = "undigested"
_SEED_PREFIX = "seed-"
_KEY = re.compile(r"[0-9a-z-]{1,80}")
_POLL_S = 0.1
_ALIVE: Final = "alive"

log = logging.getLogger(__name__)


class StagingDirectory:
    """A staging directory that this process owns, and what its journal held when it was taken over: the checkpoints,
    and the pieces behind the last of them."""

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        header: JournalHeader,
        checkpoints: dict[int, SegmentDigest],
        pieces: Sequence[Piece] = (),
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.journal = journal
        self.header = header
        self.checkpoints = checkpoints
        self.checkpoint_bytes = max(checkpoints, default=0)
        self.pieces = [piece for piece in pieces if piece.end > self.checkpoint_bytes]

    @property
    def resumable_bytes(self) -> int:
        """How many bytes of the data file its journal records."""
        end = count = self.checkpoint_bytes
        for piece in self.pieces:
            count += max(0, piece.end - max(end, piece.start))
            end = max(end, piece.end)
        return count

    @property
    def is_owned(self) -> bool:
        """Whether the directory still is at its path: false once another process adopted it."""
        return _is_at(self.journal.fd, self.directory / "journal")

    def move_below(self, directory: Path) -> None:
        """Move it into another directory of the same file system, which is made where it is missing."""
        while self.is_owned:
            with suppress(FileExistsError):
                directory.mkdir()
            with suppress(FileNotFoundError):  # a process that found it empty removed it in between
                self.directory = self.directory.rename(directory / self.directory.name)
                self.data = self.directory / "data"
                return

    def release(self) -> None:
        """Leave it to the next process; if there is nothing to resume, remove it."""
        if self.header.key == _UNDIGESTED or self.journal.is_empty:
            self.discard()
        else:
            self.journal.close()

    def discard(self) -> None:
        """Remove it. The lock is released last, so that no process adopts what is being removed."""
        if self.journal.fd >= 0 and self.is_owned:
            shutil.rmtree(self.directory, ignore_errors=True)
            with suppress(OSError):
                self.directory.parent.rmdir()
        self.journal.close()


def acquire(
    staging: Path,
    expected: Expected,
    *,
    segment_bytes: int,
    quiet_s: float,
    label: str,
    cancel: threading.Event,
    is_published: Callable[[], bool],
) -> StagingDirectory | None:
    """Adopt or create a staging directory for these bytes; None once `is_published()` is true, since another process
    published them.

    Waits while a living process fetches the same bytes, unless that one writes nothing for `quiet_s`. Raises
    TransferInterrupted if `cancel` is set, UnsafeName, and OSError.
    """
    key = expected.key or _UNDIGESTED
    if not _KEY.fullmatch(key):
        raise UnsafeName(f"the digest of {label} is {key[:80]!r}, expected hexadecimal digits")
    header = JournalHeader(key=key, size=expected.size, segment_bytes=segment_bytes, boot=_boot_id())
    directory = staging / key
    # A process that was stopped while it held the lock must not block the others for ever.
    ignore_lock_after = time.monotonic() + quiet_s
    while True:
        owned = None
        with _locked(directory) as locked:
            if locked or time.monotonic() > ignore_lock_after:
                with suppress(FileNotFoundError):  # its last owner may remove it meanwhile
                    owned = _adopt_or_create(directory, header, quiet_s)
        if owned:
            if not is_published():
                return owned
            owned.discard()
            return None
        if cancel.wait(_POLL_S):
            raise TransferInterrupted.cancelled(f"{label} was cancelled while another process fetched it")
        if is_published():
            return None


def create_seed(staging: Path, expected: Expected, *, segment_bytes: int, quiet_s: float) -> StagingDirectory:
    """Create a staging directory for bytes that have a digest, which no transfer adopts before `publish_seed`. What
    processes that died before left of theirs is removed. Raises OSError."""
    if expected.key is None:
        raise ValueError("bytes without a digest have no staging directory that another transfer adopts")
    header = JournalHeader(key=expected.key, size=expected.size, segment_bytes=segment_bytes, boot=_boot_id())
    directory = staging / f"{_SEED_PREFIX}{expected.key}"
    _remove_orphans(directory, header, quiet_s=quiet_s)
    directory.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with suppress(FileExistsError):
            directory.mkdir()
        if directory.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, "it is a symbolic link", str(directory))
        with suppress(FileNotFoundError):  # its last owner removed it in between
            return _take_ownership(directory, header, None)


def publish_seed(seed: StagingDirectory, staging: Path) -> None:
    """Leave a complete seed to the next transfer of its bytes. Raises OSError."""
    made_in = seed.directory.parent
    seed.move_below(staging / seed.header.key)
    seed.release()
    with suppress(OSError):  # another process makes one
        made_in.rmdir()


def remove_orphans(staging: Path, expected: Expected, *, segment_bytes: int, quiet_s: float) -> None:
    """Remove the staging directories that dead processes left for these bytes; those of living processes stay."""
    if expected.key is None:
        return
    header = JournalHeader(key=expected.key, size=expected.size, segment_bytes=segment_bytes, boot=_boot_id())
    _remove_orphans(staging / expected.key, header, quiet_s=quiet_s)


def _remove_orphans(directory: Path, header: JournalHeader, *, quiet_s: float) -> None:
    if not directory.exists():
        return
    with suppress(OSError), _locked(directory) as locked:  # another process may remove it, too
        quiet_before = _now(directory) - quiet_s
        for name in list_directory(directory) if locked else ():
            path = directory / name
            found = _examine(path, header, quiet_before=quiet_before)
            if isinstance(found, StagingDirectory):
                found.discard()
        if locked:
            directory.rmdir()


def take_abandoned(path: Path) -> StagingDirectory | None:
    """Own a staging directory whose owner is dead, in order to remove it; None while one lives, and where there is no
    journal. An owner on another kernel is not seen where locks are only local: the caller goes by the directory's age
    too. Raises OSError."""
    if not _is_directory(path):
        return None
    try:
        journal = Journal(path / "journal")
    except (FileNotFoundError, UnusableContent):
        return None
    if _try_lock(journal.fd) is False or not _is_at(journal.fd, path / "journal"):
        journal.close()
        return None
    return StagingDirectory(path, journal, JournalHeader(key=path.parent.name, size=0, segment_bytes=1, boot=""), {})


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Lock the directory of a key, so that of two processes that start together only one creates or adopts. False:
    another process holds the lock."""
    fd = -1
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        while fd < 0:
            # Not `exist_ok`, which raises FileExistsError if the directory is removed while mkdir checks it.
            with suppress(FileExistsError):
                directory.mkdir()
            with suppress(FileNotFoundError):  # its last owner removed it in between
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        yield _try_lock(fd) is not False and _is_at(fd, directory)
    finally:
        if fd >= 0:
            os.close(fd)


def _adopt_or_create(directory: Path, header: JournalHeader, quiet_s: float) -> StagingDirectory | None:
    """Adopt the orphan with the most bytes and remove the others, or create a directory; None if an owner lives."""
    now = _now(directory)
    best: StagingDirectory | None = None
    alive = False
    for name in list_directory(directory):
        path = directory / name
        found = _examine(path, header, quiet_before=now - quiet_s)
        if found == _ALIVE:
            alive = True
        elif isinstance(found, StagingDirectory):
            if best and best.resumable_bytes >= found.resumable_bytes:
                best, found = found, best
            if best:
                best.discard()
            best = found
    if alive and header.key != _UNDIGESTED:
        if best:
            best.journal.close()
        return None
    return _take_ownership(directory, header, best)


def _examine(path: Path, header: JournalHeader, *, quiet_before: float) -> StagingDirectory | Literal["alive"] | None:
    """Return an orphan, with its lock held; "alive" if its owner lives; None if it is to be ignored."""
    if not _is_directory(path):  # a planted link would lead elsewhere
        return None
    try:
        journal = Journal(path / "journal")
    except (FileNotFoundError, UnusableContent):  # not created yet, or removed; or never, if its creator died
        if _modified_at(path) < quiet_before:
            shutil.rmtree(path, ignore_errors=True)
        return None
    except OSError as error:
        log.warning(
            "%s, which another user left, cannot be resumed (%s): its bytes are fetched again. Users who share a volume"
            " need umask 002 and a common group",
            path,
            error.strerror,
        )
        return None
    quiet = max(_modified_at(path / name) for name in ("journal", "data")) < quiet_before
    locked = _try_lock(journal.fd)
    found = journal.header()
    lock_counts = locked is True and (found is None or found.boot == header.boot)
    if locked is False or not (lock_counts or quiet) or not _is_at(journal.fd, path / "journal"):
        journal.close()
        return None if quiet or not path.exists() else _ALIVE
    orphan = StagingDirectory(path, journal, header, journal.checkpoints(header), journal.pieces(header))
    if header.key == _UNDIGESTED or not _is_writable_file(orphan.data):
        orphan.discard()
        return None
    return orphan


def _take_ownership(directory: Path, header: JournalHeader, orphan: StagingDirectory | None) -> StagingDirectory:
    """Create a directory with a new token and a journal of this process; with `orphan`, rename it and keep its data.
    The data of another user is copied, and then removed."""
    path = directory / uuid.uuid4().hex
    checkpoints: dict[int, SegmentDigest] = {}
    pieces: Sequence[Piece] = ()
    is_copied = orphan is not None and is_of_another_user(orphan.data)
    if orphan and not is_copied:
        checkpoints, pieces = orphan.checkpoints, orphan.pieces
        orphan.directory.rename(path)
    else:
        path.mkdir()
    # Written beside the old journal and renamed over it: a crash in between loses no checkpoint.
    (path / "journal.new").unlink(missing_ok=True)
    journal = Journal(path / "journal.new", create=True)
    _try_lock(journal.fd)
    journal.start(header, checkpoints, pieces)
    (path / "journal.new").replace(path / "journal")
    if orphan and is_copied:
        spans = [(0, orphan.checkpoint_bytes), *((piece.start, piece.end) for piece in orphan.pieces)]
        if copy_spans(orphan.data, path / "data", spans):  # else the disk is full: the bytes are fetched again
            checkpoints, pieces = orphan.checkpoints, orphan.pieces
            journal.add(checkpoints, pieces)
        orphan.discard()
    elif orphan:
        orphan.journal.close()
    return StagingDirectory(path, journal, header, checkpoints, pieces)


def _now(directory: Path) -> float:
    """The current time by the clock of the file system: that of a file server may differ from ours."""
    os.utime(directory)
    return directory.stat().st_mtime


def _modified_at(path: Path) -> float:
    """Modification time, by the clock of the file system; minus infinity if there is no such file."""
    try:
        return path.stat().st_mtime
    except OSError:
        return float("-inf")


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _is_writable_file(path: Path) -> bool:
    """Whether there is a regular file without another name, or nothing yet: what is written to it reaches nothing
    else."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _try_lock(fd: int) -> bool | None:
    """Take the lock without waiting. False: another process holds it. None: this file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _boot_id() -> str:
    """The id of the running kernel: differs on another machine, and after a restart of this one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
