"""The decisions of a refresh for an entry: pure functions of the facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from paddock.errors import (
    DoesNotFit,
    FileNotInRevision,
    HubUnavailable,
    MissingShard,
    ModelGated,
    ModelNotFound,
    ModelRejected,
    PaddockError,
)
from paddock.lifecycle.catalog import CatalogEntry
from paddock.lifecycle.upkeep.refresh.decide import EntryFacts, Offered, by_files, by_head, by_header, without_conflicts
from paddock.lifecycle.upkeep.refresh.plan import Action, RefreshPlan
from paddock.lifecycle.upkeep.refresh.record import EntryRecord, Fingerprint, record_of
from paddock.model.artifact import BranchHead
from paddock.model.names import Revision
from paddock.model.reference import Variant
from paddock.store.history import Promoted, Promotion
from tests.support.stores import MODEL, Q4, Q8, A, B, C

NOW = Fingerprint(gates="g", engine="1.0 abc", fit="f")
DAY = datetime(2026, 1, 2, tzinfo=UTC)


def entry(**keys: Any) -> CatalogEntry:
    return CatalogEntry(model=MODEL, **{"variant": "Q8_0", **keys})


def facts(head: Revision = A, *, promoted: Revision | None = A, **changed: Any) -> EntryFacts:
    state = Promoted(MODEL, Q8, {Q8: promoted}) if promoted else Promoted(MODEL)
    made = EntryFacts(
        entry=entry(),
        head=BranchHead(MODEL, head),
        promoted=state,
        stored=state.ids,
        fingerprint=NOW,
        moves_default=True,
    )
    return replace(made, **changed)


def record(outcome: str, revision: Revision = B, **changed: Any) -> EntryRecord:
    made = EntryRecord(revision, Q8, outcome, "a reason", DAY, NOW, "1.0 abc")
    return replace(made, **changed)


def change(revision: Revision | None, previous: Revision | None, *, rollback: bool = False) -> Promotion:
    return Promotion(
        operation=f"{revision}{previous}",
        variant=Q8,
        revision=revision,
        previous=previous,
        default=Q8,
        previous_default=None,
        at=DAY,
        reason="because",
        by=None,
        rollback=rollback,
    )


TRAIL = (change(A, None), change(B, A), change(C, B))
UP_AND_BACK = (*TRAIL, change(B, C, rollback=True), change(A, B, rollback=True))
DECIDED = {
    "the promoted commit": (facts(), "keep", "main is at aaaaaaaa, which is promoted"),
    "another commit": (facts(B), None, ""),
    "nothing is promoted": (facts(promoted=None), None, ""),
    "the promoted snapshot is not there": (facts(stored=()), None, ""),
    "it was held back": (
        facts(B, record=record("held back")),
        "keep",
        "bbbbbbbb was held back on 2026-01-02: a reason",
    ),
    "a first revision was held back": (facts(B, promoted=None, record=record("held back")), "keep", "was held back on"),
    "it was blocked": (facts(B, record=record("blocked")), "blocked", "bbbbbbbb was blocked on 2026-01-02: a reason"),
    "it had no such file": (facts(B, record=record("withdrawn")), "withdrawn", "was withdrawn on 2026-01-02: a reason"),
    "it was blocked, and promoted": (facts(B, promoted=B, record=record("blocked")), "keep", "is promoted"),
    "another commit was held back": (facts(C, record=record("held back")), None, ""),
    "it failed": (facts(B, record=record("failed")), None, ""),
    "it was held back by other gates": (
        facts(B, record=record("held back", fingerprint=replace(NOW, gates="other"))),
        None,
        "",
    ),
    "it was held back with another engine": (
        facts(B, record=record("held back", fingerprint=replace(NOW, engine="0.9 abc"))),
        None,
        "",
    ),
    "it was held back on another machine": (
        facts(B, record=record("held back", fingerprint=replace(NOW, fit="other"))),
        "keep",
        "held back",
    ),
    "it was blocked on another machine": (
        facts(B, record=record("blocked", fingerprint=replace(NOW, fit="other"))),
        None,
        "",
    ),
    "it waits": (
        facts(B, record=record("waiting for approval"), entry=entry(approval=True)),
        "blocked",
        "waits for approval since 2026-01-02",
    ),
    "it waits, and needs no approval any more": (facts(B, record=record("waiting for approval")), None, ""),
    "it waited, and was promoted": (facts(B, promoted=B, record=record("waiting for approval")), "keep", "is promoted"),
    "it was held back, and forced": (facts(B, promoted=B, record=record("held back")), "keep", "is promoted"),
    "it was rolled back": (facts(B, history=UP_AND_BACK), "keep", "bbbbbbbb was rolled back on 2026-01-02: because"),
    "it was rolled back before another": (facts(C, history=UP_AND_BACK), "keep", "cccccccc was rolled back"),
    "it was rolled back and promoted again": (facts(C, history=(*UP_AND_BACK, change(C, A))), None, ""),
    "it was renamed": (
        facts(entry=CatalogEntry(model=MODEL.parse("org/old"), variant="Q8_0")),
        "withdrawn",
        "it is org/name on the Hub now: write `model: org/name` in the catalog; Q8_0@aaaaaaaa stays promoted",
    ),
    "another spelling": (facts(entry=CatalogEntry(model=MODEL.parse("ORG/Name"), variant="q8_0")), "keep", "promoted"),
    "auto adopts the default": (facts(entry=entry(variant="auto")), "keep", "is promoted"),
    "auto for another machine": (facts(entry=entry(variant="auto", target="64GiB")), None, ""),
    "auto beside another entry": (facts(entry=entry(variant="auto"), moves_default=False), None, ""),
    "auto keeps what it chose": (
        facts(entry=entry(variant="auto", target="64GiB"), record=record("promoted", A)),
        "keep",
        "is promoted",
    ),
    "auto chose for another machine": (
        facts(entry=entry(variant="auto"), record=record("promoted", A, fingerprint=replace(NOW, fit="other"))),
        None,
        "",
    ),
}


@pytest.mark.parametrize(("known", "action", "reason"), DECIDED.values(), ids=DECIDED)
def test_the_commit_of_a_channel_decides_what_it_can(known: EntryFacts, action: str | None, reason: str) -> None:
    planned = by_head(known)
    assert (planned.action.value if planned else None) == action
    assert planned is None or (reason in planned.reason and not planned.changes)


@pytest.mark.parametrize(
    ("history", "action"),
    [pytest.param((), "retag", id="never"), pytest.param((change(A, None),), "keep", id="before")],
)
def test_an_entry_makes_its_variant_the_default_unless_a_person_took_it_away(
    history: tuple[Promotion, ...], action: str
) -> None:
    state = Promoted(MODEL, Q4, {Q8: A, Q4: A})
    planned = by_head(replace(facts(entry=entry(default=True), history=history), promoted=state, stored=state.ids))
    assert planned is not None
    assert planned.action == action


REFUSED: dict[str, tuple[PaddockError, str, bool]] = {
    "gone": (ModelNotFound("org/name is not on the Hub"), "withdrawn", False),
    "gated": (ModelGated("org/name is gated"), "withdrawn", False),
    "no such variant": (FileNotInRevision("there is no Q8_0"), "withdrawn", True),
    "down": (HubUnavailable("the Hub answered 503"), "blocked", False),
    "too large": (DoesNotFit("it does not fit"), "blocked", True),
    "incomplete": (MissingShard("a shard is missing"), "blocked", True),
    "rejected": (ModelRejected("it is rejected"), "fetch", False),
}


@pytest.mark.parametrize(("error", "action", "remember"), REFUSED.values(), ids=REFUSED)
def test_an_error_of_the_hub_or_the_model_is_a_plan_of_its_own(
    error: PaddockError, action: str, remember: bool
) -> None:
    planned = facts(B).refused(error)
    assert planned.action == action
    assert error.message in planned.reason
    assert planned.changes == (action == "fetch")
    assert planned.remember == remember, "only what the same commit will be the next night too"
    assert not facts(A).refused(error).remember, "what is promoted is not refused for good"


def test_the_files_decide_where_the_model_file_is_the_same() -> None:
    offered = Offered(Q8, fetch_bytes=7, small_bytes=7, same_weights=True, changed=("a.json", "b", "c", "d"))
    planned = by_files(facts(B), offered)
    assert planned is not None
    assert (planned.action, planned.bytes, planned.variant) == ("metadata-only", 7, Q8)
    assert planned.reason == "main moved from aaaaaaaa to bbbbbbbb: a.json, b, c and 1 more changed"
    assert by_files(facts(B), replace(offered, same_weights=False)) is None
    new = by_files(facts(B, promoted=None), replace(offered, fetch_bytes=0))
    assert new is not None
    assert (new.action, new.reason) == ("fetch", "nothing of it is promoted yet, and its files are here")


def test_a_file_without_a_readable_header_is_fetched() -> None:
    planned = by_header(facts(B), Offered(Q8, fetch_bytes=100), None, header_bytes=10)
    assert (planned.action, planned.bytes, planned.difference) == ("fetch", 100, None)


def test_another_choice_of_auto_is_to_be_remembered_with_its_reason() -> None:
    known = facts(B, entry=entry(variant="auto"), record=record("promoted", A))
    offered = Offered(Q4, fetch_bytes=1, note="Q8_0 does not fit this-machine any more")
    planned = by_files(known, offered)
    assert planned is not None
    assert (planned.variant, planned.remember, planned.action) == (Q4, True, "fetch")
    assert planned.reason.startswith("Q8_0 does not fit this-machine any more; ")
    kept = by_files(known, Offered(Q8, fetch_bytes=0, same_weights=True))
    assert kept is not None
    assert not kept.remember


@pytest.mark.parametrize(
    ("measured_with", "last", "measure"),
    [
        pytest.param("1.0", None, False, id="published with this version"),
        pytest.param("0.9", None, True, id="published with another version"),
        pytest.param("0.9", record("measured", A), False, id="measured since"),
        pytest.param("1.0", record("measured", A, measured_with="1.0 other"), True, id="another build"),
        pytest.param("", None, False, id="not known"),
    ],
)
def test_what_was_measured_with_another_engine_is_to_be_measured(
    measured_with: str, last: EntryRecord | None, measure: bool
) -> None:
    planned = by_head(facts(measured_with=measured_with, record=last))
    assert planned is not None
    assert planned.measure is measure
    assert by_head(facts(measured_with=measured_with, record=last, fingerprint=Fingerprint())) is not None


def test_one_variant_follows_one_channel() -> None:
    moving = by_files(facts(B), Offered(Q8, fetch_bytes=0, same_weights=True))
    assert moving is not None
    other = replace(moving, entry=entry(channel="dev", target="any"))
    same = replace(moving, entry=entry(variant="auto", target="24GiB"), variant=Variant("q8_0"))
    gone = replace(moving, entry=entry(channel="old"), action=Action.WITHDRAWN)
    first, blocked, follows, withdrawn = without_conflicts([moving, replace(other, remember=True), same, gone])
    assert not blocked.remember, "the catalog may change"
    assert first is moving
    assert (blocked.action, follows.action, withdrawn) == ("blocked", "keep", gone)
    assert "to the commits of main: a variant follows one channel" in blocked.reason
    assert without_conflicts([gone, moving]) == (gone, moving)


def test_a_variant_that_auto_chose_takes_the_place_of_the_one_that_is_promoted_until_it_is() -> None:
    auto = entry(variant="auto")
    offered = Offered(Q4, fetch_bytes=1)
    first = by_files(facts(B, entry=auto, record=record("promoted", A)), offered)
    assert first is not None
    assert (first.variant, first.instead_of) == (Q4, Q8)
    for outcome in ("held back", "waiting for approval", "blocked"):
        held = record_of(first, outcome)
        assert EntryRecord.from_json(held.to_json()).instead_of == Q8
        state = Promoted(MODEL, Q8, {Q8: A})
        again = by_files(replace(facts(C, entry=auto, record=held), promoted=state), offered)
        assert again is not None
        assert (again.variant, again.instead_of) == (Q4, Q8), outcome
    assert record_of(first, "promoted").instead_of is None
    assert replace(first, entry=entry()).instead_of is None


def test_a_record_can_be_read_back_and_remembers_the_engine_that_measured() -> None:
    planned = by_files(facts(B, record=record("promoted", A, measured_with="0.9 old")), Offered(Q8, 0, 0, True))
    assert planned is not None
    held, promoted = record_of(planned, "held back", "worse"), record_of(planned, "promoted")
    assert (held.measured_with, promoted.measured_with) == ("0.9 old", NOW.engine)
    assert (held.revision, held.variant, held.reason, promoted.reason) == (B, Q8, "worse", planned.reason)
    assert EntryRecord.from_json(held.to_json()) == held
    plan = RefreshPlan((planned,), "catalog.yaml", requests=2)
    assert plan.changed == (planned,)
    assert plan.line == "1 entry of catalog.yaml: 1 retag"
