"""A server watches a promoted revision, and rolls it back where it answers with errors: real engines, a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from infra.local.hub import HubService
from paddock.lifecycle.clients import connect
from paddock.lifecycle.upkeep.refresh.refresh import Refreshed
from paddock.lifecycle.watch import HistoryGuard
from paddock.model.names import Revision
from paddock.model.reference import Reference, SnapshotId
from paddock.serving.engine.supervisor import SupervisorLimits
from paddock.serving.switch.guard import Judgement, Observed, PromotionGuard, RollbackOutcome, WatchedPromotion
from paddock.settings import Settings
from tests.support.brief_refresh import refresh_briefly
from tests.support.gguf import STRING, TYPE_Q8_0, U32, tiny_llama
from tests.support.prometheus_text import read_metrics
from tests.support.refreshed import catalog_of
from tests.support.serving import ask, running
from tests.support.stores import MODEL, Q8, publish
from tests.support.switching import CONTEXT_TOKENS, FollowingServer, SwitchingVolume, streaming
from tests.support.waiting import wait_for

TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
REFUSING = "{% for m in messages if 'colours' in m.content %}{{ raise_exception('no colours') }}{% endfor %}" + TURNS
"""A template that refuses what tests ask. llama-server renders a conversation of its own when it starts."""
LIMITS = SupervisorLimits(start_s=120.0, check_interval_s=0.1, strikes=2, pauses_s=(0.05,))


class ReplaceableGuard(PromotionGuard):
    """Another guard for each test of one server."""

    def __init__(self) -> None:
        self.guard: PromotionGuard | None = None

    @property
    def watch_s(self) -> float:
        return self.guard.watch_s if self.guard else 60.0

    def promotion(self, id: SnapshotId, before: SnapshotId) -> WatchedPromotion | None:
        return self.guard.promotion(id, before) if self.guard else None


class WatchingServer(FollowingServer):
    guard: ReplaceableGuard

    @property
    def state(self) -> object:
        watch = self.health["watch"]
        return watch["state"] if isinstance(watch, dict) else None

    def chats(self) -> bool:
        return ask(self.client, stream=False).complete

    def metric(self, name: str, **labels: str) -> float:
        found = read_metrics(self.client.get("/metrics").text)
        samples = [sample for family in found.values() for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def model_bytes(layers: int, template: str) -> bytes:
    file = tiny_llama(layers=layers, kind=TYPE_Q8_0)
    file.set("llama.context_length", U32, CONTEXT_TOKENS).set("general.name", STRING, f"tiny {layers}")
    return file.set("tokenizer.chat_template", STRING, template).to_bytes()


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchingServer]:
    """A server of a volume with the revisions `a`, which is promoted, and `f`, which completes prompts, and refuses
    chats."""
    root = tmp_path_factory.mktemp("watching")
    clients = connect(Settings(volume=root / "models", threads=1, watch_s=60.0))
    clients.volume.prepare()
    contents = {"a": model_bytes(1, TURNS), "f": model_bytes(2, REFUSING)}
    manifests = {
        letter: publish(clients.volume, Revision(letter * 40), {"tiny-Q8_0.gguf": content}, root)
        for letter, content in contents.items()
    }
    volume, guard = SwitchingVolume(clients, manifests), ReplaceableGuard()
    volume.promote("a")
    with (
        running(volume.spec("a"), follows=volume.followed(), guard=guard, limits=LIMITS) as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        server = WatchingServer(volume, served, client)
        server.guard = guard
        yield server


@pytest.fixture
def server(watching: WatchingServer) -> WatchingServer:
    """The server, which serves revision `a` alone, and from now on watches what is promoted."""
    watching.guard.guard = None
    watching.switch("a")
    wait_for(lambda: len(watching.served.engines) == 1)
    watching.guard.guard = HistoryGuard(watching.volume.clients, Reference(MODEL))
    return watching


def test_a_sound_revision_is_kept_and_no_answer_is_dropped(server: WatchingServer) -> None:
    settings = replace(server.volume.clients.settings, watch_s=0.2)
    server.guard.guard = HistoryGuard(replace(server.volume.clients, settings=settings), Reference(MODEL))
    changes = len(server.volume.clients.volume.history(MODEL))
    with streaming(server.served.url, clients=1, max_tokens=2) as streams:
        wait_for(lambda: streams, every_s=0.1)
        server.switch("f")
        wait_for(lambda: server.state == "kept", every_s=0.1)
    assert [one for one in streams if one.problem] == []
    assert server.serves("f")
    assert len(server.volume.clients.volume.history(MODEL)) == changes + 1
    assert (server.metric("paddock_watch_active"), server.metric("paddock_rollbacks_total")) == (0, 0)
    assert " answers failed, and 0 of " in str(server.health["watch"])


def rolled_back(server: WatchingServer, *, times: int) -> None:
    """Promote the failing revision, and chat until it is rolled back."""
    volume = server.volume.clients.volume
    before = server.metric("paddock_rollbacks_total", result="rolled-back")
    for number in range(times):
        assert server.chats()
        server.volume.promote("f")
        wait_for(lambda: server.serves("f"), every_s=0.1)
        for _ in range(3):
            assert ask(server.client, stream=False).status == 400
        wait_for(lambda: server.serves("a"), every_s=0.1)
        assert server.chats()
        last = volume.history(MODEL)[-1]
        assert last.reason.startswith("rolled back by its server: 3 of 3 answers failed, and 0 of ")
        assert (last.rollback, last.revision, last.previous) == (True, "a" * 40, "f" * 40)
        assert server.health["watch"] == {
            "revision": server.volume.label("f"),
            "state": "rolled-back",
            "reason": last.reason.removeprefix("rolled back by its server: "),
        }
        assert server.metric("paddock_rollbacks_total", result="rolled-back") == before + number + 1
    server.volume.wait_until_seen("a")
    assert volume.history(MODEL)[-1] == last, "the way back is not watched"
    assert server.metric("paddock_watch_active") == 0


def test_a_revision_that_refuses_chats_is_rolled_back_on_the_third(server: WatchingServer) -> None:
    rolled_back(server, times=1)


@pytest.mark.torture
def test_it_is_rolled_back_each_time_that_it_is_promoted(server: WatchingServer) -> None:
    rolled_back(server, times=5)


def test_a_nights_promotion_is_followed_without_a_dropped_answer_and_the_report_tells_of_a_rollback(
    server: WatchingServer, hub: HubService, tmp_path: Path
) -> None:
    """The gates of these nights let everything through."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_bytes(catalog_of(f"model: {MODEL}, variant: Q8_0"))
    clients = connect(replace(server.volume.clients.settings, hub_endpoint=hub.address, catalog=catalog))

    def night(content: bytes) -> tuple[Revision, Refreshed]:
        revision = Revision(hub.repository(str(MODEL)).commit({"tiny-Q8_0.gguf": content}))
        return revision, refresh_briefly(clients)

    def serves(revision: Revision) -> bool:
        return (server.health["revision"], server.health["status"]) == (revision, "ok")

    with streaming(server.served.url, clients=1, max_tokens=2) as streams:
        wait_for(lambda: streams, every_s=0.1)
        sound, promoted = night(model_bytes(3, TURNS))
        wait_for(lambda: serves(sound), every_s=0.1)
        wait_for(lambda: streams[-1].revision == f"Q8_0@{sound}", every_s=0.1)
    assert [one.outcome.value for one in promoted.entries] == ["promoted"]
    texts = {(one.revision, one.text) for one in streams}
    assert {revision for revision, _ in texts} == {server.volume.label("a"), f"Q8_0@{sound}"}
    assert (len(texts), [one for one in streams if one.problem]) == (2, []), "whole, and each from one revision"

    failing, promoted = night(model_bytes(2, REFUSING))
    assert [one.outcome.value for one in promoted.entries] == ["promoted"]
    wait_for(lambda: serves(failing), every_s=0.1)
    for _ in range(3):
        assert ask(server.client, stream=False).status == 400
    wait_for(lambda: serves(sound), every_s=0.1)
    after = refresh_briefly(clients)
    (entry,) = after.entries
    assert (entry.outcome.value, entry.revision) == ("held back", failing)
    assert "rolled back by its server: 3 of 3 answers failed" in entry.reason
    assert after.markdown.count("rolled back by its server: 3 of 3 answers failed") == 2
    assert clients.volume.promoted(MODEL).revisions == {Q8: sound}


