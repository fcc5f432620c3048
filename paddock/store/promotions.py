"""What is promoted on a volume: for each model a relative symbolic link in the root, replaced in one step.

The link is the truth, and the history says how it came about. A link that is not ours, or anything else under the
model's name, is never replaced.
"""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from pathlib import Path

from paddock.errors import NoPermission, NotOnVolume
from paddock.model.names import ModelName, Revision, is_revision
from paddock.store import durable
from paddock.store.history import History, Promotion, before, whoami
from paddock.store.layout import Layout
from paddock.store.snapshots import Snapshots

_UNRECORDED = "(its line was not written: the process ended first)"


class Promotions:
    def __init__(self, layout: Layout, snapshots: Snapshots) -> None:
        self._layout = layout
        self._snapshots = snapshots
        self._label = f"the volume {layout.root}"

    def current(self, model: ModelName) -> Revision | None:
        """What the link says, when it is one of ours."""
        try:
            return self._revision_in(model, str(self._layout.pointer(model).readlink()))
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EINVAL}:  # absent, or no link
                return None
            raise

    def recorded(self, model: ModelName) -> list[Promotion]:
        recorded = self._history(model).read()
        unrecorded = self._unrecorded(model, recorded)
        return recorded if unrecorded is None else [*recorded, unrecorded]

    def promote(self, model: ModelName, revision: Revision, *, reason: str, rollback: bool = False) -> Revision | None:
        if not self._snapshots.is_there(model, revision):
            raise NotOnVolume(f"{model}@{revision} is not on {self._label}", cure="pull it first")
        self._check_pointer_is_ours(model)
        history = self._history(model)
        self._layout.made(history.path.parent)
        with history.writing():
            previous = self.current(model)
            recorded = history.read()
            unrecorded = self._unrecorded(model, recorded)
            if unrecorded is not None:
                history.append(unrecorded)
            if previous != revision:
                self.point(model, revision)
                # `remove` looks at the pointer again after the snapshot is out of sight, and here the snapshot is
                # looked for again after the pointer moved: one of the two sees the other, so that it never
                # points at nothing for long.
                if not self._snapshots.is_there(model, revision):
                    self.unpoint(model, [revision])
                    raise NotOnVolume(
                        f"{model}@{revision} was removed from {self._label} just now", cure="pull it again"
                    )
                history.append(Promotion(revision, previous, datetime.now(UTC), reason, whoami(), rollback))
            return previous

    def rollback(self, model: ModelName, *, reason: str) -> tuple[Revision, Revision]:
        current = self.current(model)
        if current is None:
            raise NotOnVolume(f"no revision of {model} is promoted on {self._label}", cure="promote one")
        revision = self.before(model)
        if revision is not None:
            self.promote(model, revision, reason=reason, rollback=True)
            return revision, current
        raise NotOnVolume(
            f"{model} has no earlier revision on {self._label} to go back to from {current[:8]}",
            cure="promote one by its revision",
        )

    def before(self, model: ModelName) -> Revision | None:
        """What a rollback goes back to; None when there is nothing."""
        current = self.current(model)
        trail = before(self.recorded(model)) if current is not None else []
        return next((one for one in trail if one != current and self._snapshots.is_there(model, one)), None)

    def point(self, model: ModelName, revision: Revision) -> None:
        pointer = self._check_pointer_is_ours(model)
        staged = durable.staging_name(self._layout.made(self._layout.private))
        try:
            staged.symlink_to(f"{self._target(model)}/{revision}")
            staged.replace(pointer)
        finally:
            staged.unlink(missing_ok=True)
        durable.sync_directory(self._layout.root)

    def unpoint(self, model: ModelName, revisions: list[Revision]) -> Revision | None:
        """Remove the pointer when it shows one of these; which one it was."""
        current = self.current(model)
        if current not in revisions:
            return None
        self._layout.pointer(model).unlink(missing_ok=True)
        durable.sync_directory(self._layout.root)
        return current

    def _revision_in(self, model: ModelName, target: str) -> Revision | None:
        home, _, revision = target.rpartition("/")
        return Revision(revision) if home == self._target(model) and is_revision(revision) else None

    def _target(self, model: ModelName) -> str:
        return (self._layout.snapshots / model.slug).relative_to(self._layout.root).as_posix()

    def _check_pointer_is_ours(self, model: ModelName) -> Path:
        pointer = self._layout.pointer(model)
        try:
            target = str(pointer.readlink())
        except FileNotFoundError:
            return pointer
        except OSError:
            what = "no link of Paddock's"
        else:
            if self._revision_in(model, target) is not None:
                return pointer
            what = f"a link to {target}"
        raise NoPermission(
            f"{pointer} is in the way of the promoted pointer of {model}: it is {what}",
            cure="look at it and move it away, then promote again",
        )

    def _history(self, model: ModelName) -> History:
        return History(self._layout.history(model))

    def _unrecorded(self, model: ModelName, recorded: list[Promotion]) -> Promotion | None:
        """The line that is missing when a process died between the pointer and the history."""
        current = self.current(model)
        last = recorded[-1].revision if recorded else None
        if current is None or current == last:
            return None
        at = datetime.fromtimestamp(self._layout.pointer(model).lstat().st_mtime, UTC)
        return Promotion(current, last, at, _UNRECORDED, None)
