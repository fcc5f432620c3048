"""The framing of bodies in chunks: what two servers could read differently is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.serving.http.chunk_framing import ChunkFraming
from tests.support.raw_http import chunks

GOOD = {
    "one chunk": chunks(b"a" * 9),
    "many chunks": chunks(b"a" * 900, size=7),
    "zeros before the size": b"0000a\r\n0123456789\r\n000\r\n\r\n",
    "upper and lower case": b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
    "a body with line ends": chunks(b"\r\n\n\r;0\r\n\r\n"),
    "a trailer": chunks(b"a")[:-2] + b"X: y\r\n\r\n",
    "bytes after the end": chunks(b"a") + b"GET / HTTP/1.1\n\n",
    "a part": b"5\r\nab",
}
BAD = {
    "an extension": (b"1;a=b\r\na\r\n0\r\n\r\n", "extensions"),
    "an extension of the last chunk": (b"1\r\na\r\n0;a\r\n\r\n", "extensions"),
    "an extension without an end": (b"1;" + b"a" * 100, "extensions"),
    "a space before an extension": (b"1 ;a\r\n", "extensions"),
    "a space after the size": (b"1 \r\na\r\n0\r\n\r\n", "hexadecimal"),
    "a space before the size": (b" 1\r\na\r\n0\r\n\r\n", "hexadecimal"),
    "a sign": (b"+1\r\na\r\n", "hexadecimal"),
    "a prefix": (b"0x1\r\na\r\n", "hexadecimal"),
    "an underscore": (b"1_0\r\n", "hexadecimal"),
    "no size": (b"\r\n", "hexadecimal"),
    "a size of 17 digits": (b"0" * 16 + b"1\r\na\r\n", "hexadecimal"),
    "a size without an end": (b"1" * 19, "hexadecimal"),
    "a line feed after the size": (b"1\na\r\n0\r\n\r\n", "carriage return"),
    "a line feed after a chunk": (b"1\r\na\n0\r\n\r\n", "carriage return"),
    "a line feed at the end": (b"1\r\na\r\n0\r\n\n", "carriage return"),
    "a carriage return in the size": (b"1\r\r\na\r\n", "hexadecimal"),
    "a chunk that is longer than its size": (b"1\r\nab\r\n0\r\n\r\n", "longer"),
    "a trailer on two lines": (b"0\r\nX: y\r\n z\r\n\r\n", "trailer"),
    "a control character in a trailer": (b"0\r\nX: \x01\r\n\r\n", "trailer"),
    "a carriage return in a trailer": (b"0\r\nX: a\rb\r\n\r\n", "trailer"),
    "small chunks": (chunks(b"a" * 1100, size=1), "too many small chunks"),
}


def problem(body: bytes, *, step: int | None = None) -> str | None:
    framing = ChunkFraming()
    size = step or max(1, len(body))
    for start in range(0, len(body), size):
        framing.feed(body[start : start + size])
    return framing.problem


@pytest.mark.parametrize("step", [None, 1, 3])
@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD)
def test_a_well_formed_body_has_no_problem(body: bytes, step: int | None) -> None:
    assert problem(body, step=step) is None


@pytest.mark.parametrize("step", [None, 1, 3])
@pytest.mark.parametrize(("body", "expected"), BAD.values(), ids=BAD)
def test_a_body_that_can_be_read_differently_is_named(body: bytes, expected: str, step: int | None) -> None:
    assert expected in (problem(body, step=step) or "")


@given(st.binary(max_size=60) | st.text("01af;\r\n \t:x", max_size=60).map(str.encode), st.integers(1, 7))
def test_how_the_bytes_arrive_does_not_matter(body: bytes, step: int) -> None:
    assert (problem(body) is None) == (problem(body, step=step) is None)
