"""Send bytes to an HTTP server, valid or not, and read what comes back."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

CHAT = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()


@dataclass(frozen=True)
class RawAnswer:
    """The bytes that a server sent until it closed the connection or paused. `end` is `closed`, `open` or `reset`."""

    content: bytes
    end: str

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.content)]

    @property
    def last_json(self) -> object:
        """The last body, which must be JSON."""
        return json.loads(self.content.rpartition(b"\r\n\r\n")[2])


def get(path: bytes, *headers: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([method + b" " + path + b" " + version, b"Host: localhost", *headers, b"", b""])


def post(
    *headers: bytes,
    body: bytes = CHAT,
    has_length: bool = True,
    path: bytes = b"/v1/chat/completions",
    version: bytes = b"HTTP/1.1",
) -> bytes:
    described = [b"Content-Type: application/json"]
    described += [b"Content-Length: %d" % len(body)] if has_length else []
    return get(path, *described, *headers, method=b"POST", version=version) + body


def post_chunked(*headers: bytes, body: bytes | None = None, version: bytes = b"HTTP/1.1") -> bytes:
    """A request with the header for a body in chunks; `body` are the chunks' bytes, by default of one chunk."""
    sent = chunks(CHAT) if body is None else body
    return post(b"Transfer-Encoding: chunked", *headers, body=sent, has_length=False, version=version)


def chunks(content: bytes, *, size: int = 1 << 20, extension: bytes = b"") -> bytes:
    parts = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts) + b"0\r\n\r\n"


def connect(port: int, *, timeout_s: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_s)


def exchange(port: int, content: bytes, *, answers: int = 1, timeout_s: float = 10.0) -> RawAnswer:
    """Send bytes, and read until the server closes the connection or has sent so many answers (of status 200 to 599)
    and pauses."""
    with connect(port, timeout_s=timeout_s) as client:

        def send() -> None:
            with suppress(OSError):  # a server may close the connection before it has read all
                client.sendall(content)

        sender = threading.Thread(target=send)
        sender.start()
        answer = read(client, answers=answers)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        sender.join()
    return answer


def read(client: socket.socket, *, answers: int = 1, pause_s: float = 0.05) -> RawAnswer:
    received = bytearray()
    try:
        while True:
            complete = [status for status in RawAnswer(bytes(received), "").statuses if status >= 200]
            if len(complete) >= answers:
                client.settimeout(pause_s)
            part = client.recv(1 << 16)
            if not part:
                return RawAnswer(bytes(received), "closed")
            received += part
    except TimeoutError:
        return RawAnswer(bytes(received), "open")
    except ConnectionError:
        return RawAnswer(bytes(received), "reset")
