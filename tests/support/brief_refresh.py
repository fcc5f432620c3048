"""A refresh that fetches, publishes, promotes and records as the real one does; it measures and draws nothing.

Run as a program, it refreshes the catalog of the environment, with retries, and ends and prints as the command does:
`python -m tests.support.brief_refresh`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from paddock.engine.oracle import Memory
from paddock.errors import RefreshFailed
from paddock.lifecycle.assess.validate import Validation
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.gate_reports import record_gates
from paddock.lifecycle.onboard import InProcess, OnboardRequest
from paddock.lifecycle.promote.gating import check_gates, in_process, require_gates
from paddock.lifecycle.promote.promote import promote_snapshot
from paddock.lifecycle.steps import PlainRunner
from paddock.lifecycle.upkeep.refresh.approval import approval_by_command
from paddock.lifecycle.upkeep.refresh.change import change_entry
from paddock.lifecycle.upkeep.refresh.entries import EntryPhases
from paddock.lifecycle.upkeep.refresh.outcome import EntryOutcome
from paddock.lifecycle.upkeep.refresh.plan import PlannedEntry, RefreshPlan
from paddock.lifecycle.upkeep.refresh.refresh import Refreshed, RefreshRequest, refresh
from paddock.lifecycle.upkeep.refresh.turns import InTurns, Turns
from paddock.measure.gate_report import Gate, GateReport
from paddock.model.artifact import Manifest
from paddock.model.finding import Verdict
from paddock.model.names import ModelName


def report_on(candidate: Manifest, promoted: Manifest, passed: bool | None) -> GateReport:
    gate = Gate("kl_ratio", "at most 1.5", 0.2, 0.1, 2.0, (1.8, 2.2), passed, "it diverges twice as far")
    names = str(candidate.id), str(promoted.id), str(promoted.id)
    return GateReport(*names, (gate,), False, "llama-cpp-python", "2026-01-01T00:00:00+00:00", 1.0)


class BriefPhases(InProcess):
    """An onboarding that validates and measures nothing, and compares with given verdicts."""

    def __init__(self, clients: Clients, entries: BriefEntries) -> None:
        super().__init__(PlainRunner(clients, retry=entries.retry))
        self._clients, self._entries = clients, entries

    def validate(self, manifest: Manifest, request: OnboardRequest) -> Validation:
        self._entries.validated.append(manifest)
        return Validation(Verdict.ACCEPT, (), None, Memory(1, 0, 0, 0, "engine"), 512)

    def benchmark(self, manifest: Manifest, request: OnboardRequest) -> None:
        self._entries.measured.append(manifest)
        self._entries.on_benchmark(manifest)

    def compare(self, manifest: Manifest, request: OnboardRequest) -> GateReport | None:
        promoted = check_gates(self._clients, manifest, request.scope).replaced
        if promoted is None:
            return None
        report = report_on(manifest, promoted, self._entries.verdicts.get(manifest.model, True))
        record_gates(self._clients, manifest, report)
        return report

    def promote(self, manifest: Manifest, request: OnboardRequest) -> str:
        runner, scope = PlainRunner(self._clients), request.scope
        expected = require_gates(runner, manifest, in_process(runner), scope=scope)
        runner.run(promote_snapshot, manifest.id, request.reason, default=scope.default, expected=expected)
        return self.write_dossier(manifest)

    def write_dossier(self, manifest: Manifest) -> str:
        return ""


@dataclass
class BriefEntries(EntryPhases):
    """`verdicts` are those of the gates, by the model; `on_benchmark` is called in place of a benchmark; `retry`: steps
    are retried by their kind. Remembers what was validated and measured."""

    clients: Clients
    verdicts: Mapping[ModelName, bool | None] = field(default_factory=dict)
    on_benchmark: Callable[[Manifest], object] = lambda _: None
    validated: list[Manifest] = field(default_factory=list)
    measured: list[Manifest] = field(default_factory=list)
    turns: Turns = field(default_factory=Turns)
    retry: bool = False

    def change(self, planned: PlannedEntry) -> EntryOutcome:
        phases = InTurns(BriefPhases(self.clients, self), self.turns)
        return change_entry(self.clients, phases, planned, approval_by_command)


def refresh_briefly(
    clients: Clients,
    entries: EntryPhases | None = None,
    *,
    on_plan: Callable[[RefreshPlan], None] = lambda _: None,
    sleep: Callable[[float], None] = lambda _: None,
) -> Refreshed:
    entries = entries or BriefEntries(clients)
    return refresh(PlainRunner(clients), RefreshRequest(), entries, on_plan=on_plan, sleep=sleep)


def main() -> int:
    clients = connect()
    try:
        refreshed, status = refresh_briefly(clients, BriefEntries(clients, retry=True), sleep=time.sleep), 0
    except RefreshFailed as error:
        refreshed, status = error.refreshed, 1
    print(json.dumps(refreshed.to_json()))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
