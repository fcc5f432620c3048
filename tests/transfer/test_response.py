"""The content of a response to a range request is told by its status, Content-Range and length."""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import urllib3

from paddock.transfer.connections import DirectResponse
from paddock.transfer.response import RangesNotSupported, ResponseBody, RetryableResponseError, open_body
from tests.support.certificates import make_authority

FILE = bytes(range(250)) * 800
START, END = 50_000, 150_000
SIZE = len(FILE)
RANGE = f"bytes {START}-{END - 1}/{SIZE}"


def open_response(status: int, body: bytes, *, content_range: str | None, has_length: bool) -> ResponseBody:
    headers = {"Content-Range": content_range} if content_range else {}
    if has_length:
        headers["Content-Length"] = str(len(body))
    response = urllib3.HTTPResponse(io.BytesIO(body), headers=headers, status=status, preload_content=False)
    return open_body(response, start=START, end=END, size=SIZE, whole=False, stall_s=30)


@pytest.mark.parametrize("has_length", [True, False], ids=["length", "no length"])
@pytest.mark.parametrize("status", [206, 200])
@pytest.mark.parametrize(
    ("content_range", "end"),
    [(RANGE, END), (f"bytes {START}-{END - 1}/*", END), (f"bytes {START}-{END - 10_001}/{SIZE}", END - 10_000)],
    ids=["the range", "of unknown size", "a part of the range"],
)
def test_the_content_range_decides_what_a_response_holds(
    status: int, content_range: str, end: int, has_length: bool
) -> None:
    body = open_response(status, FILE[START:end], content_range=content_range, has_length=has_length)
    assert b"".join(requested for _, requested in body.chunks(10_000)) == FILE[START:end]


@pytest.mark.parametrize("content_range", [None, f"bytes */{SIZE}", RANGE, f"bytes 0-{SIZE - 1}/{SIZE}"])
def test_a_response_with_status_200_and_the_length_of_the_file_is_the_whole_file(content_range: str | None) -> None:
    with pytest.raises(RangesNotSupported):
        open_response(200, FILE, content_range=content_range, has_length=True)


@pytest.mark.parametrize("status", [206, 200])
@pytest.mark.parametrize(
    ("content_range", "body"),
    [
        (f"bytes {START + 1}-{END}/{SIZE}", FILE[START + 1 : END + 1]),
        (f"bytes {START}-{END - 1}/{SIZE + 1}", FILE[START:END]),
        (f"bytes {START}-{START + 9}/{SIZE}", FILE[START : START + 10]),
        (RANGE, FILE[START : END - 1]),
        ("pages 1-2/3", b"no bytes"),
    ],
    ids=["shifted", "of another file", "a tiny part", "of another length", "no range of bytes"],
)
def test_a_response_with_anything_else_is_a_wrong_answer(status: int, content_range: str, body: bytes) -> None:
    with pytest.raises(RetryableResponseError) as caught:
        open_response(status, body, content_range=content_range, has_length=True)
    assert caught.value.wrong


@pytest.fixture(params=["plain", "tls"])
def received(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., ResponseBody]]:
    """Makes the body of a response of which all bytes have arrived over a socket."""
    authority = make_authority(tmp_path) if request.param == "tls" else None
    with ExitStack() as stack:

        def receive(header: str, sent: bytes) -> ResponseBody:
            ours, theirs = map(stack.enter_context, socket.socketpair())
            for sock in (ours, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * len(FILE))

            def send() -> None:
                server = authority.server_context().wrap_socket(theirs, server_side=True) if authority else theirs
                server.sendall(f"HTTP/1.1 206 Partial\r\n{header}\r\n".encode() + sent)
                server.shutdown(socket.SHUT_WR)
                stack.enter_context(server)

            writer = threading.Thread(target=send)
            writer.start()
            if authority:
                client = ssl.create_default_context(cafile=authority.ca)
                ours = stack.enter_context(client.wrap_socket(ours, server_hostname="localhost"))
            writer.join()
            answer = DirectResponse(ours)
            stack.callback(answer.close)
            answer.begin()
            response = urllib3.HTTPResponse(
                answer, headers=dict(answer.headers), status=206, preload_content=False, original_response=answer
            )
            return open_body(response, start=START, end=END, size=SIZE, whole=False, stall_s=30)

        yield receive


