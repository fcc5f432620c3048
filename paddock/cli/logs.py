"""Log to stderr: warnings, and with `--verbose` everything. Each message is on one line, whatever it quotes."""

from __future__ import annotations

import logging
import sys
from textwrap import indent
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from paddock.plain_text import lines, one_line

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler


class _ToStderr(_StreamHandler):
    """Writes to what `sys.stderr` is at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> IO[str]:
        return sys.stderr

    @stream.setter
    def stream(self, _: IO[str]) -> None:
        raise AttributeError("the stream is stderr")


class _PlainFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name in the base class
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(  # noqa: N802 - the name in the base class
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        # Indented, since an exception's message may have lines that look like those of a log.
        return indent(lines(super().formatException(ei)), "  ")


def log_to_stderr(logger: logging.Logger, *, verbose: bool) -> None:
    """Let a logger, and those below it, write to stderr. Warnings alone have no level and no name before them."""
    handler = next((one for one in logger.handlers if isinstance(one, _ToStderr)), None)
    if handler is None:
        handler = _ToStderr()
        logger.addHandler(handler)
    handler.setFormatter(_PlainFormatter("%(levelname)s %(name)s: %(message)s" if verbose else "%(message)s"))
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING)
    if verbose:
        # Not the root logger: at this level the S3 client logs session tokens and signed URLs.
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
