"""Conditional writes of small objects: leases and refs, also on a service that ignores or refuses the conditions.

Some S3 servers ignore `If-None-Match` and `If-Match`, or the latter alone; others refuse a request that has one. Which
of these a service does is found out once for each process, when the first condition is needed. Where it cannot be
relied on, the object is read, written without a condition, and read back after a pause. Of two workers that write at
the same moment, both then find the content of the last one, unless one of them is slower than that pause.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum

from paddock.errors import PaddockError
from paddock.store.remote.objects import Objects

_READ_BACK_S = 0.2
"""The longest pause between a write without a condition and the read that confirms it."""

log = logging.getLogger(__name__)


class Conditions(StrEnum):
    """Support of a service for conditional writes."""

    KEPT = "keeps the conditions of writes"
    CREATION_KEPT = "keeps no condition of writes but If-None-Match"
    IGNORED = "ignores the conditions of writes (If-None-Match, If-Match)"
    REFUSED = "refuses writes with a condition (If-None-Match, If-Match)"


class ConditionalWrites:
    """The conditional writes of one object service. Makes no request until a method is called. Safe to use from several
    threads."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._conditions: Conditions | None = None

    def conditions(self) -> Conditions:
        """The support of this service for conditional writes, tried with an object of its own at the first call.

        Raises StoreUnavailable, and StoreRefused where it takes no write at all.
        """
        with self._lock:
            if self._conditions is None:
                self._conditions = try_conditions(self._objects)
                if self._conditions is not Conditions.KEPT:
                    log.warning(
                        "%s %s: of promotions at the same moment the last one may win%s",
                        self._objects.label,
                        self._conditions,
                        ""
                        if self._conditions is Conditions.CREATION_KEPT
                        else ", and workers that start at the same moment may fetch the same file from the Hub",
                    )
            return self._conditions

    def put_if(self, key: str, content: bytes, *, tag: str | None) -> str | None:
        """As `Objects.put_if`."""
        conditions = self.conditions()
        if conditions is Conditions.KEPT or (conditions is Conditions.CREATION_KEPT and tag is None):
            written = self._objects.put_if(key, content, tag=tag)
            # A versioned bucket may refuse the condition that there is no object, because of a delete marker.
            if written is not None or tag is not None or self._objects.get(key) is not None:
                return written
        return self._put_and_read_back(key, content, tag)

    def _put_and_read_back(self, key: str, content: bytes, tag: str | None) -> str | None:
        found = self._objects.get(key)
        if (found.tag if found is not None else None) != tag:
            return None
        self._objects.put(key, content)
        time.sleep(_READ_BACK_S * random.uniform(0.5, 1))  # noqa: S311 (no secret)
        return _tag_if(self._objects, key, content)


def try_conditions(objects: Objects) -> Conditions:
    """Write an object of its own with conditions that hold and with some that do not, five requests in all."""
    with _scratch_key(objects) as key:
        try:
            first = _put_if(objects, key, b"1", tag=None)
        except PaddockError:
            objects.put(key, b"1")  # where that fails too, the conditions were not the reason
            return Conditions.REFUSED
        if first is None:
            return Conditions.REFUSED
        if objects.put_if(key, b"2", tag=None) is not None:
            return Conditions.IGNORED
        try:
            is_replaced = _put_if(objects, key, b"3", tag=first) is not None
            is_kept = is_replaced and objects.put_if(key, b"4", tag=first) is None
        except PaddockError:
            is_kept = False
        return Conditions.KEPT if is_kept else Conditions.CREATION_KEPT


@contextmanager
def _scratch_key(objects: Objects) -> Iterator[str]:
    """A key below `leases/`, where the keys of a worker may write and delete. Its object is removed at the end."""
    key = f"leases/conditions-{secrets.token_hex(8)}"
    try:
        yield key
    finally:
        with suppress(PaddockError):
            objects.delete(key)


def _put_if(objects: Objects, key: str, content: bytes, *, tag: str | None) -> str | None:
    """As `Objects.put_if`, for content that no one else writes: a write whose response was lost counts as well, whose
    repetition is answered that the condition does not hold."""
    return objects.put_if(key, content, tag=tag) or _tag_if(objects, key, content)


def _tag_if(objects: Objects, key: str, content: bytes) -> str | None:
    """The tag of an object if it has this content."""
    found = objects.get(key)
    return found.tag if found is not None and found.content == content else None
