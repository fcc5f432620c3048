"""The history of one model's promotions: a file with one JSON object a line, only ever appended to.

The promoted pointer is the truth; the history says how it came about. A process can die after it moved the pointer and
before it wrote the line. Whoever appends next writes that line first, and a reader is shown it as if it were there. A
torn last line is ignored.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from paddock.errors import UnsafeName
from paddock.model.names import Revision, parse_revision

_LOCK_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Promotion:
    """`revision` was promoted in the place of `previous`. `by` is `user@host`; `rollback` when it was a step back."""

    revision: Revision
    previous: Revision | None
    at: datetime
    reason: str
    by: str | None
    rollback: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "revision": self.revision,
            "previous": self.previous,
            "at": self.at.isoformat(),
            "reason": self.reason,
            "by": self.by,
            "rollback": self.rollback,
        }

    @classmethod
    def from_json(cls, value: object) -> Promotion:
        """Raises ValueError for anything but what `to_json` made."""
        if not isinstance(value, dict):
            raise ValueError("not an object")  # noqa: TRY004 - one kind of error for one kind of reader
        try:
            previous = value["previous"]
            by = value["by"]
            return cls(
                revision=parse_revision(str(value["revision"])),
                previous=None if previous is None else parse_revision(str(previous)),
                at=datetime.fromisoformat(str(value["at"])),
                reason=str(value["reason"]),
                by=None if by is None else str(by),
                rollback=bool(value.get("rollback", False)),
            )
        except (KeyError, UnsafeName) as error:
            raise ValueError(f"not a promotion: {error}") from None


class History:
    """The lines of one file. Nothing is made before the first `append`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Promotion]:
        """Oldest first; lines that are no promotion are left out."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return []
        with os.fdopen(descriptor, "rb") as lines:
            found = []
            for line in lines:
                try:
                    found.append(Promotion.from_json(json.loads(line)))
                except ValueError:  # torn by a crash, or damaged: the pointer does not depend on it
                    continue
            return found

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out, so that the lines are in the order of the pointer's moves. Where flock does nothing,
        or its holder is stopped, two lines may change places; the pointer is right all the same."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND, 0o644)
        try:
            end = time.monotonic() + _LOCK_WAIT_S
            while not _lock(descriptor) and time.monotonic() < end:
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def append(self, promotion: Promotion) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            line = f"{json.dumps(promotion.to_json(), ensure_ascii=False)}\n".encode()
            os.write(descriptor, b"\n" + line if torn else line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def before(promotions: Sequence[Promotion]) -> list[Revision]:
    """What a rollback may go back to, nearest first.

    A promotion goes forward, a rollback back: after A, B, C and two rollbacks A is promoted, and nothing was before it.
    """
    trail: list[Revision] = []
    for one in promotions:
        if one.rollback and one.revision in trail:
            del trail[len(trail) - trail[::-1].index(one.revision) :]
        elif not trail or trail[-1] != one.revision:
            trail.append(one.revision)
    return trail[-2::-1] if len(trail) > 1 else []


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no such locks here
        return True
    return True


def whoami() -> str:
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user that has no entry
        user = str(os.geteuid())
    return f"{user}@{socket.gethostname()}"
