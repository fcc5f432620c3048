"""Run the complete server: engine, supervisor and HTTP API, with a graceful shutdown.

On SIGTERM or SIGINT new requests and those in the queue get a 503, running requests are answered to the end, and the
engine is stopped, all within the grace period. Requests that still run shortly before its end get an error. A second
signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import uvicorn

from paddock.errors import ServerUnavailable
from paddock.serving.admission import AdmissionQueue
from paddock.serving.engine.llama_server import LlamaServerProgram
from paddock.serving.engine.supervisor import State, SupervisorLimits
from paddock.serving.http.allowed_hosts import AllowedHosts
from paddock.serving.http.api import UNAVAILABLE_REASONS, OpenAIApi
from paddock.serving.http.binding import Binding
from paddock.serving.http.bodies import BodyLimits, BodyReader
from paddock.serving.http.connection_table import ConnectionLimits
from paddock.serving.http.connections import BoundedConfig, BoundedServer, log_loop_error
from paddock.serving.http.proxy import Proxy
from paddock.serving.large_blocks import return_large_blocks
from paddock.serving.metrics import Metrics
from paddock.serving.spec import ServeSpec
from paddock.serving.switch.follow import FollowedName, Follower
from paddock.serving.switch.guard import PromotionGuard
from paddock.serving.switch.revision import ServedRevision
from paddock.serving.switch.revision_switch import RevisionSwitch
from paddock.serving.switch.watch import PromotionWatch, WatchReport
from paddock.serving.threads import in_thread
from paddock.store.usage import Usage

_LOG = logging.getLogger(__name__)
_STOP_RESERVE_S = 4.0
"""Part of the grace period that is reserved for stopping the engine, the connections and this process."""
_LAST_REQUESTS_S = 0.2
_RELEASE_S = 5.0
"""How long the volume may take at the end to record the usage and to release the snapshot."""
_POLL_S = 0.01
_REPORT_S = 60.0


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Address of a running server, the version of its llama-server, and how long the model took to load, in seconds."""

    url: str
    server_version: str
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """Limits of a server: `queue` is how many requests may wait, `grace_s` the grace period of a shutdown, and
    `follow_s` the time between two looks at what is promoted."""

    supervisor: SupervisorLimits
    queue: int
    grace_s: float
    follow_s: float = 1.0
    connections: ConnectionLimits = field(default_factory=ConnectionLimits.of_process)
    bodies: BodyLimits = field(default_factory=BodyLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """Callbacks of a server.

    `on_ready` is called once, after the canary has passed and the HTTP server listens. `on_usage` is called in a worker
    thread with the usage of a revision since its last call: every minute in which it answered requests, every ten
    minutes without any, and once at the end.
    `on_switch` is called in a worker thread with the revision that is served now, after each switch to it.
    """

    on_ready: Callable[[ServerAddress], None]
    on_usage: Callable[[ServeSpec, Usage], None]
    on_switch: Callable[[ServeSpec], None] = lambda _: None


def serve(
    spec: ServeSpec,
    binding: Binding,
    limits: ServiceLimits,
    callbacks: Callbacks,
    *,
    program: LlamaServerProgram,
    stop: threading.Event | None = None,
    release: Callable[[], None] = lambda: None,
    follows: FollowedName | None = None,
    guard: PromotionGuard | None = None,
) -> signal.Signals | None:
    """Serve until SIGTERM or SIGINT, and return the signal; outside the main thread, until `stop` is set.

    `release` is called when the engine of `spec` has ended: at the end, or after a switch to another revision. With
    `follows`, the server switches to the revision that this name stands for, whenever that changes, and refuses
    requests while its files are damaged. With `guard`, it watches each revision that it switches to.

    A signal is also returned if it arrives before `on_ready` was called: a caller that derives an exit status must
    check that.

    Raises NoSuchFile, BadSetting, NoPermission, EngineCrashed after three strikes, the errors of `EngineProcess.start`,
    and ServerUnavailable if the HTTP server ends by itself, or `stop` is set before `on_ready` was called.
    """
    return_large_blocks()
    service = _Service(spec, binding, limits, callbacks, program, release=release, follows=follows, guard=guard)
    return asyncio.run(service.run(stop))


class _Service:
    def __init__(
        self,
        spec: ServeSpec,
        binding: Binding,
        limits: ServiceLimits,
        callbacks: Callbacks,
        program: LlamaServerProgram,
        *,
        release: Callable[[], None],
        follows: FollowedName | None,
        guard: PromotionGuard | None,
    ) -> None:
        self._spec = spec
        self._release = release
        self._binding = binding
        self._limits = limits
        self._callbacks = callbacks
        self._program = program
        self._follows = follows
        self._guard = guard
        self._watch: PromotionWatch | None = None
        self._queue = AdmissionQueue[ServedRevision](max_waiting=limits.queue)
        self._metrics = Metrics(model=spec.name, server=program.version)
        self._signal: signal.Signals | None = None
        self._was_ready = False

    async def run(self, stop: threading.Event | None) -> signal.Signals | None:
        with self._binding.listen() as listener:
            switch = RevisionSwitch(
                self._revision(self._spec, self._release), self._queue, on_closed=self._report_usage
            )
            server = self._http_server(switch, listener)
            with self._stop_requested(stop) as stopping:
                await self._run_until_stopped(switch, server, listener, stopping)
        if self._signal is None and not self._was_ready:
            raise ServerUnavailable(f"the server of {self._spec.name} was stopped before its model was ready")
        return self._signal

    def _revision(self, spec: ServeSpec, release: Callable[[], None]) -> ServedRevision:
        return ServedRevision(
            spec,
            self._program,
            self._limits.supervisor,
            on_lost=lambda: self._queue.abort_waiting(UNAVAILABLE_REASONS[State.RESTARTING]),
            release=release,
        )

    def _http_server(self, switch: RevisionSwitch, listener: socket.socket) -> uvicorn.Server:
        api = OpenAIApi(
            switch,
            Proxy(self._queue, self._metrics),
            self._queue,
            self._metrics,
            api_key=self._binding.api_key,
            hosts=AllowedHosts((self._binding.host, listener.getsockname()[0]), self._binding.hosts),
            cors_origins=self._binding.cors_origins,
            watch_report=self._watch_report,
            bodies=BodyReader(self._limits.bodies),
        )
        asyncio.get_running_loop().set_exception_handler(log_loop_error)
        return BoundedServer(BoundedConfig(api.app(), self._limits.connections))

    def _watch_report(self) -> WatchReport | None:
        return self._watch.report if self._watch else None

    async def _run_until_stopped(
        self, switch: RevisionSwitch, server: uvicorn.Server, listener: socket.socket, stopping: asyncio.Event
    ) -> None:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        supervising = asyncio.create_task(self._supervise(switch, server, listener))
        reporting = asyncio.create_task(self._report(switch))
        stop_wait = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({serving, supervising, stop_wait}, return_when=asyncio.FIRST_COMPLETED)
            if supervising.done():
                supervising.result()  # raises the error that the engine failed with
            if serving.done():
                raise _http_server_ended(serving) from serving.exception()
            await self._drain(switch, supervising)
        finally:
            switch.begin_shutdown()
            for task in (supervising, reporting, stop_wait):
                task.cancel()
            await asyncio.gather(supervising, reporting, stop_wait, return_exceptions=True)
            for http_listener in getattr(server, "servers", ()):  # the attribute is missing until uvicorn has started
                http_listener.close()
            await asyncio.sleep(_LAST_REQUESTS_S)  # accepted connections still get a 503 instead of a reset
            server.should_exit = True
            await switch.stop_engines(now=self._queue.running > 0)
            await asyncio.wait({serving}, timeout=1.0)  # time to send the error to requests that were cut off
            server.force_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            try:
                await asyncio.wait_for(switch.close(), _RELEASE_S)
            except TimeoutError:
                _LOG.warning("the volume does not answer: the last usage may not be recorded")

    async def _supervise(self, switch: RevisionSwitch, server: uvicorn.Server, listener: socket.socket) -> None:
        await switch.start()
        while not server.started:  # if it never starts, `_run_until_stopped` sees it end and cancels this task
            await asyncio.sleep(_POLL_S)
        self._was_ready = True
        engine = switch.current.supervisor.engine
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._callbacks.on_ready(ServerAddress(url, self._program.version, engine.load_s if engine else 0.0))
        following = asyncio.create_task(self._follow(switch))
        try:
            await switch.run()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, switch: RevisionSwitch) -> None:
        if self._follows is None:
            return

        async def on_result(switched_to: ServeSpec | None) -> None:
            self._metrics.switches.labels("done" if switched_to else "failed").inc()
            if switched_to is not None:
                try:
                    await in_thread(lambda: self._callbacks.on_switch(switched_to))
                except Exception as error:  # whatever the callback raises, the server goes on
                    _LOG.warning("the switch could not be reported: %s: %s", type(error).__name__, error)

        watch: PromotionWatch | None = None
        if self._guard is not None and self._guard.watch_s > 0:
            watch = PromotionWatch(self._guard, switch, self._metrics, every_s=self._limits.follow_s)
        self._watch = watch
        follower = Follower(
            self._follows,
            switch,
            lambda prepared: self._revision(prepared.spec, prepared.release),
            every_s=self._limits.follow_s,
            on_result=on_result,
            damaged_reason=UNAVAILABLE_REASONS[State.DAMAGED],
            watch=watch,
        )
        await asyncio.gather(follower.run(), *([watch.run()] if watch else []))

    async def _drain(self, switch: RevisionSwitch, supervising: asyncio.Task[None]) -> None:
        """Wait for the running answers. The listener stays open, so that new requests get a 503 instead of a reset."""
        _LOG.info("shutting down: %d requests are being answered", self._queue.running)
        switch.begin_shutdown()  # an engine that dies from now on is not restarted, and no switch begins
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)
        self._queue.abort_waiting(UNAVAILABLE_REASONS[State.STOPPING])
        with suppress(TimeoutError):
            async with asyncio.timeout(max(self._limits.grace_s - _STOP_RESERVE_S, 0.1)):
                await self._queue.wait_idle()
        if self._queue.running:
            _LOG.warning("the grace period is over: %d answers are cut off", self._queue.running)

    async def _report(self, switch: RevisionSwitch) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            for revision in switch.loaded:
                if revision.usage.is_worth_a_report:
                    await self._report_usage(revision)

    async def _report_usage(self, revision: ServedRevision) -> None:
        usage = revision.usage.take()
        if usage != Usage():
            # In a thread: the callback may write to a slow shared disk, and answers must go on meanwhile.
            await in_thread(lambda: self._callbacks.on_usage(revision.spec, usage))

    @contextmanager
    def _stop_requested(self, stop: threading.Event | None) -> Iterator[asyncio.Event]:
        """Yield an event that is set by the first signal, or by `stop` outside the main thread."""
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if self._signal is not None:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._signal = signal.Signals(number)
            loop.call_soon_threadsafe(stopping.set)

        if threading.current_thread() is threading.main_thread():
            previous: dict[int, Any] = {
                number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
            }
            try:
                yield stopping
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)
        else:
            watching = asyncio.create_task(_forward(stop or threading.Event(), stopping))
            try:
                yield stopping
            finally:
                watching.cancel()


def _http_server_ended(serving: asyncio.Task[None]) -> ServerUnavailable:
    """Build the error for an HTTP server that ended without a request to stop."""
    error = None if serving.cancelled() else serving.exception()
    reason = f": {type(error).__name__}: {error}" if error else " by itself"
    return ServerUnavailable(f"the HTTP server ended{reason}", cure="start it again")


async def _forward(stop: threading.Event, stopping: asyncio.Event) -> None:
    """Set the asyncio event once the threading event is set."""
    while not stop.is_set():
        await asyncio.sleep(0.1)
    stopping.set()
