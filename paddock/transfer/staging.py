"""Whose the partial files are: `staging/<key>/<token>/`, with `data` and `journal`.

`<key>` names the bytes, `<token>` the process that fetches them. The owner holds a `flock` on its journal. A
directory whose lock is free is an *orphan*: the next process renames it to a token of its own and goes on where it
stopped. While an owner lives, others wait for it.

**Locks only save bandwidth.** Where `flock` does nothing (some network file systems), or a process that was given up
wakes again, two processes may write one inode. What protects:

- an owner on this kernel is judged by its lock, which works between the processes of one kernel, whatever the file
  system; one of another kernel (`boot` in the journal says which) must also have been silent for `quiet_s`, longer
  than a living writer ever is;
- adoption renames, so that a process that lost its directory finds nothing at its path: it looks before each request
  (`Claim.is_ours`), and can publish nothing;
- what it may still write is the rest of one range, of the bytes that the same digest names. Whoever reads the
  published file later compares it with that digest (the audit before a load, and the scrub).

Bytes without a digest have no name that two processes could agree on, so their partials are never adopted.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
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
from paddock.transfer.journal import Journal, JournalHeader, Piece

_UNDIGESTED = "undigested"
_KEY = re.compile(r"[0-9a-z-]{1,80}")
_POLL_S = 0.1
ALIVE: Final = "alive"


class Claim:
    """A staging directory that is ours, and what its journal held when it was taken over: the claims, and the pieces
    behind the last of them."""

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        header: JournalHeader,
        claims: dict[int, SegmentDigest],
        pieces: Sequence[Piece] = (),
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.journal = journal
        self.header = header
        self.claims = claims
        self.claimed_bytes = max(claims, default=0)
        self.pieces = [piece for piece in pieces if piece.end > self.claimed_bytes]

    @property
    def held_bytes(self) -> int:
        """How much its journal says is there."""
        end = held = self.claimed_bytes
        for piece in self.pieces:
            held += max(0, piece.end - max(end, piece.start))
            end = max(end, piece.end)
        return held

    @property
    def is_ours(self) -> bool:
        """Whether the directory is still where this process put it."""
        return _is_at(self.journal.fd, self.directory / "journal")

    def release(self) -> None:
        """Leave what is there to the next process; where there is nothing to resume, remove it."""
        if self.header.key == _UNDIGESTED or self.journal.is_empty:
            self.discard()
        else:
            self.journal.close()

    def discard(self) -> None:
        """Remove what is left. The lock goes last, so that nobody adopts what is being removed."""
        if self.journal.fd >= 0 and self.is_ours:
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
    arrived: Callable[[], bool],
) -> Claim | None:
    """A staging directory for these bytes: an adopted one, or a new one. None when `arrived()` says that another
    process published them.

    Waits while a living process fetches the same bytes, unless that one is silent for `quiet_s`. Raises
    TransferInterrupted when `cancel` is set, and OSError.
    """
    key = expected.key or _UNDIGESTED
    if not _KEY.fullmatch(key):
        raise UnsafeName(f"the digest of {label} is {key[:80]!r}, which is no digest")
    header = JournalHeader(key=key, size=expected.size, segment_bytes=segment_bytes, boot=_boot())
    directory = staging / key
    # A process that is stopped while it has the turn must not stop the others for ever.
    patient_until = time.monotonic() + quiet_s
    while True:
        claim = None
        with _turn(directory) as ours:
            if ours or time.monotonic() > patient_until:
                with suppress(FileNotFoundError):  # its last owner may remove it while we look
                    claim = _take(directory, header, quiet_s)
        if claim:
            if not arrived():
                return claim
            claim.discard()
            return None
        if cancel.wait(_POLL_S):
            raise TransferInterrupted(f"{label} was cancelled while another process fetched it")
        if arrived():
            return None


def begin(staging: Path, expected: Expected, *, segment_bytes: int) -> Claim:
    """A new staging directory for bytes that have a digest, whatever others fetch of them. Raises OSError."""
    if expected.key is None:
        raise ValueError("bytes without a digest have no staging directory that another transfer adopts")
    header = JournalHeader(key=expected.key, size=expected.size, segment_bytes=segment_bytes, boot=_boot())
    directory = staging / expected.key
    directory.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with suppress(FileExistsError):
            directory.mkdir()
        with suppress(FileNotFoundError):  # its last owner removed it in between
            return _own(directory, header, None)


def remove_orphans(staging: Path, expected: Expected, *, segment_bytes: int, quiet_s: float) -> None:
    """Remove what processes that died left of bytes that are published by now; a living one keeps what it has."""
    if expected.key is None:
        return
    directory = staging / expected.key
    header = JournalHeader(key=expected.key, size=expected.size, segment_bytes=segment_bytes, boot=_boot())
    if not directory.exists():
        return
    with suppress(OSError), _turn(directory) as ours:  # another process may remove it, too
        quiet_before = _touched(directory) - quiet_s
        for path in directory.iterdir() if ours else ():
            found = _look(path, header, quiet_before=quiet_before)
            if isinstance(found, Claim):
                found.discard()
        if ours:
            directory.rmdir()


@contextmanager
def _turn(directory: Path) -> Iterator[bool]:
    """Look and take as one step: of two processes that start together, one finds nothing. False: another's turn."""
    fd = -1
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        while fd < 0:
            # Not `exist_ok`, which raises FileExistsError where the directory is removed while it is looked at.
            with suppress(FileExistsError):
                directory.mkdir()
            with suppress(FileNotFoundError):  # its last owner removed it in between
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        yield _lock(fd) is not False and _is_at(fd, directory)
    finally:
        if fd >= 0:
            os.close(fd)


