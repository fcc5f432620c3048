"""The promotion that a server watches, and its rollback in the history."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.dossier import read_dossier, write_dossier
from paddock.lifecycle.promote.bounds import BOUNDS
from paddock.lifecycle.watch import HistoryGuard
from paddock.lifecycle.watch.guard import HistoryPromotion
from paddock.model.artifact import Manifest
from paddock.model.names import Revision
from paddock.model.reference import Reference, SnapshotId, Variant
from paddock.serving.switch.guard import RollbackOutcome
from paddock.settings import Settings
from paddock.store.history import Promotion
from tests.support.stores import MODEL, Q4, Q8, A, B, C, publish


def id_of(revision: Revision, variant: Variant = Q8) -> SnapshotId:
    return SnapshotId(MODEL, revision, variant)


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    """A volume with three revisions of Q8_0 and one of Q4_K_M, on which Q8_0 was promoted at A and then at B."""
    clients = connect(Settings(volume=tmp_path / "models"))
    clients.volume.prepare()
    for revision in (A, B, C):
        publish(clients.volume, revision, {"Q8_0.gguf": revision.encode()}, tmp_path)
    publish(clients.volume, A, {"Q4_K_M.gguf": b"another variant"}, tmp_path, variant=Q4)
    for revision in (A, B):
        clients.volume.promote(id_of(revision), reason="by hand")
    return clients


def promotion(clients: Clients, id: SnapshotId, before: SnapshotId, name: str = "org/name") -> HistoryPromotion:
    found = HistoryGuard(clients, Reference.parse(name)).promotion(id, before)
    assert isinstance(found, HistoryPromotion)
    return found


@pytest.mark.parametrize("name", ["org/name", "org/name:Q8_0"])
def test_two_servers_roll_a_promotion_back_once(clients: Clients, name: str) -> None:
    one, other = (promotion(clients, id_of(B), id_of(A), name) for _ in range(2))
    assert one.roll_back("9 of 9 answers failed") == (RollbackOutcome.ROLLED_BACK, "")
    assert other.roll_back("8 of 8 answers failed") == (RollbackOutcome.ROLLED_BACK, "")
    *_, last = history = clients.volume.history(MODEL)
    assert len(history) == 3
    assert (last.revision, last.previous, last.rollback) == (A, B, True)
    assert last.reason == "rolled back by its server: 9 of 9 answers failed"
    assert clients.volume.promoted(MODEL).default_id == id_of(A)


def test_a_rollback_is_told_with_its_change(clients: Clients) -> None:
    told: list[Promotion] = []
    watched = HistoryGuard(clients, Reference(MODEL), on_rollback=told.append).promotion(id_of(B), id_of(A))
    assert watched is not None
    watched.roll_back("it failed")
    assert told == [clients.volume.history(MODEL)[-1]]


def test_a_server_of_the_model_and_one_of_the_variant_roll_back_once(clients: Clients) -> None:
    of_model, of_variant = (promotion(clients, id_of(B), id_of(A), name) for name in ("org/name", "org/name:Q8_0"))
    assert of_variant.roll_back("it failed")[0] is RollbackOutcome.ROLLED_BACK
    assert of_model.roll_back("it failed")[0] is RollbackOutcome.ROLLED_BACK
    assert len(clients.volume.history(MODEL)) == 3


def test_a_later_change_of_a_person_is_not_undone(clients: Clients) -> None:
    watched = promotion(clients, id_of(B), id_of(A))
    clients.volume.promote(id_of(C), reason="by hand")
    outcome, why = watched.roll_back("it failed")
    assert outcome is RollbackOutcome.OVERTAKEN
    assert "is not the last change of org/name any more: org/name:Q8_0@cccccccc is promoted now" in why
    assert clients.volume.promoted(MODEL).default_id == id_of(C)
    assert len(clients.volume.history(MODEL)) == 3


def test_a_person_who_rolls_back_and_promotes_again_is_not_undone_either(clients: Clients) -> None:
    watched = promotion(clients, id_of(B), id_of(A))
    clients.volume.rollback(MODEL, reason="by hand")
    clients.volume.promote(id_of(B), reason="by hand")
    assert watched.roll_back("it failed")[0] is RollbackOutcome.OVERTAKEN
    again = promotion(clients, id_of(B), id_of(A))
    assert again.roll_back("it failed")[0] is RollbackOutcome.ROLLED_BACK


def test_a_later_change_of_another_variant_stays(clients: Clients) -> None:
    watched = promotion(clients, id_of(B), id_of(A))
    clients.volume.promote(id_of(A, Q4), reason="beside it", default=False)
    assert watched.roll_back("it failed")[0] is RollbackOutcome.ROLLED_BACK
    promoted = clients.volume.promoted(MODEL)
    assert (promoted.default_id, promoted.of(Q4)) == (id_of(A), id_of(A, Q4))


def test_a_server_goes_back_over_a_promotion_that_it_could_not_load(clients: Clients) -> None:
    clients.volume.promote(id_of(C), reason="by hand")
    assert promotion(clients, id_of(C), id_of(A)).roll_back("it failed")[0] is RollbackOutcome.ROLLED_BACK
    assert clients.volume.promoted(MODEL).default_id == id_of(A)


def test_neither_a_rollback_nor_another_snapshot_is_watched(clients: Clients) -> None:
    guard = HistoryGuard(clients, Reference(MODEL))
    assert guard.promotion(id_of(C), id_of(A)) is None
    assert guard.promotion(id_of(B), id_of(A)) is not None
    clients.volume.rollback(MODEL, reason="by hand")
    assert guard.promotion(id_of(A), id_of(B)) is None


def test_the_speed_of_a_forced_promotion_and_of_another_variant_does_not_count(clients: Clients) -> None:
    assert promotion(clients, id_of(B), id_of(A)).bounds == BOUNDS
    clients.volume.promotions.promote(id_of(C), reason="slower, and wanted", default=True, forced_past=("decode",))
    assert promotion(clients, id_of(C), id_of(B)).bounds is None
    clients.volume.promote(id_of(A, Q4), reason="by hand")
    assert promotion(clients, id_of(A, Q4), id_of(C)).bounds is None


def test_without_the_snapshot_before_there_is_no_rollback(clients: Clients) -> None:
    watched = promotion(clients, id_of(B), id_of(A))
    clients.volume.remove(MODEL, revision=A)
    outcome, why = watched.roll_back("it failed")
    assert outcome is RollbackOutcome.REFUSED
    assert "cannot go back to aaaaaaaa" in why
    assert clients.volume.promoted(MODEL).default_id == id_of(B)


def test_the_dossiers_say_that_the_server_rolled_back(clients: Clients) -> None:
    before, after = (_manifest(clients, revision) for revision in (A, B))
    for manifest in (before, after):
        write_dossier(clients, manifest)
    promotion(clients, id_of(B), id_of(A)).roll_back("9 of 9 answers failed")
    for manifest in (before, after):
        page = clients.volume.read_report(manifest.id, "dossier.md") or ""
        assert "rolled back by its server: 9 of 9 answers failed" in page
        assert read_dossier(clients, manifest).promotions[-1].reason.startswith("rolled back by its server")


def _manifest(clients: Clients, revision: Revision) -> Manifest:
    manifest = clients.volume.snapshot(id_of(revision))
    assert manifest is not None
    return manifest
