"""Usage in an object service: an object for each worker and volume, and one for those that have been silent for long.

    usage/<worker>/<volume id>.jsonl    the rows of a worker on a volume, replaced as a whole by that worker alone
    usage/silent.jsonl                  the rows of workers whose objects were not written for a month

Containers come and go with a name of their own each, so that the number of objects would grow without an end. In the
second kind of object each worker's rows follow a line that names it: `{"source": "<worker>/<volume id>"}`. A worker
that writes its own object again replaces these: where there are both, its own object counts. So moving rows twice, or
half of the way, changes no sum.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from paddock.store.manifests import check_report_name
from paddock.store.remote.conditional_writes import ConditionalWrites
from paddock.store.remote.objects import Objects, StoredObject
from paddock.store.usage import MAX_CONTENT_BYTES, UsageRow, add_up, check_worker, parse_rows, write_rows
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.json_text import parse_json

_ROOT = "usage/"
_SILENT = f"{_ROOT}silent.jsonl"
_SOURCE = b'{"source": '
_WRITES = 5
_MAX_SOURCE_BYTES = 1024


class RemoteUsage:
    def __init__(self, objects: Objects, writes: ConditionalWrites) -> None:
        self._objects = objects
        self._writes = writes

    def write(self, worker: str, volume_id: str, content: bytes) -> None:
        """As `RemoteStore.write_usage`."""
        self._objects.put(f"{_ROOT}{check_worker(worker)}/{check_report_name(volume_id)}.jsonl", content)

    def rows(self) -> list[UsageRow]:
        """As `RemoteStore.usage`."""
        own = {source: found.content for source, found in self._own().items()}
        silent, _ = self._silent()  # read last: what is moved meanwhile is found here
        return add_up(row for content in (silent | own).values() for row in parse_rows(content))

    def merge_silent(self, *, silent_s: float) -> int:
        """As `RemoteStore.merge_silent_usage`."""
        for _ in range(_WRITES):
            before, tag = self._silent()
            moved = {source: found for source, found in self._own().items() if found.age_s >= silent_s}
            if not moved:
                return 0
            rows = {source: write_rows(parse_rows(found.content)) for source, found in moved.items()}
            kept = {source: content for source, content in before.items() if source not in rows}
            if self._writes.put_if(_SILENT, _join(kept | rows), tag=tag) is not None:
                for source, found in moved.items():
                    self._drop(source, found)
                return len(moved)
        return 0  # other workers do the same

    def _own(self) -> dict[str, StoredObject]:
        """The objects of the workers, by `<worker>/<volume id>`."""
        keys = [key for key, _ in self._objects.list(_ROOT) if key.count("/") > 1 and key.endswith(".jsonl")]
        with ThreadPoolExecutor(self._objects.connections) as pool:
            found = zip(keys, pool.map(self._objects.get, keys), strict=True)
            return {key.removeprefix(_ROOT).removesuffix(".jsonl"): one for key, one in found if one is not None}

    def _silent(self) -> tuple[dict[str, bytes], str | None]:
        """(the rows of workers that are silent, by `<worker>/<volume id>`, the tag of their object)."""
        found = self._objects.get(_SILENT)
        return (_split(found.content[:MAX_CONTENT_BYTES]), found.tag) if found else ({}, None)

    def _drop(self, source: str, moved: StoredObject) -> None:
        """Remove an object that was moved, unless its worker wrote it meanwhile."""
        key = f"{_ROOT}{source}.jsonl"
        found = self._objects.stat(key)
        if found is not None and found.tag == moved.tag:
            self._objects.delete(key)


def _join(rows: dict[str, bytes]) -> bytes:
    """The content of the object. Of too many rows those that were moved first are left out."""
    parts = [_SOURCE + json.dumps(source).encode() + b"}\n" + content for source, content in rows.items()]
    while sum(map(len, parts)) > MAX_CONTENT_BYTES:
        parts.pop(0)
    return b"".join(parts)


def _split(content: bytes) -> dict[str, bytes]:
    """The inverse of `_join`. Rows that follow no line with a name are left out."""
    rows: dict[str, bytes] = {}
    for part in content.split(b"\n" + _SOURCE) if content.startswith(_SOURCE) else ():
        head, _, lines = part.removeprefix(_SOURCE).partition(b"\n")
        try:
            source = parse_json(head.removesuffix(b"}"), max_bytes=_MAX_SOURCE_BYTES)
        except UnusableContent:
            continue
        if isinstance(source, str):
            rows[source] = lines.rstrip(b"\n") + b"\n"
    return rows
