"""A served model from its start to its end: the engine, its supervisor, the front, and an orderly way out.

On SIGTERM or SIGINT nobody new is let in, who waits in the queue is sent away, who is being answered is answered to the
end, and the engine is ended; all of it within the grace period. What still runs when that is nearly over gets a clean
error. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import httpx
import uvicorn

from paddock.errors import ServerUnavailable
from paddock.serving.admission import AdmissionQueue
from paddock.serving.api import WHY, OpenAIApi
from paddock.serving.binding import Binding
from paddock.serving.metrics import Metrics
from paddock.serving.process import EngineProcess
from paddock.serving.proxy import Proxy, Tokens
from paddock.serving.servers import SOCKET, EngineServer, ServerName, server_for
from paddock.serving.spec import ServeSpec, open_model
from paddock.serving.supervisor import Limits, State, Supervisor
from paddock.store.volume.usage import Usage

_LOG = logging.getLogger(__name__)
_END_S = 4.0
"""What of the grace period is left to end the engine, the connections and this process."""
_LAST_S = 0.2
_POLL_S = 0.01
_PATIENCE = httpx.Timeout(10.0, read=None)  # an answer takes as long as it takes: the supervisor sees a hang
_REPORT_S = 60.0


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where it is to be reached, and what answers there."""

    url: str
    server: ServerName
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """`queue` is how many requests may wait, `grace_s` how long the way out may take."""

    limits: Limits
    queue: int
    grace_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """Callbacks. `ready` is called once, after the canary and when the HTTP server listens; `used` every minute, and at
    the end."""

    ready: Callable[[ServerAddress], None]
    used: Callable[[Usage], None]


def serve(
    offer: ServeSpec,
    binding: Binding,
    terms: ServiceLimits,
    ears: Callbacks,
    *,
    program: Path | None = None,
    stop: threading.Event | None = None,
) -> signal.Signals | None:
    """Serve until a signal comes, and return it; where this is not the main thread, until `stop` is set.

    `program` is llama-server; without it llama-cpp-python's server is used. Raises NoSuchFile, BadSetting,
    NoPermission, EngineCrashed after three strikes, as `EngineProcess.start`, and ServerUnavailable where the HTTP
    server ends by itself, or `stop` is set before `ready` was called. A signal is returned whenever it comes: whoever
    wants an exit status of it looks whether `ready` was called.
    """
    return asyncio.run(_Service(offer, binding, terms, ears, server_for(offer, program)).run(stop))


