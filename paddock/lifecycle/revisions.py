"""Resolve a revision to a commit and its files: on the Hub, or in the stores if the Hub does not answer.

Whatever the Hub answers is remembered on the volume: the commit of each branch and tag, and its own name of a model
that was requested by another one. Without the Hub, this is the answer:

| requested | answer |
|---|---|
| a commit, or the beginning of one that the volume knows | that commit, from the volume, else from the remote store |
| a branch or tag | the commit that it had when the Hub last answered, if the volume has that |
| `main`, if nothing is remembered or stored of it | the promoted snapshot |
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from paddock.errors import HubRefused, HubUnavailable, ModelNotFound, RevisionNotFound
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.stored_listing import MAIN, list_stored
from paddock.model.artifact import Listing
from paddock.model.names import ModelName, Revision, find_by_prefix, is_commit_prefix, parse_ref

log = logging.getLogger(__name__)


def list_revision(
    clients: Clients, model: ModelName, ref: str = MAIN, *, variant: str | None = None, make_volume: bool = False
) -> Listing:
    """Resolve a branch, tag, commit, or the beginning of a commit that the volume knows, and list its files.

    `Listing.model` is the Hub's own name, also if `model` is an earlier name or has another case. If the Hub does not
    answer, or may not be asked, the commit is listed from its stored snapshots, with the files that were fetched then
    and no others; of several commits that could be meant, one that has `variant`. So is a commit that the Hub refuses
    or no longer has. What was used is logged as a warning.

    Raises the Hub's error where nothing is stored, and UnsafeName for an ambiguous beginning of a commit.
    """
    commit = known_commit(clients, model, ref)
    try:
        listing = clients.hub.listing(model, commit or ref)
    except (HubUnavailable, HubRefused, ModelNotFound, RevisionNotFound) as error:
        return list_stored(clients, model, ref, commit=commit, variant=variant, error=error)
    if listing.model != model:
        log.warning("%s is %s on the Hub, which is its name on the volume", model, listing.model)
    if make_volume or clients.volume.exists:
        with clients.volume.recording():
            clients.volume.disk.make_directories()
            if listing.model != model:
                clients.volume.refs.remember_name(model, listing.model)
            if commit is None:
                clients.volume.refs.remember(listing.model, ref, listing.revision)
    return listing


def known_commit(clients: Clients, model: ModelName, ref: str, *, others: Iterable[Revision] = ()) -> Revision | None:
    """The commit that `ref` names without the Hub: a commit, or the beginning of one that the volume knows or that is
    among `others`. None for anything else. Raises UnsafeName if several commits begin with it."""
    volume = clients.volume
    name = volume.spelled(model)
    seen = volume.refs.of(name)
    if ref in seen:
        return None
    if not is_commit_prefix(ref):
        return None
    known = [*(id.revision for id in volume.ids(name)), *(change.revision for change in volume.history(name))]
    known += [ref.revision for ref in seen.values()]
    return find_by_prefix(ref, [*(revision for revision in known if revision), *others])


def resolve_commit(clients: Clients, model: ModelName, ref: str, *, others: Iterable[Revision] = ()) -> Revision:
    """The commit that `ref` names. The Hub is asked for a branch or tag, and its errors are raised."""
    return known_commit(clients, model, ref, others=others) or list_revision(clients, model, parse_ref(ref)).revision
