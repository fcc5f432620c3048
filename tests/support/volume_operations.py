"""Operations on a volume for fault injection, each with the state before it and a check of its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from paddock.errors import NotOnVolume
from paddock.model.names import Sha256
from paddock.model.reference import SnapshotId
from paddock.store.durable import disk_errors_in
from paddock.store.history import Promoted
from paddock.store.volume import Volume
from tests.support import stores
from tests.support.aged import age
from tests.support.stores import MODEL, A, B, id_of, manifest_of, publish

Q8 = {"q8.gguf": b"eight" * 1000, "config.json": b"{}"}
Q4 = {"q4.gguf": b"four" * 1000, "deep/config.json": b"{}"}
NEXT = {"q8.gguf": b"next" * 1000, "config.json": b"{}"}
A8, B8, A4 = id_of(A), id_of(B), id_of(A, stores.Q4)
CONTENTS = {A8: Q8, B8: NEXT, A4: Q4}
ONCE = "once"
"""The operation id of a change of the promoted snapshots."""


@dataclass(frozen=True)
class Operation:
    """An operation on a volume.

    `before` makes the state that it starts from, on a volume that is prepared unless `makes_volume`. `after` tells
    whether it did its work, and `is_consistent` yields more problems of a state. `wait` makes as much time pass as must
    before it is repeated.

    `moves`: it changes the promoted snapshots. `repeatable`: after a complete run, another one changes nothing.
    `durable`: a power loss after it does not undo it.
    `damaged`: the names of what is damaged before. `sent`: how many bytes the Hub has sent so far; a run that a fault
    ended and the next one transfer at most `most_sent_bytes`.
    """

    name: str
    before: Callable[[Volume], object]
    run: Callable[[Volume], object]
    after: Callable[[Volume], bool]
    moves: bool = False
    makes_volume: bool = False
    repeatable: bool = True
    durable: bool = True
    damaged: tuple[str, ...] = ()
    wait: Callable[[Volume], object] = lambda _: None
    is_consistent: Callable[[Volume], Iterable[str]] = lambda _: ()
    sent: Callable[[], int] = lambda: 0
    most_sent_bytes: int = 0


@dataclass(frozen=True)
class Pointers:
    """The promoted snapshots as a later process reads them, the links, and the reasons in the history."""

    promoted: Promoted
    links: dict[str, str]
    history: list[str]

    @classmethod
    def of(cls, root: Path) -> Pointers:
        volume = Volume(root)
        links = {path.name: str(path.readlink()) for path in root.iterdir() if path.is_symlink()}
        return cls(volume.promoted(MODEL), links, [line.reason for line in volume.history(MODEL)])


def put(volume: Volume, *ids: SnapshotId) -> None:
    for id in ids:
        publish(volume, id.revision, CONTENTS[id], volume.root, variant=id.variant)


def _published(volume: Volume) -> None:
    put(volume, A8)


def _promoted(volume: Volume) -> None:
    _published(volume)
    volume.promote(A8, reason="before")
    put(volume, B8, A4)


def _both_promoted(volume: Volume) -> None:
    """Q8_0 first, then Q4_K_M, which is the default."""
    _promoted(volume)
    volume.promote(A4, reason="before")


def _twice_promoted(volume: Volume) -> None:
    """Two revisions of Q8_0, then Q4_K_M, which is the default."""
    _promoted(volume)
    for id in (B8, A4):
        volume.promote(id, reason="before")


def _second_promoted(volume: Volume) -> None:
    """Q8_0 is the default, and Q4_K_M is promoted too."""
    _promoted(volume)
    volume.promote(A4, reason="before", default=False)


def _staged(volume: Volume) -> None:
    (volume.partial / "staged").write_bytes(Q8["q8.gguf"])


def _add(volume: Volume) -> None:
    file = manifest_of(A, Q8).files[1]
    if not volume.has_blob(file.sha256, file.size):
        volume.add_blob(volume.partial / "staged", file.sha256, file.size)


def _remove(*ids: SnapshotId) -> Callable[[Volume], None]:
    def remove(volume: Volume) -> None:
        for id in ids:
            try:
                volume.remove(MODEL, variant=id.variant, revision=id.revision)
            except NotOnVolume:  # it was removed before the fault
                volume.collect(older_than_s=0)

    return remove


def _evict(volume: Volume) -> None:
    with disk_errors_in(volume.root):  # a fault may hit the test's own change
        age(volume, B8)
    try:
        volume.evict(B8)
    except NotOnVolume:  # it was removed before the fault
        volume.collect(older_than_s=0)


def _is_promoted(volume: Volume, *ids: SnapshotId) -> bool:
    """Whether exactly these snapshots are promoted, the first one as the default."""
    promoted = volume.promoted(MODEL)
    return promoted.ids == sorted(ids) and promoted.default_id == ids[0]


def _lease(volume: Volume) -> None:
    with volume.lease(A8):
        pass


def _write_docs(volume: Volume) -> None:
    with volume.docs.replace(A8) as directory:
        (directory / "index.html").write_text("page")


def _blob(id: SnapshotId) -> Sha256:
    return manifest_of(id.revision, CONTENTS[id], variant=id.variant).files[-1].sha256


def _reported(volume: Volume) -> None:
    _published(volume)
    volume.write_report(A8, "a.md", "text")
    volume.write_report(A8, "b.md", "text")


def _quarantine(volume: Volume) -> None:
    if not volume.quarantined(_blob(A8)):
        volume.quarantine(_blob(A8))


OPERATIONS = (
    Operation("prepare", lambda _: None, lambda v: v.prepare(), lambda v: v.partial.is_dir(), makes_volume=True),
    Operation("add a blob", _staged, _add, lambda v: v.sizes()[1] == len(Q8["q8.gguf"])),
    Operation("publish", lambda _: None, _published, lambda v: v.snapshot(A8) == manifest_of(A, Q8)),
    Operation(
        "publish another variant",
        _published,
        lambda v: put(v, A4),
        lambda v: v.snapshot(A8) == manifest_of(A, Q8) and v.snapshot(A4) == manifest_of(A, Q4, variant=stores.Q4),
    ),
    Operation(
        "promote the first",
        _published,
        lambda v: v.promote(A8, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, A8),
        moves=True,
    ),
    Operation(
        "promote a new revision of the default",
        _second_promoted,
        lambda v: v.promote(B8, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, B8, A4),
        moves=True,
    ),
    Operation(
        "promote a second variant as the default",
        _promoted,
        lambda v: v.promote(A4, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, A4, A8),
        moves=True,
    ),
    Operation(
        "promote a second variant beside the default",
        _promoted,
        lambda v: v.promote(A4, reason="now", default=False, operation=ONCE),
        lambda v: _is_promoted(v, A8, A4),
        moves=True,
    ),
    Operation(
        "promote a new revision as the default",
        _both_promoted,
        lambda v: v.promote(B8, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, B8, A4),
        moves=True,
    ),
    Operation(
        "roll the model back to another default",
        _twice_promoted,
        lambda v: v.rollback(MODEL, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, B8, A4),
        moves=True,
    ),
    Operation(
        "roll a variant back",
        _twice_promoted,
        lambda v: v.rollback(MODEL, A8.variant, reason="now", operation=ONCE),
        lambda v: _is_promoted(v, A4, A8),
        moves=True,
    ),
    Operation("pin", _published, lambda v: v.pins.add(A8), lambda v: v.pins.of(MODEL) == {A8}),
    Operation(
        "remove",
        _promoted,
        _remove(A8),
        lambda v: v.promoted(MODEL) == Promoted(MODEL) and v.ids(MODEL) == [A4, B8],
    ),
    Operation(
        "remove one of two variants",
        _both_promoted,
        _remove(A8),
        lambda v: _is_promoted(v, A4) and v.ids(MODEL) == [A4, B8],
    ),
    Operation(
        "remove the default",
        _both_promoted,
        _remove(A4),
        lambda v: v.promoted(MODEL) == Promoted(MODEL, None, {A8.variant: A}) and v.ids(MODEL) == [A8, B8],
    ),
    Operation("evict", _promoted, _evict, lambda v: _is_promoted(v, A8) and v.ids(MODEL) == [A4, A8]),
    Operation(
        "report",
        _published,
        lambda v: v.write_report(A8, "a.md", "text"),
        lambda v: v.read_report(A8, "a.md") == "text",
    ),
    Operation("lease", _published, _lease, lambda v: not v.in_use(A8)),
    Operation(
        "write the Data Docs",
        _published,
        _write_docs,
        lambda v: v.docs.path.joinpath(MODEL.slug, A, A8.variant, "index.html").is_file(),
        durable=False,
    ),
    Operation(
        "record a verification",
        _published,
        lambda v: v.verifications.record(_blob(A8)),
        lambda v: v.verifications.last(_blob(A8)) is not None,
        durable=False,
    ),
    Operation(
        "quarantine",
        lambda v: v.add_bytes(Q8["q8.gguf"]),
        _quarantine,
        lambda v: len(v.quarantined(_blob(A8))) == 1 and not v.sizes()[1],
    ),
    Operation("list", _both_promoted, lambda v: v.entries(), lambda v: len(v.entries()) == 3),
    Operation(
        "collect",
        lambda v: v.add_bytes(b"orphan" * 1000),
        lambda v: v.collect(older_than_s=0),
        lambda v: v.sizes()[1] == 0,
    ),
    Operation(
        "remove a report",
        _reported,
        lambda v: v.remove_report(A8, "a.md"),
        lambda v: v.report_names(A8) == ["b.md"],
        durable=False,
    ),
)
