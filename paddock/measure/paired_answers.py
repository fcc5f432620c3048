"""Compare the speed of two revisions by the answers that they gave to real requests, one after the other.

Real requests differ in length, and so do the machine's and the server's load from one time to another. So each answer
is compared with those of the other revision that are like it, which is a regression of the logarithm of its time on the
revision, in *strata*:

    stratum     what was computed (chat, streamed, with a grammar, ...), an octave of the prompt's or the context's
                length, an octave of the number of requests that ran meanwhile, and how many cores other processes used.
                A stratum that only one of the two has does not count
    within it   the remaining differences in length and load are taken out by their logarithms (R. Frisch and F. Waugh,
                Econometrica 1, 1933; M. Lovell, 1963)
    ratio       the candidate's time divided by the promoted model's, other things equal
    95 % interval
                from *blocks* of time, since answers of one time share what disturbs them (K.-Y. Liang and S. Zeger,
                Biometrika 73, 1986), with Student's t for the fewer blocks of the two. The answers of a revision are
                cut into MAX_BLOCKS blocks of at least BLOCK_S seconds: a machine's speed drifts over minutes, and short
                blocks would be alike

Without MIN_BLOCKS blocks of each revision there is no ratio: after a change of the load, or of what is asked, the two
cannot be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log, log2, sqrt
from statistics import median

from paddock.measure.paired_speed import Ratio, t_975
from paddock.measure.quality import Estimate
from paddock.measure.reliability import MAX_GPU_OTHER_SHARE, MAX_OTHER_SHARE
from paddock.serving.observations import ObservedAnswer
from paddock.serving.switch.guard import Observed

BLOCK_S = 10.0
MIN_BLOCKS, MAX_BLOCKS = 6, 12
MIN_TOKENS = 8
"""Of an answer whose speed of decode counts."""
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class AnswerSpeed:
    """The candidate's speed and the promoted model's. `decode` is in tokens per second, `time_to_first_token` in
    seconds; None where they cannot be compared."""

    decode: Ratio | None
    time_to_first_token: Ratio | None


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer: it took `seconds`. `sizes` are positive figures that the time may depend on."""

    is_candidate: bool
    block: int
    stratum: Hashable
    sizes: tuple[float, ...]
    seconds: float


def compare_answers(candidate: Observed, promoted: Observed) -> AnswerSpeed:
    """Compare the sound answers of two revisions."""
    both = [*_placed(candidate, is_candidate=True), *_placed(promoted, is_candidate=False)]
    decode = compare(list(_timings(both, _decode)))
    return AnswerSpeed(
        decode=_inverse(decode) if decode else None,
        time_to_first_token=compare(list(_timings(both, _first_token))),
    )


