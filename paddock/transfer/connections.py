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

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssltransport import SSLTransport

from paddock.network import HttpProxy, Network


class AbortablePools:
    """Connection pools for up to `count` threads, one for each proxy of a network."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._pools: dict[tuple[Network, HttpProxy | None, bool], urllib3.PoolManager] = {}
        self._aborted = False

    def pool_for(self, url: str, network: Network, proxy: HttpProxy | None) -> urllib3.PoolManager:
        """The pool for a URL, whose `proxy` the network chose. Raises BadSetting for certificates that cannot be
        used."""
        uses_tls = urlsplit(url).scheme == "https" or (proxy is not None and proxy.scheme == "https")
        with self._lock:
            key = network, proxy, uses_tls
            if key not in self._pools:
                self._pools[key] = self._make_pool(network, proxy, uses_tls=uses_tls)
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

    def _make_pool(self, network: Network, proxy: HttpProxy | None, *, uses_tls: bool) -> urllib3.PoolManager:
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


def _shut_down(sock: socket.socket | SSLTransport) -> None:
    # TLS inside of TLS, through a proxy, is no socket but has one.
    plain = sock.socket if isinstance(sock, SSLTransport) else sock
    with suppress(OSError):
        # Not SSLSocket.shutdown: it drops the TLS state while another thread still reads.
        socket.socket.shutdown(plain, socket.SHUT_RDWR)
