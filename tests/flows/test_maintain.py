"""Maintaining a volume in Prefect: states, artifacts, and the time of the schedule. Two runs serve all tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort

from flows.maintain import maintain_volume
from flows.run_local import run_local
from flows.schedule import maintenance_schedule
from infra import bootstrap
from infra.local.hub import LocalHub, serve_hub
from infra.local.s3 import S3Server
from paddock.errors import BadSetting, MaintenanceFailed
from paddock.lifecycle.clients import connect
from paddock.lifecycle.upkeep.maintain import Maintained
from paddock.model.reference import SnapshotId
from paddock.store.copying import push
from tasks.subject import StoreSubject
from tests.support.damage import flip
from tests.support.tiny_hub import MODEL, copy_directory, use_hub, use_s3

VOLUME_KINDS = ("orphans", "scrub", "eviction", "maintenance")
REMOTE_KINDS = ("scrub", "eviction")


@dataclass(frozen=True)
class TwoRuns:
    """A run that found a damaged blob and repaired it, and one that could not."""

    id: SnapshotId
    damaged: str
    repaired: Maintained
    artifacts: dict[str, Artifact]
    failure: MaintenanceFailed
    failed_artifacts: dict[str, Artifact]
    skipped: tuple[str, Maintained]


@pytest.fixture(scope="module")
def runs(
    _recorded: None, pulled_home: Path, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoRuns]:
    home = tmp_path_factory.mktemp("maintained")
    copy_directory(pulled_home, home)
    with (
        get_client(sync_client=True) as client,
        serve_hub(LocalHub(home / "hub")) as hub,
        pytest.MonkeyPatch.context() as patch,
    ):
        use_hub(patch, hub, home)
        use_s3(patch, s3, "maintained")
        clients = connect()
        assert clients.remote
        (manifest,) = clients.volume.snapshots(MODEL)
        push(clients.volume, clients.remote, manifest)
        blob = clients.volume.blob_path(max(manifest.files, key=lambda file: file.size).sha256)
        flip(blob, 100)
        _, repaired = run_local(maintain_volume)
        artifacts = newest(client)
        flip(blob, 100)
        with pytest.raises(MaintenanceFailed) as raised:
            run_local(maintain_volume, repair=False, max_hours=1.0, limit_rate=2**30)
        failed_artifacts = newest(client)
        with clients.volume.maintenance_lock.hold():
            skipped = run_local(maintain_volume)
        yield TwoRuns(manifest.id, blob.name, repaired, artifacts, raised.value, failed_artifacts, skipped)


def newest(client: SyncPrefectClient) -> dict[str, Artifact]:
    """The newest artifact of each kind: of the volume by its kind, of S3 by `s3 <kind>`."""
    clients = connect()
    volume, remote = StoreSubject.of_volume(clients), StoreSubject.of_remote(clients)
    keys = {kind: volume.key(kind) for kind in VOLUME_KINDS} | {f"s3 {kind}": remote.key(kind) for kind in REMOTE_KINDS}
    found: dict[str, Artifact] = {}
    for name, key in keys.items():
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.CREATED_DESC, limit=1
        )
        if artifacts:
            found[name] = artifacts[0]
    return found


def test_a_damaged_blob_is_found_and_repaired(runs: TwoRuns) -> None:
    assert runs.repaired.failures == ()
    (row,) = str(runs.artifacts["scrub"].data).splitlines()
    assert row.startswith(f"- **{runs.id.short}**: file: ")
    assert "; repaired, " in row
    assert row.endswith(f"; sha256: {runs.damaged}")
    assert "1 damaged, 0 of them still" in str(runs.artifacts["scrub"].description)


def test_each_step_leaves_its_artifact(runs: TwoRuns) -> None:
    assert {*VOLUME_KINDS, *(f"s3 {kind}" for kind in REMOTE_KINDS)} <= set(runs.artifacts)
    (kept,) = str(runs.artifacts["eviction"].data).splitlines()
    assert kept.startswith(f"- **{MODEL}**: variant: Q8_0; revision: {runs.id.revision[:8]}; ")
    assert "; kept; " in kept


def test_the_summary_has_a_picture_and_the_use_by_model(runs: TwoRuns) -> None:
    text = str(runs.artifacts["maintenance"].data)
    assert "](data:image/svg+xml;base64," in text
    assert "\n- **scrub**: took: " in text
    assert f"| {MODEL} | " in text


def test_a_run_that_leaves_damage_fails_after_its_other_steps(runs: TwoRuns) -> None:
    assert "scrub: 1 damaged blob stays" in runs.failure.message
    assert "; not repaired; " in str(runs.failed_artifacts["scrub"].data)
    text = str(runs.failed_artifacts["maintenance"].data)
    assert "**failed:** 1 damaged blob stays" in text
    assert runs.failed_artifacts["eviction"].id != runs.artifacts["eviction"].id


def test_a_run_beside_another_maintenance_says_so(runs: TwoRuns) -> None:
    name, maintained = runs.skipped
    assert name == "Skipped"
    assert "is being maintained by process" in maintained.line


@pytest.mark.parametrize("cron", ["99 3 * * 0", "30 3 * * funday", "weekly"])
def test_a_time_that_is_none_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cron: str
) -> None:
    monkeypatch.setenv("PADDOCK_MAINTENANCE_CRON", cron)
    assert bootstrap.main([]) == 3
    assert capsys.readouterr().err.startswith("the setting PADDOCK_MAINTENANCE_CRON is not usable: ")
    with pytest.raises(BadSetting):
        maintenance_schedule()


@pytest.mark.parametrize("cron", ["", "30 3 * * 0", "0 2 1-7 * sat", "*/5 * * * *"])
def test_a_time_that_is_one_is_the_schedules(monkeypatch: pytest.MonkeyPatch, cron: str) -> None:
    monkeypatch.setenv("PADDOCK_MAINTENANCE_CRON", cron)
    assert maintenance_schedule() == {"cron": cron or "30 3 * * 0"}
