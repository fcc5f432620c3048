"""Convert the engine's error answers for clients.

llama-server answers 500 for some faults of a request (a chat template that refuses the conversation, a tool call that
is not JSON), as for its own. Here a request's own fault is a 400, and anything else that is not a client error is a
502. Messages are bounded and hold no path of the host; `param` names the request's field where the message does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final

from paddock.serving.refusal import RequestRefused

_PATH: Final = re.compile(r"(?<![\w:/.<])(?:/[\w.@+~-]+){2,}/?")
_FIELD: Final = re.compile(r"Field '([\w.]+)'")
_TEMPLATE_ERROR: Final = re.compile(r"(?:^|\n)Error: (?:Jinja Exception: )?(.+)", re.DOTALL)
"""The last line of a template's error; what precedes it quotes the template's source."""
_TEMPLATE_FAULTS: Final = ("Jinja Exception", "While executing")
_TOO_LONG: Final = ("is too large to process", "is larger than the max context size", "exceeds the available context")
_REQUEST_FAULTS: Final = (
    *_TEMPLATE_FAULTS,
    "Failed to parse messages",
    "Failed to parse tools",
    "Failed to parse tool call arguments",
    "Failed to parse grammar",
    "failed to parse grammar",
    "Failed to initialize samplers",
    "Failed to load image",
    "Failed to tokenize prompt",
    "Cannot specify",
    "Cannot use",
    "JSON schema",
    "Unsupported param",
    "Unable to generate parser",
    "[json.exception",
    "is not supported",
    "must not be empty",
    "Input content cannot be empty",
)
"""Beginnings or parts of messages about the request that llama-server may send with status 500."""


def engine_refusal(status: int, content: bytes | str, fields: Collection[str]) -> RequestRefused:
    """Convert an error answer. `fields` are those of the request."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = {}
    error = value.get("error", value) if isinstance(value, dict) else {}
    return error_refusal(error, fields, status=status)


def error_refusal(error: Any, fields: Collection[str], *, status: int | None = None) -> RequestRefused:
    """Convert an error object of llama-server. Its status is in `code` if there is none of HTTP."""
    error = error if isinstance(error, dict) else {"message": error}
    message = error.get("message")
    message = message if isinstance(message, str) and message else "the engine answered with an error"
    stated = status if status is not None and status >= HTTPStatus.BAD_REQUEST else error.get("code")
    if error.get("type") == "exceed_context_size_error" or any(text in message for text in _TOO_LONG):
        param = next((name for name in ("messages", "prompt", "input", "documents") if name in fields), None)
        return RequestRefused(HTTPStatus.BAD_REQUEST, _clean(message), code="context_length_exceeded", param=param)
    if stated == HTTPStatus.SERVICE_UNAVAILABLE:
        return RequestRefused(stated, _clean(message), code="not_ready", retry_after_s=1)
    is_client_error = isinstance(stated, int) and HTTPStatus.BAD_REQUEST <= stated < HTTPStatus.INTERNAL_SERVER_ERROR
    if is_client_error or stated == HTTPStatus.NOT_IMPLEMENTED or any(text in message for text in _REQUEST_FAULTS):
        return RequestRefused(
            stated if is_client_error else HTTPStatus.BAD_REQUEST,
            _clean(message),
            code="invalid_value",
            param=_field_of(message, fields),
            by_template=any(text in message for text in _TEMPLATE_FAULTS),
        )
    return RequestRefused(HTTPStatus.BAD_GATEWAY, f"the engine failed: {_clean(message)}", code="engine_error")


def _clean(message: str) -> str:
    """Shorten a template's error to its last line, and leave out paths."""
    if "While executing" in message and (found := _TEMPLATE_ERROR.search(message)):
        message = f"the chat template refuses this conversation: {found[1].strip()}"
    return without_paths(message)


def without_paths(text: str) -> str:
    """The text with "…" in place of each path of the host."""
    return _PATH.sub("…", text)


def _field_of(message: str, fields: Collection[str]) -> str | None:
    """Return the field of the request that the message names, if it does."""
    if found := _FIELD.search(message):
        return found[1]
    if any(text in message for text in _TEMPLATE_FAULTS):
        return "messages"
    words = re.findall(r"\w+", message.lower())
    return next((word for word in words if word in fields and word not in {"n", "stop", "model"}), None)
