"""Promotion and the way back, on the volume and in S3, also when S3 stumbles in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import Service
from infra.local.s3 import S3Server
from paddock.errors import NotOnVolume, StoreUnavailable
from paddock.lifecycle import promotion
from paddock.lifecycle.parts import Parts, connect
from paddock.lifecycle.pull import pull
from paddock.model.names import Revision
from paddock.store.copying import push
from tests.support.house import MODEL, NAME, point_to, point_to_s3, stock, tiny


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, hub: Service, s3: S3Server, tmp_path: Path) -> Parts:
    """A volume and an S3."""
    point_to(monkeypatch, hub, tmp_path)
    point_to_s3(monkeypatch, s3, f"promotion-{tmp_path.name}")
    stock(hub)
    return connect()


def three(parts: Parts, hub: Service) -> list[Revision]:
    """Three revisions, each pulled, pushed and promoted."""
    revisions = []
    for layers in (1, 2, 3):
        hub.repository(NAME).commit({"tiny-Q8_0.gguf": tiny(layers)})
        manifest = pull(parts, MODEL).manifest
        if parts.s3 is not None:
            push(parts.volume, parts.s3, manifest)
        promotion.promote(parts, MODEL, manifest.revision, reason="a test")
        revisions.append(manifest.revision)
    return revisions


def test_the_ref_in_s3_follows_the_pointer(fleet: Parts, hub: Service) -> None:
    first, second, third = three(fleet, hub)
    assert fleet.s3 is not None
    assert fleet.volume.promoted(MODEL) == fleet.s3.promoted(MODEL) == third
    assert promotion.rollback(fleet, MODEL, reason="a test") == (second, third)
    assert fleet.volume.promoted(MODEL) == fleet.s3.promoted(MODEL) == second
    assert promotion.promote(fleet, MODEL, first, reason="a test") == second
    assert fleet.s3.promoted(MODEL) == first


def test_a_rollback_that_could_not_tell_s3_says_where_it_stands_and_is_finished_by_a_promotion(
    monkeypatch: pytest.MonkeyPatch, fleet: Parts, hub: Service
) -> None:
    _, second, third = three(fleet, hub)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreUnavailable, match=f"rolled back to {second}") as told:
            promotion.rollback(connect(), MODEL, reason="a test")
    assert f"promote {NAME}@{second}" in told.value.cure
    assert fleet.volume.promoted(MODEL) == second
    assert fleet.s3 is not None
    assert fleet.s3.promoted(MODEL) == third
    promotion.promote(fleet, MODEL, second, reason="finished")
    assert fleet.s3.promoted(MODEL) == second


def test_a_snapshot_that_was_never_pushed_gets_no_ref(fleet: Parts) -> None:
    pull(fleet, MODEL)
    assert fleet.s3 is not None
    assert fleet.s3.promoted(MODEL) is None


def test_there_is_nothing_before_the_first(parts: Parts) -> None:
    pull(parts, MODEL)
    with pytest.raises(NotOnVolume, match="no earlier revision"):
        promotion.rollback(parts, MODEL, reason="a test")
