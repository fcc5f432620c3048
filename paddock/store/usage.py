"""What a snapshot was used for: a mark whose time is the last use, and whose content sums up what was served.

    {"requests": 12, "prompt_tokens": 3400, "completion_tokens": 5600}

Several servers add to one mark, each under its lock. Where the file system has no such locks a sum may come out too
small; nothing rests on it.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Usage:
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


def read(mark: Path) -> Usage:
    """What was added so far; nothing where there is no mark, or one that only says when."""
    try:
        descriptor = os.open(mark, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return Usage()
    try:
        return _parse(os.pread(descriptor, _BYTES, 0))
    finally:
        os.close(descriptor)


def add(mark: Path, used: Usage) -> Usage:
    """Add to a mark, which is made where it is missing, and return the sum."""
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        with suppress(OSError):  # no such locks here
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        total = _parse(os.pread(descriptor, _BYTES, 0)) + used
        # One write over the old sum, which is never longer: a reader sees the one or the other.
        content = json.dumps(total.to_json()).encode()
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))  # what was there may have been no sum
        os.utime(descriptor)
        return total
    finally:
        os.close(descriptor)


def _parse(content: bytes) -> Usage:
    try:
        value = json.loads(content)
        return Usage(*(int(value[name]) for name in ("requests", "prompt_tokens", "completion_tokens")))
    except (ValueError, KeyError, TypeError):
        return Usage()
