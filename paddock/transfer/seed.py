"""A damaged copy of a file as the beginning of a transfer: what is sound in it is kept, and only the rest is fetched.

The copy and the digests of its segments become a staging directory that nobody owns (`staging`), which the next `fetch`
of the same bytes adopts. It believes none of it: each segment is hashed, and one that does not have its digest is
fetched again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from paddock.model.names import SegmentDigest
from paddock.model.source import Expected
from paddock.transfer.digest import segment_spans
from paddock.transfer.staging import begin


def seed(
    damaged: Path, expected: Expected, segments: Sequence[SegmentDigest], *, staging: Path, segment_bytes: int
) -> bool:
    """Lay a copy of `damaged` into `staging`, with the claims that its `segments` have these digests. False, and
    nothing is done, where it is not the size that is expected, or the segments are not known. Raises OSError."""
    spans = list(segment_spans(expected.size, segment_bytes))
    if expected.key is None or len(spans) != len(segments) or damaged.stat().st_size != expected.size:
        return False
    claim = begin(staging, expected, segment_bytes=segment_bytes)
    try:
        shutil.copyfile(damaged, claim.data)
        for (_, end), digest in zip(spans, segments, strict=True):
            claim.journal.append(end, digest)
    except BaseException:
        claim.discard()
        raise
    claim.release()
    return True
