"""Fetch all files of a snapshot: the large ones one after the other, and the small ones beside them.

A small file takes as long as the server takes to answer, and a repository may have a dozen of them. A large one has all
connections to itself but for the moment in which they are fetched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context

from paddock.errors import TransferInterrupted
from paddock.lifecycle.steps import Runner
from paddock.model.acquired import Acquired, PlannedFile
from paddock.timings import phase
from paddock.transfer.progress import OnProgress, Progress, ProgressListener

SMALL_BYTES = 1024 * 1024
"""The size up to which a file is fetched beside others: each takes some memory, and a connection."""
_AT_ONCE = 4

FetchFile = Callable[[PlannedFile, OnProgress, threading.Event], Acquired]
"""Fetches one file; the event ends the fetch with TransferInterrupted."""


def fetch_files(
    runner: Runner, files: Sequence[PlannedFile], fetch: FetchFile, listener: ProgressListener
) -> tuple[Acquired, ...]:
    """Fetch the files, with the small ones in threads of their own where the runner allows it and a connection is left
    for them. With a limit of the rate, which is each transfer's, they come one after the other. The listener hears of
    one file at a time.

    Raises the first error of a file; the others end then, and what was received of them is kept.
    """
    settings = runner.clients.settings
    at_once = min(_AT_ONCE, settings.connections - 1)  # one is left for the large files
    beside = [file for file in files if file.file.size <= SMALL_BYTES]
    is_limited = settings.limit_rate_bytes_per_s is not None
    if not runner.allows_threads or is_limited or at_once == 0 or len(files) == 1:
        beside = []
    lock, cancel = threading.Lock(), threading.Event()
    fetched: dict[str, Acquired] = {}
    failures: list[BaseException] = []

    def on_progress(progress: Progress) -> None:
        with lock:
            listener.on_progress(progress)

    def fetch_one(file: PlannedFile) -> None:
        fetched[file.file.path] = fetch(file, on_progress, cancel)

    def fetch_beside(file: PlannedFile) -> None:
        try:
            if not cancel.is_set():
                fetch_one(file)
        except BaseException as error:
            if not cancel.is_set():
                failures.append(error)
                cancel.set()

    with ThreadPoolExecutor(max(1, at_once), thread_name_prefix="paddock-small") as pool:
        running = [pool.submit(copy_context().run, fetch_beside, file) for file in beside]
        try:
            for file in files:
                if file not in beside and not cancel.is_set():
                    fetch_one(file)
            with phase("fetch"):
                wait(running)
        except TransferInterrupted:
            if not failures:  # else because of them
                raise
        finally:
            cancel.set()
    if failures:
        raise failures[0]
    return tuple(fetched[file.file.path] for file in files)
