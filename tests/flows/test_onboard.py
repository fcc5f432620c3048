"""Onboarding and its phases, as Prefect records them: states, tries, artifacts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterName,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, TaskRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort

from flows.acquire import acquire_model
from flows.benchmark import benchmark_model
from flows.cache import cache_model
from flows.here import run_here
from flows.onboard import onboard_model
from flows.promote import promote_model, rollback_model
from flows.validate import validate_model
from infra.local.hub import Service
from infra.local.s3 import S3Server
from paddock.errors import BadSetting, DoesNotFit, ModelNotFound, ModelRejected, NotOnVolume
from paddock.lifecycle.dossier import Onboarded
from paddock.lifecycle.parts import Parts, connect
from paddock.model.names import ModelName
from tests.support.gguf import STRING, U32, tiny_llama
from tests.support.house import NAME, Q4_K_M, point_to_s3, tiny, unsound

MODEL = ModelName.parse(NAME)
KINDS = (
    "preflight",
    "files",
    "download",
    "findings",
    "chat",
    "expectations",
    "memory",
    "copy",
    "benchmark",
    "promotion",
    "dossier",
)


@pytest.fixture(autouse=True)
def _roomy(parts: Parts, hub: Service) -> None:
    """A model whose context takes the benchmark's prompt."""
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy()})


def roomy(name: str = "roomy") -> bytes:
    file = tiny_llama().set("general.name", STRING, name)
    return file.set("llama.context_length", U32, 1024).to_bytes()


def onboard(**parameters: object) -> Onboarded:
    state, result = run_here(onboard_model, model=NAME, **parameters)
    assert state == "Completed"
    assert isinstance(result, Onboarded)
    return result


def artifact(client: SyncPrefectClient, kind: str) -> Artifact:
    """The newest artifact of a kind."""
    (found,) = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[MODEL.artifact_key(kind)])),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    return found


def tries(client: SyncPrefectClient, flow: Flow[..., Any], task: str) -> list[TaskRun]:
    """The runs of one task in the newest run of a flow. Prefect hears of them by events, some time after they ended."""
    (run,) = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_=flow.name.removesuffix("-model") + "-")),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    its_own = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]))
    deadline = time.monotonic() + 30
    while True:
        runs = [one for one in client.read_task_runs(task_run_filter=its_own) if one.name.startswith(task)]
        if (runs and all(one.state and one.state.is_final() for one in runs)) or time.monotonic() > deadline:
            return runs
        time.sleep(0.2)


def test_onboarding_ends_with_a_promoted_model_and_a_dossier(parts: Parts) -> None:
    result = onboard()
    assert result.line.startswith(f"onboarded {NAME}@")
    assert " Q8_0 " in result.line
    assert result.line.endswith("promoted")
    assert Path(result.path).resolve().name == result.revision == parts.volume.promoted(MODEL)
    dossier = Path(result.dossier).read_text()
    for part in ("## Files", "## Checks", "## Memory", "## Benchmark", "prefill of 256 tokens", "## Promotions", "mit"):
        assert part in dossier


def test_every_step_leaves_its_artifact_under_a_key_that_stays(client: SyncPrefectClient) -> None:
    onboard()
    first = {kind: artifact(client, kind) for kind in KINDS}
    assert {kind: one.type for kind, one in first.items()} == {
        **dict.fromkeys(KINDS, "table"),
        "download": "progress",
        "chat": "markdown",
        "expectations": "markdown",
        "dossier": "markdown",
    }
    onboard()
    for kind in KINDS:
        assert artifact(client, kind).id != first[kind].id, f"{kind} was not recorded again"


def test_a_second_onboarding_fetches_no_byte_and_says_so(client: SyncPrefectClient, hub: Service) -> None:
    assert onboard().transferred_bytes > 0
    hub.reset_stats()
    again = onboard()
    assert again.transferred_bytes == 0
    assert "0 B of model data fetched" in again.line
    assert hub.stats().total_bytes_sent == 0
    assert "0 B fetched" in (artifact(client, "download").description or "")


