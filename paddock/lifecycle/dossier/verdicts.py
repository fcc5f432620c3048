"""Answer the questions that a dossier begins with: is it safe, does it fit, how fast, how good, what it costs, and how
it compares with what was promoted.

An answer never rests on figures that cannot be believed, and says what is not known, with the command that finds it
out.
"""

from __future__ import annotations

import shlex
from math import floor, isfinite, log10

from paddock.errors import UnsafeName
from paddock.lifecycle.dossier.document import DossierAnswer, State, Verdicts
from paddock.lifecycle.dossier.facts import DossierFacts
from paddock.measure.benchmark_report import Benchmark
from paddock.measure.gate_report import GateReport
from paddock.measure.quality import Quality
from paddock.model.finding import Finding, Severity, Verdict
from paddock.model.reference import Reference
from paddock.model.units import counted, human_bytes
from paddock.planning.targets import ANY, THIS_MACHINE

MEMORY_RULE = "compatibility.memory"
SPEED_GATES = frozenset({"decode", "prefill", "time_to_first_token"})
QUALITY_GATES = frozenset({"kl_ratio", "agreement"})
_NAMED_FINDINGS = 4


def answer_all(facts: DossierFacts) -> Verdicts:
    """Answer each of the questions."""
    return Verdicts(
        safe=safe(facts),
        fits=fits(facts),
        speed=speed(facts),
        quality=quality(facts),
        cost=cost(facts),
        comparison=comparison(facts),
    )


def safe(facts: DossierFacts) -> DossierAnswer:
    """Whether the files are whole and passed the checks. That it does not fit a machine makes a model no less safe."""
    validation = facts.validation
    if facts.damage:
        return _answer("bad", "no", facts.damage, f"paddock verify {_id(facts)} --repair")
    if validation is None:
        state: State = "bad" if facts.manifest.verdict is Verdict.REJECT else "warning"
        detail = f"the audit before publication says {facts.manifest.verdict}; the files were not validated since"
        return _answer(state, "no" if state == "bad" else "not fully checked", detail, _onboard(facts))
    findings = [finding for finding in validation.findings if finding.rule != MEMORY_RULE]
    rejecting = [finding for finding in findings if finding.severity is Severity.REJECT]
    if rejecting:
        return _answer("bad", "no", "; ".join(finding.message for finding in rejecting[:_NAMED_FINDINGS]))
    if facts.manifest.verdict is Verdict.REJECT:
        return _answer("bad", "no", "the audit before publication rejected it")
    warnings = [finding for finding in findings if finding.severity is Severity.WARN]
    if warnings:
        detail = f"nothing was rejected; to look at: {_rules(warnings)}"
        return _answer("warning", f"yes, with {counted(len(warnings), 'warning')}", detail)
    if facts.manifest.verdict is Verdict.WARN:
        rules = ", ".join(finding.rule for finding in facts.manifest.findings if finding.severity is Severity.WARN)
        return _answer("warning", "yes, with warnings", f"the audit before publication warned: {rules}")
    return _answer("good", "yes", "its bytes, structure, chat template and configuration passed every check")


def fits(facts: DossierFacts) -> DossierAnswer:
    """Whether the memory that the engine takes is there on the machine that it was validated for."""
    validation = facts.validation
    if validation is None:
        return _answer("unknown", "not known", "it was not validated yet", _onboard(facts))
    takes = f"{human_bytes(validation.memory.total_bytes)} with {validation.context_tokens:,} tokens of context"
    lacking = next((finding for finding in validation.findings if finding.rule == MEMORY_RULE), None)
    if lacking is not None:
        advice = f"; {lacking.cure}" if lacking.cure else ""
        return _answer("bad", "no", f"{lacking.message}{advice}")
    if validation.target == ANY:
        return _answer("unknown", "not known", f"it takes {takes}; no machine was named to compare that with")
    where = "the machine that validated it" if validation.target == THIS_MACHINE else validation.target
    less = f"; {'; '.join(validation.given_up)}" if validation.given_up else ""
    return _answer("warning" if less else "good", "yes", f"it takes {takes}, on {where}{less}")


def speed(facts: DossierFacts) -> DossierAnswer:
    """How fast it is, by a benchmark that can be believed."""
    measured, command = facts.benchmark, f"paddock bench {_id(facts)}"
    if measured is None:
        return _answer("unknown", "not measured", "", command)
    if not measured.reliable:
        return _answer(
            "unknown", "not known", f"the benchmark is not reliable: {'; '.join(measured.stated_doubts)}", command
        )
    state = _judged(facts, SPEED_GATES)
    first = f"{measured.time_to_first_token_s * 1000:.0f} ms"
    if measured.kind.embeds:
        detail = f"prefill; an embedding after {first}, on {machine_of(measured)}"
        return _answer(state, f"{measured.prefill_tok_per_s:,.1f} tokens/s", detail)
    detail = f"prefill {measured.prefill_tok_per_s:,.1f} tokens/s, first token after {first}, on {machine_of(measured)}"
    return _answer(state, f"{measured.decode_tok_per_s:,.1f} tokens/s", detail)


def quality(facts: DossierFacts) -> DossierAnswer:
    """How close its predictions are to those of the reference. Bounds are those of the gates: none holds for every
    model."""
    measured, command = facts.quality, f"paddock quality {_id(facts)}"
    if measured is None:
        return _answer("unknown", "not measured", "", command)
    if not _is_sound(measured):
        return _answer(
            "bad", "broken", f"its predictions are not numbers, compared with {_other(facts, measured.reference)}"
        )
    detail = (
        f"KL divergence {measured.kl_divergence.mean:.4f}, perplexity {measured.perplexity.value:.2f} (the reference's:"
        f" {measured.reference_perplexity.value:.2f}), compared with {_other(facts, measured.reference)}"
    )
    return _answer(_judged(facts, QUALITY_GATES), f"{measured.top1_agreement.value:.1%} same tokens", detail)


