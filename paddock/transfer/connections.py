"""Connections that another thread can end.

A thread that waits for a socket sees no flag. So each new socket is noted, and shutting all of them down wakes every
thread at once, which a time-out short enough for Ctrl-C could not do without breaking slow connections.
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


class Connections:
    """Pooled connections for up to `count` threads, through the proxy that the system sets for an address."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._ended = False

    def pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = getproxies().get(parts.scheme)
        if proxy and proxy_bypass(parts.hostname or ""):
            proxy = None
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._make_pool(proxy)
            return self._pools[proxy]

    def end(self) -> None:
        """Shut every socket down; those that are opened later, too."""
        with self._lock:
            self._ended = True
            sockets = list(self._sockets)
        for sock in sockets:
            _shut_down(sock)

    def close(self) -> None:
        """After `end`, and after the threads: a connection that is given back while its pool is cleared stays open."""
        self.end()
        for pool in self._pools.values():
            pool.clear()

    def _note(self, sock: socket.socket | None) -> None:
        if sock is None:
            return
        with self._lock:
            self._sockets.add(sock)
            ended = self._ended
        if ended:
            _shut_down(sock)

    def _make_pool(self, proxy: str | None) -> urllib3.PoolManager:
        note = self._note

        class NotedHTTP(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                note(self.sock)

        class NotedHTTPS(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                note(self.sock)

        class HTTPPool(HTTPConnectionPool):
            ConnectionCls = NotedHTTP

        class HTTPSPool(HTTPSConnectionPool):
            ConnectionCls = NotedHTTPS

        manager = (
            urllib3.ProxyManager(proxy, maxsize=self._count) if proxy else urllib3.PoolManager(maxsize=self._count)
        )
        manager.pool_classes_by_scheme = {"http": HTTPPool, "https": HTTPSPool}
        return manager


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        # Not SSLSocket's own: it drops its state under the feet of the thread that reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
