"""Seed a download with a damaged copy of the file: sound segments are kept, and only the others are fetched.

The copy and its segment digests become a staging directory without an owner (`paddock.transfer.staging`), which the
next `fetch` of the same bytes adopts. Nothing of it is trusted: each segment is hashed, and fetched again if its digest
differs.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from paddock.model.names import SegmentDigest
from paddock.model.source import Expected
from paddock.transfer.copy_spans import copy_span
from paddock.transfer.digest import segment_spans
from paddock.transfer.preallocation import UNDER_UMASK
from paddock.transfer.staging import create


def seed(
    damaged: Path, expected: Expected, segments: Sequence[SegmentDigest], *, staging: Path, segment_bytes: int
) -> bool:
    """Copy `damaged` into `staging`, with `segments` as the checkpoints of its journal.

    A copy may be shorter or longer than the file, and have parts that the disk cannot read: these are fetched. Returns
    False, and does nothing, if it is no file or `segments` is incomplete. Raises OSError.
    """
    spans = list(segment_spans(expected.size, segment_bytes))
    if expected.key is None or len(spans) != len(segments) or not stat.S_ISREG(damaged.lstat().st_mode):
        return False
    directory = create(staging, expected, segment_bytes=segment_bytes)
    try:
        _copy(damaged, directory.data, spans)
        for (_, end), digest in zip(spans, segments, strict=True):
            directory.journal.add_checkpoint(end, digest)
    except BaseException:
        directory.discard()
        raise
    directory.release()
    return True


def _copy(damaged: Path, data: Path, spans: Sequence[tuple[int, int]]) -> None:
    """Copy the readable segments of a file. The others are holes in the copy."""
    descriptor = os.open(data, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, UNDER_UMASK)
    try:
        source = os.open(damaged, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for start, end in spans:
                try:
                    copy_span(source, descriptor, start, end)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
        finally:
            os.close(source)
        os.ftruncate(descriptor, spans[-1][1] if spans else 0)
    finally:
        os.close(descriptor)
