"""A parent is unreadable while it has a child that reads what strangers made, and as before afterwards."""

from __future__ import annotations

import threading
from pathlib import Path

from paddock.confinement import kernel
from paddock.confinement.parent import unreadable


def dumpable() -> int:
    return kernel.prctl(kernel.PR_GET_DUMPABLE)


def test_a_process_is_unreadable_until_the_last_of_its_children_ended() -> None:
    before = dumpable()
    with unreadable():
        assert dumpable() == 0
        entered, leave = threading.Event(), threading.Event()

        def another() -> None:
            with unreadable():
                entered.set()
                leave.wait(30)

        thread = threading.Thread(target=another)
        thread.start()
        assert entered.wait(30)
    assert dumpable() == 0
    leave.set()
    thread.join()
    assert dumpable() == before


def test_an_unreadable_process_still_reads_what_paddock_reads_of_itself() -> None:
    with unreadable(), Path("/proc/self/status").open() as status:
        again = Path(f"/proc/self/fd/{status.fileno()}").read_text()
        assert again.startswith(status.readline())
        assert list(Path("/proc/self/fd").iterdir())
