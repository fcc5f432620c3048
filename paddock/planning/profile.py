"""Profiles: the context length and sampling parameters for a use of a model, chat or roleplay.

`temperature`, `top_p`, `min_p` and `repeat_penalty` are llama.cpp's parameters. `n_keep` is how many of the first
tokens are kept when the context is full, -1 for the whole prompt. Chat favours likely answers. Roleplay favours varied
ones, cuts off unlikely tokens with `min_p` rather than by rank, and must keep the character card in the context.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Literal

ProfileName = Literal["chat", "roleplay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    context_tokens: int
    temperature: float
    top_p: float
    min_p: float
    repeat_penalty: float
    n_keep: int

    def to_json(self) -> dict[str, int | float]:
        return asdict(self)


PROFILES: Final[dict[ProfileName, Profile]] = {
    "chat": Profile(context_tokens=4096, temperature=0.7, top_p=0.95, min_p=0.0, repeat_penalty=1.0, n_keep=0),
    "roleplay": Profile(context_tokens=8192, temperature=1.0, top_p=1.0, min_p=0.05, repeat_penalty=1.05, n_keep=-1),
}
