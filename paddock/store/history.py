"""Promotions of a model: the promoted state, a change of it, and the history file, to which changes are only appended.

The history has one JSON object a line. A line is written and fsynced before a link moves. The change counts from then
on, and the next writer moves the links that a dead process did not (`paddock.store.volume.promotions`). Each line has
the id of its operation, and no operation is carried out twice. A torn line, and lines of an older format, are ignored.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path

from paddock.model.names import ModelName, Revision, parse_revision
from paddock.model.reference import SnapshotId, Variant, parse_variant
from paddock.store.durable import sync_directory, write_all
from paddock.untrusted.fields import text_field, time_field
from paddock.untrusted.files import open_regular_to_append, read_regular
from paddock.untrusted.json_text import parse_json, replace_unsafe

_LOCK_WAIT_S = 5.0
_MAX_BYTES = 16 * 1024 * 1024
_MAX_LINES = 5000
_BEGIN = b'{"operation"'
_MAX_LINE_BYTES = 1024 * 1024  # a reason as long as an argument of a command may be
_UNDER_UMASK = 0o666  # another user of the volume appends to it too


@dataclass(frozen=True, slots=True)
class Promoted:
    """The promoted state of a model: the promoted revision of each variant, and the default variant."""

    model: ModelName
    default: Variant | None = None
    revisions: Mapping[Variant, Revision] = field(default_factory=dict)

    @property
    def default_id(self) -> SnapshotId | None:
        return self.of(self.default) if self.default is not None else None

    @property
    def ids(self) -> list[SnapshotId]:
        return [SnapshotId(self.model, revision, variant) for variant, revision in sorted(self.revisions.items())]

    def of(self, variant: Variant) -> SnapshotId | None:
        """The promoted snapshot of a variant."""
        revision = self.revisions.get(variant)
        return SnapshotId(self.model, revision, variant) if revision is not None else None

    def holds(self, id: SnapshotId) -> bool:
        return id.model == self.model and self.revisions.get(id.variant) == id.revision

    def replaced_by(self, id: SnapshotId, *, default: bool = True) -> SnapshotId | None:
        """The snapshot that a promotion of `id` replaces: the promoted one of its variant, else that of the default,
        which `default` says is moved. None: it replaces nothing, or is promoted already."""
        replaced = self.of(id.variant) or (self.default_id if default else None)
        return None if replaced == id else replaced

    def after(self, change: Promotion) -> Promoted:
        """The state after a change."""
        revisions = {variant: revision for variant, revision in self.revisions.items() if variant != change.variant}
        if change.revision is not None:
            revisions[change.variant] = change.revision
        default = change.default if change.default in revisions else None
        return Promoted(self.model, default, revisions)


@dataclass(frozen=True, slots=True)
class Promotion:
    """A change of what is promoted: of `variant` from `previous` to `revision`, and of the default variant from
    `previous_default` to `default`; None stands for no revision, or no default. `by` is `user@host`. `rollback` is True
    for a rollback: of the variant `target`, or of the model where `target` is None. `forced` is True for a promotion
    that did not pass the gates; `failed_gates` are those that had held it back, where they were known."""

    operation: str
    variant: Variant
    revision: Revision | None
    previous: Revision | None
    default: Variant | None
    previous_default: Variant | None
    at: datetime
    reason: str
    by: str | None
    rollback: bool = False
    target: Variant | None = None
    forced: bool = False
    failed_gates: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """The reason, and that it was forced."""
        if not self.forced:
            return self.reason
        return f"{self.reason} (forced, {_past(self.failed_gates)})"

    @property
    def moves_revision(self) -> bool:
        return self.revision != self.previous

    @property
    def moves_default(self) -> bool:
        return self.default != self.previous_default

    def to_json(self) -> dict[str, object]:
        return {
            "operation": self.operation,
            "variant": self.variant,
            "revision": self.revision,
            "previous": self.previous,
            "default": self.default,
            "previous_default": self.previous_default,
            "at": self.at.isoformat(),
            "reason": self.reason,
            "by": self.by,
            "rollback": self.rollback,
            "target": self.target,
            "forced": self.forced,
            "failed_gates": list(self.failed_gates),
        }

    @classmethod
    def from_json(cls, value: object) -> Promotion:
        """Raises ValueError for anything but what `to_json` made."""
        if not isinstance(value, dict):
            raise ValueError("not an object")  # noqa: TRY004 - callers catch one type for all malformed lines
        try:
            return cls(
                operation=text_field(value, "operation"),
                variant=parse_variant(_text(value["variant"])),
                revision=_revision(value["revision"]),
                previous=_revision(value["previous"]),
                default=_variant(value["default"]),
                previous_default=_variant(value["previous_default"]),
                at=time_field(value, "at"),
                reason=text_field(value, "reason", max_length=_MAX_LINE_BYTES),
                by=None if value["by"] is None else text_field(value, "by"),
                rollback=bool(value.get("rollback", False)),
                target=_variant(value.get("target")),
                forced=bool(value.get("forced", False)),
                failed_gates=_texts(value.get("failed_gates", [])),
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"not a promotion: {error}") from None


class History:
    """The history file of one model, on the volume `root`. It is created by the first `writing`."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self._root = root

    def read(self) -> list[Promotion]:
        """All changes, oldest first. Lines that are no change, or of an older format, are left out, and so are those
        before the last _MAX_LINES. Raises UnusableContent where something else has the file's name, and OSError."""
        try:
            content = read_regular(self.path, max_bytes=_MAX_BYTES, below=self._root)
        except FileNotFoundError:
            return []
        changes = []
        for line in deque(BytesIO(content), maxlen=_MAX_LINES):
            if not line.startswith(_BEGIN):
                continue
            with suppress(ValueError):  # torn by a crash, or damaged
                changes.append(Promotion.from_json(parse_json(line, max_bytes=_MAX_LINE_BYTES)))
        return changes

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the history against other writers, waiting for at most 5 s. Where flock does nothing, or its holder is
        suspended, two changes may be written at once: the later line counts, and the links follow it."""
        descriptor = open_regular_to_append(self.path, mode=_UNDER_UMASK)
        try:
            end = time.monotonic() + _LOCK_WAIT_S
            while not _try_lock(descriptor) and time.monotonic() < end:
                time.sleep(0.01)
            if os.fstat(descriptor).st_size == 0:  # after a power loss, the links must not be there without the history
                sync_directory(self.path.parent)
            yield
        finally:
            os.close(descriptor)

    def append(self, promotion: Promotion) -> None:
        """Append a change, and fsync it. A torn last line is ended first."""
        descriptor = open_regular_to_append(self.path, mode=_UNDER_UMASK)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            readable = replace(promotion, reason=replace_unsafe(promotion.reason))
            line = f"{json.dumps(readable.to_json(), ensure_ascii=False)}\n".encode()
            write_all(descriptor, b"\n" + line if torn else line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def last_change(history: Sequence[Promotion], model: ModelName, variant: Variant | None) -> Promotion | None:
    """The last change of what the model's name stands for, or of the promoted revision of a variant."""
    state, last = Promoted(model), None
    for change in history:
        before, state = state, state.after(change)
        moved = state.of(variant) != before.of(variant) if variant else state.default_id != before.default_id
        last = change if moved else last
    return last


