"""Content types of requests: what is JSON in UTF-8, and what a web page can send without asking."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from starlette.datastructures import Headers

from paddock.serving.http.content_type import require_json
from paddock.serving.refusal import RequestRefused


@pytest.mark.parametrize(
    "value",
    [
        *("application/json", "Application/JSON", "application/json;", "application/json ; charset=utf-8"),
        *("application/json;charset=UTF8", 'application/json; charset="utf-8"', "application/json; v=1; charset=utf-8"),
        *("application/vnd.api+json", "application/problem+JSON; charset=utf-8"),
        *('application/json; profile="a;b, \\"c\\" charset=latin1"', "application/json;\tcharset=utf-8\t;"),
    ],
)
def test_json_in_utf_8_is_accepted(value: str) -> None:
    require_json(Headers({"content-type": value}))


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "json", "text/plain", "text/plain; application/json", "text/plain;charset=application/json"),
        *("application/x-www-form-urlencoded", "multipart/form-data; boundary=application/json", "text/json"),
        *("application/jsonp", "application/json5", "application/json+", "application/x-json", "application/+json2"),
        *("application/json, text/plain", "text/plain, application/json", "application/json text/plain"),
        *("application/json; charset=utf-16", "application/json; charset=latin1", 'application/json; Charset="utf-7"'),
        *("application/json; charset=utf-8; charset=utf-16", "application/json; charset", 'application/json; a="b'),
        *("application /json", "application/json;;charset=utf-16", "*/json", "application/*", "image/svg+json"),
    ],
)
def test_any_other_content_type_is_refused(value: str) -> None:
    with pytest.raises(RequestRefused, match="Content-Type: application/json") as refused:
        require_json(Headers({"content-type": value}))
    assert refused.value.status == 415


def test_a_body_without_a_content_type_is_refused() -> None:
    with pytest.raises(RequestRefused):
        require_json(Headers({}))


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", ""])
def test_a_compressed_body_is_refused(encoding: str) -> None:
    with pytest.raises(RequestRefused, match="content-encoding"):
        require_json(Headers({"content-type": "application/json", "content-encoding": encoding}))


@pytest.mark.parametrize(
    "tail", ["; " * 8000, "\t" * 16000, ';a="' + "\\" * 16000, "a+" * 8000, ";a=b" * 4000 + "\x01"], ids=range(5)
)
def test_a_long_content_type_takes_no_time(tail: str) -> None:
    began = time.process_time()
    for start in ("application/json", "application/"):
        with suppress(RequestRefused):
            require_json(Headers({"content-type": start + tail}))
    assert time.process_time() - began < 0.5
