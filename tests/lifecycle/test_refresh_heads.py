"""The commits of many branches: one request for each, and one backoff for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.errors import HubUnavailable, ModelGated, ModelNotFound, RevisionNotFound
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.refresh.heads import Branch, read_heads
from paddock.model.artifact import BranchHead
from paddock.model.names import ModelName, Revision
from tests.support.clock import FakeClock
from tests.support.tiny_hub import use_hub


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, hub: HubService, tmp_path: Path) -> Clients:
    use_hub(monkeypatch, hub, tmp_path)
    return connect()


def branch(name: str, ref: str = "main") -> Branch:
    return ModelName.parse(name), ref


def test_each_branch_costs_one_request(clients: Clients, hub: HubService) -> None:
    commits = {
        branch(f"org/m{i}-GGUF"): Revision(hub.repository(f"org/m{i}-GGUF").commit({"a": b"%d" % i})) for i in range(20)
    }
    clients.hub.head(*branch("org/m0-GGUF"))  # huggingface_hub's first request asks something of its own
    hub.reset_stats()
    heads = read_heads(clients.hub, [*commits, *commits])
    assert heads == {key: BranchHead(key[0], commit) for key, commit in commits.items()}
    assert hub.stats().total_requests == 20


def test_what_is_gone_renamed_or_unknown_is_told_for_each(clients: Clients, hub: HubService) -> None:
    commit = Revision(hub.repository("org/here-GGUF").commit({"a": b"a"}))
    wanted = [branch("org/here-GGUF"), branch("org/here-GGUF", "v2"), branch("org/gone-GGUF"), branch("ORG/Here-gguf")]
    heads = read_heads(clients.hub, wanted)
    assert heads[wanted[0]] == heads[wanted[3]] == BranchHead(ModelName.parse("org/here-GGUF"), commit)
    assert isinstance(heads[wanted[1]], RevisionNotFound)
    assert isinstance(heads[wanted[2]], ModelNotFound | ModelGated)


def test_one_refusal_pauses_all_requests_and_all_are_answered_then(clients: Clients, hub: HubService) -> None:
    wanted = [branch(f"org/p{i}-GGUF") for i in range(12)]
    for model, _ in wanted:
        hub.repository(str(model)).commit({"a": b"a"})
    hub.inject("status", "/api/models/org/p*", where="hub", times=4, status=429, headers={"Retry-After": "30"})
    clock = FakeClock()
    paused: list[float] = []

    def sleep(seconds: float) -> None:
        paused.append(seconds)
        clock.now_s += seconds

    heads = read_heads(clients.hub, wanted, connections=4, sleep=sleep, clock=clock)
    assert all(isinstance(head, BranchHead) for head in heads.values())
    assert 29 < max(paused) <= 30  # and no pause of our own, of which four in a row are of 10 s at most


def test_a_hub_that_is_down_is_not_asked_for_every_branch(clients: Clients, hub: HubService) -> None:
    wanted = [branch(f"org/d{i}-GGUF") for i in range(200)]
    hub.inject("status", "/api/models/org/d*", where="hub", times=None, status=503)
    hub.reset_stats()
    clock = FakeClock()

    def sleep(seconds: float) -> None:
        clock.now_s += seconds

    heads = read_heads(clients.hub, wanted, connections=2, sleep=sleep, clock=clock)
    hub.clear_faults()
    assert all(isinstance(head, HubUnavailable) for head in heads.values())
    assert hub.stats().total_requests < 40
    assert clock.now_s - FakeClock().now_s >= 60
