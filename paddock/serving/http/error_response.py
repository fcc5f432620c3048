"""Responses for refused requests, in OpenAI's form."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.responses import JSONResponse, Response

from paddock.serving.refusal import RequestRefused

REVISION_HEADER: Final = "x-paddock-revision"
"""Header of every answer of an engine: `<variant>@<revision>` of what gave it."""


def as_response(error: RequestRefused) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.revision is not None:
        headers[REVISION_HEADER] = error.revision
    return JSONResponse(error.to_json(), error.status, headers)
