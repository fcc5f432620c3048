"""Print the result of a command on stdout: for people, or as one JSON object; and its failure on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def print_result(as_json: bool, payload: dict[str, Any], render: Callable[[], None]) -> None:
    with to_stdout():
        if as_json:
            print(json.dumps(payload, default=str))
        else:
            render()


@contextmanager
def to_stdout() -> Iterator[None]:
    """What is printed inside arrives, or the process ends here."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer goes nowhere, and is not tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # a reader that had enough is not worth a word
            sys.exit(1)
        sys.exit(report_failure(False, "", f"stdout cannot be written: {error.strerror}", "send it elsewhere", 1))


def report_failure(as_json: bool, error: str, message: str, cure: str, status: int) -> int:
    if as_json:
        with to_stdout():
            print(json.dumps({"error": error, "message": message, "cure": cure}))
    else:
        from paddock.cli.render import complain

        complain(message, cure)
    return status
