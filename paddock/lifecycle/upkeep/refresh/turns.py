"""Let several threads fetch models at once, or one of them measure: a transfer takes time from a measurement.

A thread that waits for its turn to measure comes before those that want to fetch next, so that each model is promoted
soon after its fetch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paddock.lifecycle.acquire.publish import Published
from paddock.lifecycle.assess.validate import Validation
from paddock.lifecycle.onboard import OnboardRequest, Phases
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.gate_report import GateReport
from paddock.model.artifact import Manifest
from paddock.model.units import counted
from paddock.store.copying import CopyResult

_LOG = logging.getLogger(__name__)
_TOLD_S = 60.0


class Turns:
    """Shared turns for fetching, and exclusive ones for measuring, between the threads of a process. `exclusive` false:
    nobody waits, since models are measured elsewhere, one at a time. `announce` is called each minute in a thread that
    waits, with what it waits for. `waiting_to_measure` is the number of threads that do."""

    def __init__(
        self, *, exclusive: bool = True, announce: Callable[[str], None] = _LOG.info, announce_s: float = _TOLD_S
    ) -> None:
        self._exclusive = exclusive
        self._announce = announce
        self._announce_s = announce_s
        self._changed = threading.Condition()
        self._fetching = 0
        self._measuring = False
        self.waiting_to_measure = 0

    @contextmanager
    def fetching(self) -> Iterator[None]:
        with self._changed:
            self._wait(lambda: not self._measuring and not self.waiting_to_measure, "fetch")
            self._fetching += 1
        try:
            yield
        finally:
            with self._changed:
                self._fetching -= 1
                self._changed.notify_all()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        if not self._exclusive:
            yield
            return
        with self._changed:
            self.waiting_to_measure += 1
            try:
                self._wait(lambda: not self._measuring and not self._fetching, "measure")
                self._measuring = True
            finally:
                self.waiting_to_measure -= 1
        try:
            yield
        finally:
            with self._changed:
                self._measuring = False
                self._changed.notify_all()

    def _wait(self, is_free: Callable[[], bool], what: str) -> None:
        """Wait for the turn to do `what`. The lock is held."""
        while not self._changed.wait_for(is_free, self._announce_s):
            if self._measuring:
                reason = "another model is being measured"
            elif what == "measure":
                reason = f"{counted(self._fetching, 'model')} being fetched"
            else:
                reason = "another model is measured next"
            self._announce(f"waiting to {what}: {reason}")


class InTurns(Phases):
    """Phases of an onboarding that wait for their turns. `published` is what was acquired, for a caller to whom a later
    phase raises an error."""

    def __init__(self, phases: Phases, turns: Turns) -> None:
        self._phases = phases
        self._turns = turns
        self.published: Published | None = None

    def acquire(self, request: OnboardRequest) -> Published:
        with self._turns.fetching():
            self.published = self._phases.acquire(request)
        return self.published

    def validate(self, manifest: Manifest, request: OnboardRequest) -> Validation:
        with self._turns.measuring():
            return self._phases.validate(manifest, request)

    def cache(self, manifest: Manifest) -> CopyResult | None:
        with self._turns.fetching():
            return self._phases.cache(manifest)

    def benchmark(self, manifest: Manifest, request: OnboardRequest) -> Benchmark | None:
        with self._turns.measuring():
            return self._phases.benchmark(manifest, request)

    def compare(self, manifest: Manifest, request: OnboardRequest) -> GateReport | None:
        with self._turns.measuring():
            return self._phases.compare(manifest, request)

    def promote(self, manifest: Manifest, request: OnboardRequest) -> str:
        with self._turns.measuring():
            return self._phases.promote(manifest, request)

    def write_dossier(self, manifest: Manifest) -> str:
        with self._turns.measuring():
            return self._phases.write_dossier(manifest)
