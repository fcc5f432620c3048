"""The log of a failed step. Retries are tested with the flows."""

from __future__ import annotations

import logging

import pytest

from paddock.errors import ModelNotFound
from tasks import policies


def record_of(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except type(error) as raised:
        trace = (type(raised), raised, raised.__traceback__)
        return logging.LogRecord("prefect.task_runs", logging.ERROR, __file__, 1, "failed: %r", (raised,), trace)


def test_a_paddock_error_is_logged_as_its_message() -> None:
    record = record_of(ModelNotFound("a/b is not there", cure="check the name"))
    assert policies.without_traceback(record)
    assert record.getMessage() == "a/b is not there: check the name"
    assert record.exc_info is None


def test_any_other_error_keeps_its_traceback() -> None:
    record = record_of(ZeroDivisionError("division by zero"))
    assert policies.without_traceback(record)
    assert record.exc_info is not None


@pytest.mark.parametrize("name", ["prefect.flow_runs", "prefect.task_runs"])
def test_prefects_loggers_have_the_filter(name: str) -> None:
    assert policies.without_traceback in logging.getLogger(name).filters
