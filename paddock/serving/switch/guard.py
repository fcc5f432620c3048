"""Observations of the revisions of a server, and the protocol of the guard that judges them and rolls back.

The guard is outside the server: it knows the statistics, the bounds and the history (`paddock.lifecycle.watch`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from paddock.model.reference import SnapshotId
from paddock.serving.observations import LoadSamples, ObservedAnswer


@dataclass(frozen=True, slots=True)
class Observed:
    """The observations of a revision. `answers` are those that count for errors. Those that ran wholly between
    `undisturbed_from` and `undisturbed_to` count for speed too: no other engine was loaded then. `restarts` is how
    often its engine was restarted: what an engine before the last of them cut off was one fault. In `served_s` seconds
    it had `strikes`. `on_gpu`: a GPU computes."""

    id: SnapshotId
    answers: tuple[ObservedAnswer, ...]
    restarts: int = 0
    strikes: int = 0
    served_s: float = 0.0
    undisturbed_from: float = 0.0
    undisturbed_to: float = float("inf")
    load: LoadSamples = field(default_factory=LoadSamples)
    cores: int = 1
    on_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """The revision compared with the one before. `worse` is why it is worse, a sentence part; empty where it is not, as
    far as can be said. `summary` has the figures. `ratios` are those of its figures to the other's, by their names."""

    worse: str
    summary: str
    ratios: dict[str, float] = field(default_factory=dict)


class RollbackOutcome(StrEnum):
    """The outcome of a rollback: `OVERTAKEN`: another change was made since the promotion, and nothing was changed;
    `REFUSED`: the volume cannot be written, or the snapshot before cannot be promoted."""

    ROLLED_BACK = "rolled-back"
    OVERTAKEN = "overtaken"
    REFUSED = "refused"


class WatchedPromotion(Protocol):
    """A promotion that a server has followed. Its methods may block, and are called in threads.

    `compare` judges the promoted revision (`after`) by the one before; `roll_back` undoes it, once however many
    servers call it, and raises nothing.
    """

    def compare(self, before: Observed, after: Observed) -> Judgement: ...

    def roll_back(self, reason: str) -> tuple[RollbackOutcome, str]:
        """Returns the outcome, and why it is not a rollback."""
        ...


class PromotionGuard(Protocol):
    """Says what is watched after a switch, and for how many seconds (`watch_s`)."""

    @property
    def watch_s(self) -> float: ...

    def promotion(self, id: SnapshotId, before: SnapshotId) -> WatchedPromotion | None:
        """The promotion by which the name that is followed went from `before` to `id`, if that is its last change;
        None for a rollback. May block. Raises PaddockError."""
        ...
