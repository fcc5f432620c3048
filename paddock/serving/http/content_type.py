"""Require that the body of a request is said to be JSON in UTF-8.

A web page may send a body of the types that forms have (`text/plain`, `application/x-www-form-urlencoded`,
`multipart/form-data`), or of none, to any address, and a browser asks that address before it sends another type. So a
body counts as JSON only if it is said to be.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers

from paddock.serving.refusal import RequestRefused

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # noqa: S105 - RFC 9110, section 5.6.2
_PARAMETER: Final = rf'(?P<name>{_TOKEN})=(?P<value>{_TOKEN}|"(?:[^"\\]|\\.)*+")'
_JSON: Final = re.compile(
    rf"application/(?:json|{_TOKEN}(?<=\+json))(?P<parameters>(?:[ \t]*+;[ \t]*+(?:{_TOKEN}=(?:{_TOKEN}|"
    rf'"(?:[^"\\]|\\.)*+"))?+)*+)[ \t]*+',
    re.IGNORECASE | re.ASCII,
)
_NAMED: Final = re.compile(rf";[ \t]*+{_PARAMETER}", re.ASCII)
_UTF_8: Final = frozenset({"utf-8", "utf8"})


def require_json(headers: Headers) -> None:
    """Raise RequestRefused for a body that is not said to be JSON in UTF-8 (`application/json`, `application/…+json`),
    or that is compressed."""
    match = _JSON.fullmatch(headers.get("content-type", ""))
    if match is None or not charsets(match["parameters"]) <= _UTF_8:
        raise RequestRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "the body has to be JSON in UTF-8, and the request has to say so: send Content-Type: application/json",
        )
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise RequestRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the content-encoding {encoding[:40]!r} is not supported: send none"
        )


def charsets(parameters: str) -> set[str]:
    """The values of `charset` in the parameters of a media type, in lower case."""
    return {
        match["value"].strip('"').lower() for match in _NAMED.finditer(parameters) if match["name"].lower() == "charset"
    }
