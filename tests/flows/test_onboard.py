"""Onboarding and its phases in Prefect: states, retries, artifacts.

One model is onboarded twice for all tests that read what an onboarding leaves. A test that goes on from there gets a
copy of the volume.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort

from flows.acquire import acquire_model
from flows.benchmark import benchmark_model
from flows.cache import cache_model
from flows.onboard import onboard_model
from flows.promote import promote_model, rollback_model
from flows.run_local import run_local
from flows.validate import validate_model
from infra.local.hub import HubService, LocalHub, serve_hub
from infra.local.prefect_server import PrefectServer
from infra.local.s3 import S3Server
from paddock.errors import BadSetting, DoesNotFit, ModelNotFound, ModelRejected, NotOnVolume
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.assess.validate import read_validation
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.locate import locate
from paddock.lifecycle.onboard import InProcess, Onboarded, OnboardRequest
from paddock.lifecycle.onboard import onboard as in_order
from paddock.lifecycle.promote.promote import update_remote_ref
from paddock.lifecycle.steps import PlainRunner
from paddock.model.reference import Reference, artifact_key
from paddock.store.copying import push
from tasks.fitted_tables import with_fitted_tables
from tests.support.browser import image_widths, open_browser, wide_tables
from tests.support.flow_runs import messages, newest, tries, warnings
from tests.support.gguf import STRING, U32, tiny_llama
from tests.support.s3_proxy import S3Fault, proxied
from tests.support.stores import Q8
from tests.support.tiny_hub import (
    MODEL,
    NAME,
    Q4_K_M,
    copy_directory,
    fill_repository,
    rejected_model,
    tiny_model,
    use_hub,
    use_s3,
)

PROMOTED = f"{NAME}:Q8_0"
CUT = "context: 512 tokens, which is all that it was trained for, instead of 4096"
CHECKED = ("findings", "chat", "expectations", "memory")
KINDS = ("preflight", "files", "download", *CHECKED, "copy", "benchmark", "promotion", "dossier")


@pytest.fixture
def roomy_hub(clients: Clients, hub: HubService) -> None:
    """A Hub with a model whose context takes the benchmark's prompt; its volume is empty."""
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy()})


@dataclass(frozen=True)
class Twice:
    """A model that was onboarded, and onboarded again. `artifacts` and `again_artifacts` are those of each kind."""

    hub: HubService
    clients: Clients
    first: Onboarded
    artifacts: dict[str, Artifact]
    warnings: list[str]
    log: list[str]
    again: Onboarded
    again_artifacts: dict[str, Artifact]
    again_sent_bytes: int


@pytest.fixture(scope="module")
def onboarded(_recorded: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twice]:
    home = tmp_path_factory.mktemp("onboarded")
    with (
        get_client(sync_client=True) as client,
        serve_hub(LocalHub(home / "hub")) as hub,
        pytest.MonkeyPatch.context() as patch,
    ):
        use_hub(patch, hub, home)
        fill_repository(hub)
        hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy()})
        first = onboard()
        artifacts = {kind: artifact(client, kind) for kind in KINDS}
        run = newest(client, onboard_model)
        log = messages(client, run, last="Finished in state Completed('")
        hub.reset_stats()
        again = onboard()
        sent_bytes = hub.stats().total_bytes_sent
        again_artifacts = {kind: artifact(client, kind) for kind in KINDS}
        yield Twice(hub, connect(), first, artifacts, warnings(client, run), log, again, again_artifacts, sent_bytes)


@pytest.fixture
def afterwards(onboarded: Twice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clients:
    """The clients of a copy of the volume with the onboarded model."""
    use_hub(monkeypatch, onboarded.hub, tmp_path)
    copied = connect()
    copy_directory(onboarded.clients.volume.root, copied.volume.root)
    return copied


def roomy(name: str = "roomy") -> bytes:
    file = tiny_llama().set("general.name", STRING, name)
    return file.set("llama.context_length", U32, 512).to_bytes()


def onboard(**parameters: object) -> Onboarded:
    state, result = run_local(onboard_model, model=NAME, **parameters)
    assert state == "Completed"
    assert isinstance(result, Onboarded)
    return result


def artifact(client: SyncPrefectClient, kind: str, subject: str | None = None) -> Artifact:
    """The newest artifact of a kind; by default what stands for the promoted Q8_0."""
    subject = subject or (NAME if kind == "preflight" else PROMOTED)
    (found,) = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(kind, MODEL, subject)])),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    return found


