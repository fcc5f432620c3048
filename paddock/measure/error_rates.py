"""Compare how often two revisions failed to answer real requests, and whether an engine dies too often.

A revision is worse where the failures are more than chance explains, by exact tests, since there may be few requests:

    against the revision before   Fisher's exact test, one-sided (R. Fisher, J. Royal Statistical Society 85, 1922): the
                                  probability of so many of all failures with the candidate, if both fail equally often.
                                  A revision before that gave fewer than KNOWN_ANSWERS answers and never failed tells
                                  too little: the candidate is then tested against SOUND_SHARE
    by itself                     the binomial test against FLOOR: a revision that fails less often is not worth going
                                  back for

`worse_p` is the larger of the two p-values. Answers are taken for independent, so that what has one cause counts once
or little: all answers that the death of one engine cut off are one failure, and a request that is repeated counts
MAX_REPEATS times at most. Below MIN_FAILURES nothing is decided.

An engine that its requests do not explain the loss of (a *strike*) is rarer than any failed request. A sound one is
taken to have one a day: then two within a quarter of an hour have a probability of 0.00005.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, lgamma

from paddock.measure.paired import binomial_tail
from paddock.serving.observations import ObservedAnswer

FLOOR = 0.01
SOUND_SHARE = 0.05
KNOWN_ANSWERS = 20
MIN_FAILURES = 3
MAX_REPEATS = 3
MIN_STRIKES = 2
_STRIKES_PER_S = 1 / 86_400


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Of `answers` answers `failed` did; `counted` are those that count as failures, and `sound` the rest."""

    answers: int
    failed: int
    counted: int

    @property
    def sound(self) -> int:
        return self.answers - self.failed

    @property
    def total(self) -> int:
        """The answers that count."""
        return self.sound + self.counted


def error_rate(answers: Iterable[ObservedAnswer], *, restarts: int) -> ErrorRate:
    """Count answers. What an engine before the last of `restarts` restarts cut off is one failure."""
    number, failed, lost = 0, 0, set()
    repeats: Counter[str] = Counter()
    for answer in answers:
        number += 1
        if not answer.failure:
            continue
        failed += 1
        if answer.died and answer.restart < restarts:
            lost.add(answer.restart)
        else:
            repeats[answer.request] += 1
    return ErrorRate(number, failed, len(lost) + sum(min(count, MAX_REPEATS) for count in repeats.values()))


def worse_errors_p(candidate: ErrorRate, before: ErrorRate) -> float:
    """How probable so many failures are for a candidate that is no worse; 1 for fewer than MIN_FAILURES."""
    if candidate.counted < MIN_FAILURES:
        return 1.0
    if before.total >= KNOWN_ANSWERS or before.counted:
        compared = fisher_p(candidate.counted, candidate.total, before.counted, before.total)
    else:
        compared = binomial_tail(candidate.counted, candidate.total, SOUND_SHARE)
    return max(compared, binomial_tail(candidate.counted, candidate.total, FLOOR))


def worse_strikes_p(strikes: int, served_s: float, before_strikes: int, before_s: float) -> float:
    """How probable so many strikes are in that time, for an engine that has one a day, or as many as the one before;
    1 for fewer than MIN_STRIKES."""
    if strikes < MIN_STRIKES:
        return 1.0
    rate = max(_STRIKES_PER_S, before_strikes / before_s if before_s > 0 else 0.0)
    return poisson_tail(strikes, rate * served_s)


def fisher_p(failed: int, answers: int, before_failed: int, before_answers: int) -> float:
    """Fisher's exact test, one-sided: the probability that at least `failed` of all failures are among these
    `answers`, if each answer is as likely to be one."""
    failures = failed + before_failed
    whole = _choices(answers + before_answers, failures)
    most = min(failures, answers)
    return min(
        1.0,
        sum(
            exp(_choices(answers, number) + _choices(before_answers, failures - number) - whole)
            for number in range(failed, most + 1)
            if failures - number <= before_answers
        ),
    )


def poisson_tail(events: int, mean: float) -> float:
    """The probability of at least so many events, of which `mean` are expected."""
    term, below = exp(-mean), 0.0
    for number in range(events):
        below += term
        term *= mean / (number + 1)
    return max(0.0, 1 - below)


def _choices(whole: int, part: int) -> float:
    """The logarithm of the binomial coefficient."""
    return lgamma(whole + 1) - lgamma(part + 1) - lgamma(whole - part + 1)
