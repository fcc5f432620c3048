"""Promote snapshots, roll back, and keep the history of both.

A change is first written to the model's history (`paddock.store.history`), then its links move (`PromotedLinks`). It
counts from its line in the history on: where a process died before the links moved, readers go by the line, and the
next writer moves them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from paddock.errors import NotOnVolume, PaddockError, PromotionConflict
from paddock.model.names import ModelName, Revision
from paddock.model.reference import SnapshotId, Variant
from paddock.store.durable import disk_errors
from paddock.store.history import (
    History,
    Promoted,
    Promotion,
    earlier_of_model,
    earlier_of_variant,
    last_change,
    new_operation,
    whoami,
)
from paddock.store.volume.layout import Layout
from paddock.store.volume.links import PromotedLinks
from paddock.store.volume.snapshots import Snapshots

log = logging.getLogger(__name__)
PromotedHistory = tuple[Promoted, list[Promotion]]
"""The promoted state of a model, and all its changes, oldest first."""


class Promotions:
    def __init__(self, layout: Layout, snapshots: Snapshots, links: PromotedLinks) -> None:
        self.root = layout.root
        self._layout = layout
        self._snapshots = snapshots
        self._links = links

    @disk_errors
    def current(self, model: ModelName) -> Promoted:
        """The promoted state of a model."""
        return self._state(model, self._history(model).read())

    @disk_errors
    def of_all(self, models: Iterable[ModelName]) -> dict[ModelName, PromotedHistory]:
        """The promoted state of many models, and all changes of each, oldest first. A model is found ignoring case, and
        its state has its name on the volume."""
        states = {}
        for model, state in self.of_each(models).items():
            if isinstance(state, PaddockError):
                raise state
            states[model] = state
        return states

    @disk_errors
    def of_each(self, models: Iterable[ModelName]) -> dict[ModelName, PromotedHistory | PaddockError]:
        """As `of_all`, with the error of each model whose history cannot be read."""
        linked = self._links.read_all()
        names = {str(model).casefold(): model for model in linked}
        states: dict[ModelName, PromotedHistory | PaddockError] = {}
        for model in dict.fromkeys(models):
            name = model if model in linked else names.get(str(model).casefold(), model)
            try:
                history = self.history(name)
            except PaddockError as error:
                states[model] = error
            else:
                states[model] = self._state(name, history, linked.get(name) or Promoted(name)), history
        return states

    def shown(self, models: Iterable[ModelName]) -> dict[ModelName, Promoted]:
        """The promoted state of each of the models, for a list of them: where a history cannot be read, what the links
        say, with a warning."""
        states = {}
        for model in models:
            try:
                states[model] = self.current(model)
            except PaddockError as error:
                log.warning("the history of %s is left out: %s", model, error)
                states[model] = self._links.read(model)
        return states

    @disk_errors
    def fingerprint(self, model: ModelName) -> tuple[int, ...]:
        """A value that differs after each change of what is promoted; it costs two calls of the system."""
        root, path = self._layout.root.stat(), self._layout.history(model)
        try:
            history = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return (root.st_mtime_ns,)
        return root.st_mtime_ns, history.st_ino, history.st_size, history.st_mtime_ns

    @disk_errors
    def history(self, model: ModelName) -> list[Promotion]:
        """All changes of a model, oldest first."""
        return self._history(model).read()

    @disk_errors
    def promote(
        self,
        id: SnapshotId,
        *,
        reason: str,
        default: bool,
        operation: str | None = None,
        expected: Promoted | None = None,
        forced_past: Sequence[str] | None = None,
    ) -> Promotion:
        """As `Volume.promote`.

        `expected` is the promoted state that the decision was made for: raises PromotionConflict where the promotion
        would replace another snapshot than in that state. `forced_past` are the gates that held the snapshot back, for
        a promotion that is forced; None for another one.
        """
        if self._snapshots.read(id) is None:  # before a history is made for it
            raise NotOnVolume(f"{id} is not on {self._layout.label}", cure="pull it first")

        def change(now: Promoted, _: list[Promotion]) -> Promotion:
            if expected is not None:
                _require_expected(now.replaced_by(id, default=default), expected.replaced_by(id, default=default), id)
            new_default = id.variant if default else now.default
            promotion = _change(now, id, default=new_default, reason=reason, operation=operation)
            if forced_past is None:
                return promotion
            return replace(promotion, forced=True, failed_gates=tuple(forced_past))

        return self._carry_out(id.model, change, operation)

    @disk_errors
    def rollback(
        self,
        model: ModelName,
        variant: Variant | None,
        *,
        reason: str,
        to: Revision | None = None,
        operation: str | None = None,
        undoes: str | None = None,
    ) -> Promotion:
        """As `Volume.rollback`."""
        label = self._layout.label
        if not self.current(model).revisions:  # before a history is made for it
            raise NotOnVolume(f"nothing of {model} is promoted on {label}", cure="promote one by its revision")

        def change(now: Promoted, history: list[Promotion]) -> Promotion:
            name = f"{model}:{variant}" if variant else str(model)
            goals = self._rollback_targets(now, history, variant)
            goal = next((goal for goal in goals if to in {None, goal.revision}), None)
            current = now.of(variant) if variant else now.default_id
            last = last_change(history, model, variant)
            if undoes is not None and (last is None or last.operation != undoes):
                promoted = current.short if current else "nothing"
                raise PromotionConflict(
                    f"the promotion is not the last change of {name} any more: {promoted} is promoted now",
                    cure=f"see `paddock history {model}`",
                )
            if current is None:
                raise NotOnVolume(f"{name} is not promoted on {label}", cure="promote it by its variant and revision")
            if goal is None and to is not None:
                earlier = ", ".join(goal.short for goal in goals) or "nothing"
                raise NotOnVolume(
                    f"{name} cannot go back to {to[:8]} on {label}: before {current.short}, {earlier} was promoted",
                    cure="promote it by its variant and revision, if it is on the volume",
                )
            if goal is None:
                raise NotOnVolume(
                    f"{name} has nothing on {label} to go back to from {current.short}",
                    cure="promote one by its variant and revision",
                )
            default = now.default if variant else goal.variant
            promotion = _change(now, goal, default=default, reason=reason, operation=operation)
            return replace(promotion, rollback=True, target=variant)

        return self._carry_out(model, change, operation)

    @disk_errors
    def rollback_target(self, model: ModelName, variant: Variant | None = None) -> SnapshotId | None:
        """The snapshot that a rollback of the model, or of a variant, would promote; None when there is none."""
        history = self._history(model).read()
        return next(iter(self._rollback_targets(self._state(model, history), history, variant)), None)

    @disk_errors
    def rollback_targets(self, model: ModelName) -> set[SnapshotId]:
        """The snapshots that a rollback of the model, or of one of its promoted variants, would promote."""
        history = self._history(model).read()
        return self.rollback_targets_in(self._state(model, history), history)

    @disk_errors
    def rollback_targets_in(self, state: Promoted, history: list[Promotion]) -> set[SnapshotId]:
        """As `rollback_targets`, for a state and history that were read (`of_all`)."""
        goals = (self._rollback_targets(state, history, variant) for variant in (None, *state.revisions))
        return {found[0] for found in goals if found}

    @contextmanager
    def unchanged(self, model: ModelName) -> Iterator[None]:
        """Let no other process change the promotions of a model until the block ends, where flock works."""
        history = self._history(model)
        if not history.path.exists():  # nothing was ever promoted: no history is made for it
            yield
            return
        with history.writing():
            yield

    @disk_errors
    def remove(self, ids: Collection[SnapshotId]) -> None:
        """Withdraw the promotion of each of these snapshots. A model whose default variant is among them has no default
        then."""
        for id in ids:
            # A link may be left without a line, by a process that died in between.
            if not (self.current(id.model).holds(id) or self._links.read(id.model).holds(id)):
                continue
            with self._writing(id.model) as history:
                now = self._state(id.model, history.read())
                if now.holds(id):
                    removal = Promotion(
                        operation=new_operation(),
                        variant=id.variant,
                        revision=None,
                        previous=id.revision,
                        default=None if now.default == id.variant else now.default,
                        previous_default=now.default,
                        at=datetime.now(UTC),
                        reason="removed",
                        by=whoami(),
                    )
                    history.append(removal)
                    self._links.apply(now.after(removal), id.variant)

    def _carry_out(
        self, model: ModelName, change: Callable[[Promoted, list[Promotion]], Promotion], operation: str | None
    ) -> Promotion:
        """Write a change to the history and move its links. Returns the earlier change where `operation` was carried
        out before. A change that moves nothing is not written."""
        with self._writing(model) as history:
            changes = history.read()
            done = next((line for line in changes if operation and line.operation == operation), None)
            if done is not None:
                return done
            now = self._state(model, changes)
            promotion = change(now, changes)
            if promotion.revision is None:
                raise AssertionError("a promotion has a revision")
            goal = SnapshotId(model, promotion.revision, promotion.variant)
            self._snapshots.require_undamaged(goal)
            self._links.check_available(model, promotion.variant, default=promotion.default is not None)
            if not promotion.moves_revision and not promotion.moves_default:
                return promotion
            history.append(promotion)
            self._links.apply(now.after(promotion), promotion.variant)
        # `Removal` looks at the links again after it hid the snapshot, and here the snapshot is looked up again after
        # the links moved: one of the two sees the other, so that no link points at nothing for long.
        if not self._snapshots.exists(goal):
            self.remove([goal])
            raise NotOnVolume(f"{goal} was removed from {self._layout.label} just now", cure="pull it again")
        return promotion

    @contextmanager
    def _writing(self, model: ModelName) -> Iterator[History]:
        """Lock the history against other writers, and move the links that a dead writer did not."""
        history = self._history(model)
        self._layout.make_directory(history.path.parent)
        with history.writing():
            changes = history.read()
            if changes:
                self._links.apply(self._state(model, changes), changes[-1].variant)
            yield history

    def _state(self, model: ModelName, history: list[Promotion], linked: Promoted | None = None) -> Promoted:
        """The state that the links show, with the last change of the history applied: its writer may have died before
        the links moved."""
        linked = linked or self._links.read(model)
        last = history[-1] if history else None
        if last is None or linked.after(last) == linked:
            return linked
        if last.revision is not None and not self._snapshots.exists(SnapshotId(model, last.revision, last.variant)):
            return linked
        return linked.after(last)

    def _rollback_targets(self, now: Promoted, history: list[Promotion], variant: Variant | None) -> list[SnapshotId]:
        """The snapshots that a rollback may promote, the latest first."""
        if variant is not None:
            revisions = earlier_of_variant(history, variant)
            goals = [SnapshotId(now.model, revision, variant) for revision in revisions]
            current = now.of(variant)
        else:
            # Going back to another variant keeps that variant's promoted revision.
            goals = [
                (now.of(id.variant) or id) if id.variant != now.default else id
                for id in earlier_of_model(history, now.model)
            ]
            current = now.default_id
        return [goal for goal in goals if goal != current and self._snapshots.exists(goal)]

    def _history(self, model: ModelName) -> History:
        return History(self._layout.history(model), self.root)


def _require_expected(replaced: SnapshotId | None, expected: SnapshotId | None, id: SnapshotId) -> None:
    """Raise PromotionConflict where a promotion of `id` would replace another snapshot than expected."""
    if replaced is not None and replaced != expected:
        before = expected.short if expected else "nothing"
        raise PromotionConflict(
            f"{id.short} was to replace {before}, and {replaced.short} was promoted meanwhile",
            cure=f"run `paddock promote {id}`: it compares it with what is promoted now",
        )


def _change(
    now: Promoted, goal: SnapshotId, *, default: Variant | None, reason: str, operation: str | None
) -> Promotion:
    return Promotion(
        operation=operation or new_operation(),
        variant=goal.variant,
        revision=goal.revision,
        previous=now.revisions.get(goal.variant),
        default=default,
        previous_default=now.default,
        at=datetime.now(UTC),
        reason=reason,
        by=whoami(),
    )
