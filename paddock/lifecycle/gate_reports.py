"""The stored result of the gates of a snapshot."""

from __future__ import annotations

from paddock.lifecycle import reports
from paddock.lifecycle.clients import Clients
from paddock.measure.gate_report import GateReport
from paddock.model.artifact import Manifest

GATES = "gates.json"


def record_gates(clients: Clients, manifest: Manifest, report: GateReport) -> None:
    """Write the result, replacing an earlier one; on a volume that cannot be written, nothing is recorded."""
    reports.record(clients, manifest, GATES, report.to_json())


def read_gates(clients: Clients, manifest: Manifest) -> GateReport | None:
    return reports.read(clients, manifest, GATES, GateReport.from_json)
