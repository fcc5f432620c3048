"""Pin and unpin snapshots: a pinned one is kept by every clean-up.

A pin is an empty file, `.paddock/pins/org--name/<revision>/<variant>`. Removal and retention refuse a pinned snapshot.
"""

from __future__ import annotations

import os
from contextlib import suppress

from paddock.errors import NotOnVolume, UnsafeName
from paddock.model.names import ModelName, parse_revision
from paddock.model.reference import SnapshotId, parse_variant
from paddock.store import durable
from paddock.store.durable import disk_errors
from paddock.store.volume.layout import Layout
from paddock.store.volume.snapshots import Snapshots


class Pins:
    def __init__(self, layout: Layout, snapshots: Snapshots) -> None:
        self.root = layout.root
        self._layout = layout
        self._snapshots = snapshots

    @disk_errors
    def add(self, id: SnapshotId) -> None:
        """Pin a snapshot. Does nothing when it is pinned. Raises NotOnVolume."""
        if not self._snapshots.exists(id):
            raise NotOnVolume(f"{id} is not on {self._layout.label}", cure="pull it first")
        mark = self._layout.pin(id)
        self._layout.make_directory(mark.parent)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, durable.UNDER_UMASK))
        durable.sync_directory(mark.parent)
        # An eviction looks for pins again after it made the snapshot invisible: one of the two sees the other.
        if not self._snapshots.exists(id):
            mark.unlink(missing_ok=True)
            raise NotOnVolume(f"{id} was removed from {self._layout.label} just now", cure="pull it again")

    @disk_errors
    def remove(self, id: SnapshotId) -> bool:
        """Unpin a snapshot. Returns whether it was pinned."""
        mark = self._layout.pin(id)
        try:
            self._layout.check_directory(mark.parent)
            mark.unlink()
        except FileNotFoundError:
            return False
        return True

    @disk_errors
    def of(self, model: ModelName) -> set[SnapshotId]:
        """The pinned snapshots of a model."""
        home = self._layout.pins(model)
        found = set()
        for revision in self._layout.names(home):
            for variant in self._layout.names(home / revision):
                with suppress(UnsafeName):  # not a file of Paddock's
                    found.add(SnapshotId(model, parse_revision(revision), parse_variant(variant)))
        return found
