"""Removal marks: a blob of a remote store that no manifest names is marked first, and removed days later.

A mark is a small object, `marks/<sha256>.json`, that is only written on the condition that it still is what was read:

    {"state": "marked" | "claimed" | "needed", "at": "2026-05-01T03:00:00+00:00"}

| state | who writes it |
|---|---|
| `marked` | a clean-up that finds no manifest that names the blob |
| `claimed` | a clean-up that is about to remove the blob, whose mark is old enough |
| `needed` | a worker that sends or publishes the blob, or a clean-up that finds a manifest that names it after all |

A clean-up claims the blob, then looks at all manifests once more, then removes the blob, then the mark. A worker that
publishes a snapshot makes its manifest visible, then waits until none of its blobs is claimed, then looks for each
blob. So one of the two always sees the other. The claim of a clean-up that died is taken over after CLAIM_S, by the
store's own clock; a clean-up checks before each removal that it still has the claim.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from paddock.errors import BlobMissing, UnsafeName
from paddock.model.names import Sha256, parse_sha256
from paddock.store.protocol import RemovalMark
from paddock.store.remote.conditional_writes import ConditionalWrites
from paddock.store.remote.objects import Objects
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.fields import text_field
from paddock.untrusted.json_text import parse_object

CLAIM_S = 900.0
"""A claim that is older is that of a clean-up that died."""
_PREFIX = "marks/"
_MAX_BYTES = 4096
_WAIT_S, _POLL_S = 20.0, 0.5


class RemovalMarks:
    """The marks of one store. Makes no request until a method is called."""

    def __init__(self, objects: Objects, writes: ConditionalWrites) -> None:
        self._objects = objects
        self._writes = writes

    def all(self) -> dict[Sha256, RemovalMark]:
        """The mark of each blob that has one."""
        with ThreadPoolExecutor(self._objects.connections) as pool:
            keys = list(self._marked())
            found = zip(keys, pool.map(self.read, keys), strict=True)
            return {sha256: mark for sha256, mark in found if mark is not None}

    def read(self, sha256: Sha256) -> RemovalMark | None:
        found = self._objects.get(_key(sha256))
        if found is None:
            return None
        try:
            state = text_field(parse_object(found.content, max_bytes=_MAX_BYTES), "state")
        except UnusableContent:  # not written by Paddock: it is replaced
            state = "needed"
        return RemovalMark(state, found.age_s, found.tag)

    def write(self, sha256: Sha256, state: str, before: RemovalMark | None) -> str | None:
        """Write a mark in place of `before`. Returns its tag, or None when another worker wrote it meanwhile."""
        content = {"state": state, "at": datetime.now(UTC).isoformat(timespec="microseconds")}
        return self._writes.put_if(_key(sha256), json.dumps(content).encode(), tag=before.tag if before else None)

    def clear(self, blobs: Iterable[Sha256]) -> None:
        """Set the marks of these blobs to `needed`, so that they are not removed on the strength of an earlier look."""
        for sha256 in self._marked(blobs):
            self.clear_one(sha256)

    def clear_one(self, sha256: Sha256) -> None:
        mark = self.read(sha256)
        if mark is not None and mark.state == "marked":
            self.write(sha256, "needed", mark)

    def withdraw(self, sha256: Sha256, mark: RemovalMark) -> None:
        """Withdraw a mark, of a blob that is needed or gone: it becomes `needed`, and is removed by a later call."""
        if mark.state == "marked":
            self.write(sha256, "needed", mark)
        elif mark.age_s > CLAIM_S:  # no clean-up can have claimed it since it was read
            self._objects.delete(_key(sha256))

    def wait_until_unclaimed(self, blobs: Iterable[Sha256], *, wait_s: float = _WAIT_S) -> None:
        """Wait until no clean-up is about to remove one of these blobs. Raises BlobMissing where that takes long."""
        wanted, end = set(blobs), time.monotonic() + wait_s
        while claimed := [sha256 for sha256 in self._marked(wanted) if self._is_claimed(sha256)]:
            if time.monotonic() > end:
                raise BlobMissing(
                    f"a clean-up of {self._objects.label} is about to remove the blob {claimed[0]}",
                    cure="try again in a few minutes",
                )
            time.sleep(_POLL_S)

    def remove_blobs(
        self,
        blobs: Mapping[Sha256, RemovalMark],
        *,
        needed: Callable[[], Set[Sha256] | None],
        delete: Callable[[Sha256], None],
    ) -> set[Sha256]:
        """Remove blobs that are marked, and return those that were removed. `needed` returns the blobs that are named
        now, or None where that is not known; it is called once after all of them are claimed."""
        claims = {
            sha256: tag for sha256, mark in blobs.items() if (tag := self.write(sha256, "claimed", mark)) is not None
        }
        in_use = needed() if claims else None
        removed = set()
        for sha256, tag in claims.items():
            mark = self.read(sha256)
            if mark is None or mark.tag != tag:  # another worker took it over
                continue
            if in_use is None or sha256 in in_use:
                self.write(sha256, "needed", mark)
                continue
            delete(sha256)
            self._objects.delete(_key(sha256))
            removed.add(sha256)
        return removed

    def _is_claimed(self, sha256: Sha256) -> bool:
        """Whether a live clean-up claims a blob. The claim of a dead one is taken over."""
        mark = self.read(sha256)
        if mark is None or mark.state != "claimed":
            return False
        return abs(mark.age_s) <= CLAIM_S or self.write(sha256, "needed", mark) is None

    def _marked(self, among: Iterable[Sha256] | None = None) -> list[Sha256]:
        """The blobs that have a mark of any state, of all or of these."""
        wanted, found = None if among is None else set(among), []
        for key, _ in self._objects.list(_PREFIX):
            with suppress(UnsafeName):  # not an object of Paddock's
                sha256 = parse_sha256(key.removeprefix(_PREFIX).removesuffix(".json"))
                if wanted is None or sha256 in wanted:
                    found.append(sha256)
        return found


def _key(sha256: Sha256) -> str:
    return f"{_PREFIX}{sha256}.json"
