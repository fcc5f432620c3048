"""Gates in Prefect: the states of runs whose model is held back, their artifacts, and a promotion by force."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from flows.compare import compare_model
from flows.onboard import onboard_model
from flows.promote import promote_model
from flows.run_local import run_local
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from paddock.errors import GateNotPassed
from paddock.lifecycle.clients import Clients
from paddock.model.artifact import Manifest
from tests.flows.test_onboard import PROMOTED, artifact, newest
from tests.lifecycle.test_gating import altered_model, links_and_history
from tests.support.program import Paddock, paddock
from tests.support.tiny_hub import MODEL, NAME

__all__ = ["paddock"]


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
    assert str(gates.data).startswith(f"**✗ Held back**: org/tiny-GGUF:Q8\\_0@{revision} against the promoted ")
    assert "| kl\\_ratio | ✗ **held back** |" in str(gates.data)
    assert "- agreement, ✗ **held back**: it finds another token" in str(gates.data)

    with pytest.raises(GateNotPassed, match="held back by kl_ratio, agreement"):
        run_local(promote_model, model=NAME, revision=revision)
    assert links_and_history(clients) == before
    run_local(promote_model, model=NAME, revision=revision, force=True, reason="it is *wanted*")
    assert clients.volume.promoted(MODEL).of(pulled.variant) != pulled.id
    description = artifact(client, "promotion").description or ""
    assert description.endswith("it is \\*wanted\\* \\(forced, although held back by kl\\_ratio, agreement\\)")
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
