"""Show a dossier as one page of Markdown, which begins with the verdict.

Every text of a file, the Hub or a person is written so that it cannot become markup (`paddock.model.markdown`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from paddock.lifecycle.dossier.document import (
    DossierAnswer,
    DossierDocument,
    FindingRow,
    GateRow,
    Interval,
    SpeedSummary,
    Verdicts,
)
from paddock.model.markdown import as_text, code, table
from paddock.model.units import counted, human_bytes
from paddock.planning.targets import THIS_MACHINE

_QUESTIONS = {
    "safe": "Is it safe?",
    "fits": "Does it fit?",
    "speed": "How fast?",
    "quality": "How good?",
    "cost": "What does it cost?",
    "comparison": "Against what was there?",
}
_MARKS = {"good": "✓", "warning": "!", "bad": "✗", "unknown": "?"}
_SHOWN_ROWS = 50
_SHOWN_PROMOTIONS = 20
NOT_CLAIMED = "Not claimed: that the weights carry no trained-in behaviour that their maker hid."


def markdown(document: DossierDocument) -> str:
    """Write the page."""
    sections = [
        f"# {as_text(document.name)}",
        _state(document),
        *_verdicts(document.verdicts),
        *_origin(document),
        *_template(document),
        *_run(document),
        *_findings(document),
        *_memory(document),
        *_pictures(document, "memory"),
        *_speed(document.speed),
        *_pictures(document, "throughput", "latency", "runs"),
        *_quality(document),
        *_pictures(document, "quality", "pareto"),
        *_gates(document),
        *_promotions(document),
        "## Files",
        "\n".join(
            f"- {code(file.path)}, {human_bytes(file.size_bytes)}, sha256 {code(file.sha256)}"
            for file in document.files
        ),
        f"{NOT_CLAIMED} What is said here was known at {_time(document.known_at)}.",
    ]
    return "\n\n".join(sections) + "\n"


def _state(document: DossierDocument) -> str:
    state = "Promoted, as the model's default" if document.default else "Promoted" if document.promoted else ""
    held = document.gates is not None and not document.gates.passed
    if not state:
        state = "Not promoted: the gates hold it back" if held else "Not promoted"
    elif held:
        state += ", although gates hold it back"
    header = document.header
    facts = [
        as_text(header.quantization or "quantization not stated"),
        human_bytes(header.size_bytes),
        f"commit {code(document.origin.revision[:8])}",
        f"licence {as_text(document.origin.licence)}" if document.origin.licence else "**no licence stated**",
    ]
    return f"**{state}.** {', '.join(facts)}."


def _verdicts(verdicts: Verdicts) -> Iterator[str]:
    answers: list[tuple[str, DossierAnswer]] = [
        (question, getattr(verdicts, name)) for name, question in _QUESTIONS.items()
    ]
    yield table(
        ("question", "answer", "why"),
        [
            (question, f"{_MARKS[answer.state]} **{as_text(answer.answer)}**", as_text(answer.detail))
            for question, answer in answers
        ],
    )
    commands = list(dict.fromkeys(answer.command for _, answer in answers if answer.command))
    if commands:
        yield "What is missing here is found out or mended by:"
        yield _block(commands)


def _origin(document: DossierDocument) -> Iterator[str]:
    origin, header = document.origin, document.header
    yield "## Where it comes from"
    yield table(
        ("fact", "value"),
        [
            ("repository", code(origin.repository)),
            ("commit", code(origin.revision)),
            ("variant", code(document.variant)),
            ("fetched from", origin.source),
            ("published", _time(origin.published_at)),
            ("licence", as_text(origin.licence) if origin.licence else "**not stated**"),
            ("kind", header.kind.noun if header.kind else "not known"),
            ("architecture", as_text(header.architecture) if header.architecture else "not known"),
            ("parameters", _large(header.parameters) if header.parameters else "not known"),
            ("quantization", as_text(header.quantization) if header.quantization else "not stated"),
            ("trained context", f"{header.context_length:,} tokens" if header.context_length else "not known"),
            ("size", f"{human_bytes(header.size_bytes)} in {counted(len(document.files), 'file')}"),
            *([("shards", str(header.shards))] if header.shards > 1 else []),
            ("made by", as_text(f"Paddock {origin.paddock_version}, llama-cpp-python {origin.engine_version}")),
        ],
    )


def _template(document: DossierDocument) -> Iterator[str]:
    template, kind = document.template, document.header.kind
    yield "## Chat template"
    if template is None:
        yield "None: nobody chats with it." if kind and not kind.generates_text else "It cannot be read."
        return
    audited = [finding for finding in document.findings if finding.rule.startswith("template.")]
    same = template.gguf_sha256 == template.sha256
    own = "the same" if same else code(template.gguf_sha256) if template.gguf_sha256 else "none"
    yield _list(
        [
            ("from", f"{as_text(template.origin)}: {as_text(template.why)}"),
            ("sha256", code(template.sha256)),
            ("the GGUF's own", own),
            ("an answer ends at", ", ".join(["the model's end token", *map(code, template.stop)])),
            ("audit", _audit(document, audited)),
        ]
    )


def _audit(document: DossierDocument, audited: list[FindingRow]) -> str:
    if audited:
        return ", ".join(dict.fromkeys(f"{finding.severity}: {as_text(finding.rule)}" for finding in audited))
    return "nothing found" if document.validated else "nothing found before publication; not validated yet"


def _run(document: DossierDocument) -> Iterator[str]:
    run = document.run
    yield "## How to run it"
    yield _block([f"# {command.purpose}\n{command.line}" for command in run.commands])
    if run.parameters is not None:
        shown = [
            code(f"{name} {_parameter(value)}") for name, value in run.parameters.items() if value not in (None, [])
        ]
        yield f"The engine's parameters, from the {run.source}: {', '.join(shown)}."


def _findings(document: DossierDocument) -> Iterator[str]:
    yield "## Checks"
    if not document.findings:
        yield (
            "Every check passed."
            if document.validated
            else "Not validated yet. The audit before publication found nothing."
        )
        return
    if not document.validated:
        yield "Not validated yet. The audit before publication found:"
    lines = [_finding(finding) for finding in document.findings[:_SHOWN_ROWS]]
    if len(document.findings) > _SHOWN_ROWS:
        lines.append(f"- and {len(document.findings) - _SHOWN_ROWS} more")
    yield "\n".join(lines)


def _finding(finding: FindingRow) -> str:
    """A list item: in a table the sentence would be cut off."""
    where = f" at {as_text(finding.where)}" if finding.where else ""
    message = f": {as_text(finding.message)}" if finding.message else ""
    cure = f" ({as_text(finding.cure)})" if finding.cure else ""
    return f"- **{finding.severity}** {as_text(finding.rule)}{where}{message}{cure}"


def _memory(document: DossierDocument) -> Iterator[str]:
    memory = document.memory
    yield "## Memory"
    if memory is None:
        yield "Not known: not validated yet."
        return
    where = "" if memory.target == THIS_MACHINE else f", validated for {as_text(memory.target)}"
    whose = "as the engine reports it" if memory.source == "engine" else "computed from the header"
    yield f"With {memory.context_tokens:,} tokens of context{where}, {whose}:"
    rows = [(part.name, human_bytes(part.bytes)) for part in memory.parts]
    yield table(("part", "size"), [*rows, ("**total**", f"**{human_bytes(memory.total_bytes)}**")])
    for line in memory.given_up:
        yield f"Not as requested: {as_text(line)}."


def _speed(speed: SpeedSummary | None) -> Iterator[str]:
    yield "## Benchmark"
    if speed is None:
        yield "Not measured yet."
        return
    when = f" at {_measured(speed.measured_at)}" if speed.measured_at else ""
    yield f"Measured{when} on {as_text(speed.machine)}, with {as_text(speed.engine)}."
    if not speed.reliable:
        reasons = "; ".join(map(as_text, speed.doubts))
        yield f"**Not reliable: {reasons}.** These figures are no facts, and decide nothing:"
    rows = [tuple(map(as_text, row)) for row in speed.rows]
    yield table(("test", "median" if speed.reliable else "not reliable", "spread"), rows)


def _quality(document: DossierDocument) -> Iterator[str]:
    quality = document.quality
    yield "## Quality"
    if quality is None:
        yield "Not measured yet."
        return
    yield (
        f"Predictions of {quality.predicted_tokens:,} tokens, compared with those of {code(quality.reference)},"
        f" at {_measured(quality.measured_at)}."
    )
    yield table(
        ("figure", "value", "95 % interval"),
        [
            ("perplexity", *_estimate(quality.perplexity, 3)),
            ("perplexity of the reference", *_estimate(quality.reference_perplexity, 3)),
            ("same most likely token", *_estimate(quality.top1_agreement, 4)),
            ("KL divergence, mean", *_estimate(quality.kl_mean, 5)),
            *(
                (f"KL divergence, {name}", _figure(value, 5), "")
                for name, value in (
                    ("median", quality.kl_median),
                    ("99 %", quality.kl_p99),
                    ("99.9 %", quality.kl_p999),
                    ("maximum", quality.kl_max),
                )
            ),
        ],
    )


def _pictures(document: DossierDocument, *names: str) -> Iterator[str]:
    """The pictures of those names, as links to the files beside the page."""
    for picture in document.pictures:
        if picture.name in names:
            yield f"![{as_text(f'{picture.title}. {picture.alt}')}]({picture.file})"


def _gates(document: DossierDocument) -> Iterator[str]:
    gates = document.gates
    yield "## Gates"
    if gates is None:
        yield "Not compared with what is promoted."
        return
    against = f"Compared with {code(gates.promoted)}" if gates.promoted else "Nothing was promoted to compare with"
    reference = f", both against {code(gates.reference)}" if gates.reference and gates.promoted else ""
    blocks = " What stays undecided blocks it." if gates.undecided_blocks else ""
    yield f"{against}{reference}, at {_measured(gates.measured_at)}.{blocks}"
    yield table(
        ("gate", "outcome", "bound", "this", "promoted", "ratio (95 %)", "why"),
        [
            (
                as_text(gate.name),
                _outcome(gate),
                as_text(gate.bound),
                _value(gate.candidate),
                _value(gate.promoted),
                _ratio(gate),
                as_text(gate.reason),
            )
            for gate in gates.gates
        ],
    )


def _outcome(gate: GateRow) -> str:
    if gate.passed is None:
        return "? not decided"
    return "✓ passed" if gate.passed else "✗ **held back**"


def _ratio(gate: GateRow) -> str:
    if gate.ratio is None:
        return ""
    if gate.ci95 is None or None in gate.ci95:
        return f"{gate.ratio:.3f}"
    low, high = gate.ci95
    return f"{gate.ratio:.3f} ({low:.3f} to {high:.3f})"


def _promotions(document: DossierDocument) -> Iterator[str]:
    yield "## Promotions"
    if not document.promotions:
        yield "It was never promoted."
        return
    shown = document.promotions[-_SHOWN_PROMOTIONS:]
    if len(shown) < len(document.promotions):
        yield f"The last {len(shown)} of {len(document.promotions)}:"
    yield table(
        ("when", "variant", "revision", "before", "default", "by", "why"),
        [
            (
                _time(row.at),
                code(row.variant),
                code(row.revision[:8]) if row.revision else "removed",
                code(row.previous[:8]) if row.previous else "",
                as_text(row.default or ""),
                as_text(row.by or ""),
                as_text(row.reason),
            )
            for row in shown
        ],
    )


def _estimate(interval: Interval, digits: int) -> tuple[str, str]:
    return (
        _figure(interval.value, digits),
        f"{_figure(interval.low, digits)} to {_figure(interval.high, digits)}",
    )


def _figure(value: float | None, digits: int) -> str:
    return "not a number" if value is None else f"{value:.{digits}f}"


def _parameter(value: object) -> str:
    """A parameter as llama.cpp's names have it: `true`, not `yes`."""
    return json.dumps(value) if isinstance(value, bool | list) else str(value)


def _value(value: object) -> str:
    """A figure of a gate."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else as_text(str(value))


def _large(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def _list(facts: Sequence[tuple[str, str]]) -> str:
    """Facts whose values are too long for a cell of a narrow table."""
    return "\n".join(f"- {name}: {value}" for name, value in facts)


def _block(lines: Sequence[str]) -> str:
    """Command lines, which are never cut off."""
    return "\n".join(["```sh", *lines, "```"])


def _measured(text: str) -> str:
    try:
        return _time(datetime.fromisoformat(text))
    except ValueError:
        return as_text(text)


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
