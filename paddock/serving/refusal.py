"""Errors that answer a request, in OpenAI's form."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

UNSUPPORTED: Final = "unsupported_parameter"
"""The `code` of an error for a field that is not honoured here."""
INVALID: Final = "invalid_value"
MAX_MESSAGE_CHARS: Final = 500


class RequestRefused(Exception):
    """A request that is answered with an error, in OpenAI's form (`to_json`).

    `retry_after_s` becomes the `Retry-After` header. `by_template`: the model's chat template refused the request.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        by_template: bool = False,
    ) -> None:
        message = message if len(message) <= MAX_MESSAGE_CHARS else f"{message[: MAX_MESSAGE_CHARS - 1]}…"
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param[:200] if param else None
        self.retry_after_s = retry_after_s
        self.by_template = by_template
        self.revision: str | None = None  # that of the engine that answered so

    @property
    def kind(self) -> str:
        """The error's `type` in OpenAI's form."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        return "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"

    def to_json(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad_request(message: str, *, param: str | None = None, code: str = INVALID) -> RequestRefused:
    return RequestRefused(HTTPStatus.BAD_REQUEST, message, code=code, param=param)
