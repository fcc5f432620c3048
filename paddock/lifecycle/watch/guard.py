"""Find the promotion that a server has followed in the model's history, and roll it back.

A rollback by a server is one of the history: all servers and the remote store follow it, and its reason says what was
found. It is made only where the promotion is still the last change of what the name stands for, and once however many
servers find the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from paddock.errors import PaddockError, PromotionConflict
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.promote.bounds import BOUNDS, Bounds, bounds_with
from paddock.lifecycle.promote.gate_rules import gate_rules
from paddock.lifecycle.promote.promote import roll_back
from paddock.lifecycle.steps import PlainRunner
from paddock.lifecycle.watch.judge import PromotionJudge
from paddock.model.reference import Reference, SnapshotId
from paddock.serving.switch.guard import Judgement, Observed, PromotionGuard, RollbackOutcome, WatchedPromotion
from paddock.store.history import Promotion, last_change

_LOG = logging.getLogger(__name__)
ROLLED_BACK_BY_SERVER = "rolled back by its server"
"""The beginning of the reason of such a rollback."""


class HistoryGuard(PromotionGuard):
    """Guards the promotions of the name that a server follows: of a variant if `wanted` names one, else of the model's
    default. `on_rollback` is called with the change of each rollback, in the thread that made it."""

    def __init__(
        self, clients: Clients, wanted: Reference, *, on_rollback: Callable[[Promotion], None] = lambda _: None
    ) -> None:
        self._clients = clients
        self._of_variant = wanted.variant is not None
        self._on_rollback = on_rollback

    @property
    def watch_s(self) -> float:
        return self._clients.settings.watch_s

    def promotion(self, id: SnapshotId, before: SnapshotId) -> WatchedPromotion | None:
        volume, variant = self._clients.volume, id.variant if self._of_variant else None
        promoted = volume.promoted(id.model)
        change = last_change(volume.history(id.model), id.model, variant)
        if change is None or change.rollback or id != (promoted.of(variant) if variant else promoted.default_id):
            return None
        name = Reference(id.model, variant, before.revision)
        return HistoryPromotion(self._clients, change, name, self._bounds(id, before, change), self._on_rollback)

    def _bounds(self, id: SnapshotId, before: SnapshotId, change: Promotion) -> Bounds | None:
        """The bounds of the speed; None where a person chose it: by a forced promotion, or another variant."""
        if change.forced or id.variant != before.variant:
            _LOG.info("the speed of %s does not count: %s", id, "forced" if change.forced else "another variant")
            return None
        try:
            return bounds_with(gate_rules(self._clients, id).bounds)
        except PaddockError as error:
            _LOG.warning("the speed of %s is held against the default bounds: %s", id, error.message)
            return BOUNDS


class HistoryPromotion(WatchedPromotion):
    """The promotion `change`. `before` names the snapshot that a rollback goes back to."""

    def __init__(
        self,
        clients: Clients,
        change: Promotion,
        before: Reference,
        bounds: Bounds | None,
        on_rollback: Callable[[Promotion], None] = lambda _: None,
    ) -> None:
        self.bounds = bounds
        self._on_rollback = on_rollback
        self._clients = clients
        self._change = change
        self._before = before
        self._judge = PromotionJudge(bounds)

    def compare(self, before: Observed, after: Observed) -> Judgement:
        return self._judge.look(before, after)

    def roll_back(self, reason: str) -> tuple[RollbackOutcome, str]:
        operation = f"{self._change.operation}-undone"
        try:
            change = PlainRunner(self._clients, retry=True).run(
                roll_back,
                self._before,
                f"{ROLLED_BACK_BY_SERVER}: {reason}",
                operation=operation,
                undoes=self._change.operation,
            )
        except PromotionConflict as error:
            return RollbackOutcome.OVERTAKEN, error.message
        except PaddockError as error:
            done = self._done(operation)
            if done is None:
                return RollbackOutcome.REFUSED, error.message
            _LOG.warning("%s", error)
            self._on_rollback(done)
            return RollbackOutcome.ROLLED_BACK, error.message
        self._on_rollback(change)
        return RollbackOutcome.ROLLED_BACK, ""

    def _done(self, operation: str) -> Promotion | None:
        """The rollback, if the history has it: then the remote store is what failed."""
        try:
            history = self._clients.volume.history(self._before.model)
        except PaddockError:
            return None
        return next((change for change in history if change.operation == operation), None)
