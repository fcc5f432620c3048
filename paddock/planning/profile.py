"""What a model is used for, and the engine's settings that suit it: the context, and how the next token is chosen.

`temperature`, `top_p`, `min_p` and `repeat_penalty` are llama.cpp's own names and mean what they mean there; `n_keep`
is how many of the first tokens stay when the window is full, -1 for all of the prompt. A question wants the likely
answer; a scene wants one that is not the same each time, and cut off at the tail by `min_p` rather than by a rank, and
its card must never leave the window.
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
