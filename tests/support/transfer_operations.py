"""Operations that move a model's files, for fault injection: from the Hub, to and from a remote store, and repairs.

The Hub is the one of the environment, and has the repository that `fill_hub` makes. The remote store is a directory
beside the volume (`tests.support.directory_store`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from infra.local.hub import HubService
from paddock import settings
from paddock.lifecycle.acquire.cache import cache as copy_to_remote
from paddock.lifecycle.acquire.pull import pull
from paddock.lifecycle.acquire.restore import restore
from paddock.lifecycle.promote.promote import promote_snapshot, roll_back
from paddock.lifecycle.steps import PlainRunner
from paddock.lifecycle.upkeep.evict import evict
from paddock.lifecycle.upkeep.orphans import clean_orphans
from paddock.lifecycle.upkeep.scrub import scrub
from paddock.lifecycle.upkeep.verify import verify
from paddock.model.names import Sha256
from paddock.model.reference import Reference, SnapshotId
from paddock.planning.file_selection import AUTO
from paddock.planning.targets import UNBOUNDED
from paddock.store.copying import push
from paddock.store.protocol import RemoteStore
from paddock.store.volume import Volume
from tests.support import stores
from tests.support.aged import age
from tests.support.damage import flip
from tests.support.prepared_transfer import SEGMENT_BYTES, Prepared, clients_of, prepare, transfer
from tests.support.segmented_model import segmented_model
from tests.support.stores import MODEL, Q4, Q8, A, B, C, id_of
from tests.support.tiny_hub import CARD, CONFIG
from tests.support.volume_operations import Operation, put

FILE = "name-F32.gguf"


@cache
def model() -> bytes:
    """A sound model of some ten segments."""
    return segmented_model(layers=1, width=128, inner=256)


def fill_hub(hub: HubService) -> None:
    hub.repository(str(MODEL)).commit({FILE: model(), "config.json": CONFIG, "README.md": CARD})


@cache
def prepared() -> Prepared:
    """The transfer of the repository's model. To be called before the first fork."""
    return prepare("main", AUTO)


def _transfer(volume: Volume) -> None:
    transfer(volume, prepared())


def _is_whole(volume: Volume) -> bool:
    """Whether the model is there, and was promoted once."""
    path = volume.model_path(MODEL) / FILE
    return path.is_file() and path.read_bytes() == model() and len(volume.history(MODEL)) == 1


def _is_pulled(volume: Volume) -> bool:
    """Whether, besides, no data of the transfer is left. What is left without a journal, `clean_orphans` removes."""
    partials = volume.partial.glob("*/*")
    return _is_whole(volume) and not any((path / "data").exists() and (path / "journal").exists() for path in partials)


def _digest() -> Sha256:
    return Sha256(hashlib.sha256(model()).hexdigest())


def _damaged(volume: Volume) -> None:
    _transfer(volume)
    flip(volume.blob_path(_digest()), 2 * SEGMENT_BYTES + 17)


def _repair(volume: Volume) -> None:
    verify(clients_of(volume, remote=False), volume.snapshots(), repair_damage=True)


def _cache(volume: Volume) -> None:
    copy_to_remote(PlainRunner(clients_of(volume)), Reference(MODEL))


def _is_cached(volume: Volume) -> bool:
    remote = _remote(volume)
    (manifest,) = volume.snapshots(MODEL)
    return remote.snapshot(manifest.id) == manifest and remote.promoted(MODEL) == volume.promoted(MODEL)


def _remote(volume: Volume) -> RemoteStore:
    remote = clients_of(volume).remote
    assert remote
    return remote


def _in_remote_alone(volume: Volume) -> None:
    _transfer(volume)
    _cache(volume)
    shutil.rmtree(volume.root)
    volume.prepare()


def _restore(volume: Volume) -> None:
    restore(PlainRunner(clients_of(volume)), Reference(MODEL))


def _sent_by_hub() -> int:
    with urllib.request.urlopen(f"{settings.load().hub_endpoint}/_admin/stats") as answer:
        sent: int = json.load(answer)["total_bytes_sent"]
    return sent


def _in_both(*promoted: SnapshotId, others: Sequence[SnapshotId] = ()) -> Callable[[Volume], None]:
    """Snapshots on the volume and in the remote store; some are promoted, in that order."""

    def make(volume: Volume) -> None:
        clients = clients_of(volume)
        for id in (*promoted, *others):
            manifest = stores.publish(
                volume, id.revision, {"m.gguf": str(id).encode()}, volume.root, variant=id.variant
            )
            push(volume, _remote(volume), manifest)
        for id in promoted:
            promote_snapshot(clients, id, "before")

    return make


