"""Blocks that are not left in time."""

from __future__ import annotations

import threading
import time

from paddock.transfer.deadlines import Deadlines


def test_a_block_that_is_left_in_time_expires_never() -> None:
    deadlines, expired = Deadlines(), threading.Event()
    with deadlines.within(0.05, expired.set):
        pass
    assert not expired.wait(0.2)
    deadlines.close()


def test_each_block_expires_at_its_own_time_and_once() -> None:
    deadlines, calls = Deadlines(), list[str]()
    late, began = threading.Event(), time.monotonic()

    def on_late() -> None:
        calls.append("late")
        late.set()

    with deadlines.within(60, lambda: calls.append("never")):
        time.sleep(0.05)  # the thread waits for the first one's time
        with deadlines.within(0.3, on_late), deadlines.within(0.1, lambda: calls.append("early")):
            assert late.wait(10)
            assert time.monotonic() - began >= 0.3
            time.sleep(0.1)
    assert calls == ["early", "late"]
    deadlines.close()


def test_nothing_expires_after_the_end_and_its_thread_ends() -> None:
    deadlines, expired = Deadlines(), threading.Event()
    with deadlines.within(0.2, expired.set):
        assert "paddock-deadlines" in {thread.name for thread in threading.enumerate()}
        deadlines.close()
        assert not expired.wait(0.4)
    assert "paddock-deadlines" not in {thread.name for thread in threading.enumerate()}
