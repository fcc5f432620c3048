"""Protocol of an object service's client: the operations that a remote store needs of S3, or of a similar service."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from paddock.model.source import Address
from paddock.store.multipart import MultipartReader

MAX_OBJECT_BYTES = 64 * 1024 * 1024
"""Bytes that are read of a small object at most. The largest is the usage of one worker, with 24 MB."""
MAX_OBJECTS = 2_000_000
"""The most objects in one listing: an endless one is refused."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A small object, as it was read. `tag` identifies its content; `age_s` is its age in seconds by the service's own
    clock, so that no two clocks are compared."""

    content: bytes
    tag: str
    age_s: float


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """An object's size in bytes, and the tag that identifies its content."""

    size: int
    tag: str


class Objects(Protocol):
    """The objects of one bucket below one prefix; keys are relative to the prefix. Safe to use from several threads.

    Every method raises StoreUnavailable, StoreRefused, and no error of a vendor's SDK. A constructor makes no request.
    An object becomes visible as a whole, or not at all. Reads follow writes: what was written is seen by every later
    request. An implementer must not put a credential into `label` or an error.
    """

    @property
    def label(self) -> str:
        """The bucket and prefix for messages: `s3://bucket/prefix`."""
        ...

    @property
    def connections(self) -> int:
        """How many requests may run at once, at least 1."""
        ...

    def get(self, key: str) -> StoredObject | None:
        """Read a small object; None when it is not there. Content longer than MAX_OBJECT_BYTES is cut one byte after
        that."""
        ...

    def put(self, key: str, content: bytes) -> None:
        """Write a small object, and replace one that is there."""
        ...

    def put_if(self, key: str, content: bytes, *, tag: str | None) -> str | None:
        """Write a small object if it still has that tag, or with None if there is no such object. Returns the new tag,
        or None when another client wrote or removed the object meanwhile."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object. Does nothing when it is not there."""
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """The size and tag of an object; None when it is not there."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size in bytes) of every object whose key begins with `prefix`."""
        ...

    def address(self, key: str) -> Address:
        """An HTTP address that serves range requests for the object, for at least an hour. Makes no request for the
        object itself."""
        ...

    def trials(self, key: str) -> dict[str, Callable[[], str]]:
        """The trials of the features of `paddock.store.features` that the other methods do not show, by name, with an
        object at `key`. Each returns what is wrong, or "", and raises as the other methods do."""
        ...

    def upload(
        self,
        key: str,
        reader: MultipartReader,
        *,
        progress: Callable[[int], None],
        keep: Collection[int] = frozenset(),
    ) -> int | None:
        """Send a blob part by part, and return the number of bytes sent: fewer than its size when an interrupted upload
        is resumed. `progress` is called in the caller's thread with the size of each part that is stored, in bytes.

        `keep` are the numbers of the parts that are right in the object that is there: the service may copy them, where
        it can prove that the copy has the bytes of `reader`.

        Returns None when another worker ended the same upload: the caller checks whether the object is there. Errors of
        `reader` are raised unchanged, and no object becomes visible.
        """
        ...
