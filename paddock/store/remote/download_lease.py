"""Download lease: one worker of a fleet fetches a blob from the Hub, the others wait until it is in the remote store.

A lease is a small object, `leases/<sha256>.json`. It is created on the condition that there is none, and its owner
renews it by rewriting it, on the condition that it still is what the owner wrote last. A lease that was not renewed for
`lease_s` seconds has expired: another worker may take it over, on the same condition. Its age is measured by the object
service's clock; where that says nothing that can be, who waits for it measures how long it stayed as it is
(`paddock.lifecycle.acquire.lease_wait`). Nothing in a lease itself says how long it holds. A lease counts only after it
was read back: a service may answer a write that it did not store.

A lease only saves bandwidth. An owner that was suspended for too long finds its lease taken over, and goes on: its
bytes are verified like any others, and two workers have downloaded the blob from the Hub.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from paddock.errors import PaddockError
from paddock.model.names import Sha256, printable
from paddock.store.history import whoami
from paddock.store.protocol import DownloadLease, HeldLease
from paddock.store.remote.conditional_writes import ConditionalWrites
from paddock.store.remote.objects import Objects
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import count_field, text_field
from paddock.untrusted.json_text import parse_object

_MAX_BYTES = 4096
_CLOCK_ERROR_S = 60.0
"""A lease that is so far in the future of the service's clock has no age that can be relied on."""
_RENEWALS = 3  # in each period of `lease_s`, so that one failed or late renewal does not lose the lease

log = logging.getLogger(__name__)


def take(
    objects: Objects, writes: ConditionalWrites, sha256: Sha256, *, lease_s: float
) -> DownloadLease | HeldLease | None:
    """Take the lease of a blob, or return who holds it; None when another worker took it at this moment, or the service
    does not store it. Raises StoreUnavailable, StoreRefused."""
    key = _key(sha256)
    found = objects.get(key)
    if found is not None:
        owner, done_bytes = _read(found.content)
        is_valid = -_CLOCK_ERROR_S <= found.age_s <= lease_s
        return HeldLease(owner, done_bytes, not is_valid, found.tag)
    lease = ObjectLease(objects, writes, key)
    return lease if lease.write(None) and lease.is_stored() else None


def take_over(objects: Objects, writes: ConditionalWrites, sha256: Sha256, other: HeldLease) -> DownloadLease | None:
    """Take the lease of a worker that is dead or makes no progress. None when it changed meanwhile."""
    lease = ObjectLease(objects, writes, _key(sha256))
    return lease if lease.write(other.tag) and lease.is_stored() else None


class ObjectLease(DownloadLease):
    """A download lease that this process holds, stored as an object."""

    def __init__(self, objects: Objects, writes: ConditionalWrites, key: str) -> None:
        self._objects = objects
        self._writes = writes
        self._key = key
        self._token = secrets.token_hex(8)
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._tag: str | None = None
        self._done_bytes = 0
        self._ended = threading.Event()

    def set_progress(self, done_bytes: int) -> None:
        self._done_bytes = done_bytes

    @contextmanager
    def held(self, *, lease_s: float) -> Iterator[None]:
        thread = threading.Thread(target=self._renew, args=[lease_s / _RENEWALS], name="paddock-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(lease_s)  # a renewal that hangs can do no harm later: it is a conditional write
            self.release()

    def write(self, tag: str | None) -> bool:
        """Write the lease if the object still has that tag, or with None if there is no object. False when another
        worker was faster."""
        content = {
            "by": whoami(),
            "process": os.getpid(),
            "token": self._token,
            "since": self._since,
            "done_bytes": self._done_bytes,
        }
        written = self._writes.put_if(self._key, json.dumps(content).encode(), tag=tag)
        if written is None:  # also when an earlier attempt was written, and only its response was lost
            written = self._stored_tag()
        self._tag = written
        return written is not None

    def is_stored(self) -> bool:
        """Whether the service has this lease: read back, since another worker may have written it too."""
        return self._stored_tag() is not None

    def _stored_tag(self) -> str | None:
        found = self._objects.get(self._key)
        return found.tag if found is not None and _token(found.content) == self._token else None

    def release(self) -> None:
        try:
            if self.is_stored():
                self._objects.delete(self._key)
        except PaddockError as error:
            log.debug("the lease %s is not removed, and expires: %s", self._key, error)

    def _renew(self, every_s: float) -> None:
        while not self._ended.wait(every_s):
            try:
                is_ours = self.write(self._tag)
            except PaddockError as error:  # the next renewal may get through
                log.debug("the lease %s was not renewed: %s", self._key, error)
                continue
            if not is_ours:
                log.warning("another worker took over %s: this one did not renew it in time", self._key)
                return


def _key(sha256: Sha256) -> str:
    return f"leases/{sha256}.json"


def _token(content: bytes) -> str | None:
    """The token of the process that wrote a lease; None where the content is no lease."""
    try:
        return text_field(parse_object(content, max_bytes=_MAX_BYTES), "token", max_length=64)
    except UnusableContent:
        return None


def _read(content: bytes) -> tuple[str, int]:
    """(owner, bytes done). Others can write to the bucket: for content that is no lease the owner is unknown."""
    try:
        lease = parse_object(content, max_bytes=_MAX_BYTES)
        by, since = (printable(text_field(lease, name, max_length=300)) for name in ("by", "since"))
        return f"{by} (process {count_field(lease, 'process')}) since {since}", count_field(lease, "done_bytes")
    except UnusableContent:
        return "an unknown worker", 0
