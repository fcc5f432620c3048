"""Compare the memory of real loads with the prediction, and widen the margin of later plans if they differ.

Three figures of each real load are stored, by architecture, engine and device:

    predicted   the engine's prediction from the header alone, with the same parameters
    engine      what the engine logged when it loaded the model
    system      the peak memory of the engine's process, which includes its code, its threads and the mapped file

The first two figures should be equal, and the third should exceed them by the margin at most. Otherwise the prediction
has *drifted*: the difference is reported, and the margin of later plans for the same architecture, engine and device
becomes 1.25 times the largest excess of the last loads, up to MAX_MARGIN_BYTES. Others can write the observations: a
load that took more than twice the prediction, and more than that margin beyond it, does not count, and no margin is
smaller than the default.

This module computes; `paddock.lifecycle` stores the loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from paddock.engine.oracle import MARGIN_BYTES
from paddock.model.units import human_bytes

KEPT_LOADS: Final = 20
"""The number of loads that are kept for one architecture, engine and device."""
MAX_ENGINE_DIFFERENCE: Final = 0.02
"""The relative difference that is allowed between prediction and engine, which logs hundredths of a MiB."""
MAX_MARGIN_BYTES: Final = 16 * MARGIN_BYTES
_MARGIN_FACTOR: Final = 1.25
_MAX_LOAD_BYTES: Final = 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLoad:
    """The figures of one real load, in bytes. `system_bytes` is None if the process does not hold the whole model, as
    on a GPU."""

    predicted_bytes: int
    engine_bytes: int
    system_bytes: int | None

    @property
    def excess_bytes(self) -> int:
        """How much the load exceeded the prediction, at least 0."""
        return max(self.engine_bytes, self.system_bytes or 0, self.predicted_bytes) - self.predicted_bytes

    @property
    def drift(self) -> str | None:
        """A sentence on how the prediction was wrong; None if it was right."""
        predicted = human_bytes(self.predicted_bytes)
        if abs(self.engine_bytes / self.predicted_bytes - 1) > MAX_ENGINE_DIFFERENCE:
            return f"the engine took {human_bytes(self.engine_bytes)}, and {predicted} were predicted"
        if self.system_bytes is not None and self.excess_bytes > MARGIN_BYTES:
            return (
                f"the engine's process held {human_bytes(self.system_bytes)}, and {predicted} with a margin of "
                f"{human_bytes(MARGIN_BYTES)} were predicted"
            )
        return None

    def to_json(self) -> dict[str, int | None]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MeasuredLoad:
        """The inverse of `to_json`. Raises ValueError, TypeError or KeyError for other documents."""
        system = value["system_bytes"]
        return cls(
            predicted_bytes=_bytes_of(value["predicted_bytes"]),
            engine_bytes=_bytes_of(value["engine_bytes"]),
            system_bytes=None if system is None else _bytes_of(system),
        )


def margin_bytes(loads: Sequence[MeasuredLoad]) -> int:
    """The margin of plans, in bytes, given the last loads: MARGIN_BYTES, or more if one of them exceeded it."""
    counted = (load.excess_bytes for load in loads if load.excess_bytes <= max(load.predicted_bytes, MAX_MARGIN_BYTES))
    worst = max(counted, default=0)
    return min(max(MARGIN_BYTES, round(worst * _MARGIN_FACTOR) if worst > MARGIN_BYTES else 0), MAX_MARGIN_BYTES)


def _bytes_of(value: object) -> int:
    """Raises TypeError or ValueError for what is not the memory of a load."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not a number of bytes")
    if not 1 <= value <= _MAX_LOAD_BYTES:
        raise ValueError(f"{value} bytes is not the memory of a load")
    return value