def test_a_model_that_is_not_there_fails_in_one_try_with_one_sentence(
    client: SyncPrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ModelNotFound, match="nobody/nothing is not on"):
        run_here(onboard_model, model="nobody/nothing")
    (run,) = tries(client, acquire_model, "resolve")
    assert run.run_count == 1
    assert "Traceback" not in caplog.text


def test_a_hub_that_stumbles_is_asked_again(client: SyncPrefectClient, hub: Service) -> None:
    hub.order("status", "/api/models/*", where="hub", status=503)
    onboard(promote=False)
    (run,) = tries(client, acquire_model, "resolve")
    assert run.run_count == 2


def test_a_rejected_model_is_not_published_and_its_findings_are_recorded(
    client: SyncPrefectClient, parts: Parts, hub: Service
) -> None:
    before = onboard().revision
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": unsound()})
    with pytest.raises(ModelRejected):
        run_here(onboard_model, model=NAME)
    assert parts.volume.promoted(MODEL) == before
    assert "reject" in (artifact(client, "findings").description or "")


def test_without_promotion_what_is_promoted_stays(parts: Parts, hub: Service) -> None:
    before = onboard().revision
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy("next")})
    result = onboard(promote=False)
    assert result.revision != before
    assert result.line.endswith("not promoted")
    assert parts.volume.promoted(MODEL) == before


def test_a_target_too_small_is_refused_before_a_weight_with_what_each_quantization_would_take(
    client: SyncPrefectClient, parts: Parts
) -> None:
    with pytest.raises(DoesNotFit, match=r"with 1024 tokens of context \(Q8_0 takes .*Q4_K_M takes"):
        run_here(onboard_model, model=NAME, target="1MiB")
    table = artifact(client, "preflight")
    assert "does not fit" in (table.description or "")
    assert {"Q8_0", "Q4_K_M", "Q6_K"} == {row["quantization"] for row in json.loads(str(table.data))}
    assert not list((parts.settings.volume / ".paddock").glob("blobs/sha256/*/*"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "a/b/c"},
        {"model": ""},
        {"quantization": "Q8 0"},
        {"context_tokens": 1},
        {"profile": "poet"},
        {"target": "much"},
        {"revision": "-x"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_parameter_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadSetting, match=next(iter(wrong))):
        run_here(onboard_model, **{"model": NAME, **wrong})


def test_each_phase_is_a_flow_of_its_own(
    monkeypatch: pytest.MonkeyPatch, parts: Parts, hub: Service, s3: S3Server
) -> None:
    point_to_s3(monkeypatch, s3, "phases")
    with pytest.raises(NotOnVolume, match="pull or onboard it first"):
        run_here(validate_model, model=NAME)
    _, acquired = run_here(acquire_model, model=NAME)
    revision = acquired.manifest.revision
    assert parts.volume.promoted(MODEL) is None

    _, judged = run_here(validate_model, model=NAME)
    assert judged.verdict in {"accept", "warn"}
    _, copied = run_here(cache_model, model=NAME, revision=revision)
    assert copied.bytes_transferred == acquired.manifest.size_bytes
    _, measured = run_here(benchmark_model, model=NAME, revision=revision)
    assert measured.decode_tok_per_s > 0
    run_here(promote_model, model=NAME, revision=revision)
    assert parts.volume.promoted(MODEL) == revision
    known = connect()
    assert known.s3 is not None
    assert known.s3.promoted(MODEL) == revision

    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy("newer")})
    onboard()
    run_here(rollback_model, model=NAME)
    assert parts.volume.promoted(MODEL) == revision
    assert known.s3.promoted(MODEL) == revision


def test_what_the_house_holds_is_really_that_model(parts: Parts) -> None:
    result = onboard(quantization="q4_k_m")
    assert result.quantization == "Q4_K_M"
    assert (Path(result.path) / "tiny-Q4_K_M.gguf").read_bytes() == tiny(2, file_type=Q4_K_M)
