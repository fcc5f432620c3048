"""A refresh carries out its plan: each entry by itself, behind the gates, with a report at its end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from infra.local.hub import HubService
from paddock.engine.facts import engine_version
from paddock.errors import RefreshFailed
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.promote.approval import Approval, Decision, record_approval
from paddock.lifecycle.run.stored_benchmarks import read_benchmark, record_benchmark
from paddock.lifecycle.upkeep.doctor.engine import check_measurements
from paddock.lifecycle.upkeep.refresh.outcome import EntryOutcome, RefreshOutcome
from paddock.lifecycle.upkeep.refresh.refresh import Refreshed
from paddock.lifecycle.upkeep.refresh.turns import Turns
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName
from tests.support.benchmarks import a_benchmark
from tests.support.brief_refresh import BriefEntries, refresh_briefly
from tests.support.gguf import CHATML, STRING, tiny_llama
from tests.support.program import Paddock, paddock
from tests.support.refreshed import catalog_of, promoted_model
from tests.support.stores import Q8
from tests.support.tiny_hub import rejected_model, tiny_model, use_hub
from tests.support.waiting import wait_for

__all__ = ["paddock"]

CARD_ONLY, TEMPLATE, WORSE, SAME = (f"org/{name}-GGUF" for name in ("card", "template", "worse", "same"))
FILE = "tiny-Q8_0.gguf"


@pytest.fixture
def here(hub: HubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clients:
    """The clients of an empty Hub and volume, with a catalog."""
    use_hub(monkeypatch, hub, tmp_path)
    monkeypatch.setenv("PADDOCK_CATALOG", str(tmp_path / "catalog.yaml"))
    clients = connect()
    clients.volume.prepare()
    return clients


def want(clients: Clients, *lines: str) -> None:
    assert isinstance(clients.settings.catalog, Path)
    clients.settings.catalog.write_bytes(catalog_of(*lines))


def promoted(hub: HubService, clients: Clients, name: str, content: bytes | None = None) -> Manifest:
    """A model that is promoted at the Hub's commit, and was measured with this engine."""
    files = {FILE: content or tiny_model()}
    return promoted_model(hub.hub, clients.volume, name, files, engine=engine_version())


def commit(hub: HubService, name: str, content: bytes) -> str:
    return hub.repository(name).commit({FILE: content})


def with_template(template: str) -> bytes:
    return tiny_llama().set("tokenizer.chat_template", STRING, template).to_bytes()


def by_model(refreshed: Refreshed) -> dict[str, EntryOutcome]:
    return {outcome.model: outcome for outcome in refreshed.entries}


def test_a_night_retags_promotes_and_holds_back_and_the_next_one_costs_a_request_each(
    here: Clients, hub: HubService
) -> None:
    """And the report shows the differences, as text alone, whatever a model wrote."""
    first = {name: promoted(hub, here, name) for name in (CARD_ONLY, WORSE, SAME)}
    first[TEMPLATE] = promoted(hub, here, TEMPLATE, with_template(CHATML))
    record_benchmark(here, first[CARD_ONLY], a_benchmark(engine=f"llama-cpp-python {engine_version()}"))
    want(here, *(f"model: {name}" for name in (CARD_ONLY, TEMPLATE, WORSE, SAME)))
    hub.repository(CARD_ONLY).commit({"README.md": b"# Another card\n"})
    hostile = CHATML.replace("assistant", "``` <script>alert(1)</script> |")
    commit(hub, TEMPLATE, with_template(hostile))
    worse = commit(hub, WORSE, tiny_model(2))
    hub.reset_stats()

    entries = BriefEntries(here, {ModelName.parse(WORSE): False})
    night = refresh_briefly(here, entries)
    outcomes = by_model(night)
    assert {name: outcome.outcome for name, outcome in outcomes.items()} == {
        CARD_ONLY: RefreshOutcome.RETAGGED,
        TEMPLATE: RefreshOutcome.PROMOTED,
        WORSE: RefreshOutcome.HELD_BACK,
        SAME: RefreshOutcome.UNCHANGED,
    }
    assert outcomes[CARD_ONLY].bytes == 0
    assert hub.stats().bytes_sent.get(f"{CARD_ONLY}/{FILE}", 0) == 0
    assert {manifest.repository for manifest in entries.measured} == {TEMPLATE, WORSE}, "a retag is not measured"
    retagged = here.volume.promoted(ModelName.parse(CARD_ONLY)).default_id
    assert retagged is not None
    assert retagged.revision == outcomes[CARD_ONLY].revision != first[CARD_ONLY].revision
    manifest = here.volume.snapshot(retagged)
    assert manifest is not None
    assert read_benchmark(here, manifest) is not None, "a benchmark of these files holds for the new snapshot"
    assert here.volume.promoted(ModelName.parse(WORSE)).default_id == first[WORSE].id

    assert night.report is not None
    text = Path(night.report).read_text()
    assert "4 entries: 1 unchanged, 1 retagged, 1 promoted, 1 held back" in text
    assert f"- `{WORSE}:Q8_0` at `{worse[:8]}`: held back by kl_ratio" in text
    assert "````text\n--- tokenizer.chat_template before" in text, "the fence is longer than that in the template"
    assert text.index("````text") < text.index("<script>") < text.rindex("````")
    assert "- `paddock gc`: " in text

    hub.reset_stats()
    again = refresh_briefly(here, BriefEntries(here))
    assert hub.stats().total_requests == len(again.entries)
    assert (hub.stats().total_bytes_sent, by_model(again)[WORSE].outcome) == (0, RefreshOutcome.HELD_BACK)
    assert [outcome.outcome for outcome in again.entries].count(RefreshOutcome.UNCHANGED) == 3


