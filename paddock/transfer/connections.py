"""Pool HTTP connections that another thread can abort.

A thread that is blocked in a socket call checks no flag. So every new socket is recorded, and shutting all of them down
wakes every thread at once. A time-out short enough for Ctrl-C could not do that without breaking slow connections.
"""

from __future__ import annotations

import socket
import threading
import weakref
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class AbortablePools:
    """Connection pools for up to `count` threads, one for each proxy that the system sets for a URL."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._aborted = False

    def pool_for(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = getproxies().get(parts.scheme)
        if proxy and proxy_bypass(parts.hostname or ""):
            proxy = None
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._make_pool(proxy)
            return self._pools[proxy]

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

    def _make_pool(self, proxy: str | None) -> urllib3.PoolManager:
        record = self._record

        class RecordedHTTP(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                record(self.sock)

        class RecordedHTTPS(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                record(self.sock)

        class HTTPPool(HTTPConnectionPool):
            ConnectionCls = RecordedHTTP

        class HTTPSPool(HTTPSConnectionPool):
            ConnectionCls = RecordedHTTPS

        manager = (
            urllib3.ProxyManager(proxy, maxsize=self._count) if proxy else urllib3.PoolManager(maxsize=self._count)
        )
        manager.pool_classes_by_scheme = {"http": HTTPPool, "https": HTTPSPool}
        return manager


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        # Not SSLSocket.shutdown: it drops the TLS state while another thread still reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
