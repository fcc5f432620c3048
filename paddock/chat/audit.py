"""Judges a chat template: first what its syntax tree says (`static`), then what it does with conversations (`probes`,
`faithful`).

A template that refuses system messages, or speaks only when tools are given, is a legitimate one: it is probed as it
wants to be used, and a finding says so. What it finds is `Finding`s; `paddock.model.finding.verdict_of` says what
they come to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from paddock.chat.fidelity import judge, read
from paddock.chat.probes import Probe, standard, triggered
from paddock.chat.protocol import SOURCE_BYTES, Rendered
from paddock.chat.render import TemplateProcess
from paddock.model.finding import Finding, Severity, Verdict, verdict_of

NEEDS_MORE = "template.needs-more"
"""The rule of a template that is sound, but renders only with what a plain conversation does not have."""

_MODES: tuple[tuple[str, Callable[[Probe], Probe]], ...] = (
    ("", lambda probe: probe),
    ("tools", Probe.with_tools),
    ("contents that are lists of parts", Probe.with_parts),
    ("`functions` and `datetime`, which the engine does not give", Probe.with_functions),
)
_CURE = "use the family's template instead"


class _Rejected(Exception):
    """What speaks against a template. It is not kept for the next time: a machine that is busy makes a part of it."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__()
        self.findings = findings


def audit_template(source: str, *, bos: str = "<s>", eos: str = "</s>", name: str = "default") -> list[Finding]:
    """Judge one template. `bos` and `eos` are the texts of the model's tokens, `name` the template's own where a
    model has several.

    Costs one process: 0.2 s for a usual template, 4 s at most on a machine that has the time. A template that was not
    rejected is known to this process from then on. Raises EngineCrashed when that process does not start at all.
    """
    try:
        found = _of_size(source) or _accepted(source, bos, eos)
    except _Rejected as rejected:
        found = rejected.findings
    if name == "default":
        return list(found)
    return [replace(finding, where=f"{name}: {finding.where}" if finding.where else name) for finding in found]


def _of_size(source: str) -> list[Finding]:
    size = len(source.encode(errors="surrogatepass"))
    if size > SOURCE_BYTES:
        return [
            Finding("template.size", Severity.REJECT, f"it has {size} bytes, of at most {SOURCE_BYTES}", cure=_CURE)
        ]
    if not source.strip():
        return [Finding("template.empty", Severity.REJECT, "it holds nothing", cure=_CURE)]
    return []


@lru_cache(maxsize=16)  # a pull asks three times: of the header that it plans with, of the file, and for its use
def _accepted(source: str, bos: str, eos: str) -> Sequence[Finding]:
    """What is said of a template that is not rejected. Raises _Rejected."""
    with TemplateProcess(source, bos=bos, eos=eos) as process:
        analysis = process.analyse()
        findings = list(analysis.findings)
        if not analysis.rejected:
            findings += _probe(process, standard() + triggered(analysis.texts, analysis.numbers))
    if verdict_of(findings) is Verdict.REJECT:
        raise _Rejected(findings)
    return tuple(findings)


def _probe(process: TemplateProcess, probes: Sequence[Probe]) -> list[Finding]:
    refusals = []
    for needs, change in _MODES:
        first = change(probes[0])
        rendered = process.render(first.request)
        if rendered.status.is_limit:
            return judge([(first, rendered)])
        if rendered.ok and read(first, rendered.text).whole:
            note = f"it renders only with {needs}; the family's template takes its place"
            noted = [Finding(NEEDS_MORE, Severity.INFO, note)] if needs else []
            return noted + judge(_render(process, [change(probe) for probe in probes]))
        refusals.append((first, rendered))
    first, rendered = refusals[0]
    if rendered.ok:
        return judge([(first, rendered)])
    return [
        Finding(
            "template.fails",
            Severity.REJECT,
            f"it does not render a single question: {rendered.text}",
            f"probe: {first.name}",
            _CURE,
        )
    ]


def _render(process: TemplateProcess, probes: Sequence[Probe]) -> list[tuple[Probe, Rendered]]:
    """Render until a limit is met: what comes after it would only cost time."""
    results = []
    for probe in probes:
        rendered = process.render(probe.request)
        results.append((probe, rendered))
        if rendered.status.is_limit:
            break
    return results
