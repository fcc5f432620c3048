"""The outcome of a refresh for an entry of the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from paddock.gguf.difference import HeaderDifference
from paddock.lifecycle.upkeep.refresh.plan import Action, PlannedEntry
from paddock.model.names import Revision
from paddock.model.reference import Variant


class RefreshOutcome(StrEnum):
    """How the refresh of an entry ended.

    held back   the gates or the checks do not let the new revision through
    measured    nothing changed on the Hub, and what is promoted was measured anew, since the engine is another one
    blocked     it cannot be done now, and the next refresh tries it again
    failed      an error that is none of the model's
    """

    UNCHANGED = "unchanged"
    RETAGGED = "retagged"
    PROMOTED = "promoted"
    HELD_BACK = "held back"
    WAITING = "waiting for approval"
    MEASURED = "measured"
    WITHDRAWN = "withdrawn"
    BLOCKED = "blocked"
    FAILED = "failed"


_FAILURES = frozenset({RefreshOutcome.FAILED, RefreshOutcome.BLOCKED, RefreshOutcome.WITHDRAWN})


@dataclass(frozen=True, slots=True)
class EntryOutcome:
    """The outcome of an entry: the actions taken, and how they ended.

    `change` is what the plan found, and `reason` why it ended so. `bytes` came over the network; None where an error
    left that unknown. `worse` are the figures that are worse with the installed engine than before. `is_served`: a
    snapshot of the variant is promoted.
    """

    model: str
    variant: Variant | None
    revision: Revision | None
    channel: str
    target: str
    action: Action
    outcome: RefreshOutcome
    change: str
    reason: str
    bytes: int | None = 0
    seconds: float = 0.0
    required: bool = False
    difference: HeaderDifference | None = None
    worse: tuple[str, ...] = ()
    is_served: bool = True

    @classmethod
    def of(
        cls,
        planned: PlannedEntry,
        outcome: RefreshOutcome,
        reason: str = "",
        *,
        variant: Variant | None = None,
        bytes: int | None = 0,  # noqa: A002 - the name of the field
        seconds: float = 0.0,
        worse: tuple[str, ...] = (),
        is_served: bool = True,
    ) -> EntryOutcome:
        """The outcome of a planned entry. `reason` is by default that of the plan, and `variant` the planned one."""
        return cls(
            model=str(planned.model),
            variant=variant or planned.variant or planned.entry.wanted_variant,
            revision=planned.revision,
            channel=planned.entry.channel,
            target=planned.entry.target,
            action=planned.action,
            outcome=outcome,
            change=planned.reason,
            reason=reason or planned.reason,
            bytes=bytes,
            seconds=seconds,
            required=planned.entry.required,
            difference=planned.difference,
            worse=worse,
            is_served=is_served,
        )

    @property
    def name(self) -> str:
        """`org/name:V`, for people."""
        return f"{self.model}:{self.variant or 'auto'}"

    @property
    def line(self) -> str:
        at = f"@{self.revision[:8]}" if self.revision else ""
        return f"{self.name}{at} is {self.outcome.value}: {self.reason}"

    @property
    def has_failed(self) -> bool:
        """Whether the entry is not as the catalog wants it. A revision that is held back fails an entry of which
        nothing else is served."""
        return self.outcome in _FAILURES or (self.outcome is RefreshOutcome.HELD_BACK and not self.is_served)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "variant": self.variant,
            "channel": self.channel,
            "target": self.target,
            "revision": self.revision,
            "action": self.action.value,
            "outcome": self.outcome.value,
            "change": self.change,
            "reason": self.reason,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "required": self.required,
            "difference": list(self.difference.lines()) if self.difference else [],
            "worse": list(self.worse),
        }
