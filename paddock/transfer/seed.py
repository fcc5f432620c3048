"""Seed a download with a damaged copy of the file: sound segments are kept, and only the others are fetched.

The copy and its segment digests become a staging directory without an owner (`paddock.transfer.staging`), which the
next `fetch` of the same bytes adopts. Nothing of it is trusted: each segment is hashed, and fetched again if its digest
differs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from paddock.model.names import SegmentDigest
from paddock.model.source import Expected
from paddock.transfer.digest import segment_spans
from paddock.transfer.staging import create


def seed(
    damaged: Path, expected: Expected, segments: Sequence[SegmentDigest], *, staging: Path, segment_bytes: int
) -> bool:
    """Copy `damaged` into `staging`, with `segments` as the checkpoints of its journal.

    Returns False, and does nothing, if its size is not the expected one or `segments` is incomplete. Raises OSError.
    """
    spans = list(segment_spans(expected.size, segment_bytes))
    if expected.key is None or len(spans) != len(segments) or damaged.stat().st_size != expected.size:
        return False
    directory = create(staging, expected, segment_bytes=segment_bytes)
    try:
        shutil.copyfile(damaged, directory.data)
        for (_, end), digest in zip(spans, segments, strict=True):
            directory.journal.add_checkpoint(end, digest)
    except BaseException:
        directory.discard()
        raise
    directory.release()
    return True
