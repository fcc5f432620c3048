"""Record when each snapshot was last used, and how many requests and tokens were served from it.

A usage record is a file, `.paddock/usage/org--name/<revision>/<variant>`. Its modification time is the last use, and
its content the sum:

    {"requests": 12, "prompt_tokens": 3400, "completion_tokens": 5600}

Several servers add to one record, each under an flock. On a file system without flock a sum may come out too small;
nothing depends on it.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from paddock.model.reference import SnapshotId
from paddock.store.durable import UNDER_UMASK, disk_errors
from paddock.store.volume.layout import Layout

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests and tokens that were served."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def to_json(self) -> dict[str, int]:
        return asdict(self)


class UsageRecords:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def touch(self, id: SnapshotId) -> None:
        """Set the time of the last use to now."""
        record = self._layout.usage(id)
        self._layout.make_directory(record.parent)
        os.close(os.open(record, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, UNDER_UMASK))
        os.utime(record, follow_symlinks=False)

    @disk_errors
    def add(self, id: SnapshotId, used: Usage) -> Usage:
        """Add to the sum, set the time of the last use to now, and return the new sum."""
        record = self._layout.usage(id)
        self._layout.make_directory(record.parent)
        descriptor = os.open(record, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, UNDER_UMASK)
        try:
            with suppress(OSError):  # no flock on this file system
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            total = _parse(os.pread(descriptor, _MAX_BYTES, 0)) + used
            # One write over the old sum, which is never longer: a reader sees either the old or the new sum.
            content = json.dumps(total.to_json()).encode()
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))  # the old content may have been longer if it was no sum
            os.utime(descriptor)
            return total
        finally:
            os.close(descriptor)

    @disk_errors
    def read(self, id: SnapshotId) -> Usage:
        """The sum so far; zero where there is no record, or one with a time only."""
        try:
            descriptor = os.open(self._layout.usage(id), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return Usage()
        try:
            return _parse(os.pread(descriptor, _MAX_BYTES, 0))
        finally:
            os.close(descriptor)

    @disk_errors
    def last_used(self, id: SnapshotId) -> datetime | None:
        """The time of the last use, in UTC; None where there was none."""
        try:
            return datetime.fromtimestamp(self._layout.usage(id).lstat().st_mtime, UTC)
        except FileNotFoundError:
            return None


def _parse(content: bytes) -> Usage:
    try:
        value = json.loads(content)
        return Usage(*(int(value[name]) for name in ("requests", "prompt_tokens", "completion_tokens")))
    except (ValueError, KeyError, TypeError):
        return Usage()
