"""The content of a response to a range request is told by its status, Content-Range and length."""

from __future__ import annotations

import io

import pytest
import urllib3

from paddock.transfer.response import RangesNotSupported, ResponseBody, RetryableResponseError, open_body

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
