"""Caching and restoring in Prefect: artifacts and removal of old snapshots."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from flows.cache import cache_model
from flows.promote import promote_model
from flows.restore import restore_model
from flows.run_local import run_local
from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.errors import NotOnVolume
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.model.derived_files import DERIVED_FILES
from paddock.model.reference import Reference, artifact_key
from tests.support.tiny_hub import MODEL, NAME, tiny_model, use_s3


def recorded(client: SyncPrefectClient, kind: str) -> tuple[str, list[dict[str, Any]]]:
    """The description and the rows of the newest table of a kind."""
    (found,) = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(kind, MODEL, f"{NAME}:Q8_0")])),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    return found.description or "", json.loads(str(found.data))


def test_a_model_is_cached_and_restored_and_the_artifacts_state_the_bytes(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, clients: Clients, s3: S3Server
) -> None:
    use_s3(monkeypatch, s3, f"flows-{secrets.token_hex(4)}")
    manifest = pull(clients, Reference(MODEL)).manifest
    files = len(manifest.files)
    run_local(cache_model, model=NAME, revision=manifest.revision)
    said, rows = recorded(client, "copy")
    assert " sent to `s3://" in said
    assert f"/s; 0 of {files} blobs were there already" in said
    assert {row["from"] for row in rows} == {"the volume"}
    run_local(cache_model, model=NAME, revision=manifest.revision)
    said, rows = recorded(client, "copy")
    assert f"0 B sent to `s3://models/{connect().settings.s3_uri.split('/', 3)[3]};` {files} of {files}" in said  # type: ignore[union-attr] # set above
    assert {row["from"] for row in rows} == {"there already"}

    clients.volume.remove(MODEL)
    clients.volume.collect(older_than_s=0)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _, restored = run_local(restore_model, model=NAME, revision=manifest.revision)
    assert restored.manifest == manifest
    assert clients.volume.promoted(MODEL).default_id == manifest.id
    fetched = {file.path for file in manifest.files} - DERIVED_FILES
    said, rows = recorded(client, "restoration")
    assert f"/s; 0 of {len(fetched)} files were there already" in said
    assert {row["file"]: row["from"] for row in rows} == dict.fromkeys(fetched, "s3")
    run_local(restore_model, model=NAME, promote=False)
    said, rows = recorded(client, "restoration")
    assert f"0 B fetched from S3; {len(fetched)} of {len(fetched)} files were there already" in said
    with pytest.raises(NotOnVolume, match=rf"Q8_0@{manifest.revision[:8]} of {NAME} is there"):
        run_local(restore_model, model=NAME, revision="0" * 40)


def test_a_promotion_removes_old_snapshots(monkeypatch: pytest.MonkeyPatch, clients: Clients, hub: HubService) -> None:
    monkeypatch.setenv("PADDOCK_KEEP_REVISIONS", "1")
    pulled = []
    for layers in (1, 2, 3):
        hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(layers)})
        pulled.append(pull(clients, Reference(MODEL), promote=False).manifest.revision)
    run_local(promote_model, model=NAME, revision=pulled[2])
    assert [manifest.revision for manifest in clients.volume.snapshots(MODEL)] == pulled[2:]
