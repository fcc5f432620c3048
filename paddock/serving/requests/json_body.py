"""Parse JSON from clients, by the strict rules of `paddock.untrusted.json_text`.

What was checked must be what the engine reads, so nothing is accepted that parsers differ in.
"""

from __future__ import annotations

from typing import Any, Final

from paddock.serving.refusal import bad_request
from paddock.untrusted.content import UnusableContent
from paddock.untrusted.json_text import parse_json

MAX_DEPTH: Final = 100
"""Lists and objects inside each other."""
_MAX_BYTES: Final = 64 * 1024 * 1024
"""Beyond what the server reads of a body."""


class InvalidJson(ValueError):
    """JSON that was not accepted. `path` names the value, with dots: `messages.0.content`."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def parse_body(content: bytes) -> dict[str, Any]:
    """Parse a request's body, a JSON object in UTF-8. Raises RequestRefused."""
    try:
        value = parse_text(content)
    except InvalidJson as error:
        raise bad_request(f"the body {error}", param=error.path or None) from None
    if not isinstance(value, dict):
        raise bad_request("the body is not a JSON object")
    return value


def parse_text(text: str | bytes) -> Any:
    """Parse JSON. Raises InvalidJson, whose message continues a sentence that begins with the text's name."""
    try:
        return parse_json(text, max_bytes=_MAX_BYTES, max_depth=MAX_DEPTH)
    except UnusableContent as error:
        raise InvalidJson(error.reason.removeprefix("it "), error.key) from None
