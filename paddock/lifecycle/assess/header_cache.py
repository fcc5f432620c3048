"""Keep the first bytes of remote files on this machine, so that a header is fetched once.

The bytes are kept by the digest of the whole file: its sha256, or the id of its git blob. They are only a hint, as all
bytes of a header are until the whole file was verified. A header that is refused is fetched again without the cache,
and once the whole file is there, what is kept of it is compared (`is_cached_head_right`). The cache is below
`XDG_CACHE_HOME`, not on the volume: reading a volume never needs a write.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from paddock.model.source import Source
from paddock.settings import Settings
from paddock.transfer.ranges import RangeReader
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.files import list_directory, read_head, read_regular

_MAX_FILE_BYTES: Final = 64 << 20
_MAX_CACHE_BYTES: Final = 512 << 20


class HeaderCache:
    """The cache in a directory, which is made when something is kept. Nothing in it is needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, digest: str) -> bytes:
        """The first bytes of the file with this digest; empty where none are kept."""
        try:
            content = read_regular(self._path(digest), max_bytes=32 + _MAX_FILE_BYTES)
        except (OSError, UnusableContent):
            return b""
        check, head = content[:32], content[32:]
        return head if sha256(head).digest() == check else b""

    def put(self, digest: str, head: bytes) -> None:
        """Keep the first bytes of a file. Drops the oldest entries beyond 512 MiB. Never raises."""
        if len(head) > _MAX_FILE_BYTES:
            return
        path = self._path(digest)
        staged = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(OSError, UnusableContent):
            self._directory.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(sha256(head).digest() + head)
            staged.replace(path)
            self._drop_oldest()

    def drop(self, digest: str) -> None:
        """Keep nothing of the file with this digest. Never raises."""
        with suppress(OSError):
            self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / digest

    def _drop_oldest(self) -> None:
        entries = []
        for name in list_directory(self._directory):
            path = self._directory / name
            with suppress(OSError):  # another process dropped it
                status = path.lstat()
                entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= _MAX_CACHE_BYTES:
                return
            path.unlink(missing_ok=True)
            total -= size


def _cache(settings: Settings) -> HeaderCache:
    return HeaderCache(settings.cache / "paddock" / "headers")


@contextmanager
def read_remote(settings: Settings, source: Source, *, fresh: bool = False) -> Iterator[RangeReader]:
    """Read a remote file from its first bytes in the cache on, and keep there what was read beyond them. With `fresh`,
    all is read from the source."""
    cache = _cache(settings)
    key = source.expected.sha256 or source.expected.git_sha1
    head = cache.get(key) if key and not fresh else b""
    with RangeReader(source, head=head, stall_s=settings.stall_s) as reader:
        yield reader
        if key and len(reader.head) > len(head):
            cache.put(key, reader.head)


def is_cached_head_right(settings: Settings, digest: str, path: Path) -> bool:
    """Whether the first bytes that are kept of a file are those of the verified file at `path`, or none are kept. Wrong
    ones are dropped."""
    cache = _cache(settings)
    head = cache.get(digest)
    if not head:
        return True
    try:
        is_right = read_head(path, max_bytes=len(head), follow=True) == head
    except (OSError, UnusableContent):  # not on this machine, removed, or no file
        return True
    if not is_right:
        cache.drop(digest)
    return is_right
