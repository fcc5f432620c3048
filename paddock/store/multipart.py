"""Read a local blob in verified parts, for a multipart upload.

A *part* is one or more whole segments, of at least 8 MiB (S3 requires 5 MiB for all parts but the last); a blob has at
most 10,000 parts. Each segment is compared with its digest before its part is returned, so that a blob that was damaged
on the disk is never copied. Where the manifest has no segment digests, they are computed first, and the digest of the
whole file must be the blob's sha256.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from paddock.errors import BlobMissing, CorruptFile
from paddock.model.artifact import SnapshotFile
from paddock.model.names import SegmentDigest
from paddock.model.source import Expected
from paddock.store.durable import disk_error
from paddock.transfer.digest import SegmentHash, digest_file
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import open_regular

MIN_PART_BYTES = 8 * 1024 * 1024
MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes `[offset, offset + length)` of a blob. `number` counts from 1."""

    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PartContent:
    """The verified bytes of a part. `checksum` is their sha256 in base64, as S3 expects it."""

    body: bytes
    checksum: str


class MultipartReader:
    """An open blob, without any buffer. `read` may be called from several threads.

    Iterating yields the blob's parts in order. The constructor raises BlobMissing, and CorruptFile for a blob with
    another size or other bytes than `file` states.
    """

    def __init__(self, path: Path, file: SnapshotFile, *, segment_bytes: int) -> None:
        self._path, self._file, self._segment_bytes = path, file, segment_bytes
        try:
            self._descriptor = open_regular(path)
        except UnusableContent as error:
            raise self._damaged(error.reason.removeprefix("it ")) from None
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
                    f"has {file.size} bytes, but its manifest {len(self._segments)} segments of {segment_bytes} bytes"
                )
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def __iter__(self) -> Iterator[Part]:
        return iter(plan_parts(self._file.size, segment_bytes=self._segment_bytes))

    def parts_without(self, segments: Collection[int]) -> frozenset[int]:
        """The numbers of the parts that hold none of these segments."""
        spans = [(number * self._segment_bytes, (number + 1) * self._segment_bytes) for number in segments]
        return frozenset(
            part.number
            for part in self
            if not any(start < part.offset + part.length and part.offset < end for start, end in spans)
        )

    def read(self, part: Part) -> PartContent:
        """Read a part. Raises CorruptFile when one of its segments has another digest."""
        body = self._read(part.offset, part.length)
        view = memoryview(body)
        for start in range(0, part.length, self._segment_bytes):
            index = (part.offset + start) // self._segment_bytes
            expected = self._segments[index]
            actual = SegmentHash(expected)
            actual.update(view[start : start + self._segment_bytes])
            if actual.digest != expected:
                raise self._damaged(
                    f"has another digest than its manifest states, in the segment at byte {part.offset + start}"
                )
        return PartContent(body, b64encode(hashlib.sha256(body).digest()).decode())

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

    def _damaged(self, damage: str) -> CorruptFile:
        return CorruptFile(
            f"the blob of {self._file.path}, {self._path}, is damaged: it {damage}",
            cure="remove that snapshot (`paddock rm`) and fetch it again (`paddock pull`)",
        )


def plan_parts(size: int, *, segment_bytes: int) -> list[Part]:
    """The parts of a blob of `size` bytes: each as few whole segments as the limits allow. An empty blob has one empty
    part."""
    minimum = max(MIN_PART_BYTES, -(-size // MAX_PARTS))
    length = -(-minimum // segment_bytes) * segment_bytes
    return [
        Part(number, offset, min(length, size - offset))
        for number, offset in enumerate(range(0, max(size, 1), length), start=1)
    ]
