"""`paddock doctor` names the runs on a Prefect server whose processes are gone, and its cure marks them."""

from __future__ import annotations

import time
from datetime import timedelta

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.states import Completed, Pending, Running

from flows.check_runs import check_runs
from flows.check_server import MORTAL
from infra.automations import MORTAL_FLOWS
from infra.local.prefect_server import PrefectServer
from paddock.lifecycle.upkeep.doctor import CheckResult
from tests.flows.test_events import beat
from tests.support.waiting import wait_for


def test_the_flows_are_those_that_the_automations_watch() -> None:
    assert set(MORTAL) == set(MORTAL_FLOWS)


def test_a_run_without_an_event_is_named_and_marked_and_no_other_is(
    client: SyncPrefectClient, prefect_server: PrefectServer
) -> None:
    silence = timedelta(seconds=3)

    @flow(name="its-own-process")
    def mortal() -> None: ...

    @flow(name="its-own-waiting")
    def waiting() -> None: ...

    flows = (mortal, mortal, mortal, waiting)
    dead, alive, ended, approval = (client.create_flow_run(one, name="it", state=Running()) for one in flows)
    never_began = client.create_flow_run(mortal, name="it", state=Pending())
    client.set_flow_run_state(ended.id, Completed())
    time.sleep(silence.total_seconds())  # the time after which a run without an event is dead

    def found() -> list[CheckResult]:
        beat(prefect_server, alive, mortal.name)
        results = check_runs(client, ["its-own-process"], silence=silence)
        return [result for result in results if result.name == "Prefect: dead runs"]

    wait_for(lambda: [result.message for result in found()] == ["2 without a sign of life for 3 s, such as it"])
    (result,) = found()
    assert result.state == "warning"
    assert "paddock doctor --fix" in result.cure
    assert result.fix is not None
    result.fix()
    created = (dead, never_began, alive, ended, approval)
    assert found() == []
    assert {run.id: client.read_flow_run(run.id).state_type for run in created} == {
        dead.id: StateType.CRASHED,
        never_began.id: StateType.CRASHED,
        alive.id: StateType.RUNNING,
        ended.id: StateType.COMPLETED,
        approval.id: StateType.RUNNING,
    }
    for run in (alive, approval):
        client.delete_flow_run(run.id)
