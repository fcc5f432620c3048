"""Refreshing the catalog in Prefect: a flow run for each changed entry, states, and the report. One night serves all
tests, and starts no engine but for its facts."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import Artifact, FlowRun, StateType
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort

from flows.refresh import refresh_catalog
from flows.run_local import run_local
from infra.local.hub import HubService, LocalHub, serve_hub
from infra.local.prefect_server import PrefectServer
from paddock.errors import NoSuchFile
from paddock.lifecycle.clients import connect
from paddock.lifecycle.upkeep.refresh.outcome import RefreshOutcome
from paddock.lifecycle.upkeep.refresh.refresh import Refreshed
from tasks.cancellation import cancelling_runs_below
from tasks.fitted_tables import with_fitted_tables
from tasks.subject import StoreSubject
from tests.support.flow_runs import messages
from tests.support.program import Paddock, paddock
from tests.support.tiny_hub import MODEL, NAME, copy_directory, rejected_model, tiny_model, use_hub
from tests.support.waiting import wait_for

__all__ = ["paddock"]

BAD = "org/bad-GGUF"


@dataclass(frozen=True)
class Night:
    """A night in which one model is retagged, and one is held back. Then one is required that is not there."""

    hub: HubService
    catalog: Path
    revision: str
    refreshed: Refreshed
    artifact: Artifact
    runs: dict[str, FlowRun]
    log: list[str]
    again: tuple[str, Refreshed]
    skipped: tuple[str, Refreshed]


@pytest.fixture(scope="module")
def night(_recorded: None, pulled_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    home = tmp_path_factory.mktemp("night")
    copy_directory(pulled_home, home)
    with (
        get_client(sync_client=True) as client,
        serve_hub(LocalHub(home / "hub")) as hub,
        pytest.MonkeyPatch.context() as patch,
    ):
        use_hub(patch, hub, home)
        catalog = home / "catalog.yaml"
        patch.setenv("PADDOCK_CATALOG", str(catalog))
        catalog.write_text(f"models:\n- {{model: {NAME}, context_tokens: 256}}\n- {{model: {BAD}}}\n")
        revision = hub.repository(NAME).commit({"README.md": b"---\nlicense: mit\n---\n# Another card\n"})
        hub.repository(BAD).commit({"bad-Q8_0.gguf": rejected_model()})
        state, refreshed = run_local(refresh_catalog, catalog=str(catalog))
        assert state == "Completed"
        runs = {run.name: run for run in newest_runs(client)}
        log = messages(client, runs["refresh the catalog"], last="Finished in state Completed('")
        artifact = report(client)
        again = run_local(refresh_catalog)
        with connect().volume.refresh_lock.hold():
            skipped = run_local(refresh_catalog)
        yield Night(hub, catalog, revision, refreshed, artifact, runs, log, again, skipped)


def newest_runs(client: SyncPrefectClient) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_="refresh ")),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=3,
    )


def report(client: SyncPrefectClient) -> Artifact:
    key = StoreSubject.of_volume(connect()).key("refresh-report")
    (found,) = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.CREATED_DESC, limit=1
    )
    return found


def test_each_changed_entry_is_a_run_of_its_own_below_that_of_the_refresh(night: Night) -> None:
    assert set(night.runs) == {"refresh the catalog", f"refresh {NAME} Q8_0", f"refresh {BAD} auto"}
    retagged, held_back = night.runs[f"refresh {NAME} Q8_0"], night.runs[f"refresh {BAD} auto"]
    assert {run.parent_task_run_id is not None for run in (retagged, held_back)} == {True}
    assert (retagged.state_name, held_back.state_name) == ("Completed", "Held back")
    assert held_back.state_type is StateType.COMPLETED


def test_the_log_tells_the_plan_and_each_entry_as_it_ends(night: Night) -> None:
    first, second = night.refreshed.entries
    for line in (f"{NAME}@main: retag, ", f"{BAD}@main: fetch, "):
        assert any(message.startswith(line) for message in night.log), night.log
    assert {first.line, second.line} <= set(night.log)
    assert night.log[-1] == f"Finished in state Completed({night.refreshed.line!r})"


def test_a_card_alone_is_retagged_and_a_rejected_model_held_back(night: Night) -> None:
    first, second = night.refreshed.entries
    assert (first.outcome, first.revision, first.bytes) == (RefreshOutcome.RETAGGED, night.revision, 0)
    assert (second.outcome, second.is_served) == (RefreshOutcome.HELD_BACK, False)
    assert "llama.attention.layer_norm_rms_epsilon is -1.0" in second.reason
    promoted = connect().volume.promoted(MODEL)
    assert promoted.default_id == promoted.of(promoted.default) if promoted.default else False
    assert set(promoted.revisions.values()) == {night.revision}


def test_the_report_is_an_artifact_and_on_the_volume(night: Night) -> None:
    assert night.refreshed.report is not None
    text = Path(night.refreshed.report).read_text()
    assert night.artifact.data == with_fitted_tables(text)
    assert "2 entries: 1 retagged, 1 held back; 0 B of model data fetched" in text
    assert "## Held back" in text


def test_the_next_night_tries_nothing_again(night: Night) -> None:
    state, again = night.again
    assert state == "Completed"
    assert [outcome.outcome for outcome in again.entries] == [RefreshOutcome.UNCHANGED, RefreshOutcome.HELD_BACK]
    assert again.plan is not None
    assert again.plan.requests == 2


def test_a_second_refresh_of_a_volume_is_skipped(night: Night) -> None:
    state, skipped = night.skipped
    assert state == "Skipped"
    assert "is being refreshed by process" in skipped.line


def test_the_command_runs_the_flow_and_fails_with_a_table_where_a_required_entry_failed(
    night: Night,
    client: SyncPrefectClient,
    prefect_server: PrefectServer,
    monkeypatch: pytest.MonkeyPatch,
    paddock: Paddock,
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server.url)
    night.catalog.write_text(f"models:\n- {{model: {NAME}}}\n- {{model: org/none-GGUF, required: true}}\n")
    done = paddock("refresh")
    assert (done.status, "org/none-GGUF:auto" in done.stdout) == (1, True)
    assert "1 of 2 entries failed that the catalog requires" in done.stderr
    run = newest_runs(client)[0]
    assert run.state is not None
    assert run.state.type is StateType.FAILED
    assert "| `org/none-GGUF:auto` |" in str(run.state.message)
    assert "**withdrawn**" in str(report(client).data)


def test_an_interrupted_run_leaves_no_run_below_it_unfinished(client: SyncPrefectClient) -> None:
    """The runs below are carried out by another thread, as in a refresh. A process that goes on sets their states."""
    started, ended, states = threading.Event(), threading.Event(), dict[str, str | None]()

    @flow(flow_run_name="lower run")
    def lower() -> None:
        started.set()
        ended.wait(60)

    @flow(flow_run_name="middle run")
    def middle() -> None:
        lower()

    @flow
    def upper() -> None:
        context, pool = contextvars.copy_context(), ThreadPoolExecutor(1)
        try:
            with cancelling_runs_below():
                pool.submit(lambda: context.run(lambda: middle(return_state=True)))
                assert started.wait(60)
                raise KeyboardInterrupt
        finally:
            below = FlowRunFilter(name=FlowRunFilterName(any_=["middle run", "lower run"]))
            states.update({run.name: run.state_name for run in client.read_flow_runs(flow_run_filter=below)})
            ended.set()
            pool.shutdown()

    with pytest.raises(KeyboardInterrupt):
        upper()
    assert states == {"middle run": "Cancelled", "lower run": "Cancelled"}


@pytest.mark.torture
def test_a_refresh_that_its_worker_ends_leaves_no_run_below_it_unfinished(
    night: Night, client: SyncPrefectClient, prefect_server: PrefectServer
) -> None:
    name, before = "org/slow-GGUF", night.catalog.read_text()
    night.catalog.write_text(f"models:\n- {{model: {name}, variant: Q8_0}}\n")
    night.hub.repository(name).commit({"slow-Q8_0.gguf": tiny_model(3)})
    night.hub.reset_stats()
    night.hub.inject("stall", f"{name}/*", after_bytes=1000, times=None)
    environment = {**os.environ, **prefect_server.environment}
    with subprocess.Popen([sys.executable, "-m", "paddock", "refresh"], env=environment) as process:
        night.hub.wait_until(lambda stats: stats.total_bytes_sent > 0, timeout_s=300)
        wait_for(
            lambda: (f"refresh {name} Q8_0", "Running") in {(run.name, run.state_name) for run in newest_runs(client)}
        )
        process.terminate()
        process.wait(120)
    night.hub.clear_faults()
    night.catalog.write_text(before)
    runs = {run.name: run for run in reversed(newest_runs(client))}  # the newest of each name
    assert runs["refresh the catalog"].state_type is StateType.CRASHED
    assert runs[f"refresh {name} Q8_0"].state_name == "Cancelled"


def test_a_refresh_without_a_catalog_says_how_to_make_one(night: Night) -> None:
    night.catalog.unlink()
    with pytest.raises(NoSuchFile, match=r"there is no catalog .*: `paddock catalog add MODEL` makes one"):
        run_local(refresh_catalog)
    night.catalog.write_text("models: []\n")
    state, refreshed = run_local(refresh_catalog)
    assert (state, refreshed.line) == ("Completed", "nothing is wanted: the catalog has no entries")
