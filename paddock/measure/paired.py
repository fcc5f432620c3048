"""Compare the quality of a candidate with that of the promoted model, paired token by token.

Both are compared with one reference on one text (`paddock.measure.likelihood`), which may be the promoted model itself:

    KL ratio         the candidate's mean KL divergence from the reference to the promoted model's. Its interval comes
                     from blocks of tokens that are resampled for both together: a passage that is hard for both moves
                     both figures, and not their ratio
    lost, gained     tokens for which the promoted model finds the reference's token most likely and the candidate does
                     not, and the other way around
    `worse_p`        how probable so many lost tokens are for a candidate that agrees with the reference as often
    perplexity       ratio of the candidate's to the promoted model's, for information: a change in both directions
                     cancels out

The promoted model may be the best quantization at hand, and then is the reference: its divergence is 0, it agrees with
itself always, and a rounding error would be infinitely worse. Therefore differences below a *floor* do not count:

    `KL_FLOOR`            each mean is at least 0.002 nats before they are divided. Q8_0 loses 0.0004 (Llama 2 7B) to
                          0.0014 (Llama 3 8B) against 16 bit, and Q6_K 0.002 to 0.005
    `DISAGREEMENT_FLOOR`  2.5 % of the tokens. Q8_0 finds another token than 16 bit for 1.2 % to 2.3 %

by the tables in llama.cpp's tools/perplexity/README.md ("LLaMA 2 vs. LLaMA 3 Quantization comparison", mean KLD and
same top p). Equal weights have a ratio of exactly 1.

`worse_p` is the larger of two p-values, since a candidate is worse only if both tests find it to be: McNemar's exact
test, one-sided, of the lost among all discordant tokens (Q. McNemar, Psychometrika 12, 1947), and the exact binomial
test of the candidate's disagreements against the floor. Both take tokens for independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma, log, log1p

from paddock.measure.likelihood import Comparison
from paddock.measure.quality import Estimate, block_means, interval

KL_FLOOR = 0.002
DISAGREEMENT_FLOOR = 0.025


@dataclass(frozen=True, slots=True)
class PairedQuality:
    """The candidate and the promoted model against one reference, over `predicted` tokens.

    `kl` and `promoted_kl` are means in nats, `top1` and `promoted_top1` shares of the tokens on which a model agrees
    with the reference. The module describes the rest.
    """

    predicted: int
    kl: float
    promoted_kl: float
    kl_ratio: Estimate
    top1: float
    promoted_top1: float
    lost: int
    gained: int
    worse_p: float
    perplexity: float
    promoted_perplexity: float
    perplexity_ratio: Estimate


def compare_quality(comparison: Comparison) -> PairedQuality:
    """Compare the first candidate of `comparison` with the second, which is the promoted model; without a second one,
    with the reference."""
    import numpy as np

    candidate, *others = comparison.candidates
    promoted = others[0] if others else comparison.reference
    kl, promoted_kl = (float(figures.kl.mean(dtype=np.float64)) for figures in (candidate, promoted))
    nll, promoted_nll = (float(figures.nll.mean(dtype=np.float64)) for figures in (candidate, promoted))
    kl_blocks = np.stack([block_means(figures.kl, comparison) for figures in (candidate, promoted)])
    nll_blocks = block_means(candidate.nll - promoted.nll, comparison)
    ratio_interval = interval(
        kl_blocks,
        lambda sample: np.divide(*np.maximum(sample.mean(axis=-1), KL_FLOOR)),
    )
    perplexity_interval = interval(nll_blocks, lambda sample: np.exp(sample.mean(axis=-1)))
    lost = int((promoted.agrees & ~candidate.agrees).sum())
    gained = int((candidate.agrees & ~promoted.agrees).sum())
    predicted = len(candidate.agrees)
    return PairedQuality(
        predicted=predicted,
        kl=kl,
        promoted_kl=promoted_kl,
        kl_ratio=Estimate(max(kl, KL_FLOOR) / max(promoted_kl, KL_FLOOR), *ratio_interval),
        top1=float(candidate.agrees.mean()),
        promoted_top1=float(promoted.agrees.mean()),
        lost=lost,
        gained=gained,
        worse_p=max(
            mcnemar_p(lost, gained),
            binomial_tail(predicted - int(candidate.agrees.sum()), predicted, DISAGREEMENT_FLOOR),
        ),
        perplexity=exp(nll),
        promoted_perplexity=exp(promoted_nll),
        perplexity_ratio=Estimate(exp(nll - promoted_nll), *perplexity_interval),
    )


def mcnemar_p(lost: int, gained: int) -> float:
    """McNemar's exact test, one-sided: the probability of at least `lost` of the discordant tokens, if losing and
    gaining one is equally probable. 1 without a discordant token."""
    return binomial_tail(lost, lost + gained, 0.5)


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """The probability of at least `successes` in `trials` independent trials that each succeed with probability
    `share`, which is above 0 and below 1."""
    if successes <= 0:
        return 1.0
    if successes <= trials * share:  # the other tail is the smaller one: its terms decrease from where it begins
        return max(0.0, 1 - _tail(trials - successes + 1, trials, 1 - share))
    return min(1.0, _tail(successes, trials, share))


def _tail(first: int, trials: int, share: float) -> float:
    """The sum of the binomial probabilities from `first`, which is above the mean, to `trials`."""
    if first > trials:
        return 0.0
    term = exp(
        lgamma(trials + 1)
        - lgamma(first + 1)
        - lgamma(trials - first + 1)
        + first * log(share)
        + (trials - first) * log1p(-share)
    )
    total = 0.0
    for successes in range(first, trials + 1):
        total += term
        term *= (trials - successes) / (successes + 1) * share / (1 - share)
        if term <= total * 1e-17:
            break
    return total
