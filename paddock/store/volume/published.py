"""Records of published manifests: a copy of each one, outside of its snapshot, named by its own digest.

    .paddock/published/org--name/<revision>/<variant>/<sha256 of the manifest>.json

A manifest is compared with them whenever it is read: one that was edited after it was published is not used, and is
written again from its copy. There may be several, since two processes may publish the same snapshot at the same time,
each with its own date.

A snapshot without a record was published by an earlier version of Paddock, or somebody removed the record. It can be
used, but nothing in its manifest is relied on: all of its files are read and audited before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from paddock.errors import CorruptFile
from paddock.model.artifact import MANIFEST_MAX_BYTES
from paddock.model.reference import SnapshotId
from paddock.store import durable
from paddock.store.volume.layout import Layout
from paddock.store.volume.recording import recording
from paddock.untrusted.content import UnusableContent


class RecordMatch(Enum):
    """The result of comparing a manifest with its records."""

    AS_RECORDED = auto()
    NOT_RECORDED = auto()
    OTHER = auto()


class PublishedManifests:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout
        self._recorded: set[Path] = set()
        """Records of this object, also where the volume cannot be written."""

    def compare(self, id: SnapshotId, content: bytes) -> RecordMatch:
        """Compare the content of a snapshot's manifest with its records."""
        path = self._path(id, content)
        if path in self._recorded or path.name in self._names(id):
            return RecordMatch.AS_RECORDED
        return RecordMatch.OTHER if self._names(id) else RecordMatch.NOT_RECORDED

    def record(self, id: SnapshotId, content: bytes) -> None:
        """Record the content of a manifest that was published, or whose snapshot was audited as a whole. Where the
        volume cannot be written, nothing is recorded."""
        path = self._path(id, content)
        self._recorded.add(path)
        if not path.exists():
            with recording(self.root), durable.disk_errors_in(self.root):
                # Another process that removes the snapshot may remove its directory at the same time.
                durable.despite_removals(lambda: self._write(path, content))

    def copies(self, id: SnapshotId) -> list[bytes]:
        """The recorded contents that still have their digest."""
        contents = []
        for name in self._names(id):
            with suppress(OSError, UnusableContent):
                content = self._layout.read(self._layout.published(id) / name, max_bytes=MANIFEST_MAX_BYTES)
                if _name(content) == name:
                    contents.append(content)
        return contents

    def remove(self, id: SnapshotId, *, visible: Callable[[], bytes | None]) -> None:
        """Remove the records of a snapshot that is gone. Where it is published again meanwhile, the record of `visible`
        stays: the content of its manifest, or None."""
        directory = self._layout.published(id)
        self._recorded = {path for path in self._recorded if path.parent != directory}
        with suppress(FileNotFoundError):
            self._layout.check_directory(directory)
            removed = self._layout.names(directory)
            for name in removed:
                durable.remove(directory / name)
            content = None
            with suppress(CorruptFile):
                content = visible()
            if content is not None and _name(content) in removed:
                self.record(id, content)
        with suppress(OSError):  # other variants have theirs there, or it has a new one
            directory.rmdir()
            directory.parent.rmdir()

    def _write(self, path: Path, content: bytes) -> None:
        self._layout.make_directory(path.parent)
        durable.write_atomically(path, content)

    def _names(self, id: SnapshotId) -> list[str]:
        names = self._layout.names(self._layout.published(id))
        return [name for name in names if not name.startswith(durable.STAGING_PREFIX)]

    def _path(self, id: SnapshotId, content: bytes) -> Path:
        return self._layout.published(id) / _name(content)


def _name(content: bytes) -> str:
    return f"{_sha256()(content).hexdigest()}.json"


@cache
def _sha256() -> Callable[[bytes], Any]:
    """Python's own sha256, as `random` takes it: hashlib loads OpenSSL, which takes a twentieth of `paddock ls`."""
    for module in ("_sha2", "_sha256", "hashlib"):  # of Python 3.12 on, of 3.11, and of one that has neither
        with suppress(ImportError):
            implementation: Callable[[bytes], Any] = import_module(module).sha256
            return implementation
    raise AssertionError("hashlib has sha256")