def test_onboarding_ends_with_a_promoted_model_and_a_dossier(onboarded: Twice) -> None:
    result, clients = onboarded.first, onboarded.clients
    assert result.line.startswith(f"onboarded {NAME}:Q8_0@{result.revision[:8]} at ")
    assert result.line.endswith(f": promoted; {CUT}")
    promoted = clients.volume.promoted(MODEL).default_id
    assert promoted is not None
    assert (promoted.variant, promoted.revision) == (result.variant, result.revision) == ("Q8_0", result.revision)
    assert Path(result.path).resolve() == clients.volume.snapshot_path(promoted)
    dossier = Path(result.dossier).read_text()
    for part in ("## Files", "## Checks", "## Memory", "## Benchmark", "prefill of 256 tokens", "## Promotions", "mit"):
        assert part in dossier
    shown = with_fitted_tables(dossier.partition("## Memory")[0])
    assert shown in str(onboarded.again_artifacts["dossier"].data)

    # A context that is cut to the trained one is said wherever one looks.
    assert (result.context_tokens, result.notes) == (512, (CUT,))
    assert f"Not as requested: {CUT}." in dossier
    assert CUT in (onboarded.artifacts["memory"].description or "")
    assert onboarded.warnings.count(CUT) == 2, "when it was chosen, and when it was validated"


def test_the_log_tells_each_phase_in_a_line(onboarded: Twice) -> None:
    result = onboarded.first
    name, size = f"{PROMOTED}@{result.revision[:8]}", r"[\d.]+ [KM]iB"
    warned = r"(no|\d+) warnings?"
    phases = (
        rf"acquired {name}: {size} of {size} fetched, {warned}, in [\d.]+ s",
        rf"validated: passed, {warned}, {size} of memory with 512 tokens of context, in [\d.]+ s",
        r"not cached, since PADDOCK_S3_URI is not set, in [\d.]+ s",
        r"benchmarked: prefill [\d.]+ tokens/s, decode [\d.]+ tokens/s( \(not reliable\))?, in [\d.]+ s",
        r"gates: nothing to compare, since it replaces no other files, in [\d.]+ s",
        rf"promoted {name}, in [\d.]+ s",
        re.escape(result.line),
        rf"Finished in state Completed\('{re.escape(result.line)}'\)",
    )
    lines = iter(onboarded.log)
    for phase in phases:
        assert any(re.fullmatch(phase, line) for line in lines), (phase, onboarded.log)


def test_every_step_creates_its_artifact_under_a_stable_key(onboarded: Twice) -> None:
    assert {kind: one.type for kind, one in onboarded.artifacts.items()} == {
        **dict.fromkeys(KINDS, "markdown"),
        **dict.fromkeys(("findings", "copy", "promotion", "memory"), "table"),
        "download": "progress",
    }
    for kind in KINDS:
        again = onboarded.again_artifacts[kind]
        assert again.key == onboarded.artifacts[kind].key
        assert again.id != onboarded.artifacts[kind].id, f"{kind} was not recorded again"


def test_no_artifact_shows_a_value_as_python_writes_it(onboarded: Twice) -> None:
    for kind, one in onboarded.artifacts.items():
        shown = re.sub(r"(?s)```.*?```|\(data:[^)]*\)|\bnull\b", "", f"{one.description} {one.data}")
        assert not re.search(r"\b(None|True|False)\b|\b[A-Z][a-z]+[A-Za-z]*\.[A-Z_]{2,}\b|<\w+ object", shown), kind


def test_a_second_onboarding_fetches_no_byte_and_says_so(onboarded: Twice) -> None:
    assert onboarded.first.transferred_bytes > 0
    assert onboarded.again.transferred_bytes == onboarded.again_sent_bytes == 0
    assert "0 B of model data fetched" in onboarded.again.line
    assert "0 B fetched" in (onboarded.again_artifacts["download"].description or "")


def test_a_browser_draws_the_pictures_of_the_benchmark_and_of_the_dossier_and_no_table_is_too_wide(
    onboarded: Twice, prefect_server: PrefectServer
) -> None:
    """One in each of Prefect's user interfaces; `test_pictures.py` and `test_pages.py` open more in both."""
    with open_browser() as page:
        for interface, kind in (("", "benchmark"), ("/v2", "dossier")):
            shown = onboarded.again_artifacts[kind]
            assert image_widths(page, f"{prefect_server.ui}{interface}/artifacts/artifact/{shown.id}") == [680] * 3
            assert wide_tables(page) == []


