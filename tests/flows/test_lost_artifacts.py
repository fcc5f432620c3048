"""An artifact that Prefect's server does not take fails no step; one that it refuses as invalid is an error of ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.escaped_artifacts import create_page, create_progress, create_table, update_progress
from tests.support.http_server import QuietHandler, QuietServer, serving

# Prefect's calls are what is tested, and not what calls them.
pytestmark = pytest.mark.filterwarnings("ignore:Artifact creation outside of a flow:FutureWarning")


@contextmanager
def server_that_answers(status: int) -> Iterator[None]:
    """Make Prefect's client use an API server that answers every request with this status, as one does without its
    database or Redis."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_PATCH = do_GET  # noqa: N815 - the names are http.server's

    server = QuietServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}/api"
    with serving(server), temporary_settings({PREFECT_API_URL: url}):
        yield


def test_a_server_that_fails_costs_the_artifact_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with server_that_answers(500), caplog.at_level(logging.WARNING, "tasks"):
        create_page(key="promotion-x", markdown="promoted", description="x")
        create_table(key="files-x", rows=[{"file": "x"}], description="x")
        assert create_progress(key="download-x", description="x") is None
        update_progress(uuid4(), 50.0, "x")
    lines = [record.getMessage() for record in caplog.records if record.name == "tasks.escaped_artifacts"]
    names = ("promotion-x", "files-x", "download-x", "of the progress")
    assert lines == [f"the artifact {name} was not written: status 500 from the Prefect server" for name in names]


def test_without_a_progress_artifact_there_is_nothing_to_update() -> None:
    with server_that_answers(422):
        update_progress(None, 50.0, "x")


def test_an_artifact_that_is_refused_as_invalid_is_an_error() -> None:
    with server_that_answers(422), pytest.raises(httpx.HTTPStatusError, match="422"):
        create_page(key="promotion-x", markdown="promoted", description="x")
