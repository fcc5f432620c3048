"""Decide the gates: pure functions from evidence and bounds to gates, each with a reason in a sentence.

A gate fails only where the figures show that the bound is not kept; where they could be on either side of it, the gate
cannot decide (`passed` is None), and says why. A gate that does not apply to the model is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import Literal

from paddock.lifecycle.promote.bounds import Bounds
from paddock.lifecycle.promote.evidence import (
    AuditVerdict,
    Evidence,
    MemoryUse,
    Missing,
    PairedPredictions,
    PairedRoleplay,
)
from paddock.measure.gate_report import Gate, GateLimit
from paddock.measure.paired import DISAGREEMENT_FLOOR, KL_FLOOR
from paddock.measure.paired_speed import MIN_ROUNDS, PairedSpeed, Ratio
from paddock.measure.quality import Estimate
from paddock.model.finding import Verdict
from paddock.model.units import human_bytes


def decide(evidence: Evidence, bounds: Bounds) -> tuple[Gate, ...]:
    return tuple(_decide(evidence, bounds))


def limits_of(evidence: Evidence, bounds: Bounds) -> tuple[GateLimit, ...]:
    """The numbers that the gates decide by: of an interval the end that is nearer to its bound."""
    return tuple(_limits(evidence, bounds))


def _limits(evidence: Evidence, bounds: Bounds) -> Iterator[GateLimit]:
    found, speed = evidence.predictions, evidence.speed
    if isinstance(found, PairedPredictions) and not found.reference_is_coarser:
        yield GateLimit("kl_ratio", found.quality.kl_ratio.low, most=bounds.kl_ratio)
        yield GateLimit("agreement", found.quality.worse_p, least=bounds.agreement)
    if isinstance(speed, PairedSpeed):
        if speed.decode:
            yield GateLimit("decode", speed.decode.ratio.high, least=bounds.decode)
        if speed.prefill:
            yield GateLimit("prefill", speed.prefill.ratio.high, least=bounds.prefill)
        if speed.time_to_first_token:
            ratio = speed.time_to_first_token.ratio
            yield GateLimit("time_to_first_token", ratio.low, most=bounds.time_to_first_token)
    if isinstance(evidence.memory, MemoryUse):
        yield GateLimit("memory", evidence.memory.ratio, most=bounds.memory)
    if isinstance(evidence.roleplay, PairedRoleplay):
        yield GateLimit("roleplay", _roleplay_p(evidence.roleplay), least=bounds.roleplay)


def _decide(evidence: Evidence, bounds: Bounds) -> Iterator[Gate]:
    if evidence.same_weights:
        yield _gate("weights", "at least as good as the promoted ones", True, evidence.same_weights)
    if evidence.audit is not None:
        yield _audit(evidence.audit)
    if evidence.finite is not None:
        yield _finite(evidence.finite)
    if isinstance(evidence.predictions, Missing):
        yield _missing("kl_ratio", _kl_bound(bounds), evidence.predictions)
        yield _missing("agreement", _agreement_bound(bounds), evidence.predictions)
    elif evidence.predictions:
        yield _kl_ratio(evidence.predictions, bounds)
        yield _agreement(evidence.predictions, bounds)
    if evidence.speed is not None:
        yield from _speed(evidence.speed, bounds)
    if evidence.memory is not None:
        yield _memory(evidence.memory, bounds)
    yield from evidence.template
    if evidence.roleplay is not None:
        yield _roleplay(evidence.roleplay, bounds)


def _gate(name: str, bound: str, passed: bool | None, reason: str) -> Gate:
    """A gate without figures."""
    return Gate(name, bound, None, None, None, None, passed, reason)


def _missing(name: str, bound: str, missing: Missing) -> Gate:
    return _gate(name, bound, False if missing.by_candidate else None, missing.reason)


def _audit(audited: AuditVerdict) -> Gate:
    rejected = audited.verdict is Verdict.REJECT
    reason = audited.reason if rejected else f"its verdict is {audited.verdict}"
    promoted = str(audited.promoted) if audited.promoted else None
    return Gate("audit", "not rejected", str(audited.verdict), promoted, None, None, not rejected, reason)


def _finite(finite: Literal[True] | Missing) -> Gate:
    bound = "every output is finite"
    if isinstance(finite, Missing):
        return _missing("finite", bound, finite)
    return _gate("finite", bound, True, "every output was finite")


def _kl_bound(bounds: Bounds) -> str:
    return f"at most {bounds.kl_ratio:g} times the promoted one's KL divergence"


def _kl_ratio(predictions: PairedPredictions, bounds: Bounds) -> Gate:
    quality, bound = predictions.quality, bounds.kl_ratio
    ratio = quality.kl_ratio
    passed: bool | None = None
    if ratio.low > bound:
        passed = False
    elif ratio.high <= bound:
        passed = True
    figures = (
        f"its KL divergence from {predictions.reference.short} is {quality.kl:.4f}, and the promoted one's"
        f" {quality.promoted_kl:.4f}"
    )
    if max(quality.kl, quality.promoted_kl) <= KL_FLOOR:
        reason = f"{figures}: below {KL_FLOOR:g} it is rounding noise"
    else:
        counted = f", each counted from {KL_FLOOR:g} on" if min(quality.kl, quality.promoted_kl) < KL_FLOOR else ""
        reason = f"{figures}: {_times(ratio)}{counted}{_outcome(passed, f'{bound:g}')}"
    if predictions.reference_is_coarser and passed is not True:
        passed, by_perplexity = _by_perplexity(quality.perplexity_ratio)
        reason = f"{figures}, which has fewer bits per weight and is no measure of it; {by_perplexity}"
    return Gate("kl_ratio", _kl_bound(bounds), quality.kl, quality.promoted_kl, ratio.value, ratio.ci95, passed, reason)


def _by_perplexity(ratio: Estimate) -> tuple[bool | None, str]:
    """Judge a candidate with more bits per weight than the reference by its perplexity alone."""
    figures = f"its perplexity is {_times(ratio)} the promoted one's"
    if ratio.low > 1:
        return False, f"{figures}, which is worse"
    if ratio.high < 1:
        return True, f"{figures}, which is better"
    return None, f"{figures}, which does not tell which is better: pull a better quantization to compare both with"


def _agreement_bound(bounds: Bounds) -> str:
    return f"agrees with the reference as often (p at least {bounds.agreement:g})"


def _agreement(predictions: PairedPredictions, bounds: Bounds) -> Gate:
    quality = predictions.quality
    passed: bool | None = quality.worse_p >= bounds.agreement
    reason = (
        f"it finds another token than {predictions.reference.short} most likely for {1 - quality.top1:.1%} of"
        f" {quality.predicted} tokens, and the promoted one for {1 - quality.promoted_top1:.1%}; it lost"
        f" {quality.lost} and gained {quality.gained} tokens, {_p(quality.worse_p)}"
    )
    if predictions.reference_is_coarser and not passed:
        passed, by_perplexity = _by_perplexity(quality.perplexity_ratio)
        reason += f". The promoted one has fewer bits per weight and is no measure of it; {by_perplexity}"
    elif not passed:
        reason += ": worse than chance explains"
    elif quality.lost > quality.gained and 1 - quality.top1 <= DISAGREEMENT_FLOOR:
        reason += f": up to {DISAGREEMENT_FLOOR:.1%} is rounding noise"
    ratio = quality.top1 / quality.promoted_top1 if quality.promoted_top1 else None
    return Gate("agreement", _agreement_bound(bounds), quality.top1, quality.promoted_top1, ratio, None, passed, reason)


def _speed(speed: PairedSpeed | Missing, bounds: Bounds) -> Iterator[Gate]:
    decode, prefill = (f"at least {bound:g} of the promoted one's" for bound in (bounds.decode, bounds.prefill))
    first = f"at most {bounds.time_to_first_token:g} times the promoted one's"
    if isinstance(speed, Missing):
        yield _missing("decode", decode, speed)
        yield _missing("prefill", prefill, speed)
        yield _missing("time_to_first_token", first, speed)
        return
    if speed.decodes:
        yield _rate("decode", decode, speed.decode, speed, bounds.decode)
    yield _rate("prefill", prefill, speed.prefill, speed, bounds.prefill)
    yield _time(first, speed, bounds.time_to_first_token)


def _rate(name: str, text: str, ratio: Ratio | None, speed: PairedSpeed, bound: float) -> Gate:
    if ratio is None:
        return _gate(name, text, None, _too_few(speed))
    passed = keeps_rate(ratio.ratio, bound)
    reason = (
        f"its {name} is {_times(ratio.ratio)} the promoted one's ({ratio.candidate:.1f} against"
        f" {ratio.promoted:.1f} tokens/s){_outcome(passed, f'{bound:g}')}"
    )
    return Gate(name, text, ratio.candidate, ratio.promoted, ratio.ratio.value, ratio.ratio.ci95, passed, reason)


def _time(text: str, speed: PairedSpeed, bound: float) -> Gate:
    name, ratio = "time_to_first_token", speed.time_to_first_token
    if ratio is None:
        return _gate(name, text, None, _too_few(speed))
    passed = keeps_time(ratio.ratio, bound)
    reason = (
        f"its time to the first token is {_times(ratio.ratio)} the promoted one's ({ratio.candidate * 1000:.0f} against"
        f" {ratio.promoted * 1000:.0f} ms){_outcome(passed, f'{bound:g}')}"
    )
    return Gate(name, text, ratio.candidate, ratio.promoted, ratio.ratio.value, ratio.ratio.ci95, passed, reason)


def keeps_rate(ratio: Estimate, bound: float) -> bool | None:
    """Whether a rate is at least `bound` of another; None where the interval holds the bound."""
    return True if ratio.low >= bound else False if ratio.high < bound else None


def keeps_time(ratio: Estimate, bound: float) -> bool | None:
    """Whether a time is at most `bound` times another; None where the interval holds the bound."""
    return True if ratio.high <= bound else False if ratio.low > bound else None


def speed_is_decided(speed: PairedSpeed, bounds: Bounds) -> bool:
    """Whether more rounds would change nothing: each interval is on one side of its bound."""
    if speed.prefill is None or speed.time_to_first_token is None or (speed.decodes and speed.decode is None):
        return False
    decisions = [
        keeps_rate(speed.prefill.ratio, bounds.prefill),
        keeps_time(speed.time_to_first_token.ratio, bounds.time_to_first_token),
        keeps_rate(speed.decode.ratio, bounds.decode) if speed.decode else True,
    ]
    return None not in decisions


def _too_few(speed: PairedSpeed) -> str:
    reliable = speed.rounds - speed.disturbed
    why = f": {'; '.join(speed.doubts[:2])}" if speed.doubts else ""
    return f"{reliable} of {speed.rounds} rounds are reliable, and {MIN_ROUNDS} are needed{why}"


def _memory(memory: MemoryUse | Missing, bounds: Bounds) -> Gate:
    text = f"at most {bounds.memory:g} times what its plan says"
    if isinstance(memory, Missing):
        return _missing("memory", text, memory)
    ratio = memory.ratio
    passed = ratio <= bounds.memory
    reason = (
        f"the engine took {human_bytes(memory.measured_bytes)} for it, and its plan says"
        f" {human_bytes(memory.planned_bytes)}"
    )
    return Gate("memory", text, memory.measured_bytes, None, ratio, None, passed, reason)


def _roleplay(roleplay: PairedRoleplay | Missing, bounds: Bounds) -> Gate:
    text = f"plays characters as well (p at least {bounds.roleplay:g})"
    if isinstance(roleplay, Missing):
        return _missing("roleplay", text, roleplay)
    own, other = roleplay.candidate.whole, roleplay.promoted.whole
    p = _roleplay_p(roleplay)
    reason = (
        f"{own.kept} of its {own.asked} answers keep every trait, and {other.kept} of {other.asked} of the promoted"
        f" one's, {_p(p)}"
    )
    ratio = own.score / other.score if other.score else None
    return Gate("roleplay", text, own.score, other.score, ratio, None, p >= bounds.roleplay, reason)


def _roleplay_p(roleplay: PairedRoleplay) -> float:
    own, other = roleplay.candidate.whole, roleplay.promoted.whole
    return fewer_kept_p(own.kept, own.asked, other.kept, other.asked)


def fewer_kept_p(kept: int, asked: int, other_kept: int, other_asked: int) -> float:
    """Fisher's exact test, one-sided: the probability of at most `kept` of `asked`, if both keep as many of their
    answers and all those that were kept are spread by chance."""
    total = kept + other_kept
    lowest = max(0, total - other_asked)
    ways = sum(comb(asked, own) * comb(other_asked, total - own) for own in range(lowest, kept + 1))
    return ways / comb(asked + other_asked, total)


def _times(ratio: Estimate) -> str:
    return f"{ratio.value:.2f} times (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"


def _p(p: float) -> str:
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def _outcome(passed: bool | None, bound: str) -> str:
    if passed is None:
        return f", which does not decide against {bound}"
    return "" if passed else f", and the bound is {bound}"
