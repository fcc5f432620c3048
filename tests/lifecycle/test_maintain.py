"""Maintaining a volume: every step is carried out, and what failed is raised at the end."""

from __future__ import annotations

import pytest

from infra.local.ports import free_ports
from paddock.errors import MaintenanceFailed, NotOnVolume
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.steps import PlainRunner
from paddock.lifecycle.upkeep.maintain import MaintenanceRequest, maintain
from paddock.model.artifact import Manifest
from tests.support.damage import flip

STEPS = ["clean orphans", "scrub", "evict", "sum up usage"]


def test_a_sound_volume_is_maintained_and_its_use_recorded(clients: Clients, pulled: Manifest) -> None:
    lines: list[str] = []
    maintained = maintain(PlainRunner(clients, on_line=lines.append), MaintenanceRequest())
    assert [outcome.step for outcome in maintained.outcomes] == STEPS
    assert maintained.failures == ()
    assert maintained.history is not None
    assert maintained.history.samples[-1].models == {pulled.repository: pulled.size_bytes}
    assert lines[-1] == maintained.line
    assert maintained.to_json()["held_by"] is None


def test_damage_that_stays_is_raised_after_the_last_step(
    clients: Clients, pulled: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = max(pulled.files, key=lambda file: file.size)
    flip(clients.volume.blob_path(model.sha256), 100)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MaintenanceFailed) as raised:
        maintain(PlainRunner(connect()), MaintenanceRequest(repair=False))
    assert "1 of 5 steps" in raised.value.message
    assert "scrub: 1 damaged blob stays" in raised.value.message

    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert maintain(PlainRunner(connect()), MaintenanceRequest()).failures == ()


def test_steps_that_need_s3_fail_alone_when_s3_is_down(
    clients: Clients, pulled: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_S3_URI", "s3://models/prefix")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(MaintenanceFailed, match=r"2 of 7 steps .* scrub remote: .* evict remote: "):
        maintain(PlainRunner(connect()), MaintenanceRequest())


def test_one_of_two_maintenances_says_that_the_other_one_is_at_it(clients: Clients, pulled: Manifest) -> None:
    with clients.volume.maintenance_lock.hold() as holder:
        assert holder is None
        second = maintain(PlainRunner(clients), MaintenanceRequest())
    assert second.outcomes == ()
    assert "nothing was done: the volume is being maintained by process " in second.line
    assert maintain(PlainRunner(clients), MaintenanceRequest()).held_by is None


def test_a_mistyped_volume_is_not_made(clients: Clients) -> None:
    with pytest.raises(NotOnVolume, match="there is no volume at"):
        maintain(PlainRunner(clients), MaintenanceRequest())
    assert not clients.volume.root.exists()
