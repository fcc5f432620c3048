"""Greedy answers of two models to the same raw prompts: equal, if only the chat template or metadata changed.

Two models *have the same tensors* if all their weights are the same bytes. Their answers then have to be equal, token
for token: a difference comes from metadata, such as the rope base or the vocabulary. Models with other weights may
answer differently; the share of equal answers is information.

No chat template is used. Greedy decoding with the same engine and parameters gives the same answers every time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paddock.engine import process
from paddock.engine.parameters import Parameters
from paddock.gguf.same_tensors import have_same_tensors
from paddock.model.hardware import this_machine

ANSWER_TOKENS = 64
_CONTEXT_TOKENS = 256
PROMPTS = (
    "The road to the paddock leads along the river and over an old bridge. On the other side",
    '"Is the gate still open?" asked Tom. Mara looked at the sky and said: "',
    "def mean(values: list[float]) -> float:\n    ",
    "Am Morgen stand das Pferd am Zaun und",
)


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of two models to `asked` prompts, of which `equal` are equal.

    `same_tensors` says whether both have the same weights. `difference` shows the first answers that differ.
    """

    asked: int
    equal: int
    same_tensors: bool
    difference: str = ""

    @property
    def match(self) -> bool | None:
        """Whether all are equal, for models with the same weights; None for others."""
        return self.equal == self.asked if self.same_tensors else None

    @property
    def equal_share(self) -> float:
        return self.equal / self.asked

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "match": self.match}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Answers:
        return cls(**{name: item for name, item in value.items() if name != "match"})


def same_tensors(model: Path, other: Path) -> bool:
    """Whether two local GGUFs (each the first shard of a split one) have the same weights. Raises the errors of reading
    a header, and MissingShard."""
    return have_same_tensors(process.shards(model), process.shards(other))


def compare_answers(
    model: Path,
    other: Path,
    *,
    same_tensors: bool,
    threads: int | None = None,
    timeout_s: float = 1800.0,
) -> Answers:
    """Let two local GGUFs (each the first shard of a split one) answer, one after the other. `same_tensors` is the
    result of the function of that name.

    Raises the errors of `process.run`.
    """
    own = _answers(model, threads=threads, timeout_s=timeout_s)
    others = _answers(other, threads=threads, timeout_s=timeout_s)
    different = [found for found in zip(PROMPTS, own, others, strict=True) if found[1] != found[2]]
    difference = ""
    if different:
        prompt, one, two = different[0]
        difference = f"after {prompt[-40:]!r} it says {one[:60]!r}, and the other one {two[:60]!r}"
    return Answers(len(PROMPTS), len(PROMPTS) - len(different), same_tensors, difference)


def _answers(path: Path, *, threads: int | None, timeout_s: float) -> list[str]:
    parameters = Parameters(n_ctx=_CONTEXT_TOKENS, n_threads=threads or this_machine().cores)
    with process.open_shards(path) as descriptors:
        request: dict[str, Any] = {
            "paths": process.paths_of(descriptors),
            "parameters": parameters.to_json(),
            "prompts": list(PROMPTS),
            "n_gen": ANSWER_TOKENS,
            "stop": [],
        }
        found: Mapping[str, Any] = process.run("generate", request, timeout_s=timeout_s, descriptors=descriptors).result
    return [answer["text"] for answer in found["answers"]]