def cost(facts: DossierFacts) -> DossierAnswer:
    """What a million tokens cost on the machine of the benchmark, or where they are cheapest."""
    bench = f"paddock bench {_id(facts)}"
    if not facts.costs:
        return _answer("unknown", "not known", "its speed was not measured", bench)
    reliable = [row for row in facts.costs if row.reliable]
    if not reliable:
        return _answer("unknown", "not known", "the benchmark is not reliable", bench)
    priced = [row for row in reliable if row.price_in is not None or row.price_out is not None]
    if not priced:
        machines = ", ".join(row.machine for row in reliable)
        reason = f"no price of an hour of {machines} is set, by PADDOCK_PRICE_PER_HOUR there or in the catalog"
        return _answer("unknown", "not known", reason)
    here = facts.benchmark.machine.identity if facts.benchmark else None
    row = min(priced, key=lambda row: (row.machine_id != here, row.price_out or row.price_in or 0.0))
    at = f"at {price_text(row.price_per_hour)} an hour on {row.machine} ({row.price_source})"
    if row.price_out is None:
        return _answer("neutral", f"{price_text(row.price_in)} for a million tokens", at)
    detail = f"for answers, {price_text(row.price_in)} for prompts, {at}"
    return _answer("neutral", f"{price_text(row.price_out)} for a million tokens", detail)


def comparison(facts: DossierFacts) -> DossierAnswer:
    """How it did against what was promoted."""
    report = facts.gates
    if report is None:
        return _not_compared(facts)
    against = f"against {_other(facts, report.promoted)}" if report.promoted else "nothing was promoted to compare with"
    passed = f"{counted(sum(gate.passed is True for gate in report.gates), 'gate')} passed {against}"
    if not report.passed:
        held = report.failed or report.undecided
        names = ", ".join(gate.name for gate in held)
        reasons = "; ".join(f"{gate.name}: {gate.reason}" for gate in held)
        answer = f"held back by {names}"
        forced = next((change for change in reversed(facts.history) if change.forced), None)
        all_the_same = f"; promoted all the same: {forced.reason}" if forced and _is_promoted(facts) else ""
        return _answer("bad", answer, f"{reasons} ({against}){all_the_same}")
    if report.promoted is None:
        return _answer("good", "nothing was there", _passed_alone(report))
    undecided = ", ".join(gate.name for gate in report.undecided)
    if undecided:
        return _answer("warning", "passed", f"{passed}; not decided: {undecided}")
    return _answer("good", "passed", passed)


def _judged(facts: DossierFacts, names: frozenset[str]) -> State:
    """Whether figures are good or bad, which the gates alone say: no bound holds for every model."""
    gates = [gate for gate in facts.gates.gates if gate.name in names] if facts.gates else []
    if any(gate.passed is False for gate in gates):
        return "bad"
    return "good" if gates and all(gate.passed for gate in gates) else "neutral"


def _not_compared(facts: DossierFacts) -> DossierAnswer:
    if not _is_promoted(facts):
        return _answer("unknown", "not compared", "", f"paddock compare {_id(facts)}")
    promotion = facts.history[-1] if facts.history else None
    if promotion is not None and promotion.previous is None and promotion.previous_default is None:
        return _answer("good", "nothing was there", "it was promoted where nothing of the model was")
    return _answer("unknown", "not compared", "it was promoted without a comparison")


def price_text(price: float | None) -> str:
    """A price with at least two decimals, and three digits that count."""
    if price is None:
        return "not known"
    return f"{price:,.2f}" if price >= 1 or price <= 0 else f"{price:.{2 - floor(log10(price))}f}"


def machine_of(measured: Benchmark) -> str:
    """The machine of a benchmark: its GPUs where they computed, else its processor."""
    machine = measured.machine
    if machine.gpus and measured.uses_gpus is not False:
        return ", ".join(gpu.name for gpu in machine.gpus)
    return f"{machine.cpu}, {counted(machine.cores, 'core')}"


def _is_sound(measured: Quality) -> bool:
    return all(map(isfinite, (measured.kl_divergence.mean, measured.perplexity.value, measured.top1_agreement.value)))


def _passed_alone(report: GateReport) -> str:
    return f"it passed the {counted(len(report.gates), 'gate')} that need no other model" if report.gates else ""


def _rules(findings: list[Finding]) -> str:
    rules = list(dict.fromkeys(finding.rule for finding in findings))
    more = f" and {len(rules) - _NAMED_FINDINGS} more" if len(rules) > _NAMED_FINDINGS else ""
    return ", ".join(rules[:_NAMED_FINDINGS]) + more


def _onboard(facts: DossierFacts) -> str:
    """Validates and benchmarks it, and leaves the default as it is."""
    return f"paddock onboard {_id(facts)} --no-promote"


def _is_promoted(facts: DossierFacts) -> bool:
    return facts.promoted.holds(facts.manifest.id)


def _id(facts: DossierFacts) -> str:
    return shlex.quote(facts.manifest.id.short)


def _other(facts: DossierFacts, name: str) -> str:
    """The name of another snapshot in short, without the model's where that is the same."""
    try:
        wanted = Reference.parse(name)
    except UnsafeName:
        return name
    short = f"{wanted.name}{f'@{wanted.ref[:8]}' if wanted.ref else ''}"
    return short.removeprefix(f"{facts.manifest.repository}:")


def _answer(state: State, answer: str, detail: str, command: str | None = None) -> DossierAnswer:
    return DossierAnswer(state=state, answer=answer, detail=detail, command=command)
