"""Promotion and rollback on the volume and in S3, with failures of S3 in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import HubService
from infra.local.s3 import S3Server
from paddock.errors import NotOnVolume, StoreUnavailable
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote import promote
from paddock.model.names import Revision
from paddock.model.reference import Reference, SnapshotId, Variant
from paddock.store.copying import push
from paddock.store.history import Promoted
from tests.support.stores import Q4, Q8, publish
from tests.support.tiny_hub import MODEL, NAME, fill_repository, tiny_model, use_hub, use_s3


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, hub: HubService, s3: S3Server, tmp_path: Path) -> Clients:
    """A volume and an S3."""
    use_hub(monkeypatch, hub, tmp_path)
    use_s3(monkeypatch, s3, f"promotion-{tmp_path.name}")
    fill_repository(hub)
    return connect()


def three(clients: Clients, hub: HubService) -> list[SnapshotId]:
    """Three revisions of a variant, each published, pushed and promoted."""
    ids = []
    clients.volume.prepare()
    for layers in (1, 2, 3):
        content = {"tiny-Q8_0.gguf": tiny_model(layers)}
        revision = Revision(hub.repository(NAME).commit(dict(content)))
        manifest = publish(clients.volume, revision, content, Path(), model=MODEL, age_s=layers)
        if clients.remote is not None:
            push(clients.volume, clients.remote, manifest)
        promote.promote_snapshot(clients, manifest.id, reason="a test")
        ids.append(manifest.id)
    return ids


def test_the_ref_in_s3_follows_the_pointer(fleet: Clients, hub: HubService) -> None:
    first, second, third = three(fleet, hub)
    assert fleet.remote is not None
    assert fleet.volume.promoted(MODEL) == fleet.remote.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: third.revision})
    back = promote.roll_back(fleet, Reference(MODEL), reason="a test")
    assert (back.revision, back.previous, back.moves_default) == (second.revision, third.revision, False)
    assert fleet.volume.promoted(MODEL) == fleet.remote.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: second.revision})
    done = promote.promote_snapshot(fleet, first, reason="a test")
    assert (done.revision, done.previous) == (first.revision, second.revision)
    assert fleet.remote.promoted(MODEL).default_id == first


@pytest.mark.parametrize("variant", [None, Q8], ids=["the model", "a variant"])
def test_a_rollback_that_could_not_update_s3_says_so_and_the_same_command_finishes_it(
    monkeypatch: pytest.MonkeyPatch, fleet: Clients, hub: HubService, variant: Variant | None
) -> None:
    _, second, third = three(fleet, hub)
    assert fleet.remote is not None
    name = f"{NAME}:{variant}" if variant else NAME
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreUnavailable, match=f"{name} is rolled back .*, but S3 was not updated") as raised:
            promote.roll_back(connect(), Reference(MODEL, variant), reason="a test")
    assert f"`paddock rollback {name}` again" in raised.value.cure
    assert fleet.volume.promoted(MODEL).default_id == second
    assert fleet.remote.promoted(MODEL).default_id == third
    finished = promote.roll_back(connect(), Reference(MODEL, variant), reason="a test")
    assert (finished.revision, finished.previous) == (second.revision, third.revision)
    assert fleet.volume.promoted(MODEL) == fleet.remote.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: second.revision})
    assert len(fleet.volume.history(MODEL)) == 4, "one line for each promotion, and one for the rollback"


def test_a_promotion_updates_s3_after_a_rollback_that_could_not(
    monkeypatch: pytest.MonkeyPatch, fleet: Clients, hub: HubService
) -> None:
    first, second, third = three(fleet, hub)
    assert fleet.remote is not None
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreUnavailable):
            promote.roll_back(connect(), Reference(MODEL), reason="a test")
    assert fleet.remote.promoted(MODEL).default_id == third
    promote.promote_snapshot(fleet, second, reason="finished")
    assert fleet.remote.promoted(MODEL).default_id == second
    promote.roll_back(fleet, Reference(MODEL), reason="the next one is a step of its own")
    assert fleet.volume.promoted(MODEL).default_id == fleet.remote.promoted(MODEL).default_id == first


def test_a_snapshot_that_was_never_pushed_gets_no_ref(fleet: Clients) -> None:
    pull(fleet, Reference(MODEL))
    assert fleet.remote is not None
    assert fleet.remote.promoted(MODEL) == Promoted(MODEL)


def test_a_variant_is_added_to_the_ref_after_it_was_copied_to_s3(fleet: Clients) -> None:
    first = pull(fleet, Reference(MODEL, Q8)).manifest
    second = pull(fleet, Reference(MODEL, Q4)).manifest
    assert fleet.remote is not None
    push(fleet.volume, fleet.remote, first)
    promote.update_remote_ref(fleet, MODEL)
    assert fleet.remote.promoted(MODEL) == Promoted(MODEL, None, {Q8: first.revision})
    push(fleet.volume, fleet.remote, second)
    promote.update_remote_ref(fleet, MODEL)
    assert fleet.remote.promoted(MODEL) == fleet.volume.promoted(MODEL)


def test_the_first_promotion_cannot_be_rolled_back(clients: Clients) -> None:
    pull(clients, Reference(MODEL))
    for variant in (None, Q8):
        with pytest.raises(NotOnVolume, match="nothing"):
            promote.roll_back(clients, Reference(MODEL, variant), reason="a test")
