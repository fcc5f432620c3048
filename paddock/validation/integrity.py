"""Whether the bytes of a stored file are those that were recorded, and its weights sound: one read for both.

The structure of a GGUF is `paddock.validation.audit`'s to judge: where a header cannot be read, only the digest is
checked here.
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

_AGAIN = "pull the model again"
DAMAGED = frozenset({"integrity.size", "integrity.sha256"})
"""The rules that say that a file's bytes are not those that were stored."""


def check_stored(path: Path, file: SnapshotFile, *, segment_bytes: int, cure: str = _AGAIN) -> Iterator[Finding]:
    """Read a file of a snapshot through, and yield what is wrong with it. It raises nothing for a bad file. `cure` says
    what to do about damage."""
    try:
        with FileSource(path) as source:
            if source.size != file.size:
                message = f"the file has {source.size} bytes, and {file.size} were stored"
                yield Finding("integrity.size", Severity.REJECT, message, file.path, cure)
                return
            yield from _check_bytes(source, file, segment_bytes, cure)
    except (NoSuchFile, NoPermission, CorruptFile, OSError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        yield Finding("integrity.unreadable", Severity.REJECT, f"the file cannot be read: {said}", file.path, cure)


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
        message = f"the sha256 is {digest.sha256}, and {file.sha256} was stored{_where(digest, file)}"
        yield Finding("integrity.sha256", Severity.REJECT, message, file.path, cure)
    elif scan:
        for found in scan.findings():
            yield Finding(found.rule, found.severity, found.message, f"{file.path}: {found.where}", found.cure)


def _where(digest: RunningDigest, file: SnapshotFile) -> str:
    """Which segments are damaged, where the file's own are known."""
    if len(file.segments) != len(digest.segments):
        return ""
    bad = [number for number, pair in enumerate(zip(digest.segments, file.segments, strict=True)) if pair[0] != pair[1]]
    shown = ", ".join(map(str, bad[:8]))
    return f": segment{'s' if len(bad) > 1 else ''} {shown} of {len(file.segments)} (from 0)" if bad else ""
