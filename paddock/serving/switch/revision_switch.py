"""Switch between revisions without dropping a request: which revision gets new requests, and which ends its answers.

    beside   load the new engine -> new requests go to it -> the old one ends its answers, and is stopped
    alone    hold the queue -> the old engine ends its answers, and is stopped -> load the new one -> release the queue

    damaged  stop the engine -> refuse requests -> load the repaired files, beside or alone

A new engine that fails changes nothing *beside*: the old one still serves. *Alone*, the old one is loaded again, and
requests wait in the queue meanwhile. An answer is given by one engine from its beginning to its end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from paddock.errors import PaddockError
from paddock.serving.admission import AdmissionQueue
from paddock.serving.engine.supervisor import State
from paddock.serving.switch.revision import EngineMemory, ServedRevision

_LOG = logging.getLogger(__name__)


class RevisionSwitch:
    """The revision that is served, `current`, and those that still end their answers.

    `first` is loaded by `start`; `run` keeps the current one running. `on_closed` is called after a revision has given
    its last answer and its engine was stopped, and before its snapshot is released.
    """

    def __init__(
        self,
        first: ServedRevision,
        queue: AdmissionQueue[ServedRevision],
        *,
        on_closed: Callable[[ServedRevision], Awaitable[None]],
    ) -> None:
        self.current = first
        self._queue = queue
        self._on_closed = on_closed
        self._draining: dict[ServedRevision, asyncio.Task[None]] = {}
        self._supervising: asyncio.Task[None] | None = None
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None
        self._holding = False
        self._stopping = False
        self._earlier_restarts = 0
        self._withdrawn: ServedRevision | None = None
        self._given_up: BaseException | None = None
        self.on_given_up: Callable[[BaseException], bool] = lambda _: False
        """Called with the error when the current engine is given up. If it returns True, requests wait for a switch,
        which has to follow, or `end_if_given_up`."""

    @property
    def state(self) -> State:
        state = self.current.supervisor.state
        if self._stopping:
            return State.FAILED if state is State.FAILED else State.STOPPING
        if self._withdrawn is self.current:
            return State.DAMAGED
        return State.SWITCHING if self._holding else state

    @property
    def accepts_requests(self) -> bool:
        """Whether new requests are answered: at once, or after a switch for which they wait in the queue."""
        return self.state in {State.READY, State.SWITCHING}

    @property
    def restarts(self) -> int:
        """Restarts of the engines of all revisions."""
        return self._earlier_restarts + sum(revision.supervisor.restarts for revision in self.loaded)

    @property
    def memory(self) -> list[EngineMemory]:
        """The memory of each loaded engine."""
        return [revision.memory for revision in self.loaded if revision is not self._withdrawn]

    @property
    def loaded(self) -> list[ServedRevision]:
        """The current revision, and those that still end their answers."""
        return [self.current, *self._draining]

    async def start(self) -> None:
        """Load the first revision. Raises as `EngineProcess.start`."""
        await self.current.supervisor.start()
        self._serve(self.current)

    async def run(self) -> None:
        """Keep the current revision running until cancelled. Raises EngineCrashed after its last strike."""
        await self._failed.wait()
        assert self._failure is not None  # noqa: S101 - it is set first
        raise self._failure

    def find_draining(self, label: str) -> ServedRevision | None:
        """The revision with this label, if its engine still ends its answers and could serve again."""
        return next((one for one in self._draining if one.label == label and one.is_ready), None)

    async def wait_drained(self) -> None:
        """Wait until only the current revision's engine is loaded."""
        while self._draining:
            await asyncio.wait(self._draining.values())

    def take_over(self, revision: ServedRevision) -> None:
        """Send new requests to a ready revision; the answers that have begun end on the one before."""
        previous = self.current
        ending = self._draining.pop(revision, None)
        if ending is not None:
            ending.cancel()
        self.current = revision
        self._serve(revision)
        if previous is not revision:
            self._draining[previous] = task = asyncio.create_task(self._end(previous))
            task.add_done_callback(partial(self._ended, previous))

    async def load_beside(self, revision: ServedRevision) -> None:
        """Load a new revision beside the current one, and let it take over. If that raises, nothing has changed.

        Raises as `EngineProcess.start`.
        """
        await revision.supervisor.start()
        self.take_over(revision)

    async def load_alone(self, revision: ServedRevision) -> None:
        """Load a new revision once no other engine is loaded, and let it take over. If that raises, the one before
        serves again; requests wait meanwhile.

        Raises as `EngineProcess.start`.
        """
        previous = self.current
        self._holding = True
        self._queue.hold()
        try:
            await self._stop_supervising()
            await self._drained(previous)
            await self.wait_drained()
            await previous.supervisor.stop()
            await revision.supervisor.start()
        except BaseException:
            if not self._stopping:
                await self._return_to(previous)
            raise
        finally:
            self._holding = False
        self.take_over(revision)

    async def withdraw(self, revision: ServedRevision, reason: str) -> None:
        """Give no further answer from a revision: its stored files were found damaged. Its engine is stopped at once,
        which cuts off the answers that it gives; requests that wait are refused with `reason`."""
        if revision is self.current and revision is not self._withdrawn and not self._stopping:
            self._withdrawn = revision
            self._queue.hold()
            self._queue.abort_waiting(reason)
            await self._stop_supervising()
        await revision.supervisor.stop(now=True)

    def end_if_given_up(self, revision: ServedRevision) -> None:
        """Let `run` raise, if the engine of this revision was given up, and no other one has taken over."""
        if self._given_up is not None and revision is self.current:
            self._fail(self._given_up)

    def begin_shutdown(self) -> None:
        """Enter the state `stopping`: engines end their answers, and one that dies is not started again."""
        self._stopping = True
        if self._supervising is not None:
            self._supervising.cancel()

    async def stop_engines(self, *, now: bool) -> None:
        """Stop all engines (see `EngineProcess.stop`)."""
        self.begin_shutdown()
        tasks = [*self._draining.values(), *([self._supervising] if self._supervising else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(revision.supervisor.stop(now=now) for revision in self.loaded))

    async def close(self) -> None:
        """Stop all engines, and release their snapshots."""
        await self.stop_engines(now=True)
        await asyncio.gather(*(self._close(revision) for revision in self.loaded))

    def _serve(self, revision: ServedRevision) -> None:
        if self._supervising is not None:
            self._supervising.cancel()
        self._supervising = asyncio.create_task(revision.supervisor.run())
        self._supervising.add_done_callback(self._supervising_ended)
        self._queue.use(revision)
        self._given_up, self._holding = None, False
        revision.usage.begin()

    def _supervising_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not self._stopping and self.on_given_up(error):
            self._given_up, self._holding = error, True
            self._queue.hold()
        else:
            self._fail(error)

    async def _stop_supervising(self) -> None:
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.gather(self._supervising, return_exceptions=True)
            self._supervising = None

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._failed.set()

    async def _end(self, revision: ServedRevision) -> None:
        """Let a revision end its answers, and close it."""
        await self._drained(revision)
        await self._close(revision)

    def _ended(self, revision: ServedRevision, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # it took over again, or the server stops
            return
        del self._draining[revision]
        self._earlier_restarts += revision.supervisor.restarts
        error = task.exception()
        if error is None:
            _LOG.info("%s has ended its answers, and its engine was stopped", revision.spec.id)
        else:
            _LOG.warning("%s was not closed well: %s: %s", revision.spec.id, type(error).__name__, error)

    async def _drained(self, revision: ServedRevision) -> None:
        """Wait for the last answer of a revision. An engine that fails meanwhile is not started again."""
        watching = asyncio.create_task(revision.supervisor.drain())
        try:
            await self._queue.wait_idle(revision)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _return_to(self, previous: ServedRevision) -> None:
        """Serve the revision again that a new one was to replace, unless it is damaged."""
        if previous is self._withdrawn:
            return
        if not previous.is_ready:
            _LOG.info("%s is loaded again", previous.spec.id)
            await previous.supervisor.stop(now=True)  # the stop before may have been cancelled
            try:
                await previous.supervisor.resume()
            except PaddockError as error:
                self._fail(error)
                raise
        self._serve(previous)

    async def _close(self, revision: ServedRevision) -> None:
        await revision.supervisor.stop()
        await self._on_closed(revision)
        await revision.close()
