"""Fetching files from damaged stores: wrong objects, damaged manifests, removed blobs."""

from __future__ import annotations

import logging
import os
import time
from hashlib import sha256
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.errors import CorruptFile
from paddock.lifecycle.acquire import fetch
from paddock.lifecycle.acquire import plan as acquisition
from paddock.lifecycle.acquire.plan import AcquisitionPlan
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.model.artifact import Manifest
from paddock.model.names import Sha256
from paddock.model.reference import Reference
from paddock.model.source import Expected
from paddock.planning.file_selection import select_files
from paddock.store.copying import push
from paddock.store.volume import ORPHAN_AGE_S
from tests.support.tiny_hub import MODEL, NAME, fill_repository, tiny_model, use_hub, use_s3

WEIGHTS = Sha256(sha256(tiny_model()).hexdigest())


@pytest.fixture
def fleet(
    monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path, request: pytest.FixtureRequest
) -> Manifest:
    """A model that one machine pushed to S3; the environment names the empty volume of a second machine."""
    use_hub(monkeypatch, hub, tmp_path / "first")
    use_s3(monkeypatch, s3, f"acquisition/{request.node.name}")
    fill_repository(hub)
    first = connect()
    assert first.remote is not None
    manifest = pull(first, Reference(MODEL)).manifest
    push(first.volume, first.remote, manifest)
    monkeypatch.setenv("PADDOCK_VOLUME", str(tmp_path / "second"))
    return manifest


def planned(clients: Clients) -> AcquisitionPlan:
    listing = clients.hub.listing(MODEL)
    return acquisition.plan(clients, listing, select_files(listing))


def key_of(clients: Clients, digest: Sha256) -> str:
    assert clients.remote is not None
    return f"{clients.remote.label.split('/', 3)[3]}/blobs/sha256/{digest}"


def flip(s3: S3Server, clients: Clients) -> None:
    damaged = bytearray(tiny_model())
    damaged[20_000] ^= 1
    s3.client().put_object(Bucket=s3.bucket, Key=key_of(clients, WEIGHTS), Body=bytes(damaged))


def spoil(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"rotten")


def test_a_damaged_object_in_s3_is_fetched_from_the_hub_and_sent_again_by_the_next_push(
    fleet: Manifest, s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    second = connect()
    assert second.remote is not None
    flip(s3, second)
    with caplog.at_level(logging.WARNING, logger="paddock"):
        pulled = pull(second, Reference(MODEL))
    assert "from the Hub instead" in caplog.text
    assert (pulled.path / "tiny-Q8_0.gguf").read_bytes() == tiny_model()
    assert {one.file.path: one.origin for one in pulled.acquired}["tiny-Q8_0.gguf"] == "hub"

    assert push(second.volume, second.remote, pulled.manifest).bytes_transferred == len(tiny_model())
    sent = s3.client().get_object(Bucket=s3.bucket, Key=key_of(second, WEIGHTS))["Body"].read()
    assert sent == tiny_model()


def test_a_damaged_object_is_kept_where_the_hub_cannot_replace_it(
    fleet: Manifest, s3: S3Server, hub: HubService
) -> None:
    second = connect()
    assert second.remote is not None
    flip(s3, second)
    hub.inject("flip", f"{NAME}/tiny-Q8_0.gguf", offset=20_000, times=None)
    with pytest.raises(CorruptFile):
        pull(second, Reference(MODEL))
    assert second.remote.has_blob(WEIGHTS, len(tiny_model()))


def test_an_object_that_was_removed_after_planning_is_fetched_from_the_hub(fleet: Manifest) -> None:
    second = connect()
    assert second.remote is not None
    second.volume.prepare()
    plan = planned(second)
    assert {row.origin for row in plan.files} == {"s3"}
    second.remote.drop_blob(WEIGHTS)
    acquired = [fetch.fetch_file(second, plan.listing, row) for row in plan.files]
    assert {one.file.path: one.origin for one in acquired}["tiny-Q8_0.gguf"] == "hub"
    assert second.volume.has_blob(WEIGHTS, len(tiny_model()))


def test_a_damaged_manifest_in_s3_does_not_stop_a_pull(fleet: Manifest, s3: S3Server) -> None:
    second = connect()
    assert second.remote is not None
    key = f"{second.remote.label.split('/', 3)[3]}/snapshots/{MODEL.slug}/{fleet.revision}/{fleet.variant}.json"
    s3.client().put_object(Bucket=s3.bucket, Key=key, Body=b"rotten")
    assert pull(second, Reference(MODEL), promote=False).manifest.files == fleet.files


@pytest.mark.parametrize("ref", ["main", "commit"])
def test_a_damaged_manifest_on_the_volume_is_replaced_by_the_next_pull(clients: Clients, ref: str) -> None:
    before = pull(clients, Reference(MODEL)).manifest
    spoil(clients.volume.snapshot_path(before.id) / "manifest.json")
    pulled = pull(clients, Reference(MODEL, ref=before.revision if ref == "commit" else ref))
    assert pulled.manifest.files == before.files
    assert clients.volume.snapshot(before.id) == pulled.manifest


def test_a_blob_that_is_collected_after_planning_is_fetched_again(clients: Clients) -> None:
    clients.volume.prepare()
    clients.volume.add_bytes(tiny_model())
    plan = planned(clients)
    assert clients.volume.collect(older_than_s=0) == len(tiny_model())
    acquired = [fetch.fetch_file(clients, plan.listing, row) for row in plan.files]
    assert {one.file.path: one.origin for one in acquired}["tiny-Q8_0.gguf"] == "hub"


def test_an_old_blob_that_was_acquired_is_not_collected_before_it_is_published(clients: Clients) -> None:
    clients.volume.prepare()
    clients.volume.add_bytes(tiny_model())
    past = time.time() - 2 * ORPHAN_AGE_S
    os.utime(clients.volume.blob_path(WEIGHTS), (past, past))
    plan = planned(clients)
    for row in plan.files:
        fetch.fetch_file(clients, plan.listing, row)
    clients.volume.prepare()
    assert clients.volume.has_blob(WEIGHTS, len(tiny_model()))


def test_a_partial_file_is_counted_while_another_process_resumes_it(clients: Clients) -> None:
    expected = Expected(len(tiny_model()), WEIGHTS)
    held = clients.volume.partial / WEIGHTS / "held"
    held.mkdir(parents=True)
    (held / "data").write_bytes(bytes(8192))
    going = clients.volume.partial / WEIGHTS / "going"
    going.mkdir()
    (going / "data").symlink_to(going / "gone")  # found by the listing, and not there when it is looked at
    assert acquisition._staged_bytes(clients, expected) == 8192