def earlier_of_variant(history: Sequence[Promotion], variant: Variant) -> list[Revision]:
    """The revisions of a variant that a rollback may go back to, latest first.

    A promotion appends to the trail, a rollback cuts it: after promoting A, B, C and two rollbacks A is promoted, and
    there is nothing to go back to.
    """
    trail: list[Revision] = []
    for change in history:
        if change.variant != variant or change.revision is None:
            continue
        if change.rollback and change.revision in trail:
            del trail[_last_index(trail, change.revision) + 1 :]
        elif not trail or trail[-1] != change.revision:
            trail.append(change.revision)
    return trail[-2::-1] if len(trail) > 1 else []


def earlier_of_model(history: Sequence[Promotion], model: ModelName) -> list[SnapshotId]:
    """The snapshots that a rollback of the model's default may go back to, latest first."""
    trail: list[SnapshotId] = []
    state = Promoted(model)
    for change in history:
        state = state.after(change)
        now = state.default_id
        if now is None:
            continue
        if change.rollback and now in trail:
            del trail[_last_index(trail, now) + 1 :]
        elif change.rollback and now.variant in (variants := [earlier.variant for earlier in trail]):
            # Another revision of the variant was promoted while it was not the default.
            del trail[_last_index(variants, now.variant) :]
            trail.append(now)
        elif not trail or trail[-1] != now:
            trail.append(now)
    return trail[-2::-1] if len(trail) > 1 else []


def _past(gates: Sequence[str]) -> str:
    return f"although held back by {', '.join(gates)}" if gates else "without a comparison"


def _last_index(items: Sequence[object], item: object) -> int:
    return len(items) - 1 - items[::-1].index(item)


def new_operation() -> str:
    """A new id, for a change whose caller gave none."""
    return os.urandom(8).hex()


def whoami() -> str:
    """`user@host` of this process."""
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user without an entry in /etc/passwd
        user = str(os.geteuid())
    return f"{user}@{os.uname().nodename}"


def _revision(value: object) -> Revision | None:
    return None if value is None else parse_revision(_text(value))


def _variant(value: object) -> Variant | None:
    return None if value is None else parse_variant(_text(value))


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("not a list")  # noqa: TRY004 - callers catch one type for all malformed lines
    return tuple(map(_text, value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")  # noqa: TRY004 - callers catch one type for all malformed lines
    return value


def _try_lock(descriptor: int) -> bool:
    """False while another process holds the lock. True also where the file system has no flock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
