"""File systems that refuse operations: full disks, read-only mounts, no hard links, and planted links."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from paddock.errors import (
    NoPermission,
    NotEnoughDisk,
)
from paddock.model.names import Sha256
from paddock.store.volume import Volume
from tests.support.stores import MODEL, A, id_of, publish


def digest(content: bytes) -> Sha256:
    return Sha256(hashlib.sha256(content).hexdigest())


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
        "import pathlib, sys\nfrom contextlib import suppress\nfrom paddock.errors import *\n"
        "from paddock.store.volume import Volume\nfrom tests.support.stores import *\n"
        "root = pathlib.Path(sys.argv[1])\n" + textwrap.dedent(program)
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


APART = "models/.paddock/partial and models/.paddock/blobs/sha256"


@pytest.mark.parametrize(
    ("mounts", "apart"),
    [
        (
            'mkdir -p "$root/.paddock" && mount -t tmpfs none "$root/.paddock"',
            "models/.paddock/blobs/sha256 and models",
        ),
        ('mkdir -p "$root/.paddock/partial" && mount -t tmpfs none "$root/.paddock/partial"', APART),
        ('mkdir -p "$root/.paddock/blobs" && mount -t tmpfs none "$root/.paddock/blobs"', APART),
        # The same file system, bound to another place: only a rename tells.
        ('mkdir -p "$root/.paddock/blobs" && cd "$root" && mount --bind .paddock/blobs .paddock/blobs', APART),
    ],
    ids=["private", "partial", "blobs", "bind"],
)
def test_another_mount_inside_the_volume_is_found_before_a_download(tmp_path: Path, mounts: str, apart: str) -> None:
    out = in_namespace(
        tmp_path,
        mounts,
        """
        try:
            Volume(root).prepare()
        except NoPermission as error:
            print(str(error).replace(str(root.parent) + "/", ""))
        print([path.name for path in root.rglob(".staging*")])
        """,
    )
    message, left = out.splitlines()
    assert message.startswith(f"{apart} are on different mounts")
    assert message.endswith("mount the whole volume as one file system")
    assert left == "[]"


def test_a_volume_without_free_inodes_is_found_before_a_download(tmp_path: Path) -> None:
    out = in_namespace(
        tmp_path,
        'mkdir -p "$root" && mount -t tmpfs -o nr_inodes=40 none "$root"',
        """
        volume = Volume(root)
        volume.prepare()
        volume.disk.require(1)
        try:
            volume.disk.require(1, files=3)
        except NotEnoughDisk as error:
            print(error)
        try:
            for number in range(100):
                volume.write_report(id_of(A), f"{number}.json", "1")
        except NotEnoughDisk as error:
            print(error)
        """,
    )
    first, second = out.splitlines()
    assert first.startswith(f"{tmp_path}/models has ")
    assert "free inodes, and 42 are needed: remove files there" in first
    assert "could not be written: its file system has no free inodes: remove files there" in second


def test_a_full_volume_is_served_without_a_lease(tmp_path: Path) -> None:
    out = in_namespace(
        tmp_path,
        'mkdir -p "$root" && mount -t tmpfs -o size=256k none "$root"',
        """
        volume = Volume(root)
        volume.prepare()
        publish(volume, A, {"m.gguf": b"a"}, root)
        with suppress(OSError), (root / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with volume.lease(id_of(A)) as snapshot:
            print((snapshot / "m.gguf").read_bytes())
        """,
    )
    assert out.strip() == "b'a'"


def test_a_full_volume_is_maintained_without_a_lock_and_a_read_only_one_is_refused(tmp_path: Path) -> None:
    out = in_namespace(
        tmp_path,
        'mkdir -p "$root" && mount -t tmpfs -o nr_inodes=8 none "$root"',
        """
        import os

        volume = Volume(root)
        volume.prepare()
        with suppress(OSError):
            for number in range(100):
                (root / str(number)).touch()
        with volume.maintenance_lock.hold() as first, volume.maintenance_lock.hold() as second:
            print(first, second)
        os.system(f"mount -o remount,ro {root}")
        try:
            with volume.maintenance_lock.hold():
                pass
        except NoPermission as error:
            print("NoPermission")
        """,
    )
    assert out.split() == ["None", "None", "NoPermission"]
