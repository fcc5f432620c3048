"""Knobs: the engine's parameters that a tuning may change, and the values that it may set.

A stored tuning is read from a volume where others can write. Whatever is in it, the worst that it does is to make a
model slower: it changes nothing but the knobs, the KV cache never becomes coarser than q8_0, and the memory that the
changed parameters take is predicted by the engine before they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final

from paddock.measure.race import Changes

MAX_TRIALS: Final = 1000
"""The trials that are read of a stored tuning. A run has some twenty."""
_MAX_NUMBER: Final = 1e15
_KV_TYPES: Final = frozenset({"f32", "f16", "bf16", "q8_0"})


def _whole(most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _one_of(values: frozenset[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in values


def _is_truth_value(value: object) -> bool:
    return isinstance(value, bool)


KNOBS: Final[Mapping[str, Callable[[object], bool]]] = {
    "n_threads": _whole(1024),
    "n_threads_batch": _whole(1024),
    "n_batch": _whole(2**16),
    "n_ubatch": _whole(2**16),
    "flash_attn": _one_of(frozenset({"auto", "on", "off"})),
    "type_k": _one_of(_KV_TYPES),
    "type_v": _one_of(_KV_TYPES),
    "use_mmap": _is_truth_value,
    "use_extra_bufts": _is_truth_value,
}
"""Whether a value may be set, by the name of the parameter."""


def checked_changes(value: object) -> Changes:
    """Return changes of knobs unchanged. Raises ValueError or TypeError for anything else."""
    if not isinstance(value, dict):
        raise TypeError("changes are an object")
    for name, changed in value.items():
        if name not in KNOBS:
            raise ValueError(f"a tuning changes {str(name)[:40]!r}, which is not a knob")
        if not KNOBS[name](changed):
            raise ValueError(f"a tuning sets {name} to {str(changed)[:40]!r}, which is not possible")
    return value


def checked_number(value: Any) -> float:
    """Return a number that is neither negative nor without an end. Raises TypeError or ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    if not (isfinite(value) and 0 <= value <= _MAX_NUMBER):
        raise ValueError("not a number of a measurement")
    return value
