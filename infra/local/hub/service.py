"""The local Hub as two servers on the loopback address, in a thread: the Hub's own address, and the one for bytes.

The second stands for the CDN: it takes signed addresses only, its ETag is not the file's sha256 (no CDN's is), and a
request that brings a token along is refused and counted, since tokens are for the Hub alone. `/_admin/stats` and
`/_admin/faults` on the Hub's address read (GET), order (POST) and clear (DELETE) what `Service` offers in the
process.
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

from infra.local.hub import answer
from infra.local.hub.answer import Disconnected, Ending, HubAnswer, StoredFile
from infra.local.hub.api import HubApi
from infra.local.hub.faults import Fault, Faults
from infra.local.hub.ledger import Ledger, Stats
from infra.local.hub.repositories import LocalHub, Repository, RepositoryEntry

LOOPBACK = "127.0.0.1"
_CLOSING_TURNS = 8


class HubService:
    """A hub that serves. Made by `serve_hub`; its methods may be called from any thread."""

    def __init__(self, hub: LocalHub, *, address: str, bytes_address: str, signed_for_s: float) -> None:
        self.hub = hub
        self.address = address
        self.bytes_address = bytes_address
        self._signed_for_s = signed_for_s
        self._secret = secrets.token_bytes(32)
        self._lapsed: set[str] = set()
        self._ledger = Ledger()
        self._faults = Faults()
        self._api = HubApi(hub, sign=self._sign)

    def repository(self, name: str, *, gated: bool | None = None, private: bool | None = None) -> Repository:
        return self.hub.repository(name, gated=gated, private=private)

    def stats(self) -> Stats:
        return self._ledger.stats()

    def reset_stats(self) -> None:
        self._ledger.reset()

    def wait_until(self, holds: Callable[[Stats], bool], *, timeout_s: float = 30) -> Stats:
        """Waits for a state of the counts: `wait_until(lambda stats: stats.total_bytes_sent > 1000)`."""
        return self._ledger.wait_until(holds, timeout_s)

    def order(self, kind: str, path: str = "*", **numbers: Any) -> None:
        """Orders a fault; `infra.local.hub.faults` has the kinds and their numbers."""
        self._faults.order(Fault(kind, path, **numbers))

    def standing_faults(self) -> list[Fault]:
        return self._faults.standing()

    def clear_faults(self) -> None:
        self._faults.clear()

    async def answer_hub(self, request: Request) -> HubAnswer:
        if request.scope["path"].startswith("/_admin/"):
            return await self._administer(request)
        self._ledger.asked(request.method, request.scope["path"])
        right = await self._api.answer(request)
        self._faults.strike(right, method=request.method, address_path=request.scope["path"])
        return right

    async def answer_bytes(self, request: Request) -> HubAnswer:
        path: str = request.scope["path"]
        self._ledger.asked(request.method, path)
        if "authorization" in request.headers:
            self._ledger.leaked()
            return _refused(400, "InvalidArgument", "Only one auth mechanism allowed")
        signature = self._valid_signature(request)
        if signature is None:
            return _refused(403, "AccessDenied", "Request has expired")
        org, name, sha256, file_path = path[1:].split("/", 3)
        blob = self.hub.blob(sha256)
        file = StoredFile(f"{org}/{name}/{file_path}", blob, blob.stat().st_size)
        right = answer.of_file(file, request.headers, etag=hashlib.sha256(sha256.encode()).hexdigest()[:32], headers={})
        right.lapse = lambda: self._lapsed.add(signature)
        self._faults.strike(right, method=request.method, address_path=path)
        return right

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, state: ServerState, is_hub: bool) -> None:
        """One request, as ASGI has it, to either of the two servers."""
        request = Request(scope, receive)
        given = await (self.answer_hub if is_hub else self.answer_bytes)(request)

        def sent(count: int) -> None:
            assert given.file is not None  # noqa: S101 - only bytes of files are told
            self._ledger.sent(given.file.name, count)

        with contextlib.suppress(Disconnected):
            await answer.send(given, scope, receive, send, sent)
            if given.ending in (Ending.CLOSED, Ending.RESET):
                await _hang_up(state, scope, receive, by_reset=given.ending is Ending.RESET)

    async def _administer(self, request: Request) -> HubAnswer:
        match request.method, request.scope["path"]:
            case "GET", "/_admin/stats":
                return answer.of_json(self.stats().to_json())
            case "DELETE", "/_admin/stats":
                self.reset_stats()
            case "GET", "/_admin/faults":
                return answer.of_json([asdict(fault) for fault in self.standing_faults()])
            case "DELETE", "/_admin/faults":
                self.clear_faults()
            case "POST", "/_admin/faults":
                try:
                    self._faults.order(Fault.from_json(json.loads(await request.body())))
                except (TypeError, ValueError) as error:
                    return answer.of_json({"error": f"not a fault: {error}"}, status=400)
            case _:
                return answer.of_json({"error": f"no {request.method} {request.scope['path']} here"}, status=404)
        return answer.of_json({})

    def _sign(self, repository: str, entry: RepositoryEntry) -> str:
        path = f"/{repository}/{entry.sha256}/{entry.path}"
        expires, nonce = str(time.time() + self._signed_for_s), secrets.token_hex(8)
        query = {"Expires": expires, "Nonce": nonce, "Signature": self._signature(path, expires, nonce)}
        return f"{self.bytes_address}{quote(path)}?{urlencode(query)}"

    def _signature(self, path: str, expires: str, nonce: str) -> str:
        return hmac.new(self._secret, f"{path} {expires} {nonce}".encode(), "sha256").hexdigest()

    def _valid_signature(self, request: Request) -> str | None:
        expires, nonce, given = (request.query_params.get(name, "") for name in ("Expires", "Nonce", "Signature"))
        is_ours = hmac.compare_digest(given.encode(), self._signature(request.scope["path"], expires, nonce).encode())
        return given if is_ours and time.time() < float(expires) and given not in self._lapsed else None


def _refused(status: int, code: str, message: str) -> HubAnswer:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return answer.of_text(status, text, {"Content-Type": "application/xml"})


async def _hang_up(state: ServerState, scope: Scope, receive: Receive, *, by_reset: bool) -> None:
    """Ends the connection of this request in the middle of its answer, and waits until it is gone."""
    for connection in list(state.connections):
        transport: asyncio.Transport = connection.transport
        if transport.get_extra_info("peername") == scope["client"]:
            while transport.get_write_buffer_size() and not transport.is_closing():
                await asyncio.sleep(0.001)  # asyncio tells nobody else but the protocol when its buffer is empty
            if by_reset:
                # A linger time of 0 makes the kernel send RST instead of FIN (socket(7)).
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
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last run in TIME_WAIT do not count
    sock.bind((LOOPBACK, port))
    sock.listen(128)  # from here on a client may connect: its request waits for the loop
    return sock


def _run(
    loop: asyncio.AbstractEventLoop, service: HubService, sockets: list[socket.socket], stop: asyncio.Event
) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_serve(service, sockets, stop))


async def _serve(service: HubService, sockets: list[socket.socket], stop: asyncio.Event) -> None:
    """uvicorn's protocol on both sockets, without its server, which takes 0.3 s to stop and waits for clients."""
    states = [ServerState(), ServerState()]
    servers = [
        await _start(service, sock, state, is_hub=position == 0)
        for position, (sock, state) in enumerate(zip(sockets, states, strict=True))
    ]
    await stop.wait()
    # No more are accepted from here on. A server is closed only when those that were are connections, some turns of the
    # loop later: Python 3.11 forgets a socket whose server was closed in between.
    for sock in sockets:
        asyncio.get_running_loop().remove_reader(sock)
    for _ in range(_CLOSING_TURNS):
        for connection in [one for state in states for one in state.connections]:
            connection.transport.abort()
        await asyncio.sleep(0)
    for server in servers:
        server.close()
    tasks = [task for state in states for task in state.tasks]
    if tasks:
        await asyncio.wait(tasks, timeout=5)


async def _start(service: HubService, sock: socket.socket, state: ServerState, *, is_hub: bool) -> asyncio.Server:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await service.handle(scope, receive, send, state=state, is_hub=is_hub)

    config = uvicorn.Config(
        app, http=H11Protocol, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
    )
    config.load()
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: H11Protocol(config=config, server_state=state, app_state={}), sock=sock)
