"""Refuse requests that name another host, and those of web pages of other origins.

A browser sends the requests of any page that its user has open to any address, also to the loopback address of this
machine. It says so in headers that a page cannot change: `Host`, the host of the address; `Origin`, where the page
comes from; and `Sec-Fetch-Site`, how that is related to the address. Programs send none of the last two. The check
stands before everything else that answers, so it holds for every path and method.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from paddock.network.authority import Authority
from paddock.serving.http.allowed_hosts import AllowedHosts
from paddock.serving.http.error_response import as_response
from paddock.serving.refusal import RequestRefused

ANY_ORIGIN: Final = "*"
_SHOWN_CHARS: Final = 200


class AccessFilter:
    """ASGI application in front of another one: it answers the requests that must not reach that one.

    `origins` are those whose pages may use the server, also by CORS; `*` is any. A page that comes from this server's
    own host and port is of no other origin, as where a proxy in front serves both.
    """

    def __init__(self, app: ASGIApp, *, hosts: AllowedHosts, origins: tuple[str, ...]) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        await (as_response(error) if error is not None else self._app)(scope, receive, send)

    def _refusal(self, headers: Headers) -> RequestRefused | None:
        sent = headers.get("host", "")
        authority = Authority.parse(sent)
        if authority is None:
            return RequestRefused(HTTPStatus.BAD_REQUEST, f"the Host header names no host: {sent[:_SHOWN_CHARS]!r}")
        if not self._hosts.allows(authority.host):
            return _forbidden(
                f"{authority.host[:_SHOWN_CHARS]!r} is not a host of this server. If it should be, add it to "
                "PADDOCK_SERVE_HOSTS of the server, and start it again",
                code="host_not_allowed",
            )
        if ANY_ORIGIN in self._origins:
            return None
        origin, is_cross_site = headers.get("origin"), headers.get("sec-fetch-site", "").strip().lower() == "cross-site"
        if origin is None and is_cross_site:
            return _forbidden(
                "web pages of other sites cannot use this server. Open its address itself, or send the request with an "
                "origin of PADDOCK_CORS_ORIGINS",
                code="origin_not_allowed",
            )
        if origin is None or origin in self._origins or (authority.is_that_of(origin) and not is_cross_site):
            return None
        return _forbidden(
            f"web pages of the origin {origin[:_SHOWN_CHARS]!r} cannot use this server. If they should, add "
            f"{'* (any)' if origin == 'null' else 'it'} to PADDOCK_CORS_ORIGINS of the server, and start it again",
            code="origin_not_allowed",
        )


def _forbidden(message: str, *, code: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.FORBIDDEN, message, code=code)
