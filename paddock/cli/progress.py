"""Show the progress of a transfer on stderr: progress bars in a terminal, else, and where lines are JSON, a line every
10 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from paddock.cli.logs import print_stderr, writes_json
from paddock.cli.printing import is_terminal
from paddock.model.acquired import Acquired
from paddock.model.units import human_bytes, human_time
from paddock.plain_text import one_line
from paddock.transfer.progress import Progress as FileProgress
from paddock.transfer.progress import ProgressListener, TotalProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_INTERVAL_S = 10.0
_ALL = "all files"


class ProgressBars(ProgressListener):
    """A progress bar for each file, and one for all files if there are several.

    Rates count the bytes of this transfer alone, not those of a partial file that it resumed.
    """

    def __init__(self, *, quiet: bool, only_lines: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`only_lines`: no bars, since other transfers run at the same time."""
        self._clock = clock
        has_bars = not quiet and not only_lines and is_terminal(sys.stderr) and not writes_json()
        self._lines = not quiet and not has_bars
        self._bars = _make_bars() if has_bars else None
        self._tasks: dict[str, TaskID] = {}
        self._finished: set[str] = set()
        self._total: TotalProgress | None = None
        self._printed_at = clock()

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def on_start(self, total_bytes: int) -> None:
        self._total = TotalProgress(total_bytes, clock=self._clock)

    def on_progress(self, progress: FileProgress) -> None:
        self._draw(progress.label, progress)
        several = self._total is not None and self._total.total_bytes > progress.total_bytes
        if self._total is not None:
            self._total.update(progress)
            if several:
                self._draw(_ALL, self._total)
        if self._lines:
            self._print_line(progress, several=several)

    def on_finish(self, acquired: Sequence[Acquired]) -> None:
        """Do nothing: the bars show the result already."""

    def _draw(self, name: str, progress: FileProgress | TotalProgress) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            if _ALL in self._tasks:  # keep it the last one
                self._bars.remove_task(self._tasks.pop(_ALL))
            self._tasks[name] = self._bars.add_task(one_line(name), total=progress.total_bytes, status="")
        self._bars.update(self._tasks[name], completed=progress.done_bytes, status=_status(progress))

    def _print_line(self, progress: FileProgress, *, several: bool) -> None:
        finished = progress.is_verified
        if progress.label in self._finished or (not finished and self._clock() < self._printed_at + _LINE_INTERVAL_S):
            return
        if finished:
            self._finished.add(progress.label)
        self._printed_at = self._clock()
        line = f"{progress.label}: {_status(progress)}"
        if several and self._total:
            line += f"; {_ALL}: {_status(self._total)}"
        print_stderr(line, line)


def _make_bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        console=Console(stderr=True),
    )


def _status(progress: FileProgress | TotalProgress) -> str:
    """`1.2 GiB of 4.0 GiB, 110.0 MiB/s, 26 s left`, `4.0 GiB, verifying, 5 s left`, or `4.0 GiB` at the end."""
    if progress.done_bytes == progress.total_bytes:
        return human_bytes(progress.total_bytes)
    left = "" if progress.left_s is None else f", {human_time(progress.left_s)} left"
    if progress.is_verifying:
        return f"{human_bytes(progress.total_bytes)}, verifying{left}"
    rate = human_bytes(round(progress.rate_bytes_per_s))
    return f"{human_bytes(progress.done_bytes)} of {human_bytes(progress.total_bytes)}, {rate}/s{left}"
