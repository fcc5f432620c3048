"""Measure how far a model's predictions are from those of a reference: perplexity, KL divergence, top-1 agreement.

    perplexity      exp of the mean negative log likelihood of the text: how surprised the model is by it. It depends on
                    the text and the vocabulary, and compares only models that share both
    KL divergence   how much of the reference's prediction is lost, for each token, in nats: 0 for the same prediction.
                    It sees what perplexity hides, since gains and losses do not cancel out
    top-1           the share of tokens for which both find the same token most likely

The reference is the best quantization at hand. Absolute bounds do not carry over from one model to another: compare
candidates against one reference, on one text.

Neighbouring tokens are not independent, so that intervals are computed from *blocks* of 64 predicted tokens: the 95 %
interval of a figure is that of 2,000 resamples of the blocks with replacement (B. Efron and R. Tibshirani, An
Introduction to the Bootstrap, 1993, chapters 8 and 13), with a fixed seed, so that the same figures give the same
interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from math import exp
from typing import TYPE_CHECKING, Any

from paddock.engine.facts import engine_version
from paddock.measure.answers import Answers
from paddock.measure.likelihood import Comparison, TokenLikelihoods
from paddock.measure.quality_text import QualityText
from paddock.measure.roleplay import Roleplay

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1
BLOCK_TOKENS = 64
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def ci95(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass(frozen=True, slots=True)
class KlDivergence:
    """KL divergence over the predicted tokens, in nats. `p99` and `p999` are percentiles, `ci95` that of the mean."""

    mean: float
    median: float
    p99: float
    p999: float
    max: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class TextQuality:
    """The figures on one text, of which `tokens` were used."""

    name: str
    tokens: int
    perplexity: float
    kl_mean: float
    top1: float


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of a model against a reference.

    `tokens` of the texts were used, and `predicted` of them were predicted. `reference` and `model` name the snapshots.
    `texts_sha256` identifies the texts: figures of different texts do not compare. `answers` are None in results of
    older versions, `roleplay` and `reference_roleplay` where they were not requested.
    """

    model: str
    reference: str
    tokens: int
    predicted: int
    perplexity: Estimate
    reference_perplexity: Estimate
    kl_divergence: KlDivergence
    top1_agreement: Estimate
    texts: tuple[TextQuality, ...]
    texts_sha256: str
    seconds: float
    engine: str
    measured_at: str
    answers: Answers | None = None
    roleplay: Roleplay | None = None
    reference_roleplay: Roleplay | None = None
    schema: int = SCHEMA

    @property
    def line(self) -> str:
        return (
            f"KL divergence {self.kl_divergence.mean:.4f} from {self.reference}, perplexity"
            f" {self.perplexity.value:.2f} (reference {self.reference_perplexity.value:.2f})"
        )

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        for name in ("perplexity", "reference_perplexity"):
            estimate = value.pop(name)
            value[name], value[f"{name}_ci95"] = estimate["value"], [estimate["low"], estimate["high"]]
        top1 = value["top1_agreement"]
        value["top1_agreement"] = {"value": top1["value"], "ci95": [top1["low"], top1["high"]]}
        value["kl_divergence"]["ci95"] = list(self.kl_divergence.ci95)
        value["texts"] = [asdict(text) for text in self.texts]
        for name, item in self._parts().items():
            value[name] = item.to_json() if item else None
        return value

    def _parts(self) -> dict[str, Answers | Roleplay | None]:
        return {
            "answers": self.answers,
            "roleplay": self.roleplay,
            "reference_roleplay": self.reference_roleplay,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Quality:
        estimates = {
            name: Estimate(value[name], *value[f"{name}_ci95"]) for name in ("perplexity", "reference_perplexity")
        }
        top1, kl = value["top1_agreement"], value["kl_divergence"]
        rest = {key: item for key, item in value.items() if not key.endswith("_ci95")}
        return cls(
            **{
                **rest,
                **estimates,
                **{
                    name: kind.from_json(value[name]) if value.get(name) else None
                    for name, kind in (("answers", Answers), ("roleplay", Roleplay), ("reference_roleplay", Roleplay))
                },
                "kl_divergence": KlDivergence(**{**kl, "ci95": tuple(kl["ci95"])}),
                "top1_agreement": Estimate(top1["value"], *top1["ci95"]),
                "texts": tuple(TextQuality(**text) for text in value["texts"]),
            }
        )


def summarise(
    comparison: Comparison,
    candidate: int,
    texts: Sequence[QualityText],
    *,
    model: str,
    reference: str,
    seconds: float,
) -> Quality:
    """Sum up the figures of one candidate, by its number in `comparison`."""
    import numpy as np

    figures = comparison.candidates[candidate]
    spans = list(comparison.spans())
    nll, reference_nll, kl, agrees = (
        estimate_mean(values, comparison)
        for values in (figures.nll, comparison.reference.nll, figures.kl, figures.agrees)
    )
    return Quality(
        model=model,
        reference=reference,
        tokens=sum(used for _, used, _ in spans),
        predicted=len(figures.nll),
        perplexity=_exponential(nll),
        reference_perplexity=_exponential(reference_nll),
        kl_divergence=KlDivergence(
            mean=kl.value,
            median=float(np.median(figures.kl)),
            p99=float(np.quantile(figures.kl, 0.99)),
            p999=float(np.quantile(figures.kl, 0.999)),
            max=float(figures.kl.max()),
            ci95=kl.ci95,
        ),
        top1_agreement=agrees,
        texts=tuple(_text_quality(name, used, figures.part(span)) for name, used, span in spans),
        texts_sha256=sha256("".join(text.sha256 for text in texts).encode()).hexdigest(),
        seconds=round(seconds, 3),
        engine=f"llama-cpp-python {engine_version()}",
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def estimate_mean(values: np.ndarray[Any, Any], comparison: Comparison) -> Estimate:
    """Estimate the mean of a figure over all predicted tokens."""
    import numpy as np

    low, high = interval(block_means(values, comparison), lambda sample: sample.mean(axis=-1))
    return Estimate(float(values.mean(dtype=np.float64)), low, high)


def block_means(values: np.ndarray[Any, Any], comparison: Comparison) -> np.ndarray[Any, Any]:
    """Cut the figures of each text into blocks of about 64 tokens, and return the mean of each block."""
    import numpy as np

    blocks = []
    for _, _, span in comparison.spans():
        part = values[span]
        blocks += np.array_split(part, max(1, round(len(part) / BLOCK_TOKENS)))
    return np.array([block.mean(dtype=np.float64) for block in blocks])


def interval(
    blocks: np.ndarray[Any, Any], statistic: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic of block means, by resampling the blocks.

    `blocks` has the blocks along its last axis; with more than one row, the rows are resampled together, which pairs
    them. `statistic` reduces the last axis.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    count = blocks.shape[-1]
    chosen = generator.integers(0, count, (_RESAMPLES, count))
    low, high = np.quantile(statistic(blocks[..., chosen]), [0.025, 0.975])
    return float(low), float(high)


def _exponential(nll: Estimate) -> Estimate:
    return Estimate(exp(nll.value), exp(nll.low), exp(nll.high))


def _text_quality(name: str, used: int, figures: TokenLikelihoods) -> TextQuality:
    import numpy as np

    nll = float(figures.nll.mean(dtype=np.float64))
    return TextQuality(
        name=name,
        tokens=used,
        perplexity=float(np.exp(nll)),
        kl_mean=float(figures.kl.mean(dtype=np.float64)),
        top1=float(figures.agrees.mean()),
    )
