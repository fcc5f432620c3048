"""Carry out the entries of a refresh, several at a time, each apart from the others' errors."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from paddock.errors import HubUnavailable, ModelGated, ModelNotFound, PaddockError, TransferInterrupted
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.onboard import InProcess
from paddock.lifecycle.steps import Runner
from paddock.lifecycle.upkeep.refresh.approval import approval_by_command
from paddock.lifecycle.upkeep.refresh.change import change_entry, is_served
from paddock.lifecycle.upkeep.refresh.outcome import EntryOutcome, RefreshOutcome
from paddock.lifecycle.upkeep.refresh.plan import PlannedEntry
from paddock.lifecycle.upkeep.refresh.turns import InTurns, Turns

AT_ONCE: Final = 4
"""How many models are fetched at once; their transfers share PADDOCK_CONNECTIONS."""
_UNREACHABLE: Final = (HubUnavailable, TransferInterrupted)
_WITHDRAWN: Final = (ModelNotFound, ModelGated)
_LOG = logging.getLogger(__name__)


class EntryPhases(Protocol):
    """Carries out what is planned for an entry. It is called from several threads at once, and raises what a phase
    raised."""

    def change(self, planned: PlannedEntry) -> EntryOutcome: ...


class InProcessEntries(EntryPhases):
    """Carries entries out in this process. `make_runner` makes the runner of each."""

    def __init__(self, clients: Clients, make_runner: Callable[[PlannedEntry], Runner]) -> None:
        self._clients = clients
        self._make_runner = make_runner
        self._turns = Turns()

    def change(self, planned: PlannedEntry) -> EntryOutcome:
        phases = InTurns(InProcess(self._make_runner(planned)), self._turns)
        return change_entry(self._clients, phases, planned, approval_by_command)


def carry_out(
    clients: Clients,
    entries: EntryPhases,
    planned: Iterable[PlannedEntry],
    *,
    on_outcome: Callable[[PlannedEntry, EntryOutcome], None],
    at_once: int = AT_ONCE,
) -> None:
    """Carry entries out, those of one model one after the other, and call `on_outcome` for each as it ends, in any
    thread. An error of one is its outcome, and stops no other.

    The threads are daemons: an interrupted process does not wait for a transfer, which the next refresh resumes.
    """
    groups = _by_model(planned)
    failures: deque[BaseException] = deque()

    def work() -> None:
        while not failures:
            try:
                group = groups.popleft()
            except IndexError:
                return
            try:
                for one in group:
                    on_outcome(one, _outcome(clients, entries, one))
            except BaseException as error:  # raised in the calling thread
                failures.append(error)

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=[work], name=f"paddock-entry-{n}", daemon=True)
        for n in range(min(at_once, len(groups)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _by_model(planned: Iterable[PlannedEntry]) -> deque[Sequence[PlannedEntry]]:
    groups: dict[str, list[PlannedEntry]] = {}
    for one in planned:
        groups.setdefault(str(one.model).casefold(), []).append(one)
    return deque(groups.values())


def _outcome(clients: Clients, entries: EntryPhases, planned: PlannedEntry) -> EntryOutcome:
    began = time.monotonic()
    try:
        return entries.change(planned)
    except _UNREACHABLE as error:
        outcome, reason = RefreshOutcome.BLOCKED, error.message
    except _WITHDRAWN as error:
        outcome, reason = RefreshOutcome.WITHDRAWN, error.message
    except PaddockError as error:
        outcome, reason = RefreshOutcome.FAILED, str(error)
    except Exception as error:
        _LOG.exception("internal error while %s was refreshed", planned.entry.name)
        outcome, reason = RefreshOutcome.FAILED, f"internal error: {type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    return EntryOutcome.of(planned, outcome, reason, bytes=None, seconds=seconds, is_served=is_served(clients, planned))
