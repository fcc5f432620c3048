"""Promotions on a volume: the history, the links that follow it, and link names that two models share."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from paddock.errors import NoPermission, NotOnVolume, PromotionConflict
from paddock.model.names import ModelName, Revision
from paddock.model.reference import SnapshotId, Variant
from paddock.store.history import Promoted
from paddock.store.volume import Volume
from tests.support.stores import MODEL, Q4, Q8, A, B, C, id_of, publish

BARE = ModelName.parse("gpt2")
NAMESAKE = ModelName.parse("gpt2/Q8_0")
"""Its directory has the name of the link to the variant Q8_0 of `gpt2`."""


def put(volume: Volume, *ids: SnapshotId) -> None:
    for id in ids:
        publish(volume, id.revision, {"m.gguf": str(id).encode()}, volume.root, model=id.model, variant=id.variant)


def promote(volume: Volume, *ids: SnapshotId) -> None:
    """Publish and promote each of them, the last one as the default."""
    put(volume, *ids)
    for id in ids:
        volume.promote(id, reason="new")


def links_of(volume: Volume) -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in volume.root.iterdir() if path.is_symlink()}


def history_file(volume: Volume, model: ModelName = MODEL) -> Path:
    return volume.root / ".paddock" / "history" / f"{model.slug}.jsonl"


# promote and roll back


def test_a_promotion_records_what_it_changed(volume: Volume) -> None:
    put(volume, id_of(A), id_of(B), id_of(A, Q4))
    first = volume.promote(id_of(A), reason="first")
    assert (first.revision, first.previous, first.default, first.previous_default) == (A, None, Q8, None)
    other = volume.promote(id_of(A, Q4), reason="other")
    assert (other.revision, other.previous, other.default, other.previous_default) == (A, None, Q4, Q8)
    beside = volume.promote(id_of(B), reason="beside", default=False)
    assert (beside.revision, beside.previous, beside.default, beside.previous_default) == (B, A, Q4, Q4)
    back = volume.promote(id_of(B), reason="the name alone")
    assert (back.moves_revision, back.moves_default) == (False, True)
    assert volume.history(MODEL) == [first, other, beside, back]


def test_promoting_what_is_promoted_writes_nothing(volume: Volume) -> None:
    promote(volume, id_of(A, Q4), id_of(A))
    before = (history_file(volume).read_bytes(), links_of(volume))
    for id, default in ((id_of(A), True), (id_of(A), False), (id_of(A, Q4), False)):
        again = volume.promote(id, reason="again", default=default)
        assert (again.moves_revision, again.moves_default) == (False, False)
        assert again.previous == again.revision == A
    assert (history_file(volume).read_bytes(), links_of(volume)) == before


def test_concurrent_promotions_are_carried_out_one_after_another(volume: Volume) -> None:
    revisions = [Revision(f"{number:040x}") for number in range(6)]
    put(volume, *(id_of(revision) for revision in revisions))
    with ThreadPoolExecutor(len(revisions)) as pool:
        done = list(pool.map(lambda revision: volume.promote(id_of(revision), reason="race"), revisions))
    # Each revision but the last is the previous one of exactly one promotion.
    now = volume.promoted(MODEL).revisions[Q8]
    assert sorted([*(promotion.previous for promotion in done), now], key=str) == sorted([None, *revisions], key=str)


def test_a_promotion_that_would_replace_another_snapshot_than_expected_is_refused(volume: Volume) -> None:
    put(volume, id_of(A), id_of(B), id_of(C), id_of(A, Q4))
    nothing = volume.promoted(MODEL)
    volume.promote(id_of(A), reason="meanwhile")
    promote_b = partial(volume.promotions.promote, id_of(B), reason="compared", default=True)
    before = (history_file(volume).read_bytes(), links_of(volume))
    with pytest.raises(
        PromotionConflict, match=r"was to replace nothing, and org/name:Q8_0@aaaaaaaa was promoted"
    ) as e:
        promote_b(expected=nothing)
    assert f"`paddock promote {id_of(B)}`" in e.value.cure
    seen = volume.promoted(MODEL)
    volume.promote(id_of(C), reason="meanwhile")
    with pytest.raises(PromotionConflict, match=r"was to replace org/name:Q8_0@aaaaaaaa, and org/name:Q8_0@cccccccc"):
        promote_b(expected=seen)
    volume.rollback(MODEL, reason="back")
    assert (history_file(volume).read_bytes().startswith(before[0]), links_of(volume)) == (True, before[1])
    # Another variant beside it changes nothing of what is replaced; and the same operation is carried out once.
    volume.promote(id_of(A, Q4), reason="beside", default=False)
    done = promote_b(expected=seen, operation="one")
    assert (done.revision, done.previous) == (B, A)
    assert promote_b(expected=seen, operation="one") == done
    # What another process promoted already replaces nothing.
    assert not promote_b(expected=seen).moves_revision


def test_a_forced_promotion_is_recorded_with_the_gates_that_failed(volume: Volume) -> None:
    promote(volume, id_of(A))
    put(volume, id_of(B))
    volume.promotions.promote(id_of(B), reason="wanted", default=True, forced_past=["kl_ratio"])
    assert [(line.forced, line.failed_gates) for line in volume.history(MODEL)] == [(False, ()), (True, ("kl_ratio",))]
    assert not volume.rollback(MODEL, reason="back").forced


def test_repeated_rollbacks_go_further_back(volume: Volume) -> None:
    promote(volume, id_of(A), id_of(B), id_of(C))

    def back() -> tuple[Revision | None, Revision | None]:
        done = volume.rollback(MODEL, reason="slow")
        return done.revision, done.previous

    assert back() == (B, C)
    assert back() == (A, B)
    with pytest.raises(NotOnVolume, match=r"org/name has nothing on .* to go back to from org/name:Q8_0@aaaaaaaa"):
        volume.rollback(MODEL, reason="and on")
    volume.promote(id_of(C), reason="repaired")
    assert back() == (A, C)
    assert volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})
    assert [line.rollback for line in volume.history(MODEL)] == [False, False, False, True, True, False, True]


def test_a_rollback_of_the_model_moves_the_default_back_and_keeps_the_variant(volume: Volume) -> None:
    promote(volume, id_of(A), id_of(B), id_of(A, Q4))
    assert volume.promotions.rollback_target(MODEL) == id_of(B)
    done = volume.rollback(MODEL, reason="it forgets")
    assert (done.variant, done.revision, done.default, done.previous_default) == (Q8, B, Q8, Q4)
    assert (done.moves_revision, done.target) == (False, None)
    assert volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: B, Q4: A})
    volume.rollback(MODEL, reason="and on")
    assert volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A, Q4: A})
    assert volume.promotions.rollback_target(MODEL) is None


def test_a_rollback_to_another_variant_keeps_its_promoted_revision(volume: Volume) -> None:
    promote(volume, id_of(A), id_of(A, Q4))
    put(volume, id_of(B))
    volume.promote(id_of(B), reason="beside", default=False)
    volume.rollback(MODEL, reason="back")
    assert volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: B, Q4: A})


def test_a_rollback_of_a_variant_leaves_the_default(volume: Volume) -> None:
    promote(volume, id_of(A), id_of(B), id_of(A, Q4))
    assert volume.promotions.rollback_target(MODEL, Q8) == id_of(A)
    assert volume.promotions.rollback_target(MODEL, Q4) is None
    done = volume.rollback(MODEL, Q8, reason="slow")
    assert (done.revision, done.previous, done.default, done.target) == (A, B, Q4, Q8)
    assert volume.promoted(MODEL) == Promoted(MODEL, Q4, {Q8: A, Q4: A})
    with pytest.raises(NotOnVolume, match="org/name:Q4_K_M has nothing"):
        volume.rollback(MODEL, Q4, reason="there is none")
    with pytest.raises(NotOnVolume, match="org/name:Q6_K is not promoted"):
        volume.rollback(MODEL, Variant("Q6_K"), reason="there is none")


def test_a_rollback_skips_removed_snapshots(volume: Volume) -> None:
    promote(volume, id_of(A), id_of(B), id_of(C))
    volume.remove(MODEL, revision=B)
    done = volume.rollback(MODEL, reason="slow")
    assert (done.revision, done.previous) == (A, C)


def test_a_rollback_without_a_promotion_raises_not_on_volume(volume: Volume) -> None:
    with pytest.raises(NotOnVolume, match="nothing of org/name is promoted"):
        volume.rollback(MODEL, reason="why")
    assert not history_file(volume).exists()


@pytest.mark.parametrize("default", [True, False])
def test_an_operation_is_carried_out_once(volume: Volume, default: bool) -> None:
    promote(volume, id_of(A), id_of(B), id_of(C))
    put(volume, id_of(A, Q4))
    first = volume.promote(id_of(A, Q4), reason="now", default=default, operation="one")
    assert volume.promote(id_of(A, Q4), reason="again", default=default, operation="one") == first
    back = volume.rollback(MODEL, Q8, reason="now", operation="two")
    assert volume.rollback(MODEL, Q8, reason="again", operation="two") == back
    volume.promote(id_of(C), reason="on")
    assert volume.rollback(MODEL, Q8, reason="much later", operation="two") == back
    assert volume.promoted(MODEL).of(Q8) == id_of(C)
    assert [line.operation for line in volume.history(MODEL)].count("two") == 1


# the history


def test_the_history_records_who_when_and_why(volume: Volume) -> None:
    put(volume, id_of(A))
    volume.promote(id_of(A), reason="it is “good”\nand fast")
    (line,) = volume.history(MODEL)
    assert (line.revision, line.previous, line.reason) == (A, None, "it is “good”\nand fast")
    assert line.by is not None
    assert "@" in line.by
    assert abs(line.at.timestamp() - time.time()) < 60


def test_a_torn_last_line_of_the_history_is_ignored(volume: Volume) -> None:
    promote(volume, id_of(A))
    put(volume, id_of(B))
    with history_file(volume).open("a") as file:
        file.write('{"operation": "1", "variant": "Q8_0", "revision": "bbbb')
    assert [line.revision for line in volume.history(MODEL)] == [A]
    assert volume.promoted(MODEL).default_id == id_of(A)
    volume.promote(id_of(B), reason="second")
    assert [line.revision for line in volume.history(MODEL)] == [A, B]


def test_a_line_whose_links_never_moved_counts_and_the_next_writer_moves_them(volume: Volume) -> None:
    promote(volume, id_of(A), id_of(A, Q4))
    before = {name: volume.root / name for name in links_of(volume)}
    old = links_of(volume)
    promote(volume, id_of(B))
    for name, link in before.items():  # as if a process had died right after it wrote its line
        link.unlink()
        link.symlink_to(old[name])
    assert volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: B, Q4: A})
    assert volume.rollback(MODEL, Q8, reason="back").previous == B
    assert links_of(volume) == {
        "org--name": "org--name--Q8_0",
        "org--name--Q4_K_M": f".paddock/snapshots/org--name/{A}/Q4_K_M",
        "org--name--Q8_0": f".paddock/snapshots/org--name/{A}/Q8_0",
    }


def test_a_line_whose_snapshot_is_gone_does_not_count(volume: Volume) -> None:
    promote(volume, id_of(A))
    old = links_of(volume)
    promote(volume, id_of(B))
    for name, target in old.items():
        (volume.root / name).unlink()
        (volume.root / name).symlink_to(target)
    volume.snapshot_path(id_of(B)).rename(volume.root / ".paddock" / "gone")
    assert volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})


def test_a_removal_that_died_after_its_line_leaves_no_link_behind(volume: Volume) -> None:
    promote(volume, id_of(A), id_of(A, Q4))
    old = links_of(volume)
    volume.remove(MODEL, variant=Q4)
    put(volume, id_of(A, Q4))
    for name in ("org--name", "org--name--Q4_K_M"):
        (volume.root / name).symlink_to(old[name])
    assert volume.promoted(MODEL) == Promoted(MODEL, None, {Q8: A})
    volume.remove(MODEL, variant=Q4)
    assert links_of(volume) == {"org--name--Q8_0": old["org--name--Q8_0"]}


# names in the root


@pytest.mark.parametrize("name", ["org--name", "org--name--Q8_0"])
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_file_with_the_name_of_a_link_is_reported_and_left_alone(
    volume: Volume, tmp_path: Path, kind: str, name: str
) -> None:
    put(volume, id_of(A))
    link = volume.root / name
    if kind == "file":
        link.write_text("mine")
    elif kind == "directory":
        (link / "mine").mkdir(parents=True)
    else:
        link.symlink_to(tmp_path)
    before = sorted(path.name for path in volume.root.iterdir())
    with pytest.raises(NoPermission, match=str(link)):
        volume.promote(id_of(A), reason="first")
    assert volume.promoted(MODEL) == Promoted(MODEL)
    assert volume.history(MODEL) == []
    assert link.exists()
    assert sorted(path.name for path in volume.root.iterdir()) == before


def test_a_file_with_the_name_of_the_default_link_does_not_block_a_variant(volume: Volume) -> None:
    put(volume, id_of(A))
    (volume.root / "org--name").write_text("mine")
    volume.promote(id_of(A), reason="beside", default=False)
    assert volume.promoted(MODEL) == Promoted(MODEL, None, {Q8: A})
    assert (volume.root / "org--name").read_text() == "mine"


def test_a_file_that_took_the_name_of_a_link_meanwhile_is_left_alone(volume: Volume) -> None:
    """A process died after it wrote its line, and then a file was put where its link belongs."""
    promote(volume, id_of(A))
    promote(volume, id_of(B))
    for name in ("org--name", "org--name--Q8_0"):
        (volume.root / name).unlink()
        (volume.root / name).write_text("mine")
    with pytest.raises(NoPermission, match="org--name--Q8_0 is in the way"):
        volume.promote(id_of(A), reason="on")
    assert [(volume.root / name).read_text() for name in ("org--name", "org--name--Q8_0")] == ["mine", "mine"]


def namesakes() -> dict[ModelName, SnapshotId]:
    return {BARE: SnapshotId(BARE, A, Q8), NAMESAKE: SnapshotId(NAMESAKE, B, Q4)}


@pytest.mark.parametrize(("first", "second"), [(BARE, NAMESAKE), (NAMESAKE, BARE)], ids=str)
def test_the_second_model_to_need_a_shared_name_is_refused(volume: Volume, first: ModelName, second: ModelName) -> None:
    ids = namesakes()
    put(volume, *ids.values())
    volume.promote(ids[first], reason="first")
    links = links_of(volume)
    shown = links["gpt2--Q8_0"]
    with pytest.raises(NoPermission, match="gpt2--Q8_0 is in the way of") as caught:
        volume.promote(ids[second], reason="second")
    assert f"it shows another model, {shown}" in str(caught.value)
    with pytest.raises(NoPermission, match="gpt2--Q8_0 is in the way of"):
        volume.links.check_available(second, ids[second].variant)
    assert links_of(volume) == links
    assert volume.promoted(first) == Promoted(first, ids[first].variant, {ids[first].variant: ids[first].revision})
    assert volume.promoted(second) == Promoted(second)
    assert volume.history(second) == []


def test_models_that_share_a_name_are_otherwise_independent(volume: Volume) -> None:
    ids = namesakes()
    put(volume, *ids.values(), SnapshotId(BARE, A, Q4))
    volume.promote(ids[NAMESAKE], reason="first", default=False)
    volume.promote(ids[BARE], reason="its variant's link is free")
    volume.promote(SnapshotId(BARE, A, Q4), reason="beside", default=False)
    assert volume.promoted(BARE) == Promoted(BARE, Q8, {Q8: A, Q4: A})
    assert volume.promoted(NAMESAKE) == Promoted(NAMESAKE, None, {Q4: B})
    assert volume.ids(BARE) == [SnapshotId(BARE, A, Q4), ids[BARE]]
    assert volume.ids(NAMESAKE) == [ids[NAMESAKE]]
    assert {entry.manifest.id for entry in volume.entries() if entry.default} == {ids[BARE]}
    volume.remove(NAMESAKE)
    assert volume.promoted(BARE) == Promoted(BARE, Q8, {Q8: A, Q4: A})
    assert sorted(links_of(volume)) == ["gpt2", "gpt2--Q4_K_M", "gpt2--Q8_0"]


def test_the_states_of_many_models_are_those_of_each(volume: Volume) -> None:
    ids, absent = namesakes(), ModelName.parse("org/absent")
    put(volume, *ids.values(), SnapshotId(BARE, A, Q4))
    volume.promote(ids[NAMESAKE], reason="first", default=False)
    volume.promote(ids[BARE], reason="its variant's link is free")
    volume.promote(SnapshotId(BARE, A, Q4), reason="beside", default=False)
    promote(volume, id_of(A), id_of(A, Q4))
    old = links_of(volume)
    promote(volume, id_of(B))
    for name, target in old.items():  # as if a process had died right after it wrote its line
        (volume.root / name).unlink()
        (volume.root / name).symlink_to(target)
    (volume.root / "org--other--Q8_0").symlink_to("/elsewhere")
    (volume.root / "org--other").mkdir()
    models = [BARE, NAMESAKE, MODEL, absent]
    found = volume.promotions.of_all([*models, ModelName.parse("ORG/Name")])
    assert {model: found[model] for model in models} == {
        model: (volume.promoted(model), volume.history(model)) for model in models
    }
    assert volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: B, Q4: A})
    assert found[ModelName.parse("ORG/Name")] == found[MODEL]


@pytest.mark.parametrize(("first", "second"), [(BARE, NAMESAKE), (NAMESAKE, BARE)], ids=str)
def test_a_shared_name_is_free_again_when_its_model_is_removed(
    volume: Volume, first: ModelName, second: ModelName
) -> None:
    ids = namesakes()
    put(volume, *ids.values())
    volume.promote(ids[first], reason="first")
    with pytest.raises(NoPermission) as caught:
        volume.promote(ids[second], reason="second")
    assert caught.value.cure == "remove that model, or do without"
    volume.remove(first)
    volume.promote(ids[second], reason="second")
    assert volume.promoted(second).default_id == ids[second]
    with pytest.raises(NotOnVolume):
        volume.rollback(first, reason="it is gone")
    assert volume.promoted(second).default_id == ids[second]


def test_a_name_that_another_model_took_from_a_dead_process_stays_with_it(volume: Volume) -> None:
    ids = namesakes()
    put(volume, *ids.values(), SnapshotId(NAMESAKE, A, Q4))
    volume.promote(ids[NAMESAKE], reason="died after its line")
    (volume.root / "gpt2--Q8_0").unlink()
    volume.promote(ids[BARE], reason="the name is free")
    links = links_of(volume)
    with pytest.raises(NoPermission, match="gpt2--Q8_0 is in the way of gpt2/Q8_0:Q4_K_M"):
        volume.promote(SnapshotId(NAMESAKE, A, Q4), reason="second")
    assert links_of(volume) == links
    assert volume.promoted(BARE).default_id == ids[BARE]
