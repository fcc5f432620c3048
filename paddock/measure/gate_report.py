"""The result of the gates: a candidate compared with what is promoted, one row for each gate.

It is stored as a report of the candidate and shown to people. The gates are decided in `paddock.lifecycle.promote`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1
Figure = float | str | bool | None


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate.

    `bound`                   the bound as people read it, such as "at least 0.90 of the promoted one's"
    `candidate`, `promoted`   their figures; None where there is none
    `ratio`, `ci95`           of the candidate's figure to the promoted one's, and its 95 % interval
    `passed`                  None where the gate could not decide
    `reason`                  why it did not pass or could not decide; what was compared, where it passed
    """

    name: str
    bound: str
    candidate: Figure
    promoted: Figure
    ratio: float | None
    ci95: tuple[float, float] | None
    passed: bool | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "bound": self.bound,
            "candidate": self.candidate,
            "promoted": self.promoted,
            "ratio": self.ratio,
            "ci95": list(self.ci95) if self.ci95 else None,
            "passed": self.passed,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Gate:
        ci95 = value["ci95"]
        return cls(**{**value, "ci95": (ci95[0], ci95[1]) if ci95 else None})


@dataclass(frozen=True, slots=True)
class GateLimit:
    """The number that a gate decided by, such as the end of an interval, and the least or the most that it may be.
    Another program can check it again."""

    gate: str
    figure: float
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class GateReport:
    """All gates of one comparison.

    `model`, `promoted` and `reference` name snapshots; the last two are None where nothing is promoted, so that there
    was nothing to compare with. `passed` says whether the candidate may be promoted: no gate failed, and
    those that could not decide do not count against it (`undecided_blocks` false) or there is none. `limits` are the
    numbers of the gates that decided by one.
    """

    model: str
    promoted: str | None
    reference: str | None
    gates: tuple[Gate, ...]
    undecided_blocks: bool
    engine: str
    measured_at: str
    seconds: float
    schema: int = SCHEMA
    limits: tuple[GateLimit, ...] = ()

    @property
    def failed(self) -> tuple[Gate, ...]:
        return tuple(gate for gate in self.gates if gate.passed is False)

    @property
    def undecided(self) -> tuple[Gate, ...]:
        return tuple(gate for gate in self.gates if gate.passed is None)

    @property
    def passed(self) -> bool:
        return not self.failed and not (self.undecided_blocks and self.undecided)

    @property
    def line(self) -> str:
        """The outcome in one line, with the reason of each gate that held the candidate back."""
        if not self.passed:
            held = self.failed or self.undecided
            return f"held back by {', '.join(gate.name for gate in held)}: {'; '.join(gate.reason for gate in held)}"
        undecided = f"; not decided: {', '.join(gate.name for gate in self.undecided)}" if self.undecided else ""
        against = f" against {self.promoted}" if self.promoted else ", nothing is promoted yet"
        return f"passed {sum(gate.passed is True for gate in self.gates)} gates{against}{undecided}"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "model": self.model,
            "promoted": self.promoted,
            "reference": self.reference,
            "passed": self.passed,
            "undecided_blocks": self.undecided_blocks,
            "gates": [gate.to_json() for gate in self.gates],
            "engine": self.engine,
            "measured_at": self.measured_at,
            "seconds": self.seconds,
            "limits": [asdict(limit) for limit in self.limits],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GateReport:
        rest = {name: item for name, item in value.items() if name not in {"passed", "gates", "limits"}}
        limits = tuple(GateLimit(**limit) for limit in value.get("limits", ()))
        return cls(**rest, gates=tuple(Gate.from_json(gate) for gate in value["gates"]), limits=limits)
