"""Several users share a volume: with umask 002 and a common group each can do everything on it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.users import GROUP, User

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a test as other users")


@pytest.fixture(scope="module")
def users() -> Iterator[tuple[User, User]]:
    with User(61_001) as one, User(61_002) as two:
        yield one, two


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that every user can reach: pytest's own is closed to them."""
    with tempfile.TemporaryDirectory(prefix="paddock-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "models"


def make(root: Path, user: User, mode: int = 0o775) -> None:
    root.mkdir()
    os.chown(root, user.uid, GROUP)
    root.chmod(mode)


def changing(root: Path) -> Iterator[tuple[Path, int]]:
    """Every file that changes, and every directory, with its mode: all but blobs, manifests and links."""
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        is_fixed = status.st_mode & 0o7777 == 0o444 and ("blobs" in path.parts or "snapshots" in path.parts)
        if not stat.S_ISLNK(status.st_mode) and not is_fixed:
            yield path, status.st_mode & 0o777


FIRST = """
    volume = Volume(Path({root!r}))
    volume.prepare()
    publish(volume, A, {{"m.gguf": b"weights", "config.json": b"1"}}, volume.root)
    volume.promote(id_of(A), reason="first")
    publish(volume, A, {{"m.gguf": b"weights"}}, volume.root, variant=Q4)
    with volume.lease(id_of(A)):
        pass
    from paddock.store.volume import Usage
    volume.usage.add(id_of(A), "serve", Usage(1, 2, 3))
    volume.pins.add(id_of(A))
    volume.write_report(id_of(A), "benchmark.json", "1")
    volume.notes.write("memory/llama.json", "[]")
    volume.tuning.write(file_of("m.gguf", b"weights").sha256, "machine.json", "1")
    with volume.docs.replace(id_of(A)) as docs:
        (docs / "index.html").write_text("1")
    volume.refs.remember(MODEL, "main", A)
    volume.remote_updates.finish(MODEL, volume.remote_updates.pending(MODEL))
"""
SECOND = """
    volume = Volume(Path({root!r}))
    volume.prepare()
    publish(volume, B, {{"m.gguf": b"weights", "config.json": b"2"}}, volume.root)
    volume.promote(id_of(B), reason="second")
    volume.rollback(MODEL, reason="back")
    volume.promote(id_of(B), reason="again")
    from paddock.store.volume import Usage
    volume.usage.add(id_of(A), "serve", Usage(1, 2, 3))
    print(volume.usage.read(id_of(A)).usage.requests)
    with volume.lease(id_of(A)):
        print(volume.in_use(id_of(A)))
    print(volume.pins.remove(id_of(A)))
    volume.write_report(id_of(A), "benchmark.json", "2")
    volume.notes.write("memory/llama.json", "[2]")
    volume.tuning.write(file_of("m.gguf", b"weights").sha256, "machine.json", "2")
    with volume.docs.replace(id_of(A)) as docs:
        (docs / "index.html").write_text("2")
    volume.refs.remember(MODEL, "main", B)
    volume.remote_updates.finish(MODEL, volume.remote_updates.pending(MODEL))
    print(len(volume.history(MODEL)), volume.remove(MODEL, revision=A)[1])
"""


@pytest.mark.parametrize("mode", [0o2775, 0o775], ids=["setgid", "plain"])
def test_two_users_of_one_group_do_everything_on_one_volume(users: tuple[User, User], root: Path, mode: int) -> None:
    one, two = users
    make(root, one, mode)
    one.do(dedent(FIRST.format(root=str(root))))
    assert two.do(dedent(SECOND.format(root=str(root)))).split("\n") == ["2", "True", "True", "4 1"]
    assert one.do("print(volume.promoted(MODEL).default_id == id_of(B), volume.remove(MODEL)[1], volume.sizes())") == (
        "True 8 (0, 0)"
    )


def test_everything_that_changes_is_made_under_the_umask(users: tuple[User, User], root: Path) -> None:
    make(root, users[0], 0o2775)
    users[0].do(dedent(FIRST.format(root=str(root))))
    wanted = {path: 0o775 if path.is_dir() else 0o664 for path, _ in changing(root)}
    assert dict(changing(root)) == wanted
    blobs = [path for path in (root / ".paddock" / "blobs").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in blobs} == {0o444}


def test_a_single_user_works_with_umask_077(users: tuple[User, User], root: Path) -> None:
    make(root, users[0], 0o700)
    with users[0].umask(0o077):
        users[0].do(dedent(FIRST.format(root=str(root))))
        users[0].do(dedent(SECOND.format(root=str(root))))
    assert {mode & 0o077 for _, mode in changing(root)} == {0}


def test_a_killed_download_of_one_user_is_resumed_by_another(users: tuple[User, User], root: Path) -> None:
    one, two = users
    make(root, one)
    snippet = """
        import threading
        from paddock.model.source import Expected
        from paddock.transfer import staging
        content = b"a" * 65536 + b"b" * 65536
        expected = Expected(len(content), file_of("m.gguf", content).sha256)
        def own():
            return staging.acquire(
                Path({root!r}), expected, segment_bytes=65536, quiet_s=60, label="m.gguf",
                cancel=threading.Event(), is_published=lambda: False,
            )
        owned = own()
    """
    one.do(dedent(snippet.format(root=str(root))))
    one.do(
        dedent("""
        owned.data.write_bytes(content[:65536])
        owned.journal.add_checkpoint(65536, segments_of(content, 65536)[0])
        owned.release()
        """)
    )
    two.do(dedent(snippet.format(root=str(root))))
    assert two.do("print(owned.resumable_bytes, owned.data.read_bytes() == content[:65536])") == "65536 True"
    (data,) = root.rglob("data")
    assert data.stat().st_uid == two.uid
    two.do("owned.discard()")
    assert list(root.iterdir()) == []


def test_a_blob_of_another_user_is_renewed_and_made_read_only(users: tuple[User, User], root: Path) -> None:
    one, two = users
    make(root, one)
    one.do(
        dedent(f"""
        import os
        volume = Volume(Path({str(root)!r}))
        volume.prepare()
        digest = volume.add_bytes(b"orphan")
        os.utime(volume.blob_path(digest), (0, 0))
        left = volume.blob_path(volume.add_bytes(b"not read-only yet"))
        left.chmod(0o664)
        """)
    )
    out = two.do(
        dedent(f"""
        volume = Volume(Path({str(root)!r}))
        volume.renew_blob(file_of("m.gguf", b"orphan").sha256)
        print(volume.collect())
        digest = file_of("m.gguf", b"not read-only yet").sha256
        staged = volume.partial / "staged"
        staged.write_bytes(b"not read-only yet")
        status = volume.add_blob(staged, digest, 17).stat()
        print(oct(status.st_mode & 0o777), volume.blob_path(digest).read_bytes())
        """)
    )
    assert out.split("\n") == ["0", "0o444 b'not read-only yet'"]


def test_the_cure_for_files_of_another_user_helps(users: tuple[User, User], root: Path) -> None:
    one, two = users
    make(root, one, 0o755)
    with one.umask(0o022):
        one.do(dedent(FIRST.format(root=str(root))))
    snippet = dedent(f"""
        volume = Volume(Path({str(root)!r}))
        try:
            volume.promote(id_of(A, Q4), reason="second")
        except NoPermission as error:
            print(error)
        """)
    message = two.do(snippet)
    assert message.startswith(f"{root} is read-only for user {two.uid}: {root}/.paddock/")
    assert "umask 002 and a common group" in message
    for command in re.findall(r"`(ch\w+ -R [^`]*)`", message):
        subprocess.run(command.replace("GROUP", str(GROUP)).split(), check=True, user=one.uid, group=GROUP)
    assert two.do(snippet) == ""
    assert {path.stat().st_mode & 0o777 for path in (root / ".paddock" / "blobs").rglob("?" * 64)} == {0o444}


def test_a_user_who_may_only_read_serves_without_a_lease(users: tuple[User, User], root: Path) -> None:
    one, two = users
    make(root, one, 0o755)
    with one.umask(0o022):
        one.do(dedent(FIRST.format(root=str(root))))
    out = two.do(
        dedent(f"""
        import logging
        warnings = []
        handler = logging.Handler()
        handler.emit = lambda record: warnings.append(record.getMessage())
        logging.getLogger("paddock").addHandler(handler)
        volume = Volume(Path({str(root)!r}))
        for _ in range(2):
            with volume.lease(id_of(A)) as snapshot:
                print((snapshot / "m.gguf").read_bytes())
        print(len(warnings), "nothing is recorded on the volume" in warnings[0])
        """)
    )
    assert out.split("\n") == ["b'weights'", "b'weights'", "1 True"]
