"""Follow the promotions of the served model: look what its name stands for, and switch to it.

A look also finds out whether the loaded files were found damaged. Then the server refuses requests, until it has loaded
the repaired files of the same snapshot, or another one.

A look, the plan and the lease touch the volume, and so run in threads. A promotion that comes during a switch cancels
it: the last one wins. A revision that failed is tried again when the name has stood for another one in between.

After a switch the new revision is watched (`paddock.serving.switch.watch`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from paddock.errors import CorruptFile, PaddockError
from paddock.model.reference import SnapshotId
from paddock.serving.engine.supervisor import State
from paddock.serving.spec import ServeSpec
from paddock.serving.switch.revision import EngineMemory, ServedRevision
from paddock.serving.switch.revision_switch import RevisionSwitch
from paddock.serving.switch.watch import PromotionWatch
from paddock.serving.threads import in_thread

_LOG = logging.getLogger(__name__)
_RELOAD_AGAIN_S = 30.0


class Stored(Enum):
    """The state of loaded files on the volume: as they were loaded, found damaged, or repaired, which gives a file
    another inode."""

    SOUND = auto()
    DAMAGED = auto()
    REPAIRED = auto()


@dataclass(frozen=True, slots=True)
class PreparedRevision:
    """A revision to switch to. `beside`: it fits beside the engines that are loaded. `release` ends its lease."""

    spec: ServeSpec
    beside: bool
    release: Callable[[], None]


class FollowedName(Protocol):
    """The name that a server follows. Its methods may block for long, and are called in threads.

    `promoted` returns what the name stands for, None for nothing. `stored` is the state of files of a snapshot that are
    loaded, by their inodes. `prepare` leases and plans a snapshot for this machine, on which these engines are loaded.
    All raise PaddockError.
    """

    def promoted(self) -> SnapshotId | None: ...

    def stored(self, id: SnapshotId, inodes: Collection[tuple[int, int]]) -> Stored: ...

    def prepare(self, id: SnapshotId, loaded: Sequence[EngineMemory]) -> PreparedRevision: ...


class Follower:
    """Keep a switch on the revision that a name stands for, until `run` is cancelled.

    `open_revision` opens a prepared revision. Requests that wait for a damaged one are refused with `damaged_reason`.
    `on_result` is called after each attempt, with the revision that is served now; None if it failed. `watch` begins
    after each switch.
    """

    def __init__(
        self,
        name: FollowedName,
        switch: RevisionSwitch,
        open_revision: Callable[[PreparedRevision], ServedRevision],
        *,
        every_s: float,
        on_result: Callable[[ServeSpec | None], Awaitable[None]],
        damaged_reason: str,
        watch: PromotionWatch | None = None,
    ) -> None:
        self._name = name
        self._switch = switch
        self._open = open_revision
        self._every_s = every_s
        self._on_result = on_result
        self._wanted = switch.current.spec.id
        self._changed = asyncio.Event()
        self._damaged_reason = damaged_reason
        self._repaired: ServedRevision | None = None
        self._reload_after = 0.0
        self._watch = watch
        if watch is not None:
            watch.on_refused = self.serve_instead
        self._replaced: tuple[SnapshotId, SnapshotId] | None = None

    async def run(self) -> None:
        looking = asyncio.create_task(self._look())
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                current, wanted = self._switch.current, self._wanted
                if wanted != current.spec.id or current is self._repaired:
                    await self._switch_until_changed(wanted)
                if current is self._repaired is self._switch.current and wanted == self._wanted != current.spec.id:
                    await self._switch_until_changed(current.spec.id)
                self._repaired = None
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    def serve_instead(self, id: SnapshotId, before: SnapshotId) -> None:
        """Serve `before` for as long as the name stands for `id`."""
        self._replaced = id, before
        self._want(before)

    def _want(self, id: SnapshotId) -> None:
        if id != self._wanted:
            self._wanted = id
            self._changed.set()

    async def _look(self) -> None:
        """Look again and again what the name stands for. A look that fails says so once."""
        failure = ""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                wanted = await in_thread(self._name.promoted)
                for revision in self._switch.loaded:
                    await self._check_stored(revision)
            except Exception as error:  # whatever fails, the server goes on
                if (reason := _reason(error)) != failure:
                    failure = reason
                    _LOG.warning("the promoted revision cannot be read: %s", reason)
                continue
            failure = ""
            if wanted is None:
                continue
            if self._replaced is not None and wanted != self._replaced[0]:
                self._replaced = None
            if self._watch is not None and wanted == self._switch.current.spec.id:
                self._watch.is_promoted()
            self._want(self._replaced[1] if self._replaced else wanted)

    async def _check_stored(self, revision: ServedRevision) -> None:
        """Withdraw a revision whose files were found damaged, and load it again once they are repaired."""
        stored = await in_thread(lambda: self._stored(revision))
        if stored is Stored.SOUND:
            return
        if self._switch.state is not State.DAMAGED:
            _LOG.warning("files of %s were found damaged: no request is answered from them", revision.spec.id)
        await self._switch.withdraw(revision, self._damaged_reason)
        now = asyncio.get_running_loop().time()
        if stored is Stored.REPAIRED and revision is self._switch.current and now >= self._reload_after:
            self._reload_after = now + _RELOAD_AGAIN_S
            self._repaired = revision
            self._changed.set()

    def _stored(self, revision: ServedRevision) -> Stored:
        """The state of the files that a revision has loaded. Files that were changed meanwhile are read again."""
        try:
            revision.spec.check_files()
        except CorruptFile:
            stored = self._name.stored(revision.spec.id, revision.inodes)
            return Stored.DAMAGED if stored is Stored.SOUND else stored
        return self._name.stored(revision.spec.id, revision.inodes)

    async def _switch_until_changed(self, id: SnapshotId) -> None:
        switching = asyncio.create_task(self._try_to_switch(id))
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({switching, changed}, return_when=asyncio.FIRST_COMPLETED)
            if not switching.done() and self._switch.current.spec.id != id:
                _LOG.info("the switch to %s is given up: %s is promoted now", id, self._wanted)
        finally:
            for task in (switching, changed):
                task.cancel()
            await asyncio.gather(switching, changed, return_exceptions=True)

    async def _try_to_switch(self, id: SnapshotId) -> None:
        began, before = time.perf_counter(), self._switch.current
        if self._watch is not None:
            self._watch.end()
        try:
            await self._switch_to(id)
        except Exception as error:  # whatever fails, the server goes on
            current = self._switch.current.spec.id
            _LOG.warning("the switch to %s failed, and %s is served still: %s", id, current, _reason(error))
            if self._watch is not None:
                self._watch.switch_failed()
            await self._on_result(None)
        else:
            _LOG.info("%s is served now, %.1f s after its promotion was seen", id, time.perf_counter() - began)
            if self._watch is not None:
                self._watch.begin(before, began)
            await self._on_result(self._switch.current.spec)

    async def _switch_to(self, id: SnapshotId) -> None:
        current = self._switch.current.spec.id
        earlier = self._switch.find_draining(f"{id.variant}@{id.revision}") if id != current else None
        if earlier is not None:
            self._switch.take_over(earlier)
            return
        if id == current:
            _LOG.info("the files of %s are repaired: preparing to load them", id)
        else:
            _LOG.info("%s is promoted: preparing the switch from %s", id, current)
        prepared = await self._prepare(id)
        while not prepared.beside and len(self._switch.memory) > 1:
            await in_thread(prepared.release)
            _LOG.info("%s does not fit beside the loaded engines: waiting for the last answers of one", id)
            await self._switch.wait_drained()
            prepared = await self._prepare(id)
        revision = await in_thread(lambda: self._open(prepared), discard=ServedRevision.close_files)
        try:
            if prepared.beside:
                _LOG.info("%s is loaded beside %s", id, self._switch.current.spec.id)
                await self._switch.load_beside(revision)
            else:
                _LOG.info("%s is loaded once %s has ended its answers", id, self._switch.current.spec.id)
                await self._switch.load_alone(revision)
        except BaseException:
            if revision is not self._switch.current:
                await revision.close()
            raise

    async def _prepare(self, id: SnapshotId) -> PreparedRevision:
        loaded = self._switch.memory
        return await in_thread(lambda: self._name.prepare(id, loaded), discard=lambda prepared: prepared.release())


def _reason(error: Exception) -> str:
    if not isinstance(error, PaddockError):
        return f"{type(error).__name__}: {error}"
    return f"{error.message} ({error.cure})" if error.cure else error.message
