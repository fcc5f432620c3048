"""Decide what a refresh does for each entry of a catalog, from facts that are passed in. Nothing is read here.

Facts cost requests and bytes, so there are three decisions. Each returns None where it needs the facts of the next one:

| decision | needs | costs |
|---|---|---|
| `by_head` | the commit of the channel, what is promoted, the entry's record | a request |
| `by_files` | the files of that commit | a request, where the commit moved |
| `by_header` | the headers of the new and the promoted model file | a range of it, where the files differ |

`without_conflicts` then looks at all entries together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from paddock.errors import (
    DoesNotFit,
    FileNotInRevision,
    MalformedGguf,
    MissingShard,
    ModelGated,
    ModelNotFound,
    ModelRejected,
    NoGguf,
    NotGguf,
    PaddockError,
    RevisionNotFound,
)
from paddock.gguf.difference import ChangeKind, HeaderDifference
from paddock.lifecycle.catalog import CatalogEntry
from paddock.lifecycle.upkeep.refresh.plan import Action, PlannedEntry
from paddock.lifecycle.upkeep.refresh.record import REFUSED, WAITING, EntryRecord, Fingerprint
from paddock.model.artifact import BranchHead
from paddock.model.names import Revision
from paddock.model.reference import SnapshotId, Variant, same_variant
from paddock.model.units import counted
from paddock.planning.targets import ANY, THIS_MACHINE
from paddock.store.history import Promoted, Promotion

_WITHDRAWN = (ModelNotFound, ModelGated, RevisionNotFound, FileNotInRevision, NoGguf)
_OF_THE_COMMIT = (DoesNotFit, MissingShard, FileNotInRevision, NoGguf)
"""Errors that the same commit has again, on the same machine and with the same engine."""
_REJECTED = (ModelRejected, MalformedGguf, NotGguf)
_NAMED_FILES = 3


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """The facts about an entry before its files are listed.

    `head` is the commit of its channel, or the error of the Hub. `promoted` and `history` are those of the model;
    `stored` are the promoted snapshots that are really there. `fingerprint` is that of now, `record` that of the last
    refresh. `measured_with` is the engine of the promoted snapshot where the record has none.
    """

    entry: CatalogEntry
    head: BranchHead | PaddockError
    promoted: Promoted
    history: Sequence[Promotion] = ()
    stored: Collection[SnapshotId] = ()
    record: EntryRecord | None = None
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    moves_default: bool = False
    measured_with: str = ""

    @property
    def variant(self) -> Variant | None:
        """The variant that the entry stands for; None for `auto` where none was chosen yet.

        Without a record, `auto` stands for the promoted default variant that the entry would move, as it does in a
        pull. Whether that fits is only known of this machine, to which it was pulled.
        """
        wanted = self.entry.wanted_variant or (self.record.variant if self.record else None)
        if wanted is None:
            adopts = self.moves_default and self.entry.target.strip().lower() in {THIS_MACHINE, ANY}
            return self.promoted.default if adopts else None
        return next((name for name in self.promoted.revisions if same_variant(name, wanted)), wanted)

    @property
    def id(self) -> SnapshotId | None:
        """The promoted snapshot of the variant, if it is there."""
        id = self.promoted.of(self.variant) if self.variant else None
        return id if id in self.stored else None

    @property
    def is_choice_old(self) -> bool:
        """Whether `auto` chose its variant for another machine or context."""
        record = self.record
        is_chosen = self.entry.wanted_variant is None and record is not None and record.variant is not None
        return is_chosen and record is not None and record.fingerprint.fit != self.fingerprint.fit

    @property
    def revision(self) -> Revision | None:
        return self.head.revision if isinstance(self.head, BranchHead) else None

    @property
    def needs_measuring(self) -> bool:
        """Whether what is promoted was measured with another engine."""
        engine = self.fingerprint.engine
        if not engine or self.id is None:
            return False
        if self.record and self.record.measured_with:
            return self.record.measured_with != engine
        return bool(self.measured_with) and self.measured_with != engine.partition(" ")[0]

    def planned(self, action: Action, reason: str, *, variant: Variant | None = None) -> PlannedEntry:
        planned = PlannedEntry(
            entry=self.entry,
            action=action,
            reason=reason,
            variant=variant or self.variant,
            revision=self.revision,
            moves_default=self.moves_default,
            fingerprint=self.fingerprint,
            record=self.record,
            hub_name=self.promoted.model,
        )
        return planned if planned.changes else replace(planned, measure=self.needs_measuring)

    def refused(self, error: PaddockError) -> PlannedEntry:
        """The plan where the Hub, or the model itself, does not let the entry be planned."""
        stays = f"; {self.id.variant}@{self.id.revision[:8]} stays promoted" if self.id else ""
        if isinstance(error, _REJECTED):  # the refresh judges it, and holds it back
            return self.planned(Action.FETCH, f"its header is refused: {error.message}")
        action = Action.WITHDRAWN if isinstance(error, _WITHDRAWN) else Action.BLOCKED
        is_promoted = self.id is not None and self.id.revision == self.revision
        remember = isinstance(error, _OF_THE_COMMIT) and self.revision is not None and not is_promoted
        return replace(self.planned(action, f"{error.message}{stays}"), remember=remember)


@dataclass(frozen=True, slots=True)
class Offered:
    """The files of the Hub's commit for an entry, compared with the promoted snapshot of its variant.

    `fetch_bytes` are those of the chosen files that the volume lacks, `small_bytes` those of them that are no model
    files. `same_weights`: the model files are the promoted ones. `changed` are the small files that are new, changed or
    gone. `note` says why `auto` stands for another variant than before.
    """

    variant: Variant
    fetch_bytes: int
    small_bytes: int = 0
    same_weights: bool = False
    changed: tuple[str, ...] = ()
    note: str = ""


def by_head(facts: EntryFacts) -> PlannedEntry | None:
    """Decide by the commit of the channel, what is promoted, and the record."""
    head = facts.head
    if isinstance(head, PaddockError):
        return facts.refused(head)
    if not same_variant(str(head.model), str(facts.entry.model)):
        stays = f"; {facts.id.variant}@{facts.id.revision[:8]} stays promoted" if facts.id else ""
        return facts.planned(
            Action.WITHDRAWN, f"it is {head.model} on the Hub now: write `model: {head.model}` in the catalog{stays}"
        )
    id = facts.id
    if id is None or id.revision != head.revision:
        settled = _settled(facts, head.revision)
        if settled is not None or id is None:
            return settled
    left = _rolled_back(facts.history, id.variant).get(head.revision)
    if left is not None:
        reason = f"{head.revision[:8]} was rolled back on {left.at:%Y-%m-%d}: {left.reason}"
        return replace(facts.planned(Action.KEEP, reason), rolled_back=True)
    if id.revision != head.revision or facts.is_choice_old:
        return None
    if facts.entry.default and not _was_default(facts.promoted, facts.history, id.variant):
        return facts.planned(
            Action.RETAG, f"it is promoted, and becomes the default in place of {facts.promoted.default or 'none'}"
        )
    return facts.planned(Action.KEEP, f"{facts.entry.channel} is at {head.revision[:8]}, which is promoted")


def by_files(facts: EntryFacts, offered: Offered) -> PlannedEntry | None:
    """Decide by the files of the Hub's commit."""
    id = facts.promoted.of(offered.variant)
    if id is None or id not in facts.stored:
        here = "" if offered.fetch_bytes else ", and its files are here"
        return _planned(facts, offered, Action.FETCH, f"nothing of it is promoted yet{here}", offered.fetch_bytes)
    if id.revision == facts.revision:
        return _planned(
            facts, offered, Action.KEEP, f"{facts.entry.channel} is at {id.revision[:8]}, which is promoted"
        )
    if not offered.same_weights:
        return None
    moved = _moved(facts, id)
    if offered.changed:
        reason = f"{moved}: {_listed(offered.changed)} changed"
        return _planned(facts, offered, Action.METADATA_ONLY, reason, offered.small_bytes)
    return _planned(facts, offered, Action.RETAG, f"{moved}, and no file of it changed", 0)


