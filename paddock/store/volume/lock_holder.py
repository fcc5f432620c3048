"""The process that holds a lock file, as it says in the file's JSON (pid, host, since)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock.model.names import printable
from paddock.untrusted.fields import count_field, text_field
from paddock.untrusted.json_text import parse_object

MAX_BYTES = 4096


def process_text(content: bytes) -> str:
    """The process that wrote this content, as text for messages. Raises UnusableContent."""
    return process_of(parse_object(content, max_bytes=MAX_BYTES))


def process_of(holder: Mapping[str, Any]) -> str:
    """As `process_text`, for a parsed document."""
    host, since = (printable(text_field(holder, name, max_length=255)) for name in ("host", "since"))
    return f"process {count_field(holder, 'pid')} on {host} since {since}"
