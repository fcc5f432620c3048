"""Show a dossier as one page of Markdown, which begins with the verdict.

Every text of a file, the Hub or a person is written so that it cannot become markup (`paddock.model.markdown`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from paddock.lifecycle.dossier.document import (
    DossierAnswer,
    DossierDocument,
    FindingRow,
    PromotionRow,
    Verdicts,
)
from paddock.lifecycle.dossier.figures import figures, shown_time
from paddock.model.markdown import as_text, code, table
from paddock.model.units import counted, human_bytes

_QUESTIONS = {
    "safe": "Is it safe?",
    "fits": "Does it fit?",
    "speed": "How fast?",
    "quality": "How good?",
    "cost": "What does it cost?",
    "comparison": "Against what was there?",
}
_MARKS = {"good": "✓", "neutral": "•", "warning": "!", "bad": "✗", "unknown": "?"}
_SHOWN_ROWS = 50
_SHOWN_PROMOTIONS = 20
NOT_CLAIMED = "Not claimed: that the weights carry no trained-in behaviour that their maker hid."


def markdown(document: DossierDocument) -> str:
    """Write the page."""
    sections = [
        f"# {as_text(document.name)}",
        head(document),
        *_origin(document),
        *_template(document),
        *_run(document),
        *_findings(document),
        *figures(document),
        *_promotions(document),
        "## Files",
        "\n".join(
            f"- {code(file.path)}, {human_bytes(file.size_bytes)}, sha256 {code(file.sha256)}"
            for file in document.files
        ),
        f"{NOT_CLAIMED} What is said here was known at {shown_time(document.known_at)}.",
    ]
    return "\n\n".join(sections) + "\n"


def head(document: DossierDocument) -> str:
    """The begin of the page: the snapshot's state, and the answers to the questions about it."""
    return "\n\n".join([_state(document), *_verdicts(document.verdicts)])


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
        yield "These commands find out what is missing, or repair it:"
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
            ("published", shown_time(origin.published_at)),
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
    yield _list(
        [
            ("from", f"{as_text(template.origin)}: {as_text(template.why)}"),
            ("sha256", code(template.sha256)),
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
                shown_time(row.at),
                code(row.variant),
                code(row.revision[:8]) if row.revision else "removed",
                code(row.previous[:8]) if row.previous else "",
                as_text(row.default or ""),
                as_text(row.by or ""),
                _why(row),
            )
            for row in shown
        ],
    )


def _why(row: PromotionRow) -> str:
    if not row.forced:
        return as_text(row.reason)
    past = f"although held back by {', '.join(row.failed_gates)}" if row.failed_gates else "without a comparison"
    return f"{as_text(row.reason)} (**forced**, {as_text(past)})"


def _parameter(value: object) -> str:
    """A parameter as llama.cpp's names have it: `true`, not `yes`."""
    return json.dumps(value) if isinstance(value, bool | list) else str(value)


def _large(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def _list(facts: Sequence[tuple[str, str]]) -> str:
    """Facts whose values are too long for a cell of a narrow table."""
    return "\n".join(f"- {name}: {value}" for name, value in facts)


def _block(lines: Sequence[str]) -> str:
    """Command lines, which are never cut off."""
    return "\n".join(["```sh", *lines, "```"])