def by_header(
    facts: EntryFacts, offered: Offered, difference: HeaderDifference | None, *, header_bytes: int
) -> PlannedEntry:
    """Decide by the headers of the promoted model file and the new one. `difference` is None where one of them could
    not be read; `header_bytes` is the size of the new one."""
    action, what = _by_difference(difference)
    fetch_bytes = offered.fetch_bytes
    if action is not Action.FETCH:
        fetch_bytes = min(fetch_bytes, header_bytes + offered.small_bytes)
    reason = f"{_moved(facts, facts.promoted.of(offered.variant))}: {what}"
    return replace(_planned(facts, offered, action, reason, fetch_bytes), difference=difference)


def _by_difference(difference: HeaderDifference | None) -> tuple[Action, str]:
    """(the action for a model file whose header differs so, what changed)."""
    if difference is None:
        return Action.FETCH, "the model file is another one"
    if difference.kind is ChangeKind.TENSORS:
        return Action.FETCH, f"{counted(len(difference.tensors), 'tensor')} of the table changed"
    if difference.kind is ChangeKind.NOTHING:
        return Action.FETCH, "the data of its tensors changed"
    if difference.kind is ChangeKind.TEMPLATE:
        return Action.TEMPLATE_ONLY, "the chat template changed"
    parts = [
        *(["the tokenizer"] if difference.tokenizer else []),
        *(["metadata"] if any(not change.key.startswith("tokenizer.") for change in difference.keys) else []),
        *(["the chat template"] if difference.template else []),
    ]
    return Action.METADATA_ONLY, f"{' and '.join(parts)} changed"


