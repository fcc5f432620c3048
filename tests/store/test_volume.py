"""The volume in particular: paths, links, removal, leases, pins, and file systems that refuse operations."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from paddock.errors import (
    BlobMissing,
    CorruptFile,
    InUse,
    NoPermission,
    NotEnoughDisk,
    NotOnVolume,
    SnapshotDiffers,
)
from paddock.model.names import Sha256
from paddock.model.reference import SnapshotId, Variant
from paddock.store.history import Promoted
from paddock.store.volume import ORPHAN_AGE_S, Volume
from tests.support.stores import MODEL, Q4, Q8, A, B, id_of, manifest_of, publish


def digest(content: bytes) -> Sha256:
    return Sha256(hashlib.sha256(content).hexdigest())


def stage(volume: Volume, content: bytes) -> Path:
    staged = volume.partial / "staged"
    staged.write_bytes(content)
    return staged


def test_the_constructor_touches_nothing(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "models")
    assert volume.entries() == []
    assert volume.disk.free_bytes() > 0
    assert volume.sizes() == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_paths_are_those_of_the_design(volume: Volume) -> None:
    manifest = publish(volume, A, {"m.gguf": b"weights", "sub/c.json": b"{}"}, volume.root)
    publish(volume, A, {"four.gguf": b"four"}, volume.root, variant=Q4)
    volume.promote(id_of(A), reason="first")
    volume.promote(id_of(A, Q4), reason="beside", default=False)
    blob = volume.root / ".paddock" / "blobs" / "sha256" / digest(b"weights")[:2] / digest(b"weights")
    place = volume.root / ".paddock" / "snapshots" / "org--name" / A / "Q8_0"
    assert blob.stat().st_mode & 0o777 == 0o444
    assert (place / "m.gguf").samefile(blob)
    assert not (place / "m.gguf").is_symlink()
    assert json.loads((place / "manifest.json").read_text()) == json.loads(manifest.to_json())
    assert volume.snapshot_path(manifest.id) == place
    assert {path.name: str(path.readlink()) for path in volume.root.iterdir() if path.name != ".paddock"} == {
        "org--name": "org--name--Q8_0",
        "org--name--Q4_K_M": f".paddock/snapshots/org--name/{A}/Q4_K_M",
        "org--name--Q8_0": f".paddock/snapshots/org--name/{A}/Q8_0",
    }
    assert (volume.model_path(MODEL) / "sub" / "c.json").read_bytes() == b"{}"
    assert (volume.model_path(MODEL, Q8) / "m.gguf").read_bytes() == b"weights"
    assert (volume.model_path(MODEL, Q4) / "four.gguf").read_bytes() == b"four"


def test_a_staged_file_is_moved_to_the_blobs(volume: Volume) -> None:
    for _ in range(2):
        staged = stage(volume, b"bytes")
        blob = volume.add_blob(staged, digest(b"bytes"), 5)
        assert blob.read_bytes() == b"bytes"
        assert not staged.exists()


def test_a_staged_file_of_another_size_never_becomes_a_blob(volume: Volume) -> None:
    staged = stage(volume, b"short")
    with pytest.raises(CorruptFile, match="has 5 bytes, not the 6"):
        volume.add_blob(staged, digest(b"longer"), 6)
    assert not volume.has_blob(digest(b"longer"), 6)
    assert staged.exists()


def test_a_staged_link_never_becomes_a_blob(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    staged = volume.partial / "staged"
    staged.symlink_to(tmp_path / "secret")
    with pytest.raises(NoPermission):
        volume.add_blob(staged, digest(b"secret"), 6)
    assert not volume.has_blob(digest(b"secret"), 6)


def test_a_blob_that_was_cut_short_is_replaced(volume: Volume) -> None:
    blob = volume.add_blob(stage(volume, b"bytes"), digest(b"bytes"), 5)
    blob.unlink()
    blob.write_bytes(b"by")
    assert not volume.has_blob(digest(b"bytes"), 5)
    volume.add_blob(stage(volume, b"bytes"), digest(b"bytes"), 5)
    assert blob.read_bytes() == b"bytes"


def test_a_repaired_blob_is_linked_when_its_snapshot_is_published_again(volume: Volume) -> None:
    manifest = publish(volume, A, {"m.gguf": b"right"}, volume.root)
    blob = volume.blob_path(digest(b"right"))
    blob.chmod(0o644)
    blob.write_bytes(b"wrong")
    bad = volume.quarantine(digest(b"right"))
    assert bad.read_bytes() == b"wrong"
    with pytest.raises(BlobMissing):
        volume.publish(manifest)
    volume.add_blob(stage(volume, b"right"), digest(b"right"), 5)
    volume.publish(manifest)
    assert (volume.snapshot_path(id_of(A)) / "m.gguf").read_bytes() == b"right"
    with pytest.raises(NotOnVolume):
        volume.quarantine(digest(b"never there"))


def test_a_snapshot_never_changes_once_it_is_published(volume: Volume) -> None:
    publish(volume, A, {"q8.gguf": b"eight"}, volume.root)
    volume.promote(id_of(A), reason="first")
    place = volume.snapshot_path(id_of(A))
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()}
    with (volume.model_path(MODEL) / "q8.gguf").open("rb") as reader:
        with pytest.raises(SnapshotDiffers):
            publish(volume, A, {"q8.gguf": b"other"}, volume.root)
        publish(volume, A, {"q8.gguf": b"eight"}, volume.root, age_s=60)
        publish(volume, A, {"q4.gguf": b"four"}, volume.root, variant=Q4)
        assert reader.read() == b"eight"
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()} == before
    assert sorted(path.name for path in place.parent.iterdir()) == ["Q4_K_M", "Q8_0"]


def test_the_cure_for_other_files_under_one_identity_helps(volume: Volume) -> None:
    publish(volume, A, {"q8.gguf": b"eight"}, volume.root)
    with pytest.raises(SnapshotDiffers) as caught:
        publish(volume, A, {"q8.gguf": b"other"}, volume.root)
    assert f"paddock rm {id_of(A)}" in str(caught.value.cure)
    volume.remove(MODEL, variant=Q8, revision=A)
    other = publish(volume, A, {"q8.gguf": b"other"}, volume.root)
    assert volume.snapshots() == [other]


# removal


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


def test_preparing_succeeds_when_orphans_cannot_be_removed(
    volume: Volume, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = volume.add_bytes(b"old")
    past = time.time() - 2 * ORPHAN_AGE_S
    os.utime(volume.blob_path(old), (past, past))
    fan = volume.blob_path(old).parent
    fan.rename(tmp_path / "fan")
    fan.symlink_to(tmp_path / "fan")
    volume.prepare()
    assert "orphaned blobs stay" in caplog.text
    assert (tmp_path / "fan" / old).read_bytes() == b"old"


def test_entries_have_what_ls_lists(volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"aa"}, volume.root)
    publish(volume, B, {"m.gguf": b"bbb"}, volume.root, age_s=60)
    publish(volume, A, {"m.gguf": b"four"}, volume.root, variant=Q4, age_s=90)
    volume.promote(id_of(A, Q4), reason="beside")
    volume.promote(id_of(B), reason="new")
    volume.usage.touch(id_of(B))
    volume.pins.add(id_of(A))
    shown = [
        (entry.manifest.id, entry.promoted, entry.default, entry.pinned, entry.size_bytes)
        for entry in volume.entries(MODEL)
    ]
    assert shown == [
        (id_of(A), False, False, True, 2),
        (id_of(B), True, True, False, 3),
        (id_of(A, Q4), True, False, False, 4),
    ]
    assert [entry.last_used is not None for entry in volume.entries()] == [False, True, False]


# disk space, permissions, and planted links


def test_a_need_beyond_the_free_space_raises_not_enough_disk(volume: Volume) -> None:
    volume.disk.require(1)
    with pytest.raises(NotEnoughDisk, match=r"GiB free, and .* GiB are needed .* are missing"):
        volume.disk.require(volume.disk.free_bytes() + 1)


def test_a_root_that_cannot_be_made_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoPermission, match=str(tmp_path / "file")):
        Volume(tmp_path / "file" / "models").prepare()


@pytest.mark.parametrize(
    "part",
    [f"snapshots/org--name/{A}", "snapshots/org--name", "snapshots", "blobs/sha256", "history", "usage", "leases"],
)
def test_a_planted_link_is_not_followed_out_of_the_volume(volume: Volume, tmp_path: Path, part: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    planted = volume.root / ".paddock" / part
    planted.parent.mkdir(exist_ok=True)
    if planted.is_dir():
        planted.rmdir()
    planted.symlink_to(outside)
    with pytest.raises(NoPermission, match="symbolic link"):  # noqa: PT012 - the first call that meets the link raises
        publish(volume, A, {"m.gguf": b"a"}, volume.root)
        volume.promote(id_of(A), reason="first")
        volume.usage.touch(id_of(A))
        with volume.lease(id_of(A)):
            pass
    assert list(outside.iterdir()) == []


def test_a_link_at_the_path_of_a_snapshot_is_replaced_and_not_followed(volume: Volume, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("mine")
    volume.snapshot_path(id_of(A)).parent.mkdir(parents=True)
    volume.snapshot_path(id_of(A)).symlink_to(outside)
    publish(volume, A, {"m.gguf": b"a"}, volume.root)
    assert not volume.snapshot_path(id_of(A)).is_symlink()
    volume.remove(MODEL)
    assert [path.name for path in outside.iterdir()] == ["keep"]


def in_namespace(tmp_path: Path, mounts: str, program: str) -> str:
    """Run a program in a mount namespace of its own, after the shell command `mounts`, and return its stdout."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs `unshare -rm`: the package util-linux, and user namespaces allowed")
    script = tmp_path / "program.py"
    script.write_text(
        "import pathlib, sys\nfrom paddock.errors import *\nfrom paddock.store.volume import Volume\n"
        "from tests.support.stores import *\nroot = pathlib.Path(sys.argv[1])\n" + textwrap.dedent(program)
    )
    shell = f'set -e; root="$1"; {mounts}; exec "{sys.executable}" "$2" "$1"'
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", shell, "sh", str(tmp_path / "models"), str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_where_hard_links_are_refused_the_links_are_symbolic(tmp_path: Path) -> None:
    out = in_namespace(
        tmp_path,
        'mkdir -p "$root/.paddock/snapshots" && mount -t tmpfs none "$root/.paddock/snapshots"',
        """
        volume = Volume(root)
        volume.prepare()
        manifest = publish(volume, A, {"m.gguf": b"weights", "deep/c.json": b"{}"}, root)
        publish(volume, A, {"m.gguf": b"weights", "deep/c.json": b"{}"}, root)
        volume.promote(id_of(A), reason="first")
        link = root / "org--name" / "deep" / "c.json"
        print(link.readlink(), link.read_bytes())
        volume.blob_path(manifest.files[0].sha256).unlink()
        try:
            volume.publish(manifest)
        except BlobMissing:
            print("missing")
        print(volume.remove(MODEL)[1], volume.sizes())
        """,
    )
    blob = f"blobs/sha256/{digest(b'{}')[:2]}/{digest(b'{}')}"
    assert out.splitlines() == [f"../../../../../{blob} b'{{}}'", "missing", "7 (0, 0)"]


