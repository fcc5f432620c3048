"""Compute segment digests from a file's whole content, as a reference for the incremental code."""

from __future__ import annotations

import hashlib

from blake3 import blake3

from paddock.model.names import SegmentDigest


def segment_of(data: bytes) -> SegmentDigest:
    return SegmentDigest(f"blake3:{blake3(data).hexdigest()}")


def segments_of(data: bytes, segment_bytes: int) -> tuple[SegmentDigest, ...]:
    return tuple(segment_of(data[at : at + segment_bytes]) for at in range(0, len(data), segment_bytes))


def first_segments_of(data: bytes, segment_bytes: int) -> tuple[SegmentDigest, ...]:
    """The SHA-256 digests of the first manifest format."""
    spans = range(0, len(data), segment_bytes)
    return tuple(SegmentDigest(hashlib.sha256(data[at : at + segment_bytes]).hexdigest()) for at in spans)
