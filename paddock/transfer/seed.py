"""Seed a download with bytes that are here already: a damaged copy of the file, or parts of other files.

They become a staging directory without an owner (`paddock.transfer.staging`), which the next `fetch` of the same bytes
adopts. It is there whole or not at all: a process that is killed meanwhile leaves none. Nothing of it is trusted: of a
damaged copy each segment is hashed, and fetched again if its digest differs; parts of other files are proved by the
digest of the whole file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddock.model.names import SegmentDigest
from paddock.model.source import Expected
from paddock.transfer.copy_spans import copy_span
from paddock.transfer.digest import segment_spans
from paddock.transfer.pieces import PieceRecorder
from paddock.transfer.preallocation import UNDER_UMASK, write_at
from paddock.transfer.staging import create_seed, publish_seed
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular

_BLOCK_BYTES = 1024 * 1024
_QUIET_S = 60.0
"""The longest time that a living process copies nothing."""


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """Bytes of another file: `length` of them from `offset` on, which belong at `start` of the file to fetch."""

    start: int
    length: int
    path: Path
    offset: int


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
    directory = create_seed(staging, expected, segment_bytes=segment_bytes, quiet_s=_QUIET_S)
    try:
        _copy(damaged, directory.data, spans)
        for (_, end), digest in zip(spans, segments, strict=True):
            directory.journal.add_checkpoint(end, digest)
        publish_seed(directory, staging)
    except BaseException:
        directory.discard()
        raise
    return True


def seed_spans(
    expected: Expected, head: bytes, spans: Sequence[StoredSpan], *, staging: Path, segment_bytes: int
) -> bool:
    """Copy the first bytes and spans of other files into `staging`, as pieces of the file (`paddock.transfer.pieces`).

    Returns False, and does nothing, where an earlier transfer of the file left something. Raises OSError; a span whose
    file is too short is left out.
    """
    if expected.key is None or (staging / expected.key).exists():
        return False
    directory = create_seed(staging, expected, segment_bytes=segment_bytes, quiet_s=_QUIET_S)
    try:
        descriptor = os.open(directory.data, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, UNDER_UMASK)
        try:
            recorder = PieceRecorder(directory.journal, 0)
            write_at(descriptor, head, 0)
            recorder.add(head)
            recorder.flush()
            for span in spans:
                _copy_span(span, descriptor, PieceRecorder(directory.journal, span.start))
        finally:
            os.close(descriptor)
        publish_seed(directory, staging)
    except BaseException:
        directory.discard()
        raise
    return True


def _copy_span(span: StoredSpan, target: int, recorder: PieceRecorder) -> None:
    try:
        source = open_regular(span.path)
    except UnusableContent:  # as for one that is too short
        return
    try:
        done = 0
        while done < span.length:
            block = os.pread(source, min(_BLOCK_BYTES, span.length - done), span.offset + done)
            if not block:
                break
            write_at(target, block, span.start + done)
            recorder.add(block)
            done += len(block)
    finally:
        os.close(source)
    recorder.flush()


def _copy(damaged: Path, data: Path, spans: Sequence[tuple[int, int]]) -> None:
    """Copy the readable segments of a file. The others are holes in the copy."""
    descriptor = os.open(data, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, UNDER_UMASK)
    try:
        source = open_regular(damaged)
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
