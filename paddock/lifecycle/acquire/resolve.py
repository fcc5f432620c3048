"""Resolve the revision to acquire: the first step of an acquisition."""

from __future__ import annotations

from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.revisions import list_revision
from paddock.lifecycle.steps import step
from paddock.model.artifact import Listing
from paddock.model.names import ModelName


@step(
    Kind.HUB,
    "resolve-{ref}",
    line=lambda listing: f"{listing.model} is at commit {listing.revision}, {len(listing.files)} files",
)
def resolve(clients: Clients, model: ModelName, ref: str, *, variant: str | None = None) -> Listing:
    """Resolve a revision for an acquisition, as `list_revision`, and remember the answer on the volume, which is made
    if it is missing."""
    return list_revision(clients, model, ref, variant=variant, make_volume=True)