def test_a_body_is_received_into_memory_and_nothing_behind_it(received: Callable[..., ResponseBody]) -> None:
    header = f"Content-Range: {RANGE}\r\nContent-Length: {END - START}\r\n"
    memory, found, counts = memoryview(bytearray(40_000)), b"", []
    for count, requested in received(header, FILE[START:END] + b"HTTP/1.1 200 Fine").chunks_in(memory):
        assert isinstance(requested, memoryview)
        assert count == len(requested) <= len(memory)
        assert bytes(requested) == bytes(memory[:count])
        found += requested
        counts.append(count)
    assert found == FILE[START:END]
    assert len(counts) <= 4, "all that has arrived is received at once, and not a record of 16 KiB"


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_without_a_length_is_received_too(received: Callable[..., ResponseBody], chunked: bool) -> None:
    sent = FILE[START:END]
    header = f"Content-Range: {RANGE}\r\n" + ("Transfer-Encoding: chunked\r\n" if chunked else "Connection: close\r\n")
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(sent), sent) if chunked else sent
    memory = memoryview(bytearray(30_000))
    chunks = received(header, body).chunks_in(memory)
    assert b"".join(bytes(requested) for _, requested in chunks) == sent


def test_a_body_that_ends_early_is_told(received: Callable[..., ResponseBody]) -> None:
    header = f"Content-Range: {RANGE}\r\nContent-Length: {END - START}\r\n"
    body = received(header, FILE[START : END - 10])
    with pytest.raises(RetryableResponseError, match="ended 10 bytes early"):
        for _ in body.chunks_in(memoryview(bytearray(30_000))):
            pass


def test_records_that_arrive_slowly_are_not_waited_for(tmp_path: Path) -> None:
    authority, records = make_authority(tmp_path), 200
    ours, theirs = socket.socketpair()
    header = f"HTTP/1.1 206 Partial\r\nContent-Length: {records}\r\n\r\n"

    def send() -> None:
        with authority.server_context().wrap_socket(theirs, server_side=True) as server, suppress(OSError):
            server.sendall(header.encode())
            for _ in range(records):
                server.sendall(b"x")
                time.sleep(0.01)

    writer = threading.Thread(target=send)
    writer.start()
    client = ssl.create_default_context(cafile=authority.ca)
    with client.wrap_socket(ours, server_hostname="localhost") as sock, DirectResponse(sock) as answer:
        answer.begin()
        assert answer.receive_into(memoryview(bytearray(2 * records))) < records / 2
    writer.join()


def test_an_error_after_received_bytes_is_raised_by_the_next_call(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    ours, theirs = socket.socketpair()
    broken_record = bytes.fromhex("1703030020") + bytes(32)
    with theirs.dup() as below:

        def send() -> None:
            with authority.server_context().wrap_socket(theirs, server_side=True) as server, suppress(ssl.SSLError):
                server.sendall(b"HTTP/1.1 206 Partial\r\nContent-Length: 30000\r\n\r\n" + bytes(20_000))
                below.sendall(broken_record)
                server.recv(1)  # until the client hangs up

        writer = threading.Thread(target=send)
        writer.start()
        client = ssl.create_default_context(cafile=authority.ca)
        with client.wrap_socket(ours, server_hostname="localhost") as sock, DirectResponse(sock) as answer:
            answer.begin()
            memory, received = memoryview(bytearray(30_000)), 0
            while received < 20_000:
                received += answer.receive_into(memory)
            assert received == 20_000
            for _ in range(2):
                with pytest.raises(ssl.SSLError):
                    answer.receive_into(memory)
        writer.join()