def _both_show(id: SnapshotId) -> Callable[[Volume], bool]:
    def is_done(volume: Volume) -> bool:
        promoted = volume.promoted(MODEL)
        return promoted.default_id == id and _remote(volume).promoted(MODEL) == promoted

    return is_done


def _remote_is_not_ahead(volume: Volume) -> Iterator[str]:
    remote = _remote(volume)
    promoted, history = remote.promoted(MODEL), volume.history(MODEL)
    yield from (f"the ref names {id}, which is missing" for id in promoted.ids if remote.snapshot(id) is None)
    if history[-1].reason == "before" and promoted != volume.promoted(MODEL):
        yield "the remote store has a change that the volume does not have"


def _three_of_which_one_is_promoted(volume: Volume) -> None:
    put(volume, A8, B8, A4)
    volume.promote(A8, reason="before")
    age(volume)


def _evict(volume: Volume) -> None:
    evict(clients_of(volume, remote=False), keep_bytes=0)


def _leave_orphans(volume: Volume) -> None:
    """What a killed pull, an unpublished snapshot and a replaced file leave."""
    put(volume, A8)
    volume.add_bytes(b"orphan" * 1000)
    partial = volume.partial / ("ab" * 32) / "token"
    partial.mkdir(parents=True)
    (partial / "journal").write_text("{}\n")
    (partial / "data").write_bytes(bytes(1000))


def _let_days_pass(volume: Volume) -> None:
    then = time.time() - 2 * 24 * 3600
    for path in volume.partial.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def _has_no_orphans(volume: Volume) -> bool:
    partial = [path for path in volume.partial.rglob("*") if path.is_file()]
    return volume.ids(MODEL) == [A8] and not partial and len(list(volume.blob_statuses())) == 2


A8, B8, C8, A4 = id_of(A), id_of(B), id_of(C), id_of(A, Q4)
_SEGMENTS_IN_FLIGHT = 3  # one for each connection, and one that is being hashed

TRANSFERS = (
    Operation(
        "transfer",
        lambda _: None,
        _transfer,
        _is_pulled,
        sent=_sent_by_hub,
        most_sent_bytes=len(model()) + len(CONFIG) + _SEGMENTS_IN_FLIGHT * SEGMENT_BYTES,
    ),
    Operation(
        "pull",
        lambda _: None,
        lambda v: pull(clients_of(v, remote=False), Reference(MODEL), target=UNBOUNDED),
        _is_pulled,
        sent=_sent_by_hub,
        most_sent_bytes=3 * len(model()),  # each of two preflights reads the header, of up to 1 MiB
    ),
    Operation(
        "repair",
        _damaged,
        _repair,
        _is_whole,
        damaged=(FILE, hashlib.sha256(model()).hexdigest()),
        sent=_sent_by_hub,
        most_sent_bytes=2 * len(model()) + _SEGMENTS_IN_FLIGHT * SEGMENT_BYTES,
    ),
    Operation("evict to a budget", _three_of_which_one_is_promoted, _evict, lambda v: v.ids(MODEL) == [A8], wait=age),
    Operation(
        "scrub",
        _damaged,
        lambda v: scrub(clients_of(v, remote=False)),
        _is_whole,
        damaged=(FILE, hashlib.sha256(model()).hexdigest()),
        sent=_sent_by_hub,
        most_sent_bytes=len(model()) + _SEGMENTS_IN_FLIGHT * SEGMENT_BYTES,
    ),
    Operation(
        "remove orphans",
        _leave_orphans,
        lambda v: clean_orphans(clients_of(v, remote=False), grace_s=-1),
        _has_no_orphans,
        wait=_let_days_pass,
    ),
    Operation("cache", _transfer, _cache, _is_cached),
    Operation("restore", _in_remote_alone, _restore, _is_pulled),
    Operation(
        "promote in both stores a new revision of another variant",
        _in_both(A8, A4, others=(B8,)),
        lambda v: promote_snapshot(clients_of(v), B8, "now"),
        _both_show(B8),
        moves=True,
        repeatable=False,
        is_consistent=_remote_is_not_ahead,
    ),
    Operation(
        "roll back in both stores to another variant",
        _in_both(A8, B8, A4),
        lambda v: roll_back(clients_of(v), Reference(MODEL), "now"),
        _both_show(B8),
        moves=True,
        repeatable=False,
        is_consistent=_remote_is_not_ahead,
    ),
    Operation(
        "roll back in both stores a variant that is not the default",
        _in_both(A8, B8, C8, A4),
        lambda v: roll_back(clients_of(v), Reference(MODEL, Q8), "now"),
        _both_show(A4),
        moves=True,
        repeatable=False,
        is_consistent=_remote_is_not_ahead,
    ),
)
"""The operations. Those on both stores have no operation id, as from the command line."""
