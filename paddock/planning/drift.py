"""What loads really took, beside what was predicted: the check on every plan.

After each real load three figures are kept, by architecture, engine and device:

    predicted   what the engine said of the header alone, with the same parameters
    engine      what it logged when it loaded the model
    system      the most memory that its process held, which counts its code, its threads and the mapped file too

The engine's two figures should be equal, and the system's no more than the margin above them. Where they are not, the
prediction *drifts*: it is said, and the margin of later plans for the same architecture, engine and device covers the
worst of the last loads, and a quarter more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from paddock.engine.oracle import MARGIN_BYTES
from paddock.model.units import human_bytes

KEPT_LOADS: Final = 20
ENGINE_BOUND: Final = 0.02
"""The engine's two figures differ by less than this share: it logs hundredths of a MiB."""
_MORE: Final = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLoad:
    """One real load, in bytes. `system_bytes` is None where the system's figure does not hold all of the model, as on a
    GPU."""

    predicted_bytes: int
    engine_bytes: int
    system_bytes: int | None

    @property
    def excess_bytes(self) -> int:
        """What the load took beyond the prediction, at least 0."""
        return max(self.engine_bytes, self.system_bytes or 0, self.predicted_bytes) - self.predicted_bytes

    @property
    def drift(self) -> str | None:
        """What is wrong with the prediction, in words; None where it held."""
        predicted = human_bytes(self.predicted_bytes)
        if abs(self.engine_bytes / self.predicted_bytes - 1) > ENGINE_BOUND:
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
        """Read what `to_json` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        system = value["system_bytes"]
        return cls(
            predicted_bytes=max(int(value["predicted_bytes"]), 1),
            engine_bytes=int(value["engine_bytes"]),
            system_bytes=None if system is None else int(system),
        )


def margin_bytes(loads: Sequence[MeasuredLoad]) -> int:
    """The margin that plans keep, by what the last loads took."""
    worst = max((load.excess_bytes for load in loads), default=0)
    return max(MARGIN_BYTES, round(worst * _MORE) if worst > MARGIN_BYTES else 0)
