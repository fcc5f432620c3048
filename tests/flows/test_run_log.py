"""The log of a run in Prefect has what the library warns of within the run."""

from __future__ import annotations

import logging
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.runtime import flow_run

from tasks.run_log import run_logger
from tests.support.flow_runs import messages


def test_a_warning_of_the_library_within_a_run_is_in_its_log_on_one_line(client: SyncPrefectClient) -> None:
    library = logging.getLogger("paddock.lifecycle.acquire")

    @flow
    def wait() -> str:
        library.warning("waiting for %s", "a.gguf\nwhich another worker fetches")
        library.info("no warning")
        run_logger().info("the end")
        return str(flow_run.get_id())

    library.warning("before")
    run = client.read_flow_run(UUID(wait()))
    library.warning("afterwards")
    log = messages(client, run, last="Finished in state")
    assert log[1:3] == [r"waiting for a.gguf\nwhich another worker fetches", "the end"]
