"""Audit a chat template: check its syntax tree (`ast_audit`), then its renderings of sample conversations (`probes`,
`fidelity`).

A template that refuses system messages or requires tools is legitimate: it is probed with the input that it requires,
and a finding reports this. The result is a list of `Finding`; `paddock.model.finding.verdict_of` derives the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from paddock.chat.fidelity import check_fidelity
from paddock.chat.probes import Probe, standard_probes, trigger_probes, variable_probes
from paddock.chat.protocol import MAX_SOURCE_BYTES, RenderResult, TemplateAnalysis
from paddock.chat.render import TemplateProcess
from paddock.chat.split import split_rendering
from paddock.chat.tool_calls import check_tool_calls, tool_call_probes
from paddock.model.finding import Finding, Severity, Verdict, verdict_of

NEEDS_MORE = "template.needs-more"
"""The rule for a sound template that renders only with input that a plain conversation does not have."""

_MODES: tuple[tuple[str, Callable[[Probe], Probe]], ...] = (
    ("", lambda probe: probe),
    ("tools", Probe.with_tools),
    ("contents that are lists of parts", Probe.with_parts),
    ("`functions`, which the engine does not provide", Probe.with_functions),
)
_CURE = "use the family's template instead"


class _Rejected(Exception):
    """Carries the findings of a rejected template.

    It is an exception so that `lru_cache` does not store it: on a busy machine, a time limit may be the reason.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__()
        self.findings = findings


def audit_template(source: str, *, bos: str = "<s>", eos: str = "</s>", name: str = "default") -> list[Finding]:
    """Audit one template and return its findings, empty for a faithful template.

    `bos` and `eos` are the texts of the model's begin and end tokens. `name` is the template's name if a model has
    several; it is added to the findings.

    Starts one subprocess, which takes 0.2 s for a typical template and at most 4 s on an idle machine. The results for
    templates that are not rejected are cached. Raises EngineCrashed if the subprocess does not start.
    """
    try:
        findings = _check_size(source) or _check_accepted(source, bos, eos)
    except _Rejected as rejected:
        findings = rejected.findings
    if name == "default":
        return list(findings)
    return [replace(finding, where=f"{name}: {finding.where}" if finding.where else name) for finding in findings]


def _check_size(source: str) -> Sequence[Finding]:
    size = len(source.encode(errors="surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        message = f"the template has {size} bytes, allowed are at most {MAX_SOURCE_BYTES}"
        return [Finding("template.size", Severity.REJECT, message, cure=_CURE)]
    if not source.strip():
        return [Finding("template.empty", Severity.REJECT, "the template is empty", cure=_CURE)]
    return []


@lru_cache(maxsize=16)  # a pull audits three times: the header at planning, the complete file, and the template to use
def _check_accepted(source: str, bos: str, eos: str) -> Sequence[Finding]:
    """Return the findings on a template that is not rejected. Raises _Rejected for others."""
    with TemplateProcess(source, bos=bos, eos=eos) as process:
        analysis = process.analyse()
        findings = list(analysis.findings)
        if not analysis.rejected:
            findings += _probe(process, _probes(source, analysis))
            if verdict_of(findings) is not Verdict.REJECT:
                findings += _probe_tool_calls(process, analysis.texts)
    if verdict_of(findings) is Verdict.REJECT:
        raise _Rejected(findings)
    return tuple(findings)


def _probes(source: str, analysis: TemplateAnalysis) -> list[Probe]:
    return standard_probes() + variable_probes(source) + trigger_probes(analysis.texts, analysis.numbers)


def _probe(process: TemplateProcess, probes: Sequence[Probe]) -> list[Finding]:
    failures = []
    for requirement, change in _MODES:
        first = change(probes[0])
        result = process.render(first.request)
        if result.status.is_limit:
            return check_fidelity([(first, result)])
        if result.ok and split_rendering(first, result.text).is_complete:
            message = f"the template renders only with {requirement}; the family's template is used instead"
            findings = [Finding(NEEDS_MORE, Severity.INFO, message)] if requirement else []
            chosen = [probe for probe in probes if not (requirement and "tools" in probe.request.unset)]
            return findings + check_fidelity(_render(process, [change(probe) for probe in chosen]))
        failures.append((first, result))
    first, result = failures[0]
    if result.ok:
        return check_fidelity([(first, result)])
    return [
        Finding(
            "template.fails",
            Severity.REJECT,
            f"the template does not render a single question: {result.text}",
            f"probe: {first.name}",
            _CURE,
        )
    ]


def _probe_tool_calls(process: TemplateProcess, texts: Sequence[str]) -> list[Finding]:
    first = standard_probes()[0]
    question = process.render(first.with_tools().request)
    if not question.ok:
        return []
    probes = tool_call_probes(first, texts)
    results = [(name, value, probe, process.render(probe.request)) for name, value, probe in probes]
    return list(check_tool_calls(question, results))


def _render(process: TemplateProcess, probes: Sequence[Probe]) -> list[tuple[Probe, RenderResult]]:
    """Render the probes up to the first exceeded limit, which rejects the template anyway."""
    results = []
    for probe in probes:
        result = process.render(probe.request)
        results.append((probe, result))
        if result.status.is_limit:
            break
    return results
