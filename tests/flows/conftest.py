"""Flows run against a real Prefect server on PostgreSQL, one for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from infra.local.prefect_server import PrefectServer


@pytest.fixture(scope="session", autouse=True)
def _recorded(prefect_server: PrefectServer) -> Iterator[None]:
    # Without a heartbeat: its thread makes each flow wait a second at its end.
    settings: dict[Any, Any] = {PREFECT_API_URL: prefect_server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(settings):
        yield


@pytest.fixture
def client(_recorded: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client
