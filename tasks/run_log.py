"""Write to the log of a flow or task run: lines that may quote text of any origin, each on one line.

What the library logs within a run, such as that it waits for another worker's download, goes to that log too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from paddock.plain_text import one_line

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[Any]
else:
    _Adapter = logging.LoggerAdapter


class _PlainAdapter(_Adapter):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        text = str(msg) % args if args else str(msg)
        super().log(level, "%s", one_line(text), **kwargs)


class _LibraryHandler(APILogHandler):
    """Sends warnings of the library to the Prefect server. Those outside of a run, and of threads that know nothing of
    it, are left to the other handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        if FlowRunContext.get() or TaskRunContext.get():
            message = one_line(record.getMessage())
            super().emit(logging.makeLogRecord({**record.__dict__, "msg": message, "args": None}))


def run_logger() -> logging.LoggerAdapter[Any]:
    """The logger of the current run. Raises MissingContextError outside of one."""
    return _PlainAdapter(get_run_logger(), {})


# At import, as Prefect does for its own loggers: every process that runs a flow imports this.
logging.getLogger("paddock").addHandler(_LibraryHandler(logging.WARNING))
