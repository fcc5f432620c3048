"""The parts of a volume, one for each concept. Those that only some commands use are made, and their modules imported,
when they are first used: `paddock ls` spends most of its time importing. None of these has a state of its own, so that
two threads may make one each.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.store.volume.blobs import Blobs
from paddock.store.volume.file_states import FileStates
from paddock.store.volume.layout import Layout
from paddock.store.volume.links import PromotedLinks
from paddock.store.volume.pins import Pins
from paddock.store.volume.promotions import Promotions
from paddock.store.volume.published import PublishedManifests
from paddock.store.volume.snapshots import Snapshots
from paddock.store.volume.usage import UsageRecords, this_host

if TYPE_CHECKING:
    from paddock.store.volume.counters import WorkerCounters
    from paddock.store.volume.disk import Disk
    from paddock.store.volume.documents import DocsPages, Notes, Reports, TuningRecords
    from paddock.store.volume.identity import Identity
    from paddock.store.volume.orphans import OrphanSearch
    from paddock.store.volume.refs import RememberedRefs
    from paddock.store.volume.remote_updates import RemoteUpdates
    from paddock.store.volume.removal import Removal
    from paddock.store.volume.serve_leases import ServeLeases
    from paddock.store.volume.space import Space
    from paddock.store.volume.verifications import Verifications
    from paddock.store.volume.work_lock import WorkLock


class VolumeParts:
    """The constructor touches no file. `worker` is the name of this machine in usage records, by default its host
    name."""

    def __init__(self, root: Path, *, worker: str | None = None) -> None:
        self.root = root
        self._layout = Layout(root)
        self.file_states = FileStates(self._layout)
        self.published = PublishedManifests(self._layout)
        self._blobs = Blobs(self._layout, self.file_states)
        self._snapshots = Snapshots(self._layout, self._blobs, self.file_states, self.published)
        self.links = PromotedLinks(self._layout)
        self.promotions = Promotions(self._layout, self._snapshots, self.links)
        self.pins = Pins(self._layout, self._snapshots)
        self.usage = UsageRecords(self._layout, worker or this_host())

    @cached_property
    def remote_updates(self) -> RemoteUpdates:
        from paddock.store.volume.remote_updates import RemoteUpdates

        return RemoteUpdates(self._layout)

    @cached_property
    def refs(self) -> RememberedRefs:
        from paddock.store.volume.refs import RememberedRefs

        return RememberedRefs(self._layout)

    @cached_property
    def counters(self) -> WorkerCounters:
        from paddock.store.volume.counters import WorkerCounters

        return WorkerCounters(self._layout, self.usage.worker)

    @cached_property
    def verifications(self) -> Verifications:
        from paddock.store.volume.verifications import Verifications

        return Verifications(self._layout)

    @cached_property
    def reports(self) -> Reports:
        from paddock.store.volume.documents import Reports

        return Reports(self._layout)

    @cached_property
    def notes(self) -> Notes:
        from paddock.store.volume.documents import Notes

        return Notes(self._layout)

    @cached_property
    def tuning(self) -> TuningRecords:
        from paddock.store.volume.documents import TuningRecords

        return TuningRecords(self._layout)

    @cached_property
    def docs(self) -> DocsPages:
        from paddock.store.volume.documents import DocsPages

        return DocsPages(self._layout)

    @cached_property
    def disk(self) -> Disk:
        from paddock.store.volume.disk import Disk

        return Disk(self._layout)

    @cached_property
    def space(self) -> Space:
        from paddock.store.volume.space import Space

        return Space(self._layout)

    @cached_property
    def maintenance_lock(self) -> WorkLock:
        from paddock.store.volume.work_lock import WorkLock

        return WorkLock(self._layout, "maintenance")

    @cached_property
    def refresh_lock(self) -> WorkLock:
        from paddock.store.volume.work_lock import WorkLock

        return WorkLock(self._layout, "refresh")

    @cached_property
    def identity(self) -> Identity:
        from paddock.store.volume.identity import Identity

        return Identity(self._layout)

    @cached_property
    def _leases(self) -> ServeLeases:
        from paddock.store.volume.serve_leases import ServeLeases

        return ServeLeases(self._layout, self._snapshots, self.usage)

    @cached_property
    def orphans(self) -> OrphanSearch:
        from paddock.store.volume.orphans import OrphanSearch

        return OrphanSearch(self._layout, self._blobs, self._snapshots, self.links)

    @cached_property
    def _removal(self) -> Removal:
        from paddock.store.volume.removal import Removal

        return Removal(
            self._layout,
            blobs=self._blobs,
            snapshots=self._snapshots,
            states=self.file_states,
            published=self.published,
            links=self.links,
            promotions=self.promotions,
            pins=self.pins,
            leases=self._leases,
            orphans=self.orphans,
        )