@pytest.mark.usefixtures("clients")
def test_a_model_that_is_not_there_fails_in_one_try_with_one_sentence(
    client: SyncPrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ModelNotFound, match="nobody/nothing is not on"):
        run_local(onboard_model, model="nobody/nothing")
    (resolved,) = tries(client, onboard_model, "resolve")
    assert resolved.run_count == 1
    assert "Traceback" not in caplog.text
    run = newest(client, onboard_model)
    reason = "nobody/nothing is not on "
    assert run.state is not None
    assert reason in str(run.state.message)
    assert reason in messages(client, run, last="Finished in state Failed('Flow")[-1]


@pytest.mark.usefixtures("clients")
def test_a_failed_request_to_the_hub_is_retried(client: SyncPrefectClient, hub: HubService) -> None:
    hub.inject("status", "/api/models/*", where="hub", status=503)
    run_local(acquire_model, model=NAME)
    (run,) = tries(client, acquire_model, "resolve")
    assert run.run_count == 2


def test_a_rejected_model_is_not_published_and_its_findings_are_recorded(
    client: SyncPrefectClient, afterwards: Clients, onboarded: Twice
) -> None:
    before = afterwards.volume.promoted(MODEL)
    stood = artifact(client, "findings")
    onboarded.hub.repository(NAME).commit({"tiny-Q8_0.gguf": rejected_model()})
    with pytest.raises(ModelRejected):
        run_local(onboard_model, model=NAME, quantization="Q8_0")
    assert afterwards.volume.promoted(MODEL) == before
    assert "reject" in (artifact(client, "findings", NAME).description or "")
    assert artifact(client, "findings").id == stood.id


@pytest.mark.torture
def test_without_promotion_the_promoted_snapshot_and_its_artifacts_stay(
    client: SyncPrefectClient, afterwards: Clients, onboarded: Twice
) -> None:
    first = onboarded.first
    before = afterwards.volume.promoted(MODEL)
    stood = {kind: artifact(client, kind).id for kind in KINDS if kind != "preflight"}
    onboarded.hub.repository(NAME).commit({"tiny-Q8_0.gguf": roomy("next")})
    result = onboard(promote=False)
    assert result.revision != first.revision
    assert f": not promoted; {CUT}" in result.line
    assert afterwards.volume.promoted(MODEL) == before
    assert {kind: artifact(client, kind).id for kind in stood} == stood
    for kind in stood.keys() - {"promotion"}:
        beside = artifact(client, kind, f"{PROMOTED}@{result.revision}")
        assert first.revision[:8] not in (beside.description or "")

    run_local(promote_model, model=NAME, revision=result.revision)
    for kind in ("findings", "benchmark", "promotion", "dossier"):
        assert result.revision[:8] in (artifact(client, kind).description or "")


def test_artifacts_for_another_target_do_not_replace_those_of_the_promoted_snapshot(
    client: SyncPrefectClient, afterwards: Clients, onboarded: Twice
) -> None:
    promoted = locate(afterwards, Reference(MODEL))
    judgement = read_validation(afterwards, promoted)
    kinds = ("files", "download", "findings", "memory", "preflight")
    stood = {kind: artifact(client, kind).id for kind in kinds}
    revision = onboarded.first.revision
    run_local(acquire_model, model=NAME, revision=revision, target="64GiB")
    run_local(validate_model, model=NAME, revision=revision, target="64GiB")
    assert {kind: artifact(client, kind).id for kind in kinds} == stood
    assert judgement is not None
    assert read_validation(afterwards, promoted) == judgement
    for kind in kinds:
        assert artifact(client, kind, f"{NAME if kind == 'preflight' else PROMOTED} for 64GiB").id not in stood.values()


def test_a_target_that_is_too_small_is_refused_before_a_weight_is_fetched(
    client: SyncPrefectClient, clients: Clients
) -> None:
    with pytest.raises(DoesNotFit, match=r"with 256 tokens of context \(Q8_0 takes .*Q4_K_M takes"):
        run_local(onboard_model, model=NAME, target="1MiB")
    table = artifact(client, "preflight", f"{NAME} for 1MiB")
    assert "does not fit" in (table.description or "")
    rows = str(table.data).splitlines()
    assert [row.split("**")[1] for row in rows] == ["Q8_0", "Q4_K_M", "Q6_K"]
    assert not list((clients.settings.volume / ".paddock").glob("blobs/sha256/*/*"))


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
        run_local(onboard_model, **{"model": NAME, **wrong})


