"""The bounds of the gates that a candidate has to keep, their defaults, and their overrides by the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from paddock.errors import BadSetting
from paddock.planning.drift import MAX_ENGINE_DIFFERENCE


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds.

    `kl_ratio`            the candidate's KL divergence, at most this multiple of the promoted one's
    `agreement`           the p-value below which the candidate agrees with the reference less often
    `decode`, `prefill`   the candidate's tokens per second, at least this share of the promoted one's
    `time_to_first_token` the candidate's time, at most this multiple of the promoted one's
    `memory`              the engine's memory, at most this multiple of what the plan predicted
    `roleplay`            the p-value below which the candidate plays characters worse

    Decode is what a user waits for most. Prefill may lose more: kernels for prompts differ between quantizations far
    more than those for one token, and a server keeps the beginning of a conversation. The time to the first token is
    the prefill of a prompt and the choice of one token, so its bound is the inverse. The engine states its memory in
    hundredths of a MiB, which the bound of `memory` allows for.
    """

    kl_ratio: float = 1.5
    agreement: float = 0.01
    decode: float = 0.9
    prefill: float = 0.8
    time_to_first_token: float = 1.25
    memory: float = 1 + MAX_ENGINE_DIFFERENCE
    roleplay: float = 0.01


BOUNDS = Bounds()
BOUND_NAMES: tuple[str, ...] = tuple(field.name for field in fields(Bounds))


def bounds_with(overrides: Mapping[str, float] | None) -> Bounds:
    """The default bounds with some replaced, by the gate's name. Raises BadSetting for a gate that has no bound."""
    unknown = sorted(set(overrides or ()) - set(BOUND_NAMES))
    if unknown:
        raise BadSetting(
            f"there is no bound of a gate {', '.join(map(repr, unknown))}", cure=f"name {', '.join(BOUND_NAMES)}"
        )
    return replace(BOUNDS, **{name: float(value) for name, value in (overrides or {}).items()})
