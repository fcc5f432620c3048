"""Make room for a fetch: evict just enough of what has a verified copy in S3, or what retention does not keep.

Nothing else is evicted without being asked for. Where that would not be enough, nothing is evicted at all, and the
error says how much could go, and why the rest may not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from paddock.errors import BlobMissing, NotEnoughDisk, StoreRefused, StoreUnavailable
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.eviction.apply import apply
from paddock.lifecycle.eviction.copies import with_copies
from paddock.lifecycle.eviction.evicted import EvictionRow
from paddock.lifecycle.eviction.facts import Fetching, gather
from paddock.lifecycle.eviction.plan import EvictionPlan, VolumeFacts, plan, plan_room
from paddock.model.names import Sha256
from paddock.model.units import human_bytes

_ROUNDS = 3
"""How often a plan is made and applied, while other processes change what was planned."""

log = logging.getLogger(__name__)


def make_room(clients: Clients, need_bytes: int, *, files: int, fetching: Fetching) -> tuple[EvictionRow, ...]:
    """Check that `need_bytes` and the inodes for so many files are free on the volume; where bytes are missing, evict
    snapshots, and return them. Blobs that the fetch counts on stay.

    Raises NotEnoughDisk, and BadSetting for a catalog that cannot be read.
    """
    disk = clients.volume.disk
    disk.require_inodes(files)
    evicted: list[EvictionRow] = []
    for _ in range(_ROUNDS):
        missing_bytes = disk.missing_bytes(need_bytes)
        if not missing_bytes:
            break
        facts, note = _facts(clients, fetching)
        planned = plan_room(facts, missing_bytes=missing_bytes)
        if planned.over_bytes:
            raise _not_enough(clients, need_bytes, facts, planned, note)
        _renew(clients, fetching.blobs)
        evicted += apply(clients, planned, fetching=fetching).removed
    disk.require(need_bytes)
    return tuple(evicted)


def _facts(clients: Clients, fetching: Fetching) -> tuple[VolumeFacts, str]:
    """The facts with the copies in S3, and a note where S3 cannot be asked, so that no copy counts."""
    facts = gather(clients, fetching=fetching)
    try:
        return with_copies(clients, facts), ""
    except (StoreUnavailable, StoreRefused) as error:
        return facts, f" (which snapshots have a copy in S3 is not known: {error.message})"


def _renew(clients: Clients, blobs: Iterable[Sha256]) -> None:
    """Set the age of the blobs to zero that the fetch will not fetch, so that no other process frees them meanwhile."""
    for sha256 in blobs:
        try:
            clients.volume.renew_blob(sha256)
        except BlobMissing as error:  # then it is fetched too
            log.debug("%s", error)


def _not_enough(
    clients: Clients, need_bytes: int, facts: VolumeFacts, planned: EvictionPlan, note: str
) -> NotEnoughDisk:
    """The error of a fetch that does not fit, with what may go and what may not, and the command that helps."""
    try:
        clients.volume.disk.require(need_bytes)
    except NotEnoughDisk as error:
        base = error
    else:  # other programs freed some space just now
        return NotEnoughDisk(f"{clients.volume.root} had too little room just now", cure="try again")
    stays = ", ".join(f"{human_bytes(size)} ({why})" for why, size in _bytes_by_reason(facts, planned).items())
    could = "nothing may be evicted for it"
    if planned.frees_bytes:
        could = f"nothing was evicted, since only {human_bytes(planned.frees_bytes)} may go for it"
    message = f"{base.message}; {could}{f'; what stays: {stays}' if stays else ''}{note}"
    limit_bytes = planned.limit_bytes or 0
    if limit_bytes >= 0 and not plan(facts, budget_bytes=limit_bytes).over_bytes:
        return NotEnoughDisk(
            message,
            cure=f"`paddock gc --keep-bytes {limit_bytes}` makes room, also of what has no copy in S3 (with"
            " `--dry-run` it only prints that), or choose a smaller quantization",
        )
    return NotEnoughDisk(message, cure=base.cure)


def _bytes_by_reason(facts: VolumeFacts, planned: EvictionPlan) -> dict[str, int]:
    """The bytes of the blobs of what stays, by the first reason. A blob of several snapshots counts once."""
    counted: set[Sha256] = set()
    sizes: dict[str, int] = {}
    for snapshot, reason in planned.kept:
        blobs = snapshot.blobs - counted
        counted |= blobs
        size = sum(facts.blobs[sha256].size_bytes for sha256 in blobs if sha256 in facts.blobs)
        label = reason.split(", ")[0].partition(" by process")[0]
        sizes[label] = sizes.get(label, 0) + size
    return {label: size for label, size in sizes.items() if size}
