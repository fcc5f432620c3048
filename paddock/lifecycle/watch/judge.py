"""Judge a promoted revision by its answers to real requests, compared with those of the revision before.

    errors                 more than before, than FLOOR and than chance explains (`paddock.measure.error_rates`)
    lost engines           more than a sound engine has
    decode                 the interval of the ratio lies below the gates' bound
    time to first token    the interval of the ratio lies above the gates' bound

Errors are looked at each time. Speed is looked at again after half as many blocks of time more, and counts as worse
when two looks in a row find it, since repeated looks at an interval find a difference too often. What the interval does
not decide, is not worse.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from paddock.lifecycle.promote.bounds import Bounds
from paddock.lifecycle.promote.gates import keeps_rate, keeps_time
from paddock.measure.error_rates import ErrorRate, error_rate, worse_errors_p, worse_strikes_p
from paddock.measure.paired_answers import BLOCK_S, MIN_BLOCKS, AnswerSpeed, blocks_of, compare_answers
from paddock.measure.paired_speed import Ratio
from paddock.serving.switch.guard import Judgement, Observed

WORSE_P = 0.001
"""The p-value below which errors are worse. It is smaller than that of a gate, since a watch looks every second."""
MORE_BLOCKS = 1.5
"""How many times as many blocks there are at the next look at the speed."""


@dataclass(frozen=True, slots=True)
class SpeedFinding:
    """The speed at one look: what is worse, by its name, with a sentence part for each, and all figures in words."""

    worse: dict[str, str]
    figures: tuple[str, ...]
    ratios: dict[str, float]


class PromotionJudge:
    """Judges one promotion at several looks. `bounds` are those of the gates; without them speed does not count."""

    def __init__(self, bounds: Bounds | None) -> None:
        self._bounds = bounds
        self._next_blocks = float(MIN_BLOCKS)
        self._next_s = 0.0
        self._last = SpeedFinding({}, (), {})

    def look(self, before: Observed, after: Observed) -> Judgement:
        """Judge the answers so far."""
        errors, earlier = (error_rate(one.answers, restarts=one.restarts) for one in (after, before))
        summary = [errors_text(errors, earlier)]
        worse = worse_errors(errors, earlier, after) or worse_strikes(before, after)
        if self._bounds is None:
            return Judgement(worse, "; ".join(summary))
        if not worse:
            worse = self._look_at_speed(before, after, self._bounds)
        summary += self._last.figures or ["too few answers are alike to compare the speed"]
        return Judgement(worse, "; ".join(summary), self._last.ratios)

    def _look_at_speed(self, before: Observed, after: Observed, bounds: Bounds) -> str:
        """Returns what is worse for the second time."""
        if after.served_s < self._next_s:
            return ""
        self._next_s = after.served_s + BLOCK_S
        blocks = blocks_of(after)
        if blocks < self._next_blocks:
            return ""
        self._next_blocks = blocks * MORE_BLOCKS
        earlier, self._last = self._last, speed_finding(compare_answers(after, before), bounds)
        return "; ".join(text for name, text in self._last.worse.items() if name in earlier.worse)


def worse_errors(errors: ErrorRate, before: ErrorRate, after: Observed) -> str:
    """Why the errors are worse; empty where they are not, as far as can be said."""
    if worse_errors_p(errors, before) >= WORSE_P:
        return ""
    kinds = Counter(answer.failure for answer in after.answers if answer.failure)
    return f"{errors_text(errors, before)} ({', '.join(name for name, _ in kinds.most_common(3))})"


def worse_strikes(before: Observed, after: Observed) -> str:
    """Why the engine was lost too often; empty where it was not."""
    if worse_strikes_p(after.strikes, after.served_s, before.strikes, before.served_s) >= WORSE_P:
        return ""
    return f"its engine was lost {after.strikes} times in {after.served_s:.0f} s, which no request explains"


def speed_finding(speed: AnswerSpeed, bounds: Bounds) -> SpeedFinding:
    """Hold the ratios against the bounds."""
    worse, figures, ratios = {}, [], {}
    first = speed.time_to_first_token
    for key, name, ratio, unit, factor, keeps, bound in (
        ("decode", "decode", speed.decode, "tokens/s", 1.0, keeps_rate, bounds.decode),
        ("time_to_first_token", "time to the first token", first, "ms", 1000.0, keeps_time, bounds.time_to_first_token),
    ):
        if ratio is None:
            continue
        text = _ratio_text(name, ratio, unit, factor)
        figures.append(text)
        ratios[key] = ratio.ratio.value
        if keeps(ratio.ratio, bound) is False:
            worse[key] = f"{text}, and the bound is {bound:g}"
    return SpeedFinding(worse, tuple(figures), ratios)


def errors_text(errors: ErrorRate, before: ErrorRate) -> str:
    return f"{errors.failed} of {errors.answers} answers failed, and {before.failed} of {before.answers} before"


def _ratio_text(name: str, ratio: Ratio, unit: str, factor: float) -> str:
    found = ratio.ratio
    return (
        f"its {name} is {found.value:.2f} ({found.low:.2f} to {found.high:.2f}) times the one before"
        f" ({ratio.candidate * factor:.1f} against {ratio.promoted * factor:.1f} {unit})"
    )
