"""Gates in Prefect: the states of runs whose model is held back, their artifacts, and a promotion by force."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Completed
from prefect.utilities.callables import parameter_schema

from flows.compare import compare_model, compare_on_gpu_worker
from flows.onboard import onboard_model
from flows.promote import promote_model
from flows.run_local import run_local
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from paddock.errors import EngineCrashed, GateNotPassed
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.gate_reports import record_gates
from paddock.lifecycle.promote.gate_rules import GateRules
from paddock.measure.gate_report import GateReport
from paddock.model.artifact import Manifest
from tasks.gpu_pool import GPU_POOL
from tests.flows.test_benchmark import pool, worker
from tests.flows.test_onboard import PROMOTED, artifact
from tests.lifecycle.test_gating import altered_model, links_and_history, put, report_on
from tests.support.flow_runs import newest
from tests.support.program import Paddock, paddock
from tests.support.stores import A, B
from tests.support.tiny_hub import MODEL, NAME, tiny_model
from tests.support.waiting import wait_for_value

__all__ = ["paddock", "pool", "worker"]


def test_a_model_that_is_held_back_is_not_promoted_and_its_run_and_artifact_say_why(
    client: SyncPrefectClient,
    clients: Clients,
    pulled: Manifest,
    hub: HubService,
    prefect_server: PrefectServer,
    monkeypatch: pytest.MonkeyPatch,
    paddock: Paddock,
) -> None:
    """The command runs the flow, in this process; the models are compared by the engine."""
    before = links_and_history(clients)
    revision = hub.repository(NAME).commit({"tiny-Q8_0.gguf": altered_model()})
    monkeypatch.setenv("PREFECT_API_URL", prefect_server.environment["PREFECT_API_URL"])
    done = paddock("onboard", NAME, "--json")
    assert (done.status, done.json["state"], done.json["revision"]) == (2, "Held back", revision), done.stderr
    failed = [gate["name"] for gate in done.json["gates"]["gates"] if gate["passed"] is False]
    assert failed == ["kl_ratio", "agreement"]
    assert links_and_history(clients) == before
    assert "prefill" in Path(done.json["dossier"]).read_text()

    state = newest(client, onboard_model).state
    assert state is not None
    assert (state.type, state.name) == (StateType.COMPLETED, "Held back")
    assert "held back by kl_ratio, agreement: its KL divergence from" in (state.message or "")
    gates = artifact(client, "gates", f"{PROMOTED}@{revision}")
    assert str(gates.data).startswith(f"**✗ Held back**: org/tiny-GGUF:Q8_0@{revision} against the promoted ")
    assert "| kl_ratio | ✗ **held back** |" in str(gates.data)
    assert "- agreement, ✗ **held back**: it finds another token" in str(gates.data)

    pages = clients.volume.docs.path / MODEL.slug / revision / pulled.variant
    (page,) = (pages / "validations" / "gates").rglob("*.html")
    assert "✗ failed: kl_ratio: at most 1.5 times the promoted one" in page.read_text()

    with pytest.raises(GateNotPassed, match="held back by kl_ratio, agreement"):
        run_local(promote_model, model=NAME, revision=revision)
    assert links_and_history(clients) == before
    run_local(promote_model, model=NAME, revision=revision, force=True, reason="it is *wanted*")
    assert clients.volume.promoted(MODEL).of(pulled.variant) != pulled.id
    description = artifact(client, "promotion").description or ""
    assert description.endswith("it is \\*wanted\\* (forced, although held back by kl_ratio, agreement)")
    assert str(artifact(client, "gates").data) == str(gates.data)


def test_a_comparison_that_passes_is_completed_with_its_outcome_as_the_message(
    client: SyncPrefectClient, pulled: Manifest
) -> None:
    state, report = run_local(compare_model, model=NAME)
    assert (state, report.passed) == ("Completed", True)
    run = newest(client, compare_model)
    assert run.name == f"compare {NAME}"
    assert run.state is not None
    assert run.state.message == report.line


@pytest.mark.torture
@pytest.mark.parametrize("arrives", [True, False], ids=["a report", "no report"])
def test_a_comparison_on_a_gpu_worker_ends_with_its_report(
    client: SyncPrefectClient, clients: Clients, worker: None, arrives: bool
) -> None:
    """The worker is played: it takes the run, and leaves a report or none."""
    promoted, candidate = put(clients, A, tiny_model()), put(clients, B, altered_model())
    record_gates(clients, candidate, report_on(candidate, promoted, None))  # an earlier one does not count
    deployment = client.create_deployment(
        client.create_flow(compare_model),
        "compare-gpu",
        work_pool_name=GPU_POOL,
        parameter_openapi_schema=parameter_schema(compare_model).model_dump_for_openapi(),
        enforce_parameter_schema=True,
    )
    taken = list[FlowRun]()

    def take() -> None:
        of_deployment = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
        taken.extend(wait_for_value(lambda: client.read_flow_runs(flow_run_filter=of_deployment) or None))
        if arrives:
            record_gates(clients, candidate, report_on(candidate, promoted, False))
        client.set_flow_run_state(taken[0].id, Completed(), force=True)

    def compare() -> GateReport:
        return flow(compare_on_gpu_worker)(candidate, promoted, GateRules({"decode": 0.8}, True, 512))

    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(take)
        if arrives:
            assert not compare().passed
        else:
            with pytest.raises(EngineCrashed, match="its report did not come back"):
                compare()
        done.result()
    assert taken[0].parameters == {
        "model": f"{NAME}:Q8_0",
        "revision": B,
        "against": str(promoted.id),
        "context_tokens": 512,
        "roleplay": False,
        "bounds": {"decode": 0.8},
        "undecided_blocks": True,
    }
    client.delete_deployment(deployment)
