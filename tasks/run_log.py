"""The logger of a flow or task run, for lines that may quote text of any origin: each is on one line."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger

from paddock.plain_text import one_line

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[Any]
else:
    _Adapter = logging.LoggerAdapter


class _PlainAdapter(_Adapter):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        text = str(msg) % args if args else str(msg)
        super().log(level, "%s", one_line(text), **kwargs)


def run_logger() -> logging.LoggerAdapter[Any]:
    """The logger of the current run. Raises MissingContextError outside of one."""
    return _PlainAdapter(get_run_logger(), {})
