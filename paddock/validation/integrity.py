"""Check a stored file against its recorded size and sha256, and its weights for invalid values, in a single read.

The structure of a GGUF is checked by `paddock.validation.audit`. If a header cannot be read, only the digest is checked
here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from paddock.errors import CorruptFile, MalformedGguf, NoPermission, NoSuchFile, NotGguf
from paddock.gguf.reader import FileSource, read_header
from paddock.model.artifact import SnapshotFile
from paddock.model.finding import Finding, Severity
from paddock.model.quantization import is_gguf
from paddock.model.source import Expected
from paddock.transfer.digest import RunningDigest, digest_file

_PULL_AGAIN = "pull the model again"
DAMAGED = frozenset({"integrity.size", "integrity.sha256"})
"""The rules whose findings mean that the bytes of a file changed since it was stored."""


def check_stored(path: Path, file: SnapshotFile, *, segment_bytes: int, cure: str = _PULL_AGAIN) -> Iterator[Finding]:
    """Read a whole file of a snapshot, and yield findings on its size, digest and weights.

    `segment_bytes` is the segment length of the snapshot's manifest, and `cure` the advice in findings on damage. Bad
    and unreadable files are reported as findings; nothing is raised for them.
    """
    try:
        with FileSource(path) as source:
            if source.size != file.size:
                message = f"the file has {source.size} bytes, and {file.size} were stored"
                yield Finding("integrity.size", Severity.REJECT, message, file.path, cure)
                return
            yield from _check_bytes(source, file, segment_bytes, cure)
    except (NoSuchFile, NoPermission, CorruptFile, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        yield Finding("integrity.unreadable", Severity.REJECT, f"the file cannot be read: {reason}", file.path, cure)


def _check_bytes(source: FileSource, file: SnapshotFile, segment_bytes: int, cure: str) -> Iterator[Finding]:
    from paddock.gguf.weights import WeightsScan

    scan = None
    if is_gguf(file.path):
        with suppress(NotGguf, MalformedGguf):
            scan = WeightsScan(read_header(source))
    expected = Expected(file.size, file.sha256)
    digest = digest_file(
        source.descriptor,
        expected,
        segment_bytes=segment_bytes,
        like=next(iter(file.segments), None),
        on_block=scan.feed if scan else None,
    )
    if digest.position != file.size or digest.mismatch(expected):
        message = f"the sha256 is {digest.sha256}, and {file.sha256} was stored{_damaged_segments(digest, file)}"
        yield Finding("integrity.sha256", Severity.REJECT, message, file.path, cure)
    elif scan:
        for finding in scan.findings():
            where = f"{file.path}: {finding.where}"
            yield Finding(finding.rule, finding.severity, finding.message, where, finding.cure)


def _damaged_segments(digest: RunningDigest, file: SnapshotFile) -> str:
    """The damaged segments in words; empty if the manifest has no segment digests for the file."""
    if len(file.segments) != len(digest.segments):
        return ""
    bad = [number for number, pair in enumerate(zip(digest.segments, file.segments, strict=True)) if pair[0] != pair[1]]
    shown = ", ".join(map(str, bad[:8]))
    return f": segment{'s' if len(bad) > 1 else ''} {shown} of {len(file.segments)} (from 0)" if bad else ""
