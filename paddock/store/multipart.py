"""A local blob as parts that are verified when they are read, for a store that takes them one by one.

A *part* is one or more whole segments: at least 8 MiB (S3 takes no less than 5 MiB, but for the last), and at most
10,000 of them. Each segment is compared with its digest before the part is handed out, so that a blob that rotted on
the disk never becomes one elsewhere. Where a manifest knows no segments they are digested first, and the whole must be
the blob's own digest.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from paddock.errors import BlobMissing, CorruptFile
from paddock.model.artifact import SnapshotFile
from paddock.model.names import SegmentDigest
from paddock.model.source import Expected
from paddock.store.durable import disk_error
from paddock.transfer.digest import SegmentHash, digest_file

MIN_PART_BYTES = 8 * 1024 * 1024
MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """`number` counts from 1; `[offset, offset + length)` are its bytes."""

    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Content:
    """The verified bytes of a part, and their sha256 in base64, as S3 wants it."""

    body: bytes
    checksum: str


class MultipartReader:
    """An open blob. Holds no bytes; `read` may be called from several threads."""

    def __init__(self, path: Path, file: SnapshotFile, *, segment_bytes: int) -> None:
        self._path, self._file, self._segment_bytes = path, file, segment_bytes
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise BlobMissing(f"the blob of {file.path}, {path}, is gone", cure="fetch that file again") from None
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            size = os.fstat(self._descriptor).st_size
            if size != file.size:
                raise self._damaged(f"has {size} bytes, not {file.size}")
            self._segments = file.segments or self._digest()
            if len(self._segments) != -(-file.size // segment_bytes):
                raise self._damaged(
                    f"has {len(self._segments)} segments in its manifest, of {segment_bytes} bytes each"
                )
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def __iter__(self) -> Iterator[Part]:
        return iter(plan(self._file.size, segment_bytes=self._segment_bytes))

    def read(self, part: Part) -> Content:
        """Raises CorruptFile when a segment of it does not have its digest."""
        body = self._read(part.offset, part.length)
        view = memoryview(body)
        for start in range(0, part.length, self._segment_bytes):
            index = (part.offset + start) // self._segment_bytes
            expected = self._segments[index]
            seen = SegmentHash(expected)
            seen.update(view[start : start + self._segment_bytes])
            if seen.digest != expected:
                raise self._damaged(f"is not what was stored, in the segment from byte {part.offset + start} on")
        return Content(body, b64encode(hashlib.sha256(body).digest()).decode())

    def _read(self, offset: int, length: int) -> bytes:
        pieces = []
        while length:
            try:
                piece = os.pread(self._descriptor, length, offset)
            except OSError as error:
                raise disk_error(error, self._path) from error
            if not piece:
                raise self._damaged(f"ends at byte {offset}")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _digest(self) -> tuple[SegmentDigest, ...]:
        expected = Expected(self._file.size, self._file.sha256)
        try:
            digest = digest_file(self._descriptor, expected, segment_bytes=self._segment_bytes)
        except OSError as error:
            raise disk_error(error, self._path) from error
        if digest.position != expected.size:
            raise self._damaged(f"ends at byte {digest.position}")
        if digest.sha256 != expected.sha256:
            raise self._damaged(f"has the sha256 {digest.sha256[:12]}…, not {self._file.sha256[:12]}…")
        return digest.segments

    def _damaged(self, what: str) -> CorruptFile:
        return CorruptFile(
            f"the blob of {self._file.path}, {self._path}, is damaged: it {what}",
            cure="remove that snapshot (`paddock rm`) and fetch it again (`paddock pull`)",
        )


def plan(size: int, *, segment_bytes: int) -> list[Part]:
    """The parts of a blob: whole segments, as few together as the limits allow. One empty part for no bytes."""
    wanted = max(MIN_PART_BYTES, -(-size // MAX_PARTS))
    length = -(-wanted // segment_bytes) * segment_bytes
    return [
        Part(number, offset, min(length, size - offset))
        for number, offset in enumerate(range(0, max(size, 1), length), start=1)
    ]
