"""Verifying stored snapshots: damage is found, quarantined, and repaired from S3 or the Hub."""

from __future__ import annotations

import pytest

from infra.local.hub import HubService
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.verify import verify
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.planning.targets import UNBOUNDED
from tests.support.damage import flip
from tests.support.tiny_hub import NAME, tiny_model

SEGMENT_BYTES = 64 * 1024


@pytest.fixture
def stored(clients: Clients, hub: HubService) -> Manifest:
    """A snapshot whose model has several segments, promoted."""
    hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny_model(12)})
    manifest = pull(clients, Reference.parse(f"{NAME}:Q8_0"), target=UNBOUNDED).manifest
    assert len(model_of(manifest)[1]) > 2
    return manifest


def model_of(manifest: Manifest) -> tuple[str, tuple[str, ...]]:
    """The path of the model's file, and the digests of its segments."""
    (file,) = (one for one in manifest.files if one.path.endswith(".gguf"))
    return file.path, file.segments


def test_a_sound_snapshot_is_ok(clients: Clients, stored: Manifest) -> None:
    verified = verify(clients, [stored])
    assert verified.ok
    assert [one.path for one in verified.files] == [file.path for file in stored.files]
    assert verified.to_json()["bytes_transferred"] == 0


def test_one_flipped_byte_is_named_by_its_segment_and_that_segment_alone_is_fetched(
    clients: Clients, stored: Manifest
) -> None:
    name, _ = model_of(stored)
    flip(clients.volume.snapshot_path(stored.id) / name, SEGMENT_BYTES + 17)
    (damaged,) = (one for one in verify(clients, [stored]).files if not one.ok)
    assert (damaged.path, damaged.bad_segments) == (name, (1,))
    repaired = verify(clients, [stored], repair_damage=True)
    assert repaired.ok
    assert repaired.transferred_bytes == SEGMENT_BYTES
    assert verify(clients, clients.volume.snapshots()).ok
    assert not list((clients.volume.root / ".paddock" / "quarantine").iterdir())


def test_damage_that_cannot_be_repaired_is_reported(
    clients: Clients, stored: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = model_of(stored)
    flip(clients.volume.snapshot_path(stored.id) / name, 2 * SEGMENT_BYTES + 1)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    verified = verify(connect(), [stored], repair_damage=True)
    assert not verified.ok
    assert verified.problems
    monkeypatch.undo()


def test_a_damaged_file_that_several_snapshots_share_is_repaired_for_all(clients: Clients, stored: Manifest) -> None:
    other = pull(clients, Reference.parse(f"{NAME}:Q4_K_M"), target=UNBOUNDED).manifest
    flip(clients.volume.snapshot_path(stored.id) / "config.json", 3)
    found = verify(clients, [stored, other])
    assert {one.id for one in found.files if not one.ok} == {stored.id, other.id}
    assert verify(clients, [stored, other], repair_damage=True).ok
    for manifest in (stored, other):
        assert verify(clients, [manifest]).ok
        (config,) = (file for file in manifest.files if file.path == "config.json")
        blob = clients.volume.blob_path(config.sha256)
        assert (clients.volume.snapshot_path(manifest.id) / "config.json").samefile(blob)
