"""Read each answer of the Hub's API as a whole, within bounds on its size, its time and the objects in it.

huggingface_hub reads and parses an answer of any size, and httpx2 decompresses it first: some kilobytes of a hostile
server become gigabytes. Here at most MAX_ANSWER_BYTES are accepted, counted after decompression.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import httpx2

from paddock.errors import HubRefused
from paddock.network.transport import ANSWER_S
from paddock.untrusted.body import read_body
from paddock.untrusted.content import UnusableContent

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""A listing has some 400 bytes for each file: one of 20,000 files has 8 MB."""
MAX_OBJECTS: Final = 1_000_000
"""Lists and objects in an answer of JSON, of which a listing has three for each file."""
_OF_THE_BODY: Final = ("Content-Encoding", "Content-Length", "Transfer-Encoding")


class BoundedAnswers(httpx2.BaseTransport):
    """Reads the answers that another transport receives. Raises HubRefused for one that cannot be used, and what the
    other one raises."""

    def __init__(self, transport: httpx2.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._transport.handle_request(request)
        if request.method == "HEAD":  # its headers describe a body that is not sent
            return response
        try:
            content = read_body(
                _chunks(response),
                max_bytes=MAX_ANSWER_BYTES,
                deadline_s=ANSWER_S,
                encoding=response.headers.get("Content-Encoding", ""),
            )
            if content.count(b"[") + content.count(b"{") > MAX_OBJECTS:
                raise UnusableContent(f"it has more than {MAX_OBJECTS} lists and objects")
        except UnusableContent as error:
            raise HubRefused(
                f"the answer of {request.url.host} cannot be used: {error.reason}", cure="check HF_ENDPOINT"
            ) from None
        finally:
            response.close()
        headers = response.headers.copy()
        for name in _OF_THE_BODY:
            headers.pop(name, None)
        return httpx2.Response(response.status_code, headers=headers, content=content, extensions=response.extensions)

    def close(self) -> None:
        self._transport.close()


def _chunks(response: httpx2.Response) -> Iterator[bytes]:
    """The bytes of a body as they were sent, as they arrive."""
    if not isinstance(response.stream, httpx2.SyncByteStream):
        raise TypeError("the response has no stream that can be read here")
    yield from response.stream
