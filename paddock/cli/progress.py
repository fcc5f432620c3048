"""What people see while bytes move, on stderr: bars in a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from paddock.cli.render import visible
from paddock.model.acquired import Acquired
from paddock.model.units import human_bytes, human_time
from paddock.transfer.progress import Progress as Moved
from paddock.transfer.progress import ProgressListener, TotalProgress

_A_LINE_EVERY_S = 10.0
_ALL = "all files"


class ProgressBars(ProgressListener):
    """A bar for each file that moves, and one for all of them where there are several.

    Rates and times are those of the transfer: what was there before it began is no speed.
    """

    def __init__(self, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        console = Console(stderr=True)
        self._lines = not quiet and not console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        self._total: TotalProgress | None = None
        self._said_at = clock()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def on_start(self, total_bytes: int) -> None:
        self._total = TotalProgress(total_bytes, clock=self._clock)

    def on_progress(self, moved: Moved) -> None:
        self._draw(moved.label, moved)
        several = self._total is not None and self._total.total_bytes > moved.total_bytes
        if self._total is not None:
            self._total.update(moved)
            if several:
                self._draw(_ALL, self._total)
        if self._lines:
            self._say(moved, several=several)

    def on_finish(self, acquired: Sequence[Acquired]) -> None:
        """The bars show it already."""

    def _draw(self, name: str, moved: Moved | TotalProgress) -> None:
        if name not in self._tasks:
            if _ALL in self._tasks:  # it stays the last
                self._bars.remove_task(self._tasks.pop(_ALL))
            self._tasks[name] = self._bars.add_task(visible(name), total=moved.total_bytes, said="")
        self._bars.update(self._tasks[name], completed=moved.done_bytes, said=_said(moved))

    def _say(self, moved: Moved, *, several: bool) -> None:
        ended = moved.is_verified
        if moved.label in self._ended or (not ended and self._clock() < self._said_at + _A_LINE_EVERY_S):
            return
        if ended:
            self._ended.add(moved.label)
        self._said_at = self._clock()
        line = f"{moved.label}: {_said(moved)}"
        if several and self._total:
            line += f"; {_ALL}: {_said(self._total)}"
        print(visible(line), file=sys.stderr)  # noqa: T201 progress


def _said(moved: Moved | TotalProgress) -> str:
    """`1.2 GiB of 4.0 GiB, 110.0 MiB/s, 26 s left`, `4.0 GiB, verifying, 5 s left`, or what it came to."""
    if moved.done_bytes == moved.total_bytes:
        return human_bytes(moved.total_bytes)
    left = "" if moved.left_s is None else f", {human_time(moved.left_s)} left"
    if moved.is_verifying:
        return f"{human_bytes(moved.total_bytes)}, verifying{left}"
    rate = human_bytes(round(moved.rate_bytes_per_s))
    return f"{human_bytes(moved.done_bytes)} of {human_bytes(moved.total_bytes)}, {rate}/s{left}"
