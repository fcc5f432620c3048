"""Serve the local Hub from a thread: one HTTP server for its API, and one for the bytes of files in LFS.

Both listen on the loopback address. The bytes server stands for the CDN: it accepts signed URLs only, its ETag is not
the file's sha256 (no CDN's is), and it refuses and counts requests that carry a token, since tokens are for the Hub
alone. The API server has two more endpoints, for other processes: `/_admin/stats` returns (GET) and resets (DELETE) the
counters; `/_admin/faults` lists (GET), injects (POST) and clears (DELETE) faults.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import quote, urlencode

import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from infra.local.hub.api import HubApi
from infra.local.hub.counters import Counters, Stats
from infra.local.hub.faults import Fault, Faults
from infra.local.hub.repositories import LocalHub, Repository, RepositoryEntry
from infra.local.hub.response import (
    ConnectionEnd,
    Disconnected,
    HubResponse,
    StoredFile,
    file_response,
    json_response,
    send_response,
    text_response,
)

LOOPBACK = "127.0.0.1"
_CLOSING_TURNS = 8


class HubService:
    """A running local Hub. Created by `serve_hub`; its methods may be called from any thread."""

    def __init__(self, hub: LocalHub, *, address: str, bytes_address: str, signed_for_s: float) -> None:
        self.hub = hub
        self.address = address
        self.bytes_address = bytes_address
        self._signed_for_s = signed_for_s
        self._secret = secrets.token_bytes(32)
        self._expired: set[str] = set()
        self._counters = Counters()
        self._faults = Faults()
        self._api = HubApi(hub, sign=self._sign)

    def repository(self, name: str, *, gated: bool | None = None, private: bool | None = None) -> Repository:
        return self.hub.repository(name, gated=gated, private=private)

    def rename(self, old: str, new: str) -> None:
        self.hub.rename(old, new)

    def stats(self) -> Stats:
        return self._counters.stats()

    def reset_stats(self) -> None:
        self._counters.reset()

    def wait_until(self, condition: Callable[[Stats], bool], *, timeout_s: float = 30) -> Stats:
        """Wait until the counters satisfy a condition: `wait_until(lambda stats: stats.total_bytes_sent > 1000)`.

        Raises TimeoutError with the counters.
        """
        return self._counters.wait_until(condition, timeout_s)

    def inject(self, kind: str, path: str = "*", **parameters: Any) -> None:
        """Inject a fault; `infra.local.hub.faults` lists the kinds and their parameters."""
        self._faults.inject(Fault(kind, path, **parameters))

    def pending_faults(self) -> list[Fault]:
        return self._faults.pending()

    def clear_faults(self) -> None:
        self._faults.clear()

    async def respond_api(self, request: Request) -> HubResponse:
        if request.scope["path"].startswith("/_admin/"):
            return await self._administer(request)
        self._counters.add_request(request.method, request.scope["path"])
        response = await self._api.respond(request)
        self._faults.apply(response, method=request.method, url_path=request.scope["path"])
        return response

    async def respond_bytes(self, request: Request) -> HubResponse:
        path: str = request.scope["path"]
        self._counters.add_request(request.method, path)
        if "authorization" in request.headers:
            self._counters.add_leaked_token()
            return _error(400, "InvalidArgument", "Only one auth mechanism allowed")
        signature = self._valid_signature(request)
        if signature is None:
            return _error(403, "AccessDenied", "Request has expired")
        org, name, sha256, file_path = path[1:].split("/", 3)
        blob = self.hub.blob(sha256)
        file = StoredFile(f"{org}/{name}/{file_path}", blob, blob.stat().st_size)
        etag = hashlib.sha256(sha256.encode()).hexdigest()[:32]
        response = file_response(file, request.headers, etag=etag, headers={})
        response.expire_url = lambda: self._expired.add(signature)
        self._faults.apply(response, method=request.method, url_path=path)
        return response

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, state: ServerState, is_api: bool) -> None:
        """Handle an ASGI request to one of the two servers."""
        request = Request(scope, receive)
        response = await (self.respond_api if is_api else self.respond_bytes)(request)

        def count_bytes(count: int) -> None:
            assert response.file is not None  # noqa: S101 - called for bytes of files only
            self._counters.add_bytes(response.file.name, count)

        with contextlib.suppress(Disconnected):
            await send_response(response, scope, receive, send, count_bytes)
            if response.connection_end in (ConnectionEnd.CLOSED, ConnectionEnd.RESET):
                await _disconnect(state, scope, receive, reset=response.connection_end is ConnectionEnd.RESET)

    async def _administer(self, request: Request) -> HubResponse:
        if "origin" in request.headers:
            return json_response({"error": "web pages cannot use this endpoint"}, status=403)
        match request.method, request.scope["path"]:
            case "GET", "/_admin/stats":
                return json_response(self.stats().to_json())
            case "DELETE", "/_admin/stats":
                self.reset_stats()
            case "GET", "/_admin/faults":
                return json_response([asdict(fault) for fault in self.pending_faults()])
            case "DELETE", "/_admin/faults":
                self.clear_faults()
            case "POST", "/_admin/faults":
                try:
                    self._faults.inject(Fault.from_json(json.loads(await request.body())))
                except (TypeError, ValueError) as error:
                    return json_response({"error": f"invalid fault: {error}"}, status=400)
            case _:
                return json_response(
                    {"error": f"no such endpoint: {request.method} {request.scope['path']}"}, status=404
                )
        return json_response({})

    def _sign(self, repository: str, entry: RepositoryEntry) -> str:
        path = f"/{repository}/{entry.sha256}/{entry.path}"
        expires, nonce = str(time.time() + self._signed_for_s), secrets.token_hex(8)
        query = {"Expires": expires, "Nonce": nonce, "Signature": self._signature(path, expires, nonce)}
        return f"{self.bytes_address}{quote(path)}?{urlencode(query)}"

    def _signature(self, path: str, expires: str, nonce: str) -> str:
        return hmac.new(self._secret, f"{path} {expires} {nonce}".encode(), "sha256").hexdigest()

    def _valid_signature(self, request: Request) -> str | None:
        expires, nonce, signature = (request.query_params.get(name, "") for name in ("Expires", "Nonce", "Signature"))
        expected = self._signature(request.scope["path"], expires, nonce)
        is_ours = hmac.compare_digest(signature.encode(), expected.encode())
        is_current = is_ours and time.time() < float(expires) and signature not in self._expired
        return signature if is_current else None


def _error(status: int, code: str, message: str) -> HubResponse:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return text_response(status, text, {"Content-Type": "application/xml"})


async def _disconnect(state: ServerState, scope: Scope, receive: Receive, *, reset: bool) -> None:
    """Close or reset the connection of this request in the middle of its response, and wait until it is closed."""
    for connection in list(state.connections):
        transport: asyncio.Transport = connection.transport
        if transport.get_extra_info("peername") == scope["client"]:
            while transport.get_write_buffer_size() and not transport.is_closing():
                await asyncio.sleep(0.001)  # asyncio reports an empty buffer to the protocol only
            if reset:
                # With a linger time of 0 the kernel sends RST instead of FIN (socket(7)).
                sock: socket.socket = transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort()
            else:
                transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


@contextlib.contextmanager
def serve_hub(
    hub: LocalHub, *, port: int = 0, signed_for_s: float = 3600, bytes_address: str | None = None
) -> Iterator[HubService]:
    """Serve a hub from a thread until the context ends; every connection is then closed at once.

    `port` is that of the Hub's own address; 0 takes a free one. Signed URLs are valid for `signed_for_s` seconds. They
    point to `bytes_address` where it is given, for another server of the blobs (`infra.local.nginx`): that one checks
    no signature, counts nothing and injects no faults.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_listening(number)) for number in (port, 0)]
        addresses = [f"http://{LOOPBACK}:{sock.getsockname()[1]}" for sock in sockets]
        service = HubService(
            hub, address=addresses[0], bytes_address=bytes_address or addresses[1], signed_for_s=signed_for_s
        )
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        thread = threading.Thread(target=_run, args=(loop, service, sockets, stop), name="local-hub")
        thread.start()
        try:
            yield service
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


