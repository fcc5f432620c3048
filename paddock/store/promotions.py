"""The promoted snapshots of a volume: relative symbolic links in the root, each replaced in one step.

    org--name            -> org--name--<variant>                                       the default variant
    org--name--<variant> -> .paddock/snapshots/org--name/<revision>/<variant>          each promoted variant

A change is first written to the model's history; then the variant's link moves, then the default's. From its line on
the change counts: where a process died before the links moved, readers go by the line, and the next writer moves them.
A link's target tells whose it is. What is not the model's own link is never replaced.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from paddock.errors import NoPermission, NotOnVolume, UnsafeName
from paddock.model.names import ModelName, Revision, is_revision
from paddock.model.reference import SnapshotId, Variant, parse_variant
from paddock.store import durable
from paddock.store.history import (
    History,
    Promoted,
    Promotion,
    earlier_of_model,
    earlier_of_variant,
    new_operation,
    whoami,
)
from paddock.store.layout import Layout
from paddock.store.snapshots import Snapshots


@dataclass(frozen=True, slots=True)
class Untold:
    """The changes up to the operation `upto` that S3 lacks: the variants whose promoted revision changed, and
    whether the default did."""

    variants: frozenset[Variant] = frozenset()
    default: bool = False
    upto: str | None = None

    def then(self, change: Promotion) -> Untold:
        variants = self.variants | {change.variant} if change.moves_revision else self.variants
        return Untold(variants, self.default or change.moves_default, change.operation)


class Promotions:
    def __init__(self, layout: Layout, snapshots: Snapshots) -> None:
        self._layout = layout
        self._snapshots = snapshots
        self._label = f"the volume {layout.root}"

    def current(self, model: ModelName) -> Promoted:
        return self._state(model, self._history(model).read())

    def recorded(self, model: ModelName) -> list[Promotion]:
        return self._history(model).read()

    def promote(
        self,
        id: SnapshotId,
        *,
        reason: str,
        default: bool,
        operation: str | None = None,
    ) -> Promotion:
        """Promote a snapshot, and make its variant the default where `default` says so. What is so already is no
        change, and writes nothing."""
        if self._snapshots.read(id) is None:  # before a history is made for it
            raise NotOnVolume(f"{id} is not on {self._label}", cure="pull it first")

        def change(now: Promoted, _: list[Promotion]) -> Promotion:
            moved = id.variant if default else now.default
            return _change(now, id, default=moved, reason=reason, operation=operation)

        return self._carry_out(id.model, change, operation)

    def rollback(
        self, model: ModelName, variant: Variant | None, *, reason: str, operation: str | None = None
    ) -> Promotion:
        """Undo the last change of what the model's name stands for, or that of a variant."""
        if not self.current(model).revisions:  # before a history is made for it
            raise NotOnVolume(f"nothing of {model} is promoted on {self._label}", cure="promote one by its revision")

        def change(now: Promoted, history: list[Promotion]) -> Promotion:
            goal = self._earlier(now, history, variant)
            current = now.of(variant) if variant else now.default_id
            if current is None:
                raise NotOnVolume(
                    f"{_named(model, variant)} is not promoted on {self._label}",
                    cure="promote it by its variant and revision",
                )
            if goal is None:
                raise NotOnVolume(
                    f"{_named(model, variant)} has nothing on {self._label} to go back to from {current.short}",
                    cure="promote one by its variant and revision",
                )
            default = now.default if variant else goal.variant
            line = _change(now, goal, default=default, reason=reason, operation=operation)
            return replace(line, rollback=True, target=variant)

        return self._carry_out(model, change, operation)

    def earlier(self, model: ModelName, variant: Variant | None) -> SnapshotId | None:
        """What a rollback goes back to; None when there is nothing."""
        history = self._history(model).read()
        return self._earlier(self._state(model, history), history, variant)

    def remove(self, ids: Collection[SnapshotId]) -> None:
        """Let none of these snapshots be promoted. A default that stood for one of them stands for nothing then."""
        for id in ids:
            # Also where only the link is left, by a process that died after its line.
            if not (self.current(id.model).holds(id) or self._linked(id.model).holds(id)):
                continue
            with self._writing(id.model) as history:
                now = self._state(id.model, history.read())
                if now.holds(id):
                    default = None if now.default == id.variant else now.default
                    line = Promotion(
                        operation=new_operation(),
                        variant=id.variant,
                        revision=None,
                        previous=id.revision,
                        default=default,
                        previous_default=now.default,
                        at=datetime.now(UTC),
                        reason="removed",
                        by=whoami(),
                    )
                    history.append(line)
                    self._apply(id.model, now.after(line), line)

    def remove_old(self, model: ModelName, directories: Collection[Path]) -> None:
        """Remove the model's link where it shows one of these snapshots of schema 1."""
        old = {directory.relative_to(self._layout.root).as_posix() for directory in directories}
        self._unlink(self._layout.default_link(model), old.__contains__)

    def check_names(self, model: ModelName, variant: Variant, *, default: bool) -> None:
        """Raise NoPermission when something that is not the model's own takes a name that a promotion needs."""
        needed = [(self._layout.variant_link(model, variant), self._is_of_variant(model, variant))]
        if default:
            needed.append((self._layout.default_link(model), self._is_of_default(model)))
        for link, is_ours in needed:
            target = _target(link)
            if target is None or is_ours(target):
                continue
            name = f"{link} is in the way of {model}:{variant}"
            if self._is_anybodys(target):
                raise NoPermission(f"{name}: it shows another model, {target}", cure="remove that model, or do without")
            what = f"a link to {target}" if target else "no link of Paddock's"
            raise NoPermission(f"{name}: it is {what}", cure="look at it and move it away, then promote again")

    def untold(self, model: ModelName) -> Untold:
        """What S3 has not been told of the model."""
        untold = self._progress(model)
        for change in _after(self._history(model).read(), untold.upto):
            untold = untold.then(change)
        return untold

    def unfinished(self, model: ModelName) -> Promotion | None:
        """The last change, where its operation did not come to its end."""
        history = self._history(model).read()
        return history[-1] if _after(history, self._progress(model).upto) else None

    def finish(self, model: ModelName, untold: Untold) -> None:
        """Say that every operation up to `untold.upto` came to its end, and what S3 has still to be told."""
        if untold == self._progress(model):
            return
        path = self._layout.progress(model)
        self._layout.made(path.parent)
        text = json.dumps({"upto": untold.upto, "variants": sorted(untold.variants), "default": untold.default})
        durable.write_atomically(path, text.encode())

    def _carry_out(
        self, model: ModelName, change: Callable[[Promoted, list[Promotion]], Promotion], operation: str | None
    ) -> Promotion:
        with self._writing(model) as history:
            lines = history.read()
            done = next((line for line in lines if operation and line.operation == operation), None)
            if done is not None:
                return done
            now = self._state(model, lines)
            line = change(now, lines)
            if line.revision is None:
                raise AssertionError("a promotion has a revision")
            goal = SnapshotId(model, line.revision, line.variant)
            if self._snapshots.read(goal) is None:
                raise NotOnVolume(f"{goal} is not on {self._label}", cure="pull it first")
            self.check_names(model, line.variant, default=line.default is not None)
            if not line.moves_revision and not line.moves_default:
                return line
            history.append(line)
            self._apply(model, now.after(line), line)
        # `remove` looks at the links again after the snapshot is out of sight, and here the snapshot is looked for
        # again after the links moved: one of the two sees the other, so that no link points at nothing for long.
        if not self._snapshots.is_there(goal):
            self.remove([goal])
            raise NotOnVolume(f"{goal} was removed from {self._label} just now", cure="pull it again")
        return line

    @contextmanager
    def _writing(self, model: ModelName) -> Iterator[History]:
        """Keep other writers out, and move the links that a dead one left behind."""
        history = self._history(model)
        self._layout.made(history.path.parent)
        with history.writing():
            lines = history.read()
            if lines:
                self._apply(model, self._state(model, lines), lines[-1])
            yield history

    def _apply(self, model: ModelName, state: Promoted, line: Promotion) -> None:
        """Move the links that a change is about to where `state` says, the variant's first; those that go, last."""
        promoted = state.of(line.variant)
        if promoted is not None:
            target = self._layout.snapshot(promoted).relative_to(self._layout.root).as_posix()
            link = self._layout.variant_link(model, line.variant)
            self._point(link, target, self._is_of_variant(model, line.variant))
        default = self._layout.default_link(model)
        if state.default is not None:
            self._point(default, f"{model.slug}--{state.default}", self._is_of_default(model))
        else:
            self._unlink(default, lambda target: self._default_in(model, target) is not None)
        if promoted is None:
            self._unlink(self._layout.variant_link(model, line.variant), self._is_of_variant(model, line.variant))

    def _point(self, link: Path, target: str, is_ours: Callable[[str], bool]) -> None:
        there = _target(link)
        if there == target:
            return
        if there is not None and not is_ours(there):  # it took the name that a dead process had checked
            return
        staged = durable.staging_name(self._layout.made(self._layout.private))
        try:
            staged.symlink_to(target)
            staged.replace(link)
        finally:
            staged.unlink(missing_ok=True)
        durable.sync_directory(self._layout.root)

    def _unlink(self, link: Path, is_ours: Callable[[str], bool]) -> None:
        target = _target(link)
        if target and is_ours(target):
            link.unlink(missing_ok=True)
            durable.sync_directory(self._layout.root)

    def _state(self, model: ModelName, history: list[Promotion]) -> Promoted:
        """What the links say, and the last line where a process died before they moved."""
        linked = self._linked(model)
        last = history[-1] if history else None
        if last is None:
            return linked
        if last.revision is not None and not self._snapshots.is_there(SnapshotId(model, last.revision, last.variant)):
            return linked
        return linked.after(last)

    def _linked(self, model: ModelName) -> Promoted:
        revisions = {}
        prefix = f"{model.slug}--"
        for name in durable.names(self._layout.root):
            try:
                variant = parse_variant(name.removeprefix(prefix)) if name.startswith(prefix) else None
            except UnsafeName:
                continue
            target = _target(self._layout.root / name) if variant else None
            if variant and target and self._is_of_variant(model, variant)(target):
                revisions[variant] = self._revision_in(target)
        default = self._default_in(model, _target(self._layout.default_link(model)) or "")
        return Promoted(model, default if default in revisions else None, revisions)

    def _earlier(self, now: Promoted, history: list[Promotion], variant: Variant | None) -> SnapshotId | None:
        if variant is not None:
            revisions = earlier_of_variant(history, variant)
            goals = [SnapshotId(now.model, revision, variant) for revision in revisions]
            current = now.of(variant)
        else:
            # A variant that is promoted still stays at its own revision.
            goals = [
                (now.of(one.variant) or one) if one.variant != now.default else one
                for one in earlier_of_model(history, now.model)
            ]
            current = now.default_id
        return next((one for one in goals if one != current and self._snapshots.is_there(one)), None)

    def _is_of_variant(self, model: ModelName, variant: Variant) -> Callable[[str], bool]:
        home = self._home(model)

        def is_ours(target: str) -> bool:
            above, _, name = target.rpartition("/")
            there, _, revision = above.rpartition("/")
            return there == home and name == variant and is_revision(revision)

        return is_ours

    def _is_of_default(self, model: ModelName) -> Callable[[str], bool]:
        """The link to one of the model's variants, or that of an earlier Paddock to one of its revisions."""
        home = self._home(model)

        def is_ours(target: str) -> bool:
            there, _, revision = target.rpartition("/")
            return self._default_in(model, target) is not None or (there == home and is_revision(revision))

        return is_ours

    def _is_anybodys(self, target: str) -> bool:
        """Whether a link to there is one that Paddock made."""
        home = self._layout.snapshots.relative_to(self._layout.root).as_posix()
        return target.startswith(f"{home}/") or ("/" not in target and "--" in target)

    def _default_in(self, model: ModelName, target: str) -> Variant | None:
        prefix = f"{model.slug}--"
        try:
            return parse_variant(target.removeprefix(prefix)) if target.startswith(prefix) else None
        except UnsafeName:
            return None

    def _revision_in(self, target: str) -> Revision:
        return Revision(target.rpartition("/")[0].rpartition("/")[2])

    def _home(self, model: ModelName) -> str:
        return (self._layout.snapshots / model.slug).relative_to(self._layout.root).as_posix()

    def _history(self, model: ModelName) -> History:
        return History(self._layout.history(model))

    def _progress(self, model: ModelName) -> Untold:
        """What `finish` wrote last; nothing where it is not there or damaged."""
        try:
            value = json.loads(self._layout.progress(model).read_bytes())
            variants = frozenset(parse_variant(str(one)) for one in value["variants"])
            return Untold(variants, bool(value["default"]), value["upto"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # UnsafeName is a ValueError
            return Untold()


def _change(
    now: Promoted,
    goal: SnapshotId,
    *,
    default: Variant | None,
    reason: str,
    operation: str | None,
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


def _after(history: list[Promotion], ended: str | None) -> list[Promotion]:
    """The lines behind that of an operation; all where it is not among them."""
    number = next((n for n, line in enumerate(history) if line.operation == ended), -1)
    return history[number + 1 :]


def _named(model: ModelName, variant: Variant | None) -> str:
    return f"{model}:{variant}" if variant else str(model)


def _target(link: Path) -> str | None:
    """Where a link points; "" for what is no link, None where nothing is."""
    try:
        return str(link.readlink())
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return None
        if error.errno == errno.EINVAL:
            return ""
        raise