def test_a_read_only_volume_is_named_in_errors_and_can_be_read(tmp_path: Path, volume: Volume) -> None:
    publish(volume, A, {"m.gguf": b"a"}, volume.root)
    out = in_namespace(
        tmp_path,
        'mount --bind "$root" "$root" && mount -o remount,ro,bind "$root"',
        """
        volume = Volume(root)
        for work in (
            volume.prepare,
            lambda: volume.promote(id_of(A), reason="first"),
            lambda: volume.remove(MODEL),
            lambda: publish(volume, B, {"m.gguf": b"b"}, root),
        ):
            try:
                work()
            except NoPermission as error:
                print(str(root) in str(error) and "Read-only" in str(error))
        print(len(volume.snapshots()))
        """,
    )
    assert out.split() == ["True", "True", "True", "True", "1"]


def test_a_full_disk_is_a_clean_error_that_leaves_nothing_behind(tmp_path: Path) -> None:
    out = in_namespace(
        tmp_path,
        'mkdir -p "$root" && mount -t tmpfs -o size=256k none "$root"',
        """
        volume = Volume(root)
        volume.prepare()
        free = volume.disk.free_bytes()
        try:
            volume.add_bytes(b"x" * 1_000_000)
        except NotEnoughDisk as error:
            print("NotEnoughDisk", volume.disk.free_bytes() == free, list(volume.partial.iterdir()))
        """,
    )
    assert out.strip() == "NotEnoughDisk True []"


def test_four_processes_can_publish_the_same_snapshot_at_once(volume: Volume) -> None:
    program = textwrap.dedent(f"""
        import pathlib, sys
        from paddock.store.volume import Volume
        from tests.support.stores import A, publish
        root = pathlib.Path({str(volume.root)!r})
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(20):
            publish(Volume(root), A, {{"m.gguf": b"weights", "c.json": b"{{}}"}}, root, age_s=number)
    """)
    workers = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        worker.communicate("go\n", timeout=60)
        assert worker.returncode == 0
    place = volume.snapshot_path(id_of(A))
    assert [path.name for path in place.parent.iterdir()] == ["Q8_0"]
    assert (place / "m.gguf").samefile(volume.blob_path(digest(b"weights")))
    assert volume.sizes() == (9, 9)
    assert list(volume.partial.iterdir()) == []
    assert manifest_of(A, {"m.gguf": b"weights", "c.json": b"{}"}).files == volume.snapshots()[0].files
