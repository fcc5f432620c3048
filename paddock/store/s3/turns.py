"""Whose turn it is to ask the Hub for a blob: `leases/<sha256>.json`.

However many workers lack the same blob, one of them takes the turn and fetches it; the others wait until it is in S3.
A *turn* is a small object that is made on the condition that there is none (If-None-Match), and that its owner writes
anew again and again while it works, each time on the condition that it is still the one it wrote last (If-Match). One
that was not written for `lease_s` has a dead owner, and who finds it so takes it over, on the same condition. Its age
is told by the server's clock alone.

A turn only saves bandwidth. An owner that was silent for too long and then wakes finds its turn taken, and goes on:
what it brings is verified like anything else, and two workers have asked the Hub.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from paddock.errors import PaddockError
from paddock.model.names import Sha256
from paddock.store.history import whoami
from paddock.store.s3.objects import Objects

_BEATS = 3  # in the life of a lease: one that is lost, or late, costs nothing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Others:
    """The turn is another's: `by` says whose, for people, and `done_bytes` how far it is. `is_dead` where it was silent
    for longer than a living one is."""

    by: str
    done_bytes: int
    is_dead: bool
    tag: str


class Turn:
    """A turn that is ours. `tell` says how far the work is; the next sign of life carries it."""

    def __init__(self, objects: Objects, key: str) -> None:
        self._objects = objects
        self._key = key
        self._token = secrets.token_hex(8)
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._tag: str | None = None
        self._done_bytes = 0
        self._ended = threading.Event()

    def tell(self, done_bytes: int) -> None:
        self._done_bytes = done_bytes

    @contextmanager
    def held(self, *, lease_s: float) -> Iterator[None]:
        """Show from a thread that we live, until the block ends; then give the turn back."""
        thread = threading.Thread(target=self._beat, args=[lease_s / _BEATS], name="paddock-turn", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(lease_s)  # a sign of life that hangs comes too late: it is written on a condition
            self.give_back()

    def write(self, tag: str | None) -> bool:
        """Write it in the place of what had that tag. False when somebody else did meanwhile."""
        said = {
            "by": whoami(),
            "process": os.getpid(),
            "token": self._token,
            "since": self._since,
            "done_bytes": self._done_bytes,
        }
        written = self._objects.put_if(self._key, json.dumps(said).encode(), tag=tag)
        if written is None:  # also where the one before went through, and only its answer was lost
            found = self._objects.get(self._key)
            written = found.tag if found is not None and _token(found.content) == self._token else None
        self._tag = written
        return written is not None

    def give_back(self) -> None:
        """Remove it, unless it is another's by now. Where that cannot be asked, it dies of age."""
        try:
            found = self._objects.get(self._key)
            if found is not None and _token(found.content) == self._token:
                self._objects.delete(self._key)
        except PaddockError as error:
            log.debug("the turn %s is left to its end: %s", self._key, error)

    def _beat(self, every_s: float) -> None:
        while not self._ended.wait(every_s):
            try:
                is_ours = self.write(self._tag)
            except PaddockError as error:  # the next one may get through
                log.debug("no sign of life for %s: %s", self._key, error)
                continue
            if not is_ours:
                log.warning("another worker took over %s: this one was silent for too long", self._key)
                return


class Turns:
    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix

    def take(self, sha256: Sha256, *, lease_s: float) -> Turn | Others | None:
        """Our turn where nobody has it, or else whose it is; None when another took it just now: ask again. Raises
        StoreUnavailable, StoreRefused."""
        key = self._key(sha256)
        found = self._objects.get(key)
        if found is not None:
            by, done_bytes = _read(found.content)
            return Others(by, done_bytes, found.age_s > lease_s, found.tag)
        turn = Turn(self._objects, key)
        return turn if turn.write(None) else None

    def take_over(self, sha256: Sha256, other: Others) -> Turn | None:
        """Take the turn of one that is dead, or that gets nowhere. None when it moved meanwhile."""
        turn = Turn(self._objects, self._key(sha256))
        return turn if turn.write(other.tag) else None

    def _key(self, sha256: Sha256) -> str:
        return f"{self._prefix}leases/{sha256}.json"


def _token(content: bytes) -> str | None:
    """Which turn a lease is of."""
    try:
        return str(json.loads(content)["token"])
    except (ValueError, KeyError, TypeError):
        return None


def _read(content: bytes) -> tuple[str, int]:
    """(whose, how far). Others can write to a bucket: what is no lease is nobody's."""
    try:
        told = json.loads(content)
        who = f"{str(told['by'])[:100]} (process {int(told['process'])})"
        return f"{who} since {str(told['since'])[:40]}", int(told["done_bytes"])
    except (ValueError, KeyError, TypeError):
        return "nobody that is known", 0