def blocks_of(observed: Observed) -> int:
    """In how many periods of BLOCK_S seconds there were answers that may count."""
    return len({int(one.ended // BLOCK_S) for one in observed.answers if _is_undisturbed(one, observed)})


def compare(timings: Sequence[Timing]) -> Ratio | None:
    """The ratio of the candidate's seconds to the promoted model's, other things equal. None where too few answers are
    alike. The figures beside it are medians of the answers that count."""
    strata = _in_both(timings)
    counted = [one for stratum in strata for one in stratum]
    if not counted:
        return None
    revision = _centred(strata, lambda one: float(one.is_candidate))
    seconds = _centred(strata, lambda one: log(one.seconds))
    taken_out: list[list[float]] = []
    for number in range(len(counted[0].sizes)):
        size = _centred(strata, lambda one, number=number: log(one.sizes[number]))  # type: ignore[misc]
        for other in taken_out:
            size = _without(size, other)
        if _dot(size, size) > _TINY * len(size):
            revision, seconds = _without(revision, size), _without(seconds, size)
            taken_out.append(size)
    weight = _dot(revision, revision)
    blocks = {(one.is_candidate, one.block) for one in counted}
    fewer = min(sum(is_candidate is side for is_candidate, _ in blocks) for side in (True, False))
    if fewer < MIN_BLOCKS or weight <= _TINY * len(counted):
        return None
    effect = _dot(revision, seconds) / weight
    sums: dict[tuple[bool, int], float] = defaultdict(float)
    for one, x, y in zip(counted, revision, seconds, strict=True):
        sums[one.is_candidate, one.block] += x * (y - effect * x)
    variance = sum(value * value for value in sums.values()) / weight**2 * len(sums) / (len(sums) - 1)
    half = t_975(fewer - 1) * sqrt(variance)
    return Ratio(
        median(one.seconds for one in counted if one.is_candidate),
        median(one.seconds for one in counted if not one.is_candidate),
        Estimate(exp(effect), exp(effect - half), exp(effect + half)),
    )


@dataclass(frozen=True, slots=True)
class _Placed:
    """An answer with its block of time, and the stratum of the load at that time."""

    answer: ObservedAnswer
    is_candidate: bool
    block: int
    load: tuple[int, int]


def _placed(observed: Observed, *, is_candidate: bool) -> Iterator[_Placed]:
    """The sound answers during which no other engine was loaded, and the machine's load was sampled."""
    share = MAX_GPU_OTHER_SHARE if observed.on_gpu else MAX_OTHER_SHARE
    answers = [answer for answer in observed.answers if _is_undisturbed(answer, observed)]
    began = answers[0].ended if answers else 0.0
    block_s = max(BLOCK_S, (answers[-1].ended - began) / MAX_BLOCKS if answers else 0.0)
    for answer in answers:
        others = observed.load.cores(answer.began, answer.ended)
        if others is not None:
            load = round(log2(max(answer.running, 1.0))), int(others / (share * observed.cores))
            yield _Placed(answer, is_candidate, int((answer.ended - began) / block_s), load)


def _is_undisturbed(answer: ObservedAnswer, observed: Observed) -> bool:
    return not answer.failure and answer.began >= observed.undisturbed_from and answer.ended <= observed.undisturbed_to


_Figures = tuple[float, float]
"""The length that a time depends on, and the time in seconds."""


def _timings(placed: Iterable[_Placed], figures: Callable[[ObservedAnswer], _Figures | None]) -> Iterator[Timing]:
    for one in placed:
        found = figures(one.answer)
        if found is not None:
            size, seconds = found
            stratum = one.answer.kind, int(log2(size)), one.load
            yield Timing(one.is_candidate, one.block, stratum, (size, max(one.answer.running, 1.0)), seconds)


def _decode(answer: ObservedAnswer) -> _Figures | None:
    """The context's length, and the seconds for a token."""
    if answer.tokens < MIN_TOKENS or not answer.decode_s:
        return None
    return max(answer.context_tokens, 1), answer.decode_s / answer.tokens


def _first_token(answer: ObservedAnswer) -> _Figures | None:
    """The length of what was computed of the prompt, and the seconds to the first token."""
    if answer.prompt_tokens < 1 or not answer.first_token_s:
        return None
    return answer.prompt_tokens, answer.first_token_s


def _in_both(timings: Sequence[Timing]) -> list[list[Timing]]:
    """The strata that both sides have."""
    strata: dict[Hashable, list[Timing]] = defaultdict(list)
    for one in timings:
        strata[one.stratum].append(one)
    return [stratum for stratum in strata.values() if len({one.is_candidate for one in stratum}) > 1]


def _centred(strata: Sequence[Sequence[Timing]], figure: Callable[[Timing], float]) -> list[float]:
    """A figure of each answer, less its mean in the stratum."""
    centred: list[float] = []
    for stratum in strata:
        values = [figure(one) for one in stratum]
        mean = sum(values) / len(values)
        centred += [value - mean for value in values]
    return centred


def _without(values: Sequence[float], other: Sequence[float]) -> list[float]:
    """The residuals of `values` after their regression on `other`."""
    slope = _dot(values, other) / _dot(other, other)
    return [value - slope * one for value, one in zip(values, other, strict=True)]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _inverse(ratio: Ratio) -> Ratio:
    """The ratio of the rates, from that of the times."""
    times = ratio.ratio
    return Ratio(1 / ratio.candidate, 1 / ratio.promoted, Estimate(1 / times.value, 1 / times.high, 1 / times.low))