def _listening(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections of the last run in TIME_WAIT
    sock.bind((LOOPBACK, port))
    sock.listen(128)  # clients may connect from here on; their requests wait for the event loop
    return sock


def _run(
    loop: asyncio.AbstractEventLoop, service: HubService, sockets: list[socket.socket], stop: asyncio.Event
) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_serve(service, sockets, stop))


async def _serve(service: HubService, sockets: list[socket.socket], stop: asyncio.Event) -> None:
    """Run uvicorn's protocol on both sockets, without its server, which takes 0.3 s to stop and waits for clients."""
    states = [ServerState(), ServerState()]
    servers = [
        await _start(service, sock, state, is_api=position == 0)
        for position, (sock, state) in enumerate(zip(sockets, states, strict=True))
    ]
    await stop.wait()
    # Accept no more connections. The servers are closed only when the accepted sockets have become connections, a few
    # turns of the event loop later: Python 3.11 leaks a socket whose server was closed in between.
    for sock in sockets:
        asyncio.get_running_loop().remove_reader(sock)
    for _ in range(_CLOSING_TURNS):
        for connection in [connection for state in states for connection in state.connections]:
            connection.transport.abort()
        await asyncio.sleep(0)
    for server in servers:
        server.close()
    tasks = [task for state in states for task in state.tasks]
    if tasks:
        await asyncio.wait(tasks, timeout=5)


async def _start(service: HubService, sock: socket.socket, state: ServerState, *, is_api: bool) -> asyncio.Server:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await service.handle(scope, receive, send, state=state, is_api=is_api)

    config = uvicorn.Config(
        app, http=H11Protocol, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
    )
    config.load()
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: H11Protocol(config=config, server_state=state, app_state={}), sock=sock)
