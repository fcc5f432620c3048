"""Log to stderr: warnings, and with `--verbose` everything. Each message is on one line, whatever it quotes.

With PADDOCK_LOG_FORMAT=json every line on stderr is one JSON object: log records of Paddock and of its libraries,
progress, and the error that a command ends with.

    {"time": "2026-05-01T03:00:00.000+00:00", "level": "WARNING", "logger": "paddock.store.repair", "message": "...",
     "run": "...", "model": "org/name", "revision": "<40 hex>", "variant": "Q8_0", "exception": "..."}

`run`, `model`, `revision` and `variant` are there where they are known (`paddock.log_fields`).
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from textwrap import indent
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from paddock.log_fields import current_fields
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


class _LineFormatter(logging.Formatter):
    """Formats a record as one line, and its exception as indented ones; or all of it as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        return _json_line(record, self) if writes_json() else super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name in the base class
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(  # noqa: N802 - the name in the base class
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        # Indented, since an exception's message may have lines that look like those of a log.
        return indent(lines(super().formatException(ei)), "  ")


def writes_json() -> bool:
    """Whether lines on stderr are JSON. The environment is read each time: no setting is needed before it is."""
    from paddock import settings  # imported where something is printed: the help needs no settings

    return settings.log_format() == "json"


def log_to_stderr(logger: logging.Logger, *, verbose: bool) -> None:
    """Let a logger, and those below it, write to stderr. Warnings alone have no level and no name before them."""
    handler = next((one for one in logger.handlers if isinstance(one, _ToStderr)), None)
    if handler is None:
        handler = _ToStderr()
        logger.addHandler(handler)
    handler.setFormatter(_LineFormatter("%(levelname)s %(name)s: %(message)s" if verbose else "%(message)s"))
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING)
    if verbose:
        # Not the root logger: at this level the S3 client logs session tokens and signed URLs.
        logger.setLevel(logging.DEBUG)
        logger.propagate = False


def convert_other_handlers() -> None:
    """Where lines are JSON, write what other libraries log so too. Prefect configures the root logger when it is
    imported: call it again then."""
    if not writes_json():
        return
    logging.getLogger("paddock").propagate = False  # it has a handler of its own
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(_ToStderr())  # the root's level is that of warnings
    others = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    for one in (root, *others):
        for handler in one.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler.formatter, _LineFormatter):
                handler.setFormatter(_LineFormatter())


def print_stderr(text: str, message: str, *, level: int = logging.INFO, **fields: str) -> None:
    """Print a line on stderr that is no log record: `text`, or where lines are JSON `message` with the fields. Nothing
    is printed where stderr is closed."""
    if writes_json():
        record = logging.LogRecord("paddock", level, "", 0, "%s", (message,), None)
        text = _json_line(record, _LineFormatter(), **fields)
    with suppress(OSError):
        print(one_line(text), file=sys.stderr)  # noqa: T201 progress, or the error of a command


def print_progress(line: str) -> None:
    """Print a line on stderr about a step that is done."""
    print_stderr(line, line)


def print_error(error: str, message: str, cure: str) -> None:
    """Print an error as one sentence on stderr. Where stderr is closed, the exit status is all that is left."""
    text = f"paddock: {message}{f': {cure}' if cure else ''}"
    print_stderr(text, message, level=logging.ERROR, error=error, cure=cure)


def _json_line(record: logging.LogRecord, formatter: logging.Formatter, **fields: str) -> str:
    known = current_fields()
    if run := getattr(record, "flow_run_id", None):  # of Prefect's loggers
        known["run"] = str(run)
    if record.exc_info:
        fields["exception"] = formatter.formatException(record.exc_info)
    value = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": one_line(record.getMessage()),
        **{name: one_line(text) for name, text in known.items()},
        **{name: lines(text) for name, text in fields.items()},
    }
    return json.dumps(value)
