"""Commits that a refresh may not or cannot use: it says so each night, and asks the Hub once."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.engine.facts import engine_version
from paddock.lifecycle.catalog import Catalog, parse_catalog
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.refresh.facts import plan_refresh
from paddock.lifecycle.upkeep.refresh.record import record_of, store_record
from tests.support.refreshed import catalog_of, promoted_model
from tests.support.tiny_hub import tiny_model, use_hub

FILE = "m-Q8_0.gguf"


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, hub: HubService, memory: Path) -> Clients:
    use_hub(monkeypatch, hub, memory)
    made = connect()
    made.volume.prepare()
    return made


def catalog(*entries: str) -> Catalog:
    return parse_catalog(catalog_of(*entries), "catalog.yaml")


def test_a_gated_repository_is_asked_for_access_also_where_all_of_it_is_here(
    clients: Clients, hub: HubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one only the card changed; the new model file of the other is on the volume as that of a third."""
    promoted_model(hub.hub, clients.volume, "org/card", {FILE: tiny_model()})
    promoted_model(hub.hub, clients.volume, "org/file", {FILE: tiny_model()})
    promoted_model(hub.hub, clients.volume, "org/open", {FILE: tiny_model(2)})
    hub.repository("org/card", gated=True).commit({"README.md": b"# Better\n"})
    hub.repository("org/file", gated=True).commit({FILE: tiny_model(2)})
    hub.hub.grant("stranger")
    hub.hub.grant("friend", "org/card", "org/file")
    both = catalog("model: org/card", "model: org/file")
    for token, actions in ((None, ["withdrawn"] * 2), ("stranger", ["withdrawn"] * 2), ("friend", ["retag", "fetch"])):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        plan = plan_refresh(connect(), both)
        assert [one.action.value for one in plan.entries] == actions
        if token != "friend":
            assert all("is gated on" in one.reason and "stays promoted" in one.reason for one in plan.entries)
            assert not any(one.remember for one in plan.entries), "access may be given at any time"


def test_a_commit_that_cannot_be_used_costs_one_request_from_the_second_night_on(
    clients: Clients, hub: HubService
) -> None:
    for name in ("large", "gone"):
        promoted_model(hub.hub, clients.volume, f"org/{name}", {FILE: tiny_model()}, engine=engine_version())
    hub.repository("org/large").commit({FILE: tiny_model(2)})
    hub.repository("org/gone").commit({FILE: None, "m-Q4_K_M.gguf": tiny_model()})
    wanted = catalog("model: org/large, target: 1MiB", "model: org/gone, variant: Q8_0")
    for requests in (4, 2):
        plan = plan_refresh(clients, wanted)
        assert [one.action.value for one in plan.entries] == ["blocked", "withdrawn"]
        assert plan.requests == requests
        assert "does not fit" in plan.entries[0].reason
        for planned in plan.entries:
            assert planned.remember == (requests == 4)
            store_record(clients, planned.entry, record_of(planned, planned.action.value))
    hub.repository("org/gone").commit({FILE: tiny_model(2)})
    assert plan_refresh(clients, wanted).requests == 3