class _Service:
    def __init__(
        self, offer: ServeSpec, binding: Binding, terms: ServiceLimits, ears: Callbacks, engine: EngineServer
    ) -> None:
        self._offer = offer
        self._binding = binding
        self._terms = terms
        self._ears = ears
        self._engine = engine
        self._tokens = Tokens()
        self._places = AdmissionQueue(engine.slots, waiting=terms.queue)
        self._signal: signal.Signals | None = None
        self._was_ready = False

    async def run(self, stop: threading.Event | None) -> signal.Signals | None:
        with (
            open_model(self._offer) as model,
            TemporaryDirectory(prefix="paddock-", ignore_cleanup_errors=True) as home,
            self._binding.listen() as listener,
        ):
            supervisor = Supervisor(
                lambda: EngineProcess(self._engine, model, Path(home)),
                limits=self._terms.limits,
                planned_bytes=self._offer.memory.total_bytes,
                margin_bytes=self._offer.margin_bytes,
                lost=lambda: self._places.turn_away(WHY[State.RESTARTING]),
            )
            transport = httpx.AsyncHTTPTransport(
                uds=str(Path(home, SOCKET)), limits=httpx.Limits(max_keepalive_connections=0)
            )
            async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=_PATIENCE) as client:
                server = self._front(supervisor, client)
                with self._signals(stop) as told:
                    await self._live(supervisor, server, listener, told)
        if self._signal is None and not self._was_ready:
            raise ServerUnavailable(f"the server of {self._offer.name} was stopped before its model was ready")
        return self._signal

    def _front(self, supervisor: Supervisor, client: httpx.AsyncClient) -> uvicorn.Server:
        metrics = Metrics(model=self._offer.name, server=self._engine.name)
        front = OpenAIApi(
            self._offer,
            supervisor,
            Proxy(client, self._places, metrics, self._tokens),
            self._places,
            metrics,
            has_logprobs=self._engine.has_logprobs,
            api_key=self._binding.api_key,
        )
        config = uvicorn.Config(
            front.app(), lifespan="off", log_config=None, access_log=False, server_header=False, timeout_keep_alive=30
        )
        return _Server(config)

    async def _live(
        self, supervisor: Supervisor, server: uvicorn.Server, listener: socket.socket, told: asyncio.Event
    ) -> None:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        working = asyncio.create_task(self._work(supervisor, server, listener))
        reporting = asyncio.create_task(self._report())
        leaving = asyncio.create_task(told.wait())
        try:
            await asyncio.wait({serving, working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()  # raises what the engine failed with
            if serving.done():
                raise _http_server_ended(serving) from serving.exception()
            await self._drain(supervisor, working)
        finally:
            for task in (working, reporting, leaving):
                task.cancel()
            await asyncio.gather(working, reporting, leaving, return_exceptions=True)
            for door in getattr(server, "servers", ()):  # there are none before it has started
                door.close()
            await asyncio.sleep(_LAST_S)  # those who are in already hear a 503, rather than nothing
            server.should_exit = True
            await supervisor.stop(now=self._places.running > 0)
            await asyncio.wait({serving}, timeout=1.0)  # those who were cut off hear of it
            server.force_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            await self._tell_used()

    async def _work(self, supervisor: Supervisor, server: uvicorn.Server, listener: socket.socket) -> None:
        await supervisor.start()
        while not server.started:  # where it never starts, `_live` sees it end, and cancels this
            await asyncio.sleep(_POLL_S)
        self._was_ready = True
        engine = supervisor.engine
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self._ears.ready(ServerAddress(f"http://{shown}:{port}", self._engine.name, engine.load_s if engine else 0.0))
        await supervisor.run()

    async def _drain(self, supervisor: Supervisor, working: asyncio.Task[None]) -> None:
        """Let the running answers end. The listener stays open meanwhile: who comes now hears a 503, and no reset."""
        _LOG.info("shutting down: %d requests are being answered", self._places.running)
        working.cancel()  # an engine that dies now is not started again
        await asyncio.gather(working, return_exceptions=True)
        supervisor.leave()
        self._places.turn_away(WHY[State.STOPPING])
        with suppress(TimeoutError):
            async with asyncio.timeout(max(self._terms.grace_s - _END_S, 0.1)):
                await self._places.idle()
        if self._places.running:
            _LOG.warning("the grace period is over: %d answers are cut off", self._places.running)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            await self._tell_used()

    async def _tell_used(self) -> None:
        """Writing it down may take a while on a shared disk, and answers go on meanwhile."""
        used = self._tokens.take()
        if used.requests:
            await asyncio.to_thread(self._ears.used, used)

    @contextmanager
    def _signals(self, stop: threading.Event | None) -> Iterator[asyncio.Event]:
        """Set when it is time to leave."""
        told, loop = asyncio.Event(), asyncio.get_running_loop()

        def heard(number: int, _frame: FrameType | None) -> None:
            if self._signal is not None:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._signal = signal.Signals(number)
            loop.call_soon_threadsafe(told.set)

        if threading.current_thread() is threading.main_thread():
            before: dict[int, Any] = {
                number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)
            }
            try:
                yield told
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
        else:
            watching = asyncio.create_task(_until(stop or threading.Event(), told))
            try:
                yield told
            finally:
                watching.cancel()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the service's affair."""
        yield


def _http_server_ended(serving: asyncio.Task[None]) -> ServerUnavailable:
    """The error for an HTTP server that nobody told to end."""
    error = None if serving.cancelled() else serving.exception()
    reason = f": {type(error).__name__}: {error}" if error else " by itself"
    return ServerUnavailable(f"the HTTP server ended{reason}", cure="start it again")


async def _until(stop: threading.Event, told: asyncio.Event) -> None:
    while not stop.is_set():
        await asyncio.sleep(0.1)
    told.set()
