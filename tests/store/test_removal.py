"""Remove snapshots and collect orphaned blobs; leases and pins that protect a snapshot."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from paddock.errors import (
    InUse,
    NotOnVolume,
)
from paddock.model.names import Sha256
from paddock.model.reference import SnapshotId, Variant
from paddock.store.history import Promoted
from paddock.store.volume import ORPHAN_AGE_S, Volume
from tests.support.stores import MODEL, Q4, Q8, A, B, id_of, publish


def digest(content: bytes) -> Sha256:
    return Sha256(hashlib.sha256(content).hexdigest())


def test_removing_frees_what_no_other_snapshot_uses(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a" * 1000, "config.json": b"shared"}, volume.root)
    publish(volume, B, {"m.gguf": b"b" * 100, "config.json": b"shared"}, volume.root)
    assert volume.sizes() == (1112, 1106)
    assert volume.remove(MODEL, revision=A) == ([id_of(A)], 1000)
    assert volume.sizes() == (106, 106)
    assert (volume.snapshot_path(id_of(B)) / "config.json").read_bytes() == b"shared"
    assert volume.remove(MODEL) == ([id_of(B)], 106)
    assert volume.sizes() == (0, 0)
    with pytest.raises(NotOnVolume, match="org/name is not on the volume"):
        volume.remove(MODEL)


def four_snapshots(volume: Volume) -> None:
    """Q4_K_M and Q8_0 of A and of B."""
    for revision in (A, B):
        for variant in (Q4, Q8):
            contents = {"m.gguf": f"{variant} of {revision}".encode(), "config.json": b"{}"}
            publish(volume, revision, contents, volume.root, variant=variant)


@pytest.mark.parametrize(
    ("chosen", "removed"),
    [
        ({"variant": Q8, "revision": A}, [id_of(A)]),
        ({"variant": Variant("q8_0")}, [id_of(A), id_of(B)]),
        ({"revision": B}, [id_of(B, Q4), id_of(B)]),
        ({}, [id_of(A, Q4), id_of(A), id_of(B, Q4), id_of(B)]),
    ],
    ids=["one", "a variant, in any case", "a revision", "all"],
)
def test_a_variant_a_revision_or_both_can_be_removed(
    volume: Volume, chosen: dict[str, Any], removed: list[SnapshotId]
) -> None:
    four_snapshots(volume)
    volume.promote(id_of(A, Q4), reason="first")
    volume.promote(id_of(B), reason="second")
    assert volume.remove(MODEL, **chosen)[0] == removed
    left = [id for id in (id_of(A, Q4), id_of(A), id_of(B, Q4), id_of(B)) if id not in removed]
    assert volume.ids(MODEL) == left
    promoted = {id.variant: id.revision for id in (id_of(A, Q4), id_of(B)) if id in left}
    default = Q8 if id_of(B) in left else None
    assert volume.promoted(MODEL) == Promoted(MODEL, default, promoted), "the default is never pointed elsewhere"
    links = {path.name for path in volume.root.iterdir() if path.is_symlink()}
    assert links == {f"org--name--{variant}" for variant in promoted} | ({"org--name"} if default else set())
    assert sorted(path.name for path in (volume.root / ".paddock" / "snapshots" / "org--name").iterdir()) == sorted(
        {id.revision for id in left}
    )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"variant": Variant("Q6_K")}, "org/name:Q6_K is not"),
        ({"revision": "c" * 40}, f"org/name@{'c' * 40} is not"),
        ({"variant": Q4, "revision": B}, f"org/name:Q4_K_M@{B} is not"),
    ],
)
def test_removing_a_missing_snapshot_raises_not_on_volume(volume: Volume, chosen: dict[str, Any], message: str) -> None:
    publish(volume, A, {"m.gguf": b"a"}, volume.root, variant=Q4)
    publish(volume, B, {"m.gguf": b"b"}, volume.root)
    with pytest.raises(NotOnVolume, match=message):
        volume.remove(MODEL, **chosen)
    assert volume.ids(MODEL) == [id_of(A, Q4), id_of(B)]


def test_a_promoted_snapshot_that_is_not_in_use_is_removed_with_its_links(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a"}, volume.root)
    volume.promote(id_of(A), reason="first")
    assert volume.remove(MODEL, revision=A) == ([id_of(A)], 1)
    assert volume.promoted(MODEL) == Promoted(MODEL)
    assert not os.path.lexists(volume.model_path(MODEL))
    assert not os.path.lexists(volume.model_path(MODEL, Q8))
    assert [line.reason for line in volume.history(MODEL)] == ["first", "removed"]


def test_a_snapshot_in_use_is_not_removed(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a"}, volume.root)
    publish(volume, B, {"m.gguf": b"b"}, volume.root)
    volume.promote(id_of(A), reason="first")
    with volume.lease(id_of(A)) as path:
        assert path == volume.snapshot_path(id_of(A))
        assert volume.in_use(id_of(A))
        assert not volume.in_use(id_of(B))
        for revision in (A, None):
            with pytest.raises(InUse, match=f"in use by process {os.getpid()}"):
                volume.remove(MODEL, revision=revision)
        assert volume.promoted(MODEL) == Promoted(MODEL, Q8, {Q8: A})
        assert volume.remove(MODEL, revision=B) == ([id_of(B)], 1)
    assert not volume.in_use(id_of(A))
    assert volume.usage.last_used(id_of(A)) is not None
    assert volume.remove(MODEL) == ([id_of(A)], 1)


def test_a_lease_protects_only_its_own_variant(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"eight"}, volume.root)
    publish(volume, A, {"m.gguf": b"four"}, volume.root, variant=Q4)
    with volume.lease(id_of(A, Q4)):
        assert not volume.in_use(id_of(A))
        with pytest.raises(InUse, match="org/name:Q4_K_M@aaaaaaaa is in use"):
            volume.remove(MODEL, variant=Q4)
        assert volume.remove(MODEL, variant=Q8) == ([id_of(A)], 5)
        assert volume.ids(MODEL) == [id_of(A, Q4)]


def test_a_pin_protects_only_its_own_variant(volume: Volume) -> None:
    four_snapshots(volume)
    volume.pins.add(id_of(A, Q4))
    assert volume.pins.of(MODEL) == {id_of(A, Q4)}
    for chosen in ({}, {"variant": Q4}, {"revision": A}):
        with pytest.raises(InUse, match="org/name:Q4_K_M@aaaaaaaa is pinned") as caught:
            volume.remove(MODEL, **chosen)
    assert f"paddock unpin {id_of(A, Q4)}" in str(caught.value.cure)
    volume.remove(MODEL, variant=Q8)
    assert volume.pins.remove(id_of(A, Q4))
    assert not volume.pins.remove(id_of(A, Q4))
    volume.remove(MODEL)
    assert volume.ids(MODEL) == []
    with pytest.raises(NotOnVolume, match=str(id_of(A))):
        volume.pins.add(id_of(A))


def test_a_lease_ends_with_its_holder_however_it_ends(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a"}, volume.root)
    program = textwrap.dedent(f"""
        import pathlib, sys
        from paddock.store.volume import Volume
        from tests.support.stores import A, id_of
        with Volume(pathlib.Path({str(volume.root)!r})).lease(id_of(A)):
            print("held", flush=True)
            sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert volume.in_use(id_of(A))
        holder.kill()
    assert not volume.in_use(id_of(A))
    assert list((volume.root / ".paddock" / "leases" / "org--name").iterdir()) == []


