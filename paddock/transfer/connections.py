"""Pool HTTP connections that another thread can abort.

A thread that is blocked in a socket call checks no flag. So every new socket is recorded, and shutting all of them down
wakes every thread at once. A time-out short enough for Ctrl-C could not do that without breaking slow connections.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
import time
import weakref
from contextlib import AbstractContextManager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.response import HTTPResponse
from urllib3.util.connection import create_connection
from urllib3.util.ssltransport import SSLTransport

from paddock.network import HttpProxy, Network, Reach
from paddock.transfer.deadlines import Deadlines

_HEADERS_OF_TIMEOUT: Final = 3
_HEADERS_S: Final = 60.0
"""The time for the headers of an answer: so many times the connection's time-out, or this long where it has none."""
_RECORDS_S: Final = 0.02
"""How long records of TLS are collected. On a line so slow that few arrive in it, a round for each costs little."""


class DirectResponse(http.client.HTTPResponse):
    """A response whose body can be received into memory of the caller, as much of it as is there."""

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self._failure: OSError | None = None
        self._arrived: select.poll | None = None
        if isinstance(sock, ssl.SSLSocket):
            self._arrived = select.poll()
            self._arrived.register(sock, select.POLLIN)

    def receive_into(self, memory: memoryview) -> int:
        """Receive at least one byte, and return how many; 0 at the end of the body. Not for one that is `chunked`.
        Raises OSError.

        A read from TLS ends with a record, after 16 KiB: those that arrive within 20 ms are read too.
        """
        if self._failure is not None:
            raise self._failure
        count, until = self._receive(memory), time.monotonic() + _RECORDS_S
        while (
            self._arrived is not None
            and not self.isclosed()
            and count < len(memory)
            and time.monotonic() < until  # the beginning of a record may arrive long before its end
            and self._arrived.poll(0)
        ):
            try:
                count += self._receive(memory[count:])
            except OSError as error:
                self._failure = error
                break
        return count

    def _receive(self, memory: memoryview) -> int:
        if self.isclosed():
            return 0
        count = self.fp.readinto1(memory if self.length is None else memory[: self.length])
        if self.length is not None:
            self.length -= count
        if not count or self.length == 0:
            self.close()  # so that the connection can be used again
        return count


class AbortablePools:
    """Connection pools for up to `count` threads, one for each proxy of a network."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._pools: dict[tuple[Network, HttpProxy | None, Reach, bool], urllib3.PoolManager] = {}
        self._deadlines = Deadlines()
        self._aborted = False

    def pool_for(self, url: str, network: Network, proxy: HttpProxy | None, reach: Reach) -> urllib3.PoolManager:
        """The pool for a URL, whose `proxy` the network chose. Without a proxy, its connections are made to addresses
        within `reach`, or raise ForbiddenAddress. Raises BadSetting for certificates that cannot be used."""
        uses_tls = urlsplit(url).scheme == "https" or (proxy is not None and proxy.scheme == "https")
        with self._lock:
            key = network, proxy, reach, uses_tls
            if key not in self._pools:
                self._pools[key] = self._make_pool(network, proxy, reach, uses_tls=uses_tls)
            return self._pools[key]

    def abort(self) -> None:
        """Shut down every socket, including those that are opened later."""
        with self._lock:
            self._aborted = True
            sockets = list(self._sockets)
        for sock in sockets:
            _shut_down(sock)

    def close(self) -> None:
        """Abort, and close the pools. Call it after the threads ended: a connection that is released while its pool is
        cleared stays open."""
        self.abort()
        self._deadlines.close()
        for pool in self._pools.values():
            pool.clear()

    def _record(self, sock: socket.socket | None) -> None:
        if sock is None:
            return
        with self._lock:
            self._sockets.add(sock)
            aborted = self._aborted
        if aborted:
            _shut_down(sock)

    def _bounded(self, connection: HTTPConnection) -> AbstractContextManager[None]:
        """End the connection unless the headers of its answer are complete in time: each byte of them may take as long
        as the time-out allows."""
        sock, timeout_s = connection.sock, connection.timeout
        limit_s = _HEADERS_OF_TIMEOUT * timeout_s if isinstance(timeout_s, int | float) else _HEADERS_S
        return self._deadlines.within(limit_s, lambda: _shut_down(sock) if sock is not None else None)

    def _make_pool(
        self, network: Network, proxy: HttpProxy | None, reach: Reach, *, uses_tls: bool
    ) -> urllib3.PoolManager:
        record, bounded = self._record, self._bounded
        checked = reach if proxy is None else None

        class RecordedHTTP(HTTPConnection):
            response_class = DirectResponse

            def _new_conn(self) -> socket.socket:
                return super()._new_conn() if checked is None else _connect(self, checked)

            def connect(self) -> None:
                super().connect()
                record(self.sock)

            def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as in urllib3
                with bounded(self):
                    return super().getresponse()

        class RecordedHTTPS(HTTPSConnection):
            response_class = DirectResponse

            def _new_conn(self) -> socket.socket:
                return super()._new_conn() if checked is None else _connect(self, checked)

            def connect(self) -> None:
                super().connect()
                record(self.sock)

            def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as in urllib3
                with bounded(self):
                    return super().getresponse()

        class HTTPPool(HTTPConnectionPool):
            ConnectionCls = RecordedHTTP

        class HTTPSPool(HTTPSConnectionPool):
            ConnectionCls = RecordedHTTPS

        context = network.ssl_context() if uses_tls else None
        manager: urllib3.PoolManager
        if proxy is None:
            manager = urllib3.PoolManager(maxsize=self._count, ssl_context=context)
        else:
            manager = urllib3.ProxyManager(
                proxy.address,
                maxsize=self._count,
                proxy_headers={"Proxy-Authorization": proxy.authorization} if proxy.authorization else None,
                proxy_ssl_context=context if proxy.scheme == "https" else None,
                ssl_context=context,
            )
        manager.pool_classes_by_scheme = {"http": HTTPPool, "https": HTTPSPool}
        return manager


def _connect(connection: HTTPConnection, reach: Reach) -> socket.socket:
    """Connect to the host of a connection, at an address that `reach` allows. Raises ForbiddenAddress, and the errors
    of urllib3."""
    try:
        addresses = reach.addresses(connection.host, connection.port)
    except OSError as error:
        raise NewConnectionError(connection, f"the host name is unknown: {error}") from error
    failure: OSError | None = None
    for address in addresses:
        try:
            return create_connection(
                (address, connection.port),
                connection.timeout,
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, "connecting timed out") from failure
    raise NewConnectionError(connection, f"the connection failed: {failure}") from failure


def _shut_down(sock: socket.socket | SSLTransport) -> None:
    # TLS inside of TLS, through a proxy, is no socket but has one.
    plain = sock.socket if isinstance(sock, SSLTransport) else sock
    with suppress(OSError):
        # Not SSLSocket.shutdown: it drops the TLS state while another thread still reads.
        socket.socket.shutdown(plain, socket.SHUT_RDWR)
