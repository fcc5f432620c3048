"""`paddock verify --s3`: damaged objects are named, and replaced from the volume or the Hub."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.verify_remote import verify_remote
from paddock.model.artifact import Manifest
from paddock.store.volume.verifications import in_remote
from tests.support.damage import flip
from tests.support.program import Paddock, paddock
from tests.support.stored_model import SEGMENTS, WEIGHTS, quarantined, store_model, weights_of
from tests.support.stores import SEGMENT_BYTES, S3Store
from tests.support.tiny_hub import use_hub, use_s3

__all__ = ["paddock"]

THIRD = 2 * SEGMENT_BYTES + 17
WHOLE = (SEGMENTS - 1) * SEGMENT_BYTES + SEGMENT_BYTES // 3
MIB = 2**20


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path) -> Clients:
    use_hub(monkeypatch, hub, tmp_path)
    use_s3(monkeypatch, s3, f"verify-{secrets.token_hex(4)}")
    return connect()


@pytest.fixture
def stored(fleet: Clients, hub: HubService, tmp_path: Path) -> Manifest:
    return store_model(fleet, hub, tmp_path, in_s3=True)


def read_object(clients: Clients, manifest: Manifest) -> bytes:
    store = S3Store.of(clients)
    body = store.client().get_object(Bucket=store.bucket, Key=key_of(clients, manifest))["Body"]
    content: bytes = body.read()
    return content


def key_of(clients: Clients, manifest: Manifest) -> str:
    assert clients.settings.s3_uri
    prefix = clients.settings.s3_uri.partition("://")[2].partition("/")[2]
    return f"{prefix}/blobs/sha256/{weights_of(manifest).sha256}"


def damage_object(clients: Clients, manifest: Manifest, offset: int) -> bytes:
    """Flip a bit of an object, and return the sound bytes."""
    sound = read_object(clients, manifest)
    damaged = bytearray(sound)
    damaged[offset] ^= 1
    store = S3Store.of(clients)
    store.client().put_object(Bucket=store.bucket, Key=key_of(clients, manifest), Body=bytes(damaged))
    return sound


def test_a_flipped_byte_of_an_object_is_named_and_replaced_from_the_volume(
    fleet: Clients, stored: Manifest, paddock: Paddock
) -> None:
    sound = damage_object(fleet, stored, THIRD)
    found = paddock("verify", "--s3", "--json")
    assert found.status == 2
    (file,) = [one for one in found.json["files"] if not one["ok"]]
    assert (file["path"], file["bad_segments"]) == (WEIGHTS, [2])
    assert f"`paddock verify {stored.id} --s3 --repair`" in paddock("verify", str(stored.id), "--s3").stdout
    repaired = paddock("verify", str(stored.id), "--s3", "--repair", "--json")
    assert (repaired.status, repaired.json["bytes_transferred"]) == (0, WHOLE), "parts of S3 have at least 5 MiB"
    assert read_object(fleet, stored) == sound
    assert paddock("verify", "--s3", "--json").json["bytes_transferred"] == 0


def test_parts_without_damage_are_copied_by_the_service(fleet: Clients, hub: HubService, tmp_path: Path) -> None:
    """With segments of at least 8 MiB, one damaged segment is one part, and nothing else is sent."""
    stored = store_model(fleet, hub, tmp_path, segment_bytes=8 * MIB, in_s3=True)
    sound = damage_object(fleet, stored, 16 * MIB + 17)
    verified = verify_remote(fleet, repair_damage=True)
    (file,) = [one for one in verified.files if one.damage]
    assert (verified.ok, file.bad_segments, verified.transferred_bytes) == (True, (2,), 8 * MIB)
    assert read_object(fleet, stored) == sound


def test_what_was_verified_is_recorded_with_its_tag(fleet: Clients, stored: Manifest) -> None:
    assert fleet.remote is not None
    file, where = weights_of(stored), in_remote(fleet.remote.label)
    assert verify_remote(fleet).ok
    record = fleet.volume.verifications.last(file.sha256, where)
    assert record is not None
    assert record.tag == fleet.remote.blob_tag(file.sha256, file.size)
    damage_object(fleet, stored, THIRD)
    assert not verify_remote(fleet).ok
    assert fleet.volume.verifications.last(file.sha256, where) is None
    assert verify_remote(fleet, repair_damage=True).ok
    record = fleet.volume.verifications.last(file.sha256, where)
    assert record is not None
    assert record.tag == fleet.remote.blob_tag(file.sha256, file.size)


@pytest.mark.parametrize("copy", ["missing", "damaged"])
def test_without_a_sound_copy_on_the_volume_the_object_comes_from_the_hub(
    fleet: Clients, stored: Manifest, copy: str
) -> None:
    sound = damage_object(fleet, stored, THIRD)
    if copy == "missing":
        fleet.volume.remove(stored.model)
    else:
        flip(fleet.volume.blob_path(weights_of(stored).sha256), 3)
    verified = verify_remote(fleet, repair_damage=True)
    assert (verified.ok, verified.problems) == (True, ())
    assert read_object(fleet, stored) == sound
    assert (quarantined(fleet) == []) is (copy == "missing"), "a damaged blob of the volume is left to its own repair"
    assert list(fleet.volume.partial.iterdir()) == []


def test_without_any_sound_copy_the_object_stays(
    monkeypatch: pytest.MonkeyPatch, fleet: Clients, stored: Manifest
) -> None:
    sound = damage_object(fleet, stored, THIRD)
    fleet.volume.remove(stored.model)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    verified = verify_remote(connect(), repair_damage=True)
    assert not verified.ok
    assert "HF_HUB_OFFLINE" in verified.problems[0]
    assert read_object(fleet, stored)[:THIRD] == sound[:THIRD]


def test_an_object_that_is_gone_is_sent_again(fleet: Clients, stored: Manifest) -> None:
    sound = read_object(fleet, stored)
    assert fleet.remote is not None
    fleet.remote.drop_blob(weights_of(stored).sha256)
    verified = verify_remote(fleet)
    assert [one.damage for one in verified.files if not one.ok] == ["is missing, or has another size"]
    assert verify_remote(fleet, repair_damage=True).transferred_bytes == WHOLE
    assert read_object(fleet, stored) == sound


def test_without_s3_a_verification_of_it_says_so(clients: Clients, paddock: Paddock) -> None:
    assert clients.remote is None
    refused = paddock("verify", "--s3", "--json")
    assert (refused.status, refused.json["error"]) == (3, "bad-setting")