def test_a_missing_snapshot_cannot_be_leased(volume: Volume) -> None:
    with pytest.raises(NotOnVolume), volume.lease(id_of(A)):
        pass
    assert not volume.in_use(id_of(A))


def test_nothing_is_freed_while_a_manifest_cannot_be_read(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a", "config.json": b"shared"}, volume.root)
    publish(volume, B, {"m.gguf": b"b", "config.json": b"shared"}, volume.root)
    rotten = volume.snapshot_path(id_of(B)) / "manifest.json"
    rotten.unlink()
    rotten.write_bytes(b"rotten")
    assert volume.remove(MODEL, revision=A) == ([id_of(A)], 0)
    assert volume.collect(older_than_s=0) == 0
    assert volume.remove(MODEL, revision=B) == ([id_of(B)], 0), "what a rotten manifest named is not known"
    assert volume.collect(older_than_s=0) == len(b"a" + b"b" + b"shared")


def test_orphans_are_collected_when_they_are_old_enough(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"kept"}, volume.root)
    young, old = volume.add_bytes(b"young"), volume.add_bytes(b"old")
    past = time.time() - 2 * ORPHAN_AGE_S
    os.utime(volume.blob_path(old), (past, past))
    assert volume.collect() == 3
    assert volume.has_blob(young, 5)
    assert not volume.has_blob(old, 3)
    assert volume.collect(older_than_s=0) == 5
    assert volume.has_blob(digest(b"kept"), 4)