def _planned(
    facts: EntryFacts, offered: Offered, action: Action, reason: str, fetch_bytes: int | None = None
) -> PlannedEntry:
    notes = [note for note in (_again(facts), offered.note, reason) if note]
    chosen_before = facts.record.variant if facts.record and not facts.is_choice_old else None
    remember = facts.entry.wanted_variant is None and chosen_before != offered.variant
    return replace(
        facts.planned(action, "; ".join(notes), variant=offered.variant), bytes=fetch_bytes, remember=remember
    )


def _moved(facts: EntryFacts, promoted: SnapshotId | None) -> str:
    before = promoted.revision[:8] if promoted else "nothing"
    return f"{facts.entry.channel} moved from {before} to {str(facts.revision)[:8]}"


def without_conflicts(planned: Sequence[PlannedEntry]) -> tuple[PlannedEntry, ...]:
    """The plans of all entries, where several stand for one variant of a model: the first of them moves it. Another one
    of the same channel follows it, and one of another channel is blocked: the variant has one promoted revision."""
    first: dict[tuple[str, str], PlannedEntry] = {}
    result = []
    for one in planned:
        key = (str(one.model).casefold(), (one.variant or "").casefold())
        if not one.variant or one.action is Action.WITHDRAWN:
            result.append(one)
            continue
        other = first.setdefault(key, one)
        if other is one:
            result.append(one)
        elif other.entry.channel == one.entry.channel:
            reason = f"{one.variant} is moved by the entry for {other.entry.target} too" if one.changes else one.reason
            action = Action.KEEP if one.changes else one.action
            result.append(replace(one, action=action, reason=reason, bytes=None, difference=None, measure=False))
        else:
            reason = (
                f"another entry moves {one.variant} of the model to the commits of {other.entry.channel}:"
                " a variant follows one channel"
            )
            blocked = replace(one, action=Action.BLOCKED, reason=reason, bytes=None, difference=None, measure=False)
            result.append(replace(blocked, remember=False))  # the catalog is the reason, and not the commit
    return tuple(result)


def _settled(facts: EntryFacts, head: Revision) -> PlannedEntry | None:
    """The plan for a commit that an earlier refresh did not promote; None where it is to be tried (again)."""
    record = facts.record
    if record is None or record.revision != head:
        return None
    if record.outcome == WAITING and facts.entry.approval:
        return facts.planned(Action.BLOCKED, f"{head[:8]} waits for approval since {record.day}")
    same = record.fingerprint.same_decision(facts.fingerprint)
    is_for_this = record.outcome == "held back" or record.fingerprint.fit == facts.fingerprint.fit
    if not record.settled or not same or not is_for_this or facts.is_choice_old:
        return None
    action = Action(record.outcome) if record.outcome in REFUSED else Action.KEEP
    return facts.planned(action, f"{head[:8]} was {record.outcome} on {record.day}: {record.reason}")


def _again(facts: EntryFacts) -> str:
    """Why a commit that was held back is tried again; "" where that is not the case."""
    record, now = facts.record, facts.fingerprint
    if record is None or record.revision != facts.revision or not record.settled:
        return ""
    changed = [
        name
        for name, before, after in (
            ("the gates", record.fingerprint.gates, now.gates),
            ("the engine", record.fingerprint.engine, now.engine),
            ("the machine or target", record.fingerprint.fit, now.fit),
        )
        if before != after
    ]
    return f"{' and '.join(changed)} changed since it was {record.outcome} on {record.day}" if changed else ""


def _rolled_back(history: Sequence[Promotion], variant: Variant) -> dict[Revision, Promotion]:
    """The revisions of a variant that a rollback left, and that were not promoted again since, with the rollback."""
    left: dict[Revision, Promotion] = {}
    for change in history:
        if change.variant != variant:
            continue
        if change.rollback and change.previous is not None and change.moves_revision:
            left[change.previous] = change
        if change.revision is not None:
            left.pop(change.revision, None)
    return left


def _was_default(promoted: Promoted, history: Sequence[Promotion], variant: Variant) -> bool:
    """Whether a variant is, or was, the default: where it was, a person made another one the default since."""
    return promoted.default == variant or any(change.default == variant for change in history)


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:_NAMED_FILES])
    return shown if len(paths) <= _NAMED_FILES else f"{shown} and {len(paths) - _NAMED_FILES} more"
