"""Remember in which state a file was when its bytes were last compared with their digest.

The state is what a change of the bytes changes too: the inode, the size, and the times of the last change of the bytes
and of the inode. Nobody can set the last one. A file that is still in a remembered state is not read again as a whole
before it is used. The record of a blob is `.paddock/verified/<ab>/<sha256>-files.json`; it has several files, since a
volume that was copied without its hard links has the same bytes more than once:

    {"files": [{"inode": 1, "size": 5, "modified_ns": 7, "changed_ns": 9}]}

Paddock's own links change an inode too: `kept` carries the record over such a change.

Times of a file are only as fine as the clock of its file system: a second change may leave the same time. So a state is
remembered only once its last change is older than that clock's step.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from paddock.errors import PaddockError
from paddock.model.names import Sha256
from paddock.store.durable import disk_errors, disk_errors_in, write_atomically
from paddock.store.volume.layout import Layout
from paddock.store.volume.recording import recording
from paddock.untrusted.json_text import parse_object

RECORDED_BYTES: Final = 16 * 1024 * 1024
"""The size from which on states are remembered. Smaller files are read as a whole each time."""
FILES: Final = "files"
_MOST_FILES: Final = 8
_MOST_BYTES: Final = 64 * 1024
_STEP_NS: Final = 10_000_000
"""A step of the clock that Linux takes times of files from: 1 to 10 ms, by the kernel's configuration."""
_COARSE_STEP_NS: Final = 2_000_000_000
"""That of file systems which count whole seconds, or two of them."""


@dataclass(frozen=True, slots=True)
class FileState:
    """The state of a file. Times are in nanoseconds since 1970."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self, now_ns: int) -> bool:
        """Whether a change of the bytes from `now_ns` on gives the inode another time of change."""
        step = _COARSE_STEP_NS if self.changed_ns % 1_000_000_000 == 0 else _STEP_NS
        return now_ns - self.changed_ns >= step


class FileStates:
    """The remembered states of a volume's blobs. Where the volume cannot be written, they are remembered for the life
    of this object alone."""

    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout
        self._lock = threading.Lock()
        self._seen: dict[Sha256, tuple[FileState, ...]] = {}

    @disk_errors
    def is_known(self, sha256: Sha256, status: os.stat_result) -> bool:
        """Whether the file with this status had the bytes of the blob, and was not changed since."""
        state = FileState.of(status)
        return state in self._seen.get(sha256, ()) or state in self._read(sha256)

    @disk_errors
    def remember(self, sha256: Sha256, status: os.stat_result, *, since_ns: int) -> None:
        """Remember that a file in this state has the bytes of the blob. They were read from `since_ns` on, and the
        state was the same before and after."""
        state = FileState.of(status)
        if state.size >= RECORDED_BYTES and state.is_settled(since_ns):
            self._write(sha256, state)

    @disk_errors
    def remember_written(self, sha256: Sha256, path: Path) -> None:
        """Remember a blob that this process has written and verified, and whose inode it has changed just now."""
        status = _settled_status(path)
        if status is not None and status.st_size >= RECORDED_BYTES:
            self._write(sha256, FileState.of(status))

    @contextmanager
    def kept(self, sha256: Sha256, path: Path, *, renewed: bool = False) -> Iterator[None]:
        """Keep what is known of a blob's file over a change of ours to its inode, such as a link. `renewed`: the change
        sets the time of its bytes too."""
        before = self._known_status(sha256, path)
        yield
        after = _settled_status(path) if before is not None else None
        if before is None or after is None:
            return
        old, new = FileState.of(before), FileState.of(after)
        same_time = renewed or new.modified_ns == old.modified_ns
        if new != old and (new.inode, new.size) == (old.inode, old.size) and same_time:
            self._write(sha256, new)

    @contextmanager
    def all_kept(self, blobs: Collection[Sha256]) -> Iterator[None]:
        """As `kept`, for several blobs."""
        with ExitStack() as stack:
            for sha256 in blobs:
                stack.enter_context(self.kept(sha256, self._layout.blob(sha256)))
            yield

    @disk_errors
    def forget(self, sha256: Sha256) -> None:
        """Forget all states of a blob: its bytes were found damaged."""
        with self._lock:
            self._seen.pop(sha256, None)
        self._layout.verification(sha256, FILES).unlink(missing_ok=True)

    def _known_status(self, sha256: Sha256, path: Path) -> os.stat_result | None:
        """The status of a blob's file; None where it is small, not there, or was changed since it was verified."""
        try:
            status = path.lstat()
            return status if status.st_size >= RECORDED_BYTES and self.is_known(sha256, status) else None
        except (OSError, PaddockError):
            return None

    def _write(self, sha256: Sha256, state: FileState) -> None:
        """Raises nothing: a file without a record is only read again."""
        with self._lock:
            self._seen[sha256] = _with(state, self._seen.get(sha256, ()))
        with suppress(PaddockError), recording(self.root), disk_errors_in(self.root):
            path = self._layout.verification(sha256, FILES)
            self._layout.make_directory(path.parent)
            content = {FILES: [asdict(one) for one in _with(state, self._read(sha256))]}
            write_atomically(path, json.dumps(content).encode(), sync=False)

    def _read(self, sha256: Sha256) -> tuple[FileState, ...]:
        """The recorded states; none where the record cannot be read: then the files are compared again."""
        try:
            content = self._layout.read(self._layout.verification(sha256, FILES), max_bytes=_MOST_BYTES)
            rows = parse_object(content, max_bytes=_MOST_BYTES)[FILES]
            states = [FileState(**{name: int(row[name]) for name in FileState.__slots__}) for row in rows]
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            return ()
        return tuple(states[:_MOST_FILES])


def _with(state: FileState, others: Iterable[FileState]) -> tuple[FileState, ...]:
    """The states with that of one file, which replaces an earlier one of the same file."""
    return (state, *(one for one in others if one.inode != state.inode))[:_MOST_FILES]


def _settled_status(path: Path) -> os.stat_result | None:
    """The status of a file, after a step of its file system's clock: a later change gives it another state. None where
    that takes seconds, or there is no such file."""
    try:
        status = path.lstat()
        if not FileState.of(status).is_settled(time.time_ns()):
            time.sleep(_STEP_NS / 1e9)
        again = path.lstat()
    except OSError:
        return None
    state = FileState.of(again)
    return again if state == FileState.of(status) and state.is_settled(time.time_ns()) else None