def test_what_is_rejected_or_corrupt_or_gone_stops_no_other_and_fails_where_it_is_required(
    here: Clients, hub: HubService
) -> None:
    names = [f"org/{name}-GGUF" for name in ("hostile", "corrupt", "gone", "fine")]
    hostile, corrupt, gone, fine = names
    before = {name: promoted(hub, here, name) for name in (hostile, corrupt)}
    want(here, *(f"model: {name}, required: {str(name != hostile).lower()}" for name in names))
    commit(hub, hostile, rejected_model())
    commit(hub, corrupt, tiny_model(3))
    commit(hub, fine, tiny_model())
    hub.inject("flip", f"{corrupt}/*", times=None, offset=20_000)

    with pytest.raises(RefreshFailed) as raised:
        refresh_briefly(here)
    error = raised.value
    outcomes = by_model(error.refreshed)
    assert {name: outcomes[name].outcome.value for name in names} == {
        hostile: "held back",
        corrupt: "held back",
        gone: "withdrawn",
        fine: "promoted",
    }
    assert error.message.startswith("1 of 4 entries failed that the catalog requires, and the others were carried out")
    assert "| `org/gone-GGUF:auto` |" in str(error)
    assert "org/corrupt-GGUF" not in str(error), "it serves on"
    assert "sha256" in outcomes[corrupt].reason
    for name, manifest in before.items():
        assert here.volume.promoted(ModelName.parse(name)).default_id == manifest.id


def test_a_hub_that_goes_down_blocks_what_is_left_and_the_next_refresh_does_it(here: Clients, hub: HubService) -> None:
    want(here, f"model: {SAME}")
    commit(hub, SAME, tiny_model())
    hub.inject("status", f"{SAME}/*", times=None, status=503)
    (blocked,) = refresh_briefly(here).entries
    assert blocked.outcome is RefreshOutcome.BLOCKED
    assert not here.volume.promoted(ModelName.parse(SAME)).revisions
    hub.clear_faults()
    (promoted_now,) = refresh_briefly(here).entries
    assert promoted_now.outcome is RefreshOutcome.PROMOTED


def test_an_entry_with_approval_waits_and_the_command_that_is_named_promotes_it(
    here: Clients, hub: HubService, paddock: Paddock
) -> None:
    model = ModelName.parse(SAME)
    first = promoted(hub, here, SAME)
    want(here, f"model: {SAME}, variant: Q8_0, approval: true", f"model: {SAME}, variant: Q4_K_M, target: any")
    revision = commit(hub, SAME, tiny_model(2))
    waiting = refresh_briefly(here).entries[0]
    assert waiting.outcome is RefreshOutcome.WAITING
    assert here.volume.promoted(model).default_id == first.id
    again = refresh_briefly(here).entries[0]
    assert (again.outcome, again.reason) == (RefreshOutcome.WAITING, waiting.reason)

    command = waiting.reason.split("`")[1].split()
    assert command == ["paddock", "promote", f"{SAME}:Q8_0@{revision}", "--no-default"]
    assert paddock(*command[1:]).status == 0
    assert here.volume.promoted(model).revisions[Q8] == revision
    assert refresh_briefly(here).entries[0].outcome is RefreshOutcome.UNCHANGED