def test_leftovers_of_dead_writers_are_swept_after_a_day(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a"}, volume.root)
    home = volume.snapshot_path(id_of(A)).parent
    dead, fresh = home / ".staging-dead", home / ".staging-fresh"
    for leftover in (dead, fresh):
        (leftover / "deep").mkdir(parents=True)
    past = time.time() - 2 * ORPHAN_AGE_S
    os.utime(dead, (past, past))
    volume.prepare()
    assert sorted(path.name for path in home.iterdir()) == [".staging-fresh", "Q8_0"]


def test_a_damaged_snapshot_is_removed_and_its_blobs_are_collected(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a"}, volume.root)
    publish(volume, B, {"m.gguf": b"b"}, volume.root)
    volume.promote(id_of(B), reason="first")
    rotten = volume.snapshot_path(id_of(A)) / "manifest.json"
    rotten.unlink()
    rotten.mkdir()
    spoiled = volume.snapshot_path(id_of(B)) / "manifest.json"
    spoiled.chmod(0o644)
    spoiled.write_bytes(b"rotten")
    assert volume.ids(MODEL) == [id_of(A), id_of(B)]
    volume.remove(MODEL, revision=A)
    assert volume.ids(MODEL) == [id_of(B)]
    volume.remove(MODEL)
    assert volume.ids(MODEL) == []
    assert volume.promoted(MODEL) == Promoted(MODEL)
    assert not [path for path in volume.root.iterdir() if path.is_symlink()]
    assert volume.collect(older_than_s=0) == len(b"a" + b"b")


def test_preparing_removes_old_orphans_and_nothing_else(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"kept"}, volume.root)
    young, old = volume.add_bytes(b"young"), volume.add_bytes(b"old")
    aside = volume.blob_path(old).parent / ".staging-dead"
    aside.write_bytes(b"left by a process that died while it freed a blob")
    past = time.time() - 2 * ORPHAN_AGE_S
    for path in (volume.blob_path(old), volume.blob_path(digest(b"kept")), aside):
        os.utime(path, (past, past))
    volume.prepare()
    assert not volume.has_blob(old, 3)
    assert volume.has_blob(young, 5)
    assert volume.has_blob(digest(b"kept"), 4)
    assert not aside.exists()


def test_preparing_leaves_alone_what_lies_behind_a_link(volume: Volume, tmp_path: Path) -> None:
    old = volume.add_bytes(b"old")
    past = time.time() - 2 * ORPHAN_AGE_S
    os.utime(volume.blob_path(old), (past, past))
    fan = volume.blob_path(old).parent
    fan.rename(tmp_path / "fan")
    fan.symlink_to(tmp_path / "fan")
    volume.prepare()
    assert (tmp_path / "fan" / old).read_bytes() == b"old"
