"""Download one file into a staging directory: complete, verified and fsynced, but not yet visible.

Workers fetch spans in parallel (`workers`), or another backend fetches the whole file (`backends`); the calling thread
hashes the written bytes in order and keeps the journal (`assembler`). Bytes of an earlier process are hashed in the
same pass: a checkpoint that does not match is dropped, and its bytes are fetched again. A kill loses at most what each
connection wrote last, some 256 KiB of each, however short the file is; where this process is slower than the network,
up to the window of segments that it has not hashed yet.

If the digest of the file is wrong though every byte was written as received, each segment is fetched again and those
that differ are replaced, at most twice; then the bytes are removed and CorruptFile is raised.

Publishing is left to the caller, which renames `Staged.path` into place and then calls `Staged.discard`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from paddock.errors import CorruptFile
from paddock.model.names import SegmentDigest, Sha256
from paddock.model.source import Expected, Source
from paddock.transfer.assembler import Assembler
from paddock.transfer.digest import OnBlock
from paddock.transfer.options import Options
from paddock.transfer.preallocation import disk_error
from paddock.transfer.progress import OnProgress
from paddock.transfer.staging import StagingDirectory, acquire, remove_orphans

_MIN_QUIET_S = 60.0


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete, verified, fsynced file that is not yet visible. Until `discard`, other processes wait for it."""

    path: Path
    size: int
    sha256: Sha256
    segments: tuple[SegmentDigest, ...]
    segment_bytes: int
    transferred_bytes: int
    resumed_bytes: int
    seconds: float
    _directory: StagingDirectory | None = field(default=None, repr=False, compare=False)

    def discard(self) -> None:
        """Remove the staging directory, whether `path` was renamed away or not."""
        if self._directory:
            self._directory.discard()


def fetch(
    source: Source,
    *,
    staging: Path,
    options: Options = Options(),
    on_progress: OnProgress | None = None,
    on_block: OnBlock | None = None,
    cancel: threading.Event | None = None,
    is_published: Callable[[], bool] | None = None,
) -> Staged | None:
    """Download a file into `staging`; None once `is_published()` is true, since another process published the bytes.

    `on_block` is called with each block while it is hashed, in order, in another thread. If an offset is lower than
    the end of the block before, the bytes from there on were wrong, and are passed again. When this function returns,
    the bytes that were passed last for each offset are right.

    A transfer that ends early can be resumed, with three exceptions: bytes without a digest, a transfer by another
    backend, and a failed fsync. Raises TransferInterrupted (also if `cancel` is set), TransferRefused, CorruptFile,
    NotEnoughDisk, NoPermission, and the permanent errors of the source.
    """
    started = time.monotonic()
    cancel = cancel or threading.Event()
    expected = source.expected
    try:
        directory = acquire(
            staging,
            expected,
            segment_bytes=options.segment_bytes,
            quiet_s=_quiet_s(options),
            label=source.label,
            cancel=cancel,
            is_published=is_published or (lambda: False),
        )
    except OSError as error:
        raise disk_error(error, staging, expected.size) from error
    if directory is None:
        return None
    try:
        assembler = Assembler(source, directory, options, cancel=cancel, on_progress=on_progress, on_block=on_block)
        digest = assembler.run()
    except CorruptFile:
        directory.discard()
        raise
    except OSError as error:
        directory.release()
        raise disk_error(error, directory.data, expected.size) from error
    except BaseException:
        directory.release()
        raise
    return Staged(
        path=directory.data,
        size=expected.size,
        sha256=digest.sha256,
        segments=digest.segments,
        segment_bytes=options.segment_bytes,
        transferred_bytes=assembler.meter.transferred_bytes,
        resumed_bytes=assembler.resumed_bytes,
        seconds=time.monotonic() - started,
        _directory=directory,
    )


def remove_leftovers(expected: Expected, *, staging: Path, options: Options) -> None:
    """Remove the staging directories that dead processes left for bytes that are published: a process may die between
    publishing and `Staged.discard`."""
    remove_orphans(staging, expected, segment_bytes=options.segment_bytes, quiet_s=_quiet_s(options))


def _quiet_s(options: Options) -> float:
    """The longest time that a living transfer writes nothing."""
    return max(2 * options.stall_s, _MIN_QUIET_S)