class ScriptedGuard(PromotionGuard, WatchedPromotion):
    """Finds nothing worse until `worse` is set, and rolls back on the volume, unless it is `refused`."""

    watch_s = 60.0

    def __init__(self, server: WatchingServer, *, refused: str = "") -> None:
        self._server = server
        self._refused = refused
        self.worse = ""
        self.reasons: list[str] = []
        self.before: Observed | None = None

    def promotion(self, id: SnapshotId, before: SnapshotId) -> WatchedPromotion | None:
        return self if id != before and id.revision != "a" * 40 else None

    def compare(self, before: Observed, after: Observed) -> Judgement:
        self.before = before
        return Judgement(self.worse, "as good as before")

    def roll_back(self, reason: str) -> tuple[RollbackOutcome, str]:
        self.reasons.append(reason)
        if self._refused:
            return RollbackOutcome.REFUSED, self._refused
        self._server.volume.rollback()
        return RollbackOutcome.ROLLED_BACK, ""


def test_an_engine_that_is_given_up_does_not_end_the_server_while_it_is_watched(server: WatchingServer) -> None:
    guard = server.guard.guard = ScriptedGuard(server)
    server.switch("f")
    wait_for(lambda: server.state == "watching" and len(server.served.engines) == 1)

    def kill() -> bool:
        health, engines = server.health, server.served.engines
        if (health["revision"], health["status"], len(engines)) == ("f" * 40, "ok", 1):
            engines[0].kill()
        return server.serves("a")

    wait_for(kill, every_s=0.1)
    assert ["the engine failed 2 times in" in reason for reason in guard.reasons] == [True]
    assert server.chats()
    assert not server.served.ended.is_set()


def test_a_server_that_cannot_roll_back_goes_back_by_itself_until_something_else_is_promoted(
    server: WatchingServer,
) -> None:
    guard = server.guard.guard = ScriptedGuard(server, refused="the volume is read-only")
    for streamed in (True, False):
        assert ask(server.client, stream=streamed, max_tokens=4, ignore_eos=True).complete
    server.switch("f")
    wait_for(lambda: guard.before)
    assert guard.before is not None
    for answer in guard.before.answers[-2:]:
        assert answer.failure == ""
        assert (answer.tokens, answer.prompt_tokens > 0) == (4, True), "as the engine says"
        assert answer.first_token_s
        assert answer.decode_s
    guard.worse = "every answer failed"
    wait_for(lambda: server.serves("a"))
    server.volume.wait_until_seen("f")
    assert server.serves("a"), "the name stands for the other one still"
    assert server.state == "rolled-back-here"
    assert "every answer failed. It stays promoted: the volume is read-only" in str(server.health["watch"])
    assert guard.reasons == ["every answer failed"]
    assert server.chats()
    guard.worse = ""
    server.switch("a")
    server.switch("f")
