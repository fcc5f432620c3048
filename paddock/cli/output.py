"""Print the result of a command on stdout, for people or as one JSON object, and its error on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from paddock.cli.logs import print_error
from paddock.timings import elapsed, phase


def print_result(as_json: bool, payload: dict[str, Any], render: Callable[[], None]) -> None:
    """Print the result of a command. With `--timings`, the JSON has the seconds of each phase as `timings`."""
    with phase("print"), to_stdout():
        if as_json:
            if measured := elapsed():
                payload = {**payload, "timings": measured}
            print(json.dumps(payload, default=str))
        else:
            render()


@contextmanager
def to_stdout() -> Iterator[None]:
    """Flush stdout at the end, and exit with status 1 if it cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # Discard the buffer: else Python writes it at exit, and fails again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader closed the pipe, such as `head`
            sys.exit(1)
        sys.exit(report_failure(False, "", f"stdout cannot be written: {error.strerror}", "redirect it elsewhere", 1))


def report_failure(as_json: bool, error: str, message: str, cure: str, status: int) -> int:
    """Print an error: one sentence on stderr, or with `as_json` one object on stdout. Returns `status`."""
    if as_json:
        with to_stdout():
            print(json.dumps({"error": error, "message": message, "cure": cure}))
    else:
        print_error(error, message, cure)
    return status