def test_a_promotion_that_a_person_declined_is_held_back_and_not_asked_for_again(
    here: Clients, hub: HubService
) -> None:
    first = promoted(hub, here, SAME)
    want(here, f"model: {SAME}, variant: Q8_0, approval: true")
    hub.repository(SAME).commit({"README.md": b"# Another card\n"})
    assert refresh_briefly(here).entries[0].outcome is RefreshOutcome.WAITING
    (candidate,) = (one for one in here.volume.snapshots(first.model) if one.id != first.id)
    record_approval(here, candidate, Approval.now(Decision.DECLINED, reason="not this one", by="Ann"))
    for _ in range(2):
        (declined,) = refresh_briefly(here).entries
        assert declined.outcome is RefreshOutcome.HELD_BACK
        assert declined.reason == "its promotion was declined by Ann: not this one"
    assert here.volume.promoted(first.model).default_id == first.id


def test_a_revision_that_was_rolled_back_stays_so_and_the_report_says_why(here: Clients, hub: HubService) -> None:
    first = promoted(hub, here, SAME)
    want(here, f"model: {SAME}, variant: Q8_0")
    hub.repository(SAME).commit({"README.md": b"# Another card\n"})
    assert refresh_briefly(here).entries[0].outcome is RefreshOutcome.RETAGGED
    here.volume.rollback(first.model, Q8, reason="it answered with errors")
    night = refresh_briefly(here)
    assert night.entries[0].outcome is RefreshOutcome.HELD_BACK
    assert here.volume.promoted(first.model).default_id == first.id
    assert night.markdown.count(": it answered with errors") == 2, "in the table, and in the list of what is held back"


def test_another_engine_measures_what_is_promoted_anew_and_says_what_got_worse(here: Clients, hub: HubService) -> None:
    manifest = promoted_model(hub.hub, here.volume, SAME, {FILE: tiny_model()}, engine="0.3.1")
    record_benchmark(here, manifest, a_benchmark(engine="llama-cpp-python 0.3.1"))
    want(here, f"model: {SAME}")
    (warned,) = check_measurements(here)
    assert (warned.state, "llama-cpp-python 0.3.1, now" in warned.message) == ("warning", True)
    assert f"`paddock bench {manifest.id}`" in warned.cure

    slower = a_benchmark(
        decode=50.0, engine=f"llama-cpp-python {engine_version()}", measured_at="2026-06-01T09:00:00+00:00"
    )
    measuring = BriefEntries(here, on_benchmark=lambda measured: record_benchmark(here, measured, slower))
    night = refresh_briefly(here, measuring)
    (outcome,) = night.entries
    assert outcome.outcome is RefreshOutcome.MEASURED
    assert outcome.worse == ("decode fell from 100.0 to 50.0 tokens/s (-50%)",)
    assert here.volume.promoted(ModelName.parse(SAME)).default_id == manifest.id
    assert "decode fell from 100.0 to 50.0" in night.markdown
    assert refresh_briefly(here).entries[0].outcome is RefreshOutcome.UNCHANGED
    assert [check.ok for check in check_measurements(here)] == [True]


def test_models_are_fetched_at_once_and_measured_alone() -> None:
    """A thread that waits to measure comes before one that wants to fetch."""
    turns, log, lock = Turns(), list[str](), threading.Lock()
    both_fetch, late_may_start = threading.Barrier(2), threading.Event()

    def note(event: str) -> None:
        with lock:
            log.append(event)

    def fetch_and_measure(name: str) -> None:
        with turns.fetching():
            both_fetch.wait(30)
        with turns.measuring():
            note(f"{name} begins")
            late_may_start.set()
            wait_for(lambda: turns.waiting_to_measure or len(log) > 2)
            note(f"{name} ends")

    def fetch_late() -> None:
        late_may_start.wait(30)
        with turns.fetching():
            note("late fetches")

    threads = [threading.Thread(target=fetch_and_measure, args=[name]) for name in "ab"]
    threads.append(threading.Thread(target=fetch_late))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    first, second = log[0][0], log[2][0]
    assert log == [f"{first} begins", f"{first} ends", f"{second} begins", f"{second} ends", "late fetches"]


def test_a_thread_that_waits_for_its_turn_says_what_for() -> None:
    lines: list[str] = []
    turns = Turns(announce=lines.append, announce_s=0.01)

    def measure() -> None:
        with turns.measuring():
            pass

    thread = threading.Thread(target=measure)
    with turns.fetching():
        thread.start()
        wait_for(lambda: lines)
    thread.join(30)
    assert set(lines) == {"waiting to measure: 1 model being fetched"}
