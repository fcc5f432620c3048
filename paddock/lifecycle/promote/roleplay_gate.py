"""The gate of roleplay: whether a candidate plays characters worse than the promoted model, in the same scenes.

The suite has few questions, so that the two scores differ by chance. The answers are compared question by question, by
McNemar's exact test: with 18 questions, the candidate has to lose 7 good answers and win none for p below 0.01. With
fewer good answers and a larger p, the gate cannot decide.
"""

from __future__ import annotations

from paddock.lifecycle.promote.bounds import BOUNDS
from paddock.measure.gate_report import Gate
from paddock.measure.paired import mcnemar_p
from paddock.measure.roleplay import Roleplay


def roleplay_gate(candidate: Roleplay, promoted: Roleplay, *, bound: float = BOUNDS.roleplay) -> Gate:
    """Decide the gate from two runs of the same suite."""
    p = worse_roleplay_p(candidate, promoted)
    own, other = candidate.whole, promoted.whole
    passed: bool | None = None
    if p is None:
        reason = f"the suites differ: {own.asked} answers, and {other.asked} of the promoted one"
    else:
        lost, gained = lost_and_gained(candidate, promoted)
        if p < bound:
            passed, outcome = False, "worse than chance explains"
        elif lost <= gained:
            passed, outcome = True, "not fewer"
        else:
            outcome = "which may be chance"
        reason = (
            f"{own.kept} of its {own.asked} answers keep every trait, and {other.kept} of {other.asked} of the promoted"
            f" one's; it lost {lost} and gained {gained}, p = {p:.2g}: {outcome}"
        )
    text = f"plays characters as well (p at least {bound:g})"
    ratio = own.score / other.score if other.score else None
    return Gate("roleplay", text, own.score, other.score, ratio, None, passed, reason)


def worse_roleplay_p(candidate: Roleplay, promoted: Roleplay) -> float | None:
    """How probable so many lost answers are for a candidate that plays as well; None for different suites."""
    if not candidate.items or len(candidate.items) != len(promoted.items):
        return None
    return mcnemar_p(*lost_and_gained(candidate, promoted))


def lost_and_gained(candidate: Roleplay, promoted: Roleplay) -> tuple[int, int]:
    """How many good answers of the promoted model the candidate lost, and how many it gained."""
    pairs = list(zip(candidate.items, promoted.items, strict=True))
    return sum(theirs and not ours for ours, theirs in pairs), sum(ours and not theirs for ours, theirs in pairs)
