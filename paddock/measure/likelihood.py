"""Predict a text with several models at once, and keep what each of them says of every token.

All models see the same tokens in the same chunks, and are compared with one reference, so that two candidates can be
compared *paired*, token by token. `paddock.engine.likelihood` computes the figures in the engine's process;
`paddock.measure.quality` sums them up.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddock.engine import process
from paddock.engine.oracle import MARGIN_BYTES, measure_descriptors
from paddock.engine.parameters import Parameters
from paddock.errors import ConflictingConfiguration, DoesNotFit
from paddock.gguf.directory import local_kind
from paddock.measure.quality_text import QualityText
from paddock.model.hardware import Machine, this_machine
from paddock.model.units import human_bytes

if TYPE_CHECKING:
    import numpy as np

CHUNK_TOKENS = 512
"""Tokens of a chunk, as of `llama-perplexity` by default. The first half of it is context, the second is predicted."""
LIMIT_TOKENS = 128 * 1024
"""How many tokens of a text are used at most."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenLikelihoods:
    """What one model says of each predicted token, in the order of the texts: arrays of one length.

    `nll` is the negative log likelihood of the token that follows, in nats. `kl` is the KL divergence of the
    reference's prediction from the model's, in nats, and `agrees` whether both find the same token most likely; for the
    reference itself they are 0 and True.
    """

    nll: np.ndarray[Any, np.dtype[np.float32]]
    kl: np.ndarray[Any, np.dtype[np.float32]]
    agrees: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def from_json(cls, value: Mapping[str, str]) -> TokenLikelihoods:
        import numpy as np

        nll, kl = (np.frombuffer(base64.b64decode(value[name]), "<f4") for name in ("nll", "kl"))
        agrees = np.frombuffer(base64.b64decode(value["agrees"]), "u1").astype(np.bool_)
        if not len(kl):  # the reference
            return cls(nll, np.zeros_like(nll), np.ones(len(nll), np.bool_))
        return cls(nll, kl, agrees)

    def part(self, span: slice) -> TokenLikelihoods:
        return TokenLikelihoods(self.nll[span], self.kl[span], self.agrees[span])


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The likelihoods of the reference and of each candidate.

    `texts` are (name, tokens used, predicted tokens) of each text; `peak_rss_bytes` is the peak resident memory of the
    engine's process.
    """

    texts: tuple[tuple[str, int, int], ...]
    reference: TokenLikelihoods
    candidates: tuple[TokenLikelihoods, ...]
    peak_rss_bytes: int = 0

    def spans(self) -> Iterator[tuple[str, int, slice]]:
        """(name, tokens used, its predicted tokens) of each text of which something was used."""
        start = 0
        for name, used, predicted in self.texts:
            if predicted:
                yield name, used, slice(start, start + predicted)
            start += predicted


def predict(
    reference: Path,
    candidates: Sequence[Path],
    texts: Sequence[QualityText],
    *,
    threads: int | None = None,
    limit_tokens: int = LIMIT_TOKENS,
    timeout_s: float = 1800.0,
    machine: Machine | None = None,
) -> Comparison:
    """Predict `texts` with local GGUFs (each the first shard of a split one), all loaded at once in one engine process.

    At most `limit_tokens` tokens are used, of each text as many as of the others. Raises DoesNotFit before a model is
    loaded, ConflictingConfiguration for models that generate no text or have different vocabularies, BadSetting for
    texts of less than a chunk, ModelRejected for logits that are not finite, and the errors of `process.run`.
    """
    machine = machine or this_machine()
    parameters = Parameters(n_ctx=CHUNK_TOKENS, n_threads=threads or machine.cores)
    paths = (reference, *candidates)
    for path in paths:
        if not local_kind(path).generates_text:
            raise ConflictingConfiguration(
                f"{path.name} is {local_kind(path).noun}: it predicts no text", cure="choose a language model"
            )
    with ExitStack() as stack:
        opened = [stack.enter_context(process.open_shards(path)) for path in paths]
        _check_all_fit(paths, opened, parameters, machine)
        answer: Mapping[str, Any] = process.run(
            "compare",
            {
                "models": [
                    {"paths": process.paths_of(descriptors), "parameters": parameters.to_json()}
                    for descriptors in opened
                ],
                "texts": [text.content for text in texts],
                "chunk_tokens": CHUNK_TOKENS,
                "limit_tokens": min(limit_tokens, LIMIT_TOKENS),
            },
            timeout_s=timeout_s,
            descriptors=[descriptor for descriptors in opened for descriptor in descriptors],
        ).result
    first, *others = (TokenLikelihoods.from_json(value) for value in answer["models"])
    predicted = CHUNK_TOKENS - CHUNK_TOKENS // 2 - 1
    used = tuple(
        (text.name, length["chunks"] * CHUNK_TOKENS, length["chunks"] * predicted)
        for text, length in zip(texts, answer["texts"], strict=True)
    )
    return Comparison(used, first, tuple(others), answer["peak_rss_bytes"])


def _check_all_fit(
    paths: Sequence[Path], opened: Sequence[tuple[int, ...]], parameters: Parameters, machine: Machine
) -> None:
    """Raise DoesNotFit unless all models fit into the memory at once: that of the GPUs, if the engine uses them."""
    needs = [measure_descriptors(descriptors, replace(parameters, n_ubatch=128)) for descriptors in opened]
    needed = sum(memory.total_bytes for memory in needs) + MARGIN_BYTES
    on_gpu = any(memory.on_gpu for memory in needs)
    free = sum(gpu.vram_available_bytes for gpu in machine.gpus) if on_gpu else machine.ram_available_bytes
    if needed > free:
        names = ", ".join(dict.fromkeys(path.name for path in paths))
        raise DoesNotFit(
            f"{names} need {human_bytes(needed)} at once, and {human_bytes(free)} of"
            f" {'GPU memory' if on_gpu else 'memory'} are available",
            cure="compare with a smaller quantization, or free memory",
        )
