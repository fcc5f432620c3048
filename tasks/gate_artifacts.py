"""Create the Prefect artifact of a comparison: the verdict, and a table of the gates.

Names of models and reasons are untrusted text: they are escaped.
"""

from __future__ import annotations

from paddock.measure.gate_report import Figure, Gate, GateReport
from paddock.model.markdown import as_text
from tasks.escaped_artifacts import create_page
from tasks.subject import ArtifactSubject

_OUTCOMES = {True: "✓ passed", False: "✗ **held back**", None: "? **not decided**"}


def gates(subject: ArtifactSubject, report: GateReport) -> None:
    """The verdict, the gates, those that failed first, and the reasons of those that did not pass, as Markdown."""
    create_page(key=subject.key("gates"), markdown=gates_markdown(report), description=report.line)


def gates_markdown(report: GateReport) -> str:
    verdict = "✓ Passed" if report.passed else "✗ Held back"
    promoted = f"the promoted {as_text(report.promoted)}" if report.promoted else "nothing, since nothing is promoted"
    reference = f" Both were measured against {as_text(report.reference)}." if report.reference else ""
    ordered = [*report.failed, *report.undecided, *(gate for gate in report.gates if gate.passed)]
    lines = [
        f"**{verdict}**: {as_text(report.model)} against {promoted}.{reference}",
        "",
        "| gate | outcome | candidate | promoted | ratio |",
        "|---|---|---|---|---|",
        *map(_row, ordered),
        "",
        *(
            f"- {as_text(gate.name)}, {_OUTCOMES[gate.passed]}: {as_text(gate.reason)}"
            for gate in (*report.failed, *report.undecided)
        ),
    ]
    if report.undecided:
        lines += ["", f"A gate that could not decide {'blocks' if report.undecided_blocks else 'counts as passed'}."]
    bounds = "; ".join(as_text(f"{gate.name} {gate.bound}") for gate in report.gates)
    lines += ["", f"Bounds: {bounds}."]
    lines += ["", f"{as_text(report.engine)}, {as_text(report.measured_at)}, {report.seconds:.0f} s"]
    return "\n".join(lines)


def _row(gate: Gate) -> str:
    ratio = f"{gate.ratio:.3g}" if gate.ratio is not None else ""
    if gate.ci95:
        ratio += f" ({gate.ci95[0]:.3g} to {gate.ci95[1]:.3g})"
    figures = (_figure(gate.candidate), _figure(gate.promoted), ratio)
    return f"| {' | '.join([as_text(gate.name), _OUTCOMES[gate.passed], *map(as_text, figures)])} |"


def _figure(value: Figure) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