@pytest.mark.usefixtures("roomy_hub")
def test_each_phase_is_a_flow_of_its_own(monkeypatch: pytest.MonkeyPatch, clients: Clients, s3: S3Server) -> None:
    use_s3(monkeypatch, s3, "phases")
    with pytest.raises(NotOnVolume, match="pull or onboard it first"):
        run_local(validate_model, model=NAME)
    _, acquired = run_local(acquire_model, model=NAME)
    revision, id = acquired.manifest.revision, acquired.manifest.id
    assert clients.volume.promoted(MODEL).ids == []

    _, validation = run_local(validate_model, model=NAME)
    assert validation.verdict in {"accept", "warn"}
    _, copied = run_local(cache_model, model=NAME, revision=revision)
    assert copied.bytes_transferred == acquired.manifest.size_bytes
    _, measured = run_local(benchmark_model, model=NAME, revision=revision)
    assert measured.decode_tok_per_s > 0
    run_local(promote_model, model=NAME, revision=revision)
    assert clients.volume.promoted(MODEL).default_id == id
    connected = connect()
    assert connected.remote is not None
    assert connected.remote.promoted(MODEL).default_id == id


@pytest.mark.torture
def test_another_quantization_of_a_promoted_commit_can_be_onboarded(
    client: SyncPrefectClient, afterwards: Clients, onboarded: Twice
) -> None:
    first = onboarded.first
    wanted = Reference(MODEL, ref=first.revision)
    request = OnboardRequest(wanted, "q4_k_m", None, "chat", "this-machine", promote=False)
    second = in_order(afterwards, InProcess(PlainRunner(afterwards)), request)
    assert (second.revision, second.variant, second.quantization) == (first.revision, "Q4_K_M", "Q4_K_M")
    assert (Path(second.path) / "tiny-Q4_K_M.gguf").read_bytes() == tiny_model(file_type=Q4_K_M)
    run_local(promote_model, model=f"{NAME}:Q4_K_M", revision=second.revision)
    assert (afterwards.volume.model_path(MODEL) / "tiny-Q4_K_M.gguf").read_bytes() == tiny_model(file_type=Q4_K_M)
    assert (afterwards.volume.model_path(MODEL, Q8) / "tiny-Q8_0.gguf").read_bytes() == roomy()
    promoted = afterwards.volume.promoted(MODEL)
    assert promoted.default == "Q4_K_M"
    assert promoted.revisions == {"Q8_0": first.revision, "Q4_K_M": first.revision}
    assert "Q4_K_M" in (artifact(client, "promotion", f"{NAME}:Q4_K_M").description or "")


def test_a_rollback_that_failed_to_update_s3_is_retried_and_carried_out_once(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, clients: Clients, hub: HubService, s3: S3Server
) -> None:
    use_s3(monkeypatch, s3, f"rollback-{secrets.token_hex(4)}")
    connected = connect()
    assert connected.remote is not None
    promoted = []
    for layers in (1, 2, 3):
        hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(layers)})
        manifest = pull(connected, Reference(MODEL)).manifest
        push(connected.volume, connected.remote, manifest)
        update_remote_ref(connected, MODEL)
        promoted.append(manifest.id)
    assert connected.remote.promoted(MODEL).default_id == promoted[2]
    with proxied(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults = [S3Fault("status", ("PUT",), "/refs/", times=3)]  # the client's own tries, all of them
        run_local(rollback_model, model=NAME)
        assert proxy.faults[0].times == 0
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    (run,) = tries(client, rollback_model, "rollback")
    assert run.run_count == 2
    assert clients.volume.promoted(MODEL).default_id == connected.remote.promoted(MODEL).default_id == promoted[1]
    history = clients.volume.history(MODEL)
    assert [one.revision for one in history] == [id.revision for id in (*promoted, promoted[1])]
    assert history[-1].operation == str(newest(client, rollback_model).id)

    run_local(rollback_model, model=NAME)  # another run is another step
    assert clients.volume.promoted(MODEL).default_id == promoted[0]