def _take(directory: Path, header: JournalHeader, quiet_s: float) -> Claim | None:
    """The orphan that holds most (the others are removed), or a new directory; None while a living process works."""
    now = _touched(directory)
    best: Claim | None = None
    alive = False
    for path in sorted(directory.iterdir()):
        found = _look(path, header, quiet_before=now - quiet_s)
        if found == ALIVE:
            alive = True
        elif isinstance(found, Claim):
            if best and best.held_bytes >= found.held_bytes:
                best, found = found, best
            if best:
                best.discard()
            best = found
    if alive and header.key != _UNDIGESTED:
        if best:
            best.journal.close()
        return None
    return _own(directory, header, best)


def _look(path: Path, header: JournalHeader, *, quiet_before: float) -> Claim | Literal["alive"] | None:
    """What to do with a staging directory: adopt it (its lock is ours then), wait for its owner, or pass it over."""
    try:
        journal = Journal(path / "journal")
    except FileNotFoundError:  # not yet, or no longer; or for good, where its maker died
        if _last_change(path) < quiet_before:
            shutil.rmtree(path, ignore_errors=True)
        return None
    except OSError:  # not ours to read
        return None
    silent = max(_last_change(path / name) for name in ("journal", "data")) < quiet_before
    locked = _lock(journal.fd)
    found = journal.header()
    trusted = locked is True and (found is None or found.boot == header.boot)
    if locked is False or not (trusted or silent) or not _is_at(journal.fd, path / "journal"):
        journal.close()
        return None if silent or not path.exists() else ALIVE
    claim = Claim(path, journal, header, journal.claims(header), journal.pieces(header))
    if header.key == _UNDIGESTED:
        claim.discard()
        return None
    return claim


def _own(directory: Path, header: JournalHeader, orphan: Claim | None) -> Claim:
    """A directory with a token of ours and a journal that says so: new, or the orphan's data and claims."""
    ours = directory / uuid.uuid4().hex
    claims: dict[int, SegmentDigest] = {}
    pieces: Sequence[Piece] = ()
    if orphan:
        claims, pieces = orphan.claims, orphan.pieces
        orphan.directory.rename(ours)
    else:
        ours.mkdir()
    # Beside the old journal and then over it: a death in between loses no claim.
    (ours / "journal.new").unlink(missing_ok=True)
    journal = Journal(ours / "journal.new", create=True)
    _lock(journal.fd)
    journal.start(header, claims, pieces)
    (ours / "journal.new").replace(ours / "journal")
    if orphan:
        orphan.journal.close()
    return Claim(ours, journal, header, claims, pieces)


def _touched(directory: Path) -> float:
    """Now, by the clock that stamps the files: a file server's may differ from ours."""
    os.utime(directory)
    return directory.stat().st_mtime


def _last_change(path: Path) -> float:
    """When a file was last written, by its file system's clock; never, where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return float("-inf")


def _lock(fd: int) -> bool | None:
    """Take the lock without waiting. False: another process has it. None: this file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _boot() -> str:
    """Which kernel runs: another value on another machine, and after a restart of this one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
