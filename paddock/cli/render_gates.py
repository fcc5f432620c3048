"""Render the result of the gates for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paddock.cli.printing import print_line, print_table
from paddock.model.units import human_bytes

if TYPE_CHECKING:
    from paddock.measure.gate_report import Figure, Gate, GateReport

_OUTCOMES = {True: "passed", False: "failed", None: "not decided"}


def render_gates(report: GateReport) -> None:
    columns = ("gate", "outcome", "candidate", "promoted", "ratio", "95 % interval", "bound", "reason")
    print_table(columns, [_row(gate) for gate in report.gates])
    print_line(f"{report.model}: {report.line}")


def _row(gate: Gate) -> tuple[str, ...]:
    figures = (_figure(gate.name, value) for value in (gate.candidate, gate.promoted))
    ratio = "" if gate.ratio is None else f"{gate.ratio:.2f}"
    ci95 = f"{gate.ci95[0]:.2f} to {gate.ci95[1]:.2f}" if gate.ci95 else ""
    return gate.name, _OUTCOMES[gate.passed], *figures, ratio, ci95, gate.bound, gate.reason


def _figure(name: str, value: Figure) -> str:
    if value is None:
        return ""
    if isinstance(value, str | bool):
        return str(value)
    return human_bytes(int(value)) if name == "memory" else f"{value:.4g}"
