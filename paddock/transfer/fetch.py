"""From a source to a complete, verified, fsynced file that is not yet visible.

Workers fetch spans in parallel (`pump`), or another engine brings the whole (`engines`); the calling thread hashes what
landed, in order, and keeps the journal (`reception`). What an earlier process left is hashed in the same pass: a claim
that does not hold is dropped, and its bytes are fetched again. A kill loses at most what each connection wrote last,
some 256 KiB of each, however short the file is.

Where the whole-file digest is wrong though every byte was written as it came, each segment is fetched again and those
that differ are replaced, at most twice; then the bytes are removed and the file is called corrupt.

Publishing is not done here: the caller renames `Staged.path` into place, and then calls `Staged.discard`.
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
from paddock.transfer.staging import Claim, acquire, remove_orphans

_LEAST_QUIET_S = 60.0


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
    _claim: Claim | None = field(default=None, repr=False, compare=False)

    def discard(self) -> None:
        """Remove what is left of the staging directory, after `path` was renamed away, or not."""
        if self._claim:
            self._claim.discard()


def fetch(
    source: Source,
    *,
    staging: Path,
    options: Options = Options(),
    progress: OnProgress | None = None,
    tap: OnBlock | None = None,
    cancel: threading.Event | None = None,
    arrived: Callable[[], bool] | None = None,
) -> Staged | None:
    """Fetch a file into `staging`; None when `arrived()` says that another process, which fetched the same bytes, has
    published them.

    `tap` is given every byte on the way to the digest, in blocks and in order, in the calling thread. Where an offset
    is not the end of the block before, what was told from there on was wrong, and is told anew. What it was told is
    right when this returns.

    Whatever ends it early leaves something to resume, except for bytes without a digest, for what another engine was
    still moving, and after an fsync that failed. Raises TransferInterrupted
    (also when `cancel` is set), TransferRefused, CorruptFile, NotEnoughDisk, NoPermission, and the permanent errors
    of the source.
    """
    started = time.monotonic()
    cancel = cancel or threading.Event()
    expected = source.expected
    try:
        claim = acquire(
            staging,
            expected,
            segment_bytes=options.segment_bytes,
            quiet_s=_quiet_s(options),
            label=source.label,
            cancel=cancel,
            arrived=arrived or (lambda: False),
        )
    except OSError as error:
        raise disk_error(error, staging, expected.size) from error
    if claim is None:
        return None
    try:
        reception = Assembler(source, claim, options, cancel=cancel, progress=progress, tap=tap)
        digest = reception.run()
    except CorruptFile:
        claim.discard()
        raise
    except OSError as error:
        claim.release()
        raise disk_error(error, claim.data, expected.size) from error
    except BaseException:
        claim.release()
        raise
    return Staged(
        path=claim.data,
        size=expected.size,
        sha256=digest.sha256,
        segments=digest.segments,
        segment_bytes=options.segment_bytes,
        transferred_bytes=reception.meter.transferred_bytes,
        resumed_bytes=reception.resumed_bytes,
        seconds=time.monotonic() - started,
        _claim=claim,
    )


def forget(expected: Expected, *, staging: Path, options: Options) -> None:
    """Remove what dead transfers left of bytes that are published: the last one may have died between the two."""
    remove_orphans(staging, expected, segment_bytes=options.segment_bytes, quiet_s=_quiet_s(options))


def _quiet_s(options: Options) -> float:
    """For how long a living transfer is never silent."""
    return max(2 * options.stall_s, _LEAST_QUIET_S)
