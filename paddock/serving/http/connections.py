"""Bound the connections of the HTTP server: their number, and how long a client may keep one without using it.

What uvicorn lacks. When too many are open, `connection_table` decides which of them is closed for a new one.
Connections are closed such that a client that still sends can read the answer before.

The deadline of a request's body is in `bodies`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, Final, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from paddock.serving.http.binding import BACKLOG
from paddock.serving.http.connection_table import ConnectionLimits, ConnectionTable
from paddock.serving.http.strict_http import StrictConnection
from paddock.serving.requests.parse import RequestRefused

_LOG = logging.getLogger(__name__)
_MAX_HEAD_BYTES: Final = 16 * 1024
_SLICE_BYTES: Final = 4096
"""A head is parsed in slices, since h11 checks the size of what is incomplete alone."""
_MAX_PIPELINED_BYTES: Final = 64 * 1024
_MAX_DISCARDED_BYTES: Final = 8 * 2**20
_RECEIVE_BYTES: Final = 32 * 1024
"""So much is read from a socket at once; asyncio's own 256 KiB would be held for each body that waits for its turn."""
_WAITING_BODY_BYTES: Final = 16 * 1024
"""Beyond this a connection is not read from until the application has taken what has come of the body."""
_READ_BYTES: Final = 64 * 1024


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration for a server with such limits. It speaks HTTP/1.1 alone, and trusts no forwarded
    address."""

    def __init__(self, app: Any, limits: ConnectionLimits) -> None:
        super().__init__(
            app,
            http=_BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=limits.accepted,
            timeout_keep_alive=limits.idle_s,  # type: ignore[arg-type]  # it is passed to call_later
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        )
        self.limits = limits
        self.table = ConnectionTable[_BoundedProtocol](limits)


class BoundedServer(uvicorn.Server):
    """uvicorn's server with such a configuration. It leaves signals to its caller."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio accepts `backlog` connections at once, which should be few

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            cast(_BoundedProtocol, connection).abort()
        await asyncio.sleep(0)  # the sockets are closed in the loop's next iteration

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler of an event loop: when file descriptors run out, asyncio tries again, and one line suffices."""
    if "accept() out of system resource" in context.get("message", ""):
        _LOG.warning("no connection can be accepted: %s", context.get("exception"))
    else:
        loop.default_exception_handler(context)


class LogRate(logging.Filter):
    """Let through at most `number` messages in `period_s`, so that no client fills the log, and none of a task that
    was cancelled."""

    def __init__(self, number: int = 10, period_s: float = 60.0) -> None:
        super().__init__()
        self._number = number
        self._period_s = period_s
        self._began, self._seen = -period_s, 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
            return False  # a server that is stopped at once cancels what it does
        now = time.monotonic()
        if now - self._began >= self._period_s:
            if self._seen > self._number:
                record.msg = f"{record.msg} ({self._seen - self._number} messages before were left out)"
            self._began, self._seen = now, 0
        self._seen += 1
        return self._seen <= self._number


_LOG.addFilter(LogRate())


class _BoundedProtocol(H11Protocol):
    """uvicorn's protocol with strict parsing and the limits above."""

    def __init__(
        self,
        config: BoundedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn: StrictConnection = StrictConnection(_MAX_HEAD_BYTES)
        self.logger = _LOG
        self._limits = config.limits
        self._table = config.table
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._discarded_bytes = self._pipelined_bytes = 0
        self._has_dropped = False

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def unread_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.max_size = _RECEIVE_BYTES  # type: ignore[attr-defined]  # of asyncio's transports for sockets
        self._transport = _GentleTransport(cast(asyncio.Transport, transport), self._end)
        super().connection_made(cast(asyncio.Transport, self._transport))
        if self._table.add(self):
            self._set_timer(self._limits.head_s, self._head_is_late)
        else:
            self._write_error(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are being answered")
            self._transport.close_now()

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.discard(self)
        self._set_timer(None)
        self._stop_unread_timer()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        while data and not self._transport.is_closing():
            state = self.conn.their_state
            size = _SLICE_BYTES if state is h11.IDLE else len(data)
            part, data = data[:size], data[size:]
            if state in {h11.IDLE, h11.SEND_BODY} or self._may_pipeline(len(part)):
                super().data_received(part)
        if self._transport.is_closing():
            self._discard(len(data))
        else:
            self._update()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._table.set_unread(self)
        self._stop_unread_timer()
        self._unread_timer = self.loop.call_later(self._limits.flush_s, self._require_reading, self.unread_bytes)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._table.set_read(self)
        self._stop_unread_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._pipelined_bytes = len(self.conn.trailing_data[0])
        if not self._transport.is_closing():
            self._update()

    def shutdown(self) -> None:
        if self._transport.is_closing():
            self._transport.abort()
        elif self.conn.their_state is h11.SEND_BODY:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "this server is shutting down")
        else:
            with suppress(h11.LocalProtocolError):  # a state in which h11 cannot end the connection
                super().shutdown()
                return
            self._transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - ours names the problem
        self._refuse(self.conn.status, self.conn.problem)

    def abort(self) -> None:
        """Close the connection at once."""
        self._mark_disconnected()
        self._transport.abort()

    def _should_upgrade(self) -> bool:
        return False  # to nothing, and without a message: a server may ignore `Upgrade`

    def _may_pipeline(self, size: int) -> bool:
        """Whether to keep bytes that came after a request that is not answered yet, for later.

        Others are read and dropped, since only a connection that is read from shows that its client is gone; it is then
        closed after the answer.
        """
        self._pipelined_bytes += size
        is_open = self.conn.their_state not in {h11.MUST_CLOSE, h11.CLOSED, h11.ERROR}
        if is_open and self._pipelined_bytes <= _MAX_PIPELINED_BYTES and not self._has_dropped:
            return True
        self._has_dropped = True
        self.cycle.keep_alive = False
        return False

    def _update(self) -> None:
        """Set what follows from the state of the request."""
        if self.conn.their_state is h11.IDLE:
            self._table.set_idle(self)
            if not self.conn.trailing_data[0]:
                self._set_timer(None)  # uvicorn's timer for `idle_s` runs
            elif self._timer is None:
                self._unset_keepalive_if_required()
                self._set_timer(self._limits.head_s, self._head_is_late)
            return
        self._set_timer(None)
        if self.conn.their_state is h11.SEND_BODY:
            self._table.set_reading(self)
            if len(self.cycle.body) > _WAITING_BODY_BYTES:
                self.flow.pause_reading()
        else:
            self._table.set_busy(self)
            self.flow.resume_reading()

    def _head_is_late(self) -> None:
        if self.conn.trailing_data[0]:
            message = f"the request's head did not arrive within {self._limits.head_s:g} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, message)
        else:
            self.abort()

    def _require_reading(self, unread_bytes: int) -> None:
        """Close the connection if the client has read less than the next part of its answer since the last time."""
        now_unread = self.unread_bytes
        if unread_bytes - now_unread < _READ_BYTES:
            self.abort()
        else:
            self._unread_timer = self.loop.call_later(self._limits.flush_s, self._require_reading, now_unread)

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer a request that is not given to the application, or no longer, and close the connection."""
        is_unanswered = self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}
        self._mark_disconnected()
        if is_unanswered:
            self._write_error(status, message)
        self._end(discard=True)

    def _write_error(self, status: HTTPStatus, message: str) -> None:
        body = json.dumps(RequestRefused(status, message).to_json()).encode()
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + body)

    def _mark_disconnected(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _end(self, *, discard: bool = False) -> None:
        """Close the connection once the answer was sent.

        A socket with unread bytes is closed with a reset, on which a client may lose the answer: then the rest of the
        request is read for a while.
        """
        self._unset_keepalive_if_required()
        self._table.set_reading(self)  # it may be closed earlier for another
        if discard or self._has_dropped or self.conn.their_state is h11.SEND_BODY:
            self._set_timer(self._limits.discard_s, self._transport.abort)
            self._transport.half_close()
        else:
            self._set_timer(self._limits.flush_s, self._transport.abort)
            self._transport.close_now()

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        if self._discarded_bytes > _MAX_DISCARDED_BYTES:
            self._transport.abort()

    def _set_timer(self, seconds: float | None, callback: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, callback) if seconds is not None and callback else None


class _GentleTransport:
    """A transport of which `close` calls `end`, which closes it in one of two ways."""

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self._inner = transport
        self._end = end
        self._is_ending = False
        self.write = transport.write
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def is_closing(self) -> bool:
        return self._is_ending or self._inner.is_closing()

    def close(self) -> None:
        if not self.is_closing():
            self._end()

    def half_close(self) -> None:
        """Send what was written and then the end, but go on reading."""
        self._is_ending = True
        try:
            self._inner.write_eof()
            self._inner.resume_reading()
        except OSError:  # the client has reset the connection
            self._inner.abort()

    def close_now(self) -> None:
        self._is_ending = True
        self._inner.close()
