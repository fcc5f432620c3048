"""Which user a process of root becomes: the least privileged one that can read what it needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paddock.confinement import UNPRIVILEGED_USER, kernel
from paddock.confinement.credentials import bounding_set, choose_credentials, give, take_credentials

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
_OWNER, _GROUP = 61_004, 62_004


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every user can reach: pytest's own is closed to them."""
    with tempfile.TemporaryDirectory(prefix="paddock-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def in_child(work: Callable[[], object]) -> str:
    """The representation of what `work` returns, or raises, in a child process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, repr(work()).encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        return answer.read()


@pytest.mark.parametrize(
    ("owner", "group", "mode", "becomes"),
    [
        pytest.param(0, 0, 0o444, (UNPRIVILEGED_USER, []), id="for everyone"),
        pytest.param(0, _GROUP, 0o440, (UNPRIVILEGED_USER, [_GROUP]), id="for a group"),
        pytest.param(0, 0, 0o600, (0, None), id="for root"),
        pytest.param(_OWNER, _OWNER, 0o600, (_OWNER, []), id="for its owner"),
        pytest.param(_OWNER, 0, 0o600, (_OWNER, []), id="for its owner, of root's group"),
    ],
)
def test_root_becomes_the_least_privileged_user_that_reads_the_model(
    folder: Path, owner: int, group: int, mode: int, becomes: tuple[int, list[int] | None]
) -> None:
    model = folder / "model.gguf"
    model.write_text("GGUF")
    model.chmod(mode)
    os.chown(model, owner, group)
    descriptor = os.open(model, os.O_RDONLY)

    def work() -> object:
        take_credentials(choose_credentials(UNPRIVILEGED_USER, files={descriptor: os.fstat(descriptor)}))
        groups = None if os.geteuid() == 0 else os.getgroups()
        opened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
        return (os.geteuid(), groups), os.read(opened, 4), kernel.capabilities(), bounding_set()

    try:
        assert in_child(work) == repr((becomes, b"GGUF", (0, 0), 0))
    finally:
        os.close(descriptor)


def test_a_process_that_cannot_be_started_as_another_user_stays_root_without_capabilities(folder: Path) -> None:
    hidden = folder / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "llama-server").touch(mode=0o755)

    def work() -> object:
        found = choose_credentials(UNPRIVILEGED_USER, files={}, needed=[str(hidden / "llama-server")])
        take_credentials(found)
        return os.geteuid(), kernel.capabilities(), bounding_set()

    assert in_child(work) == repr((0, (0, 0), 0))


def test_without_the_capability_to_signal_its_child_root_keeps_it_its_own(folder: Path) -> None:
    def work() -> object:
        effective, _ = kernel.capabilities()
        kernel.set_capabilities(effective & ~(1 << 5), effective & ~(1 << 5))
        return choose_credentials(UNPRIVILEGED_USER, files={}).user

    assert in_child(work) == "0"


def test_a_home_is_given_to_the_user_and_stays_open_to_roots_group(folder: Path) -> None:
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "template").touch(mode=0o600)
    (home / "link").symlink_to("/etc/passwd")
    found = choose_credentials(UNPRIVILEGED_USER, files={}, home=str(home))
    give(str(home), found)
    assert [path.lstat().st_uid for path in (home, home / "template", home / "link")] == [found.user, found.user, 0]
    assert (home.stat().st_mode & 0o777, Path("/etc/passwd").stat().st_uid) == (0o770, 0)
