"""Locate the snapshot of a store that a reference names.

    org/name              what its default variant is promoted at
    org/name:V            what V is promoted at, else the newest snapshot of V
    org/name@R            the default variant at R, else the only variant that is there at R
    org/name:V@R          that one

Where a model has no default, its name means the only variant that is there. R is a commit, the beginning of one that
the store knows, or a branch or tag, which the Hub resolves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from paddock.errors import BadSetting, NotOnVolume
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.steps import Kind, step
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision, find_by_prefix, is_revision, parse_ref, parse_revision
from paddock.model.reference import Reference, SnapshotId, Variant, parse_variant, same_variant
from paddock.store.protocol import Store


@step(Kind.HUB, "locate", line=lambda manifest: f"{manifest.id} is on the volume")
def locate(clients: Clients, wanted: Reference) -> Manifest:
    """The snapshot on the volume that a reference means. Raises NotOnVolume that lists what is there, CorruptFile for a
    damaged manifest, and the Hub's errors for a branch or tag."""
    return locate_in(clients.volume, clients, wanted, cure=f"pull or onboard it first (`paddock pull {wanted}`)")


def locate_in(store: Store, clients: Clients, wanted: Reference, *, cure: str) -> Manifest:
    """As `locate`, in either store. `cure` says what to do about a snapshot that is not there."""
    model = wanted.model
    promoted = store.promoted(model)
    if wanted.ref is None:
        id = promoted.of(_known(promoted.revisions, wanted.variant)) if wanted.variant else promoted.default_id
        found = store.snapshot(id) if id else None
        if found is not None:
            return found
    ids = store.ids(model)
    revision = revision_of(clients, model, wanted.ref, known=[id.revision for id in ids]) if wanted.ref else None
    matching = [
        id
        for id in ids
        if revision in {None, id.revision} and (wanted.variant is None or same_variant(id.variant, wanted.variant))
    ]
    if not matching:
        has = ", ".join(sorted(f"{id.variant}@{id.revision[:8]}" for id in ids)) or "nothing"
        raise NotOnVolume(f"{wanted} is not on {store.label} ({has} of {model} is there)", cure=cure)
    variants = sorted({id.variant for id in matching})
    if len(variants) > 1:
        if promoted.default not in variants or revision is None:
            at = f"@{revision[:8]}" if revision else ""
            raise NotOnVolume(
                f"{wanted} on {store.label} may be any of {', '.join(variants)}",
                cure=f"name one, such as {model}:{variants[0]}{at}",
            )
        matching = [id for id in matching if id.variant == promoted.default]
    if len(matching) == 1:
        manifest = store.snapshot(matching[0])
        if manifest is None:
            raise NotOnVolume(f"{matching[0]} was removed from {store.label} just now", cure=cure)
        return manifest
    found = next((one for one in reversed(store.snapshots(model)) if one.id in matching), None)
    if found is None:
        raise NotOnVolume(f"{wanted} is not on {store.label}", cure=cure)
    return found


def shown_at(clients: Clients, id: SnapshotId, *, promoted: bool) -> Path:
    """Where a snapshot is found: the link of its model where that shows it, the link of its variant where it is
    promoted, else its own directory."""
    if not promoted:
        return clients.volume.snapshot_path(id)
    is_default = clients.volume.promoted(id.model).default_id == id
    return clients.volume.model_path(id.model, None if is_default else id.variant)


def revision_of(clients: Clients, model: ModelName, ref: str, *, known: Sequence[Revision]) -> Revision:
    """The commit that a commit, the beginning of one of the `known`, a branch or a tag means."""
    if is_revision(ref):
        return parse_revision(ref)
    return find_by_prefix(ref, known) or clients.hub.listing(model, parse_ref(ref)).revision


def wanted_quantization(variant: Variant | None, quantization: str) -> str:
    """Combine MODEL's variant with a quantization that is given beside it. Raises BadSetting where they differ."""
    if variant is None:
        return quantization
    if quantization != "auto" and not same_variant(variant, quantization):
        raise BadSetting(
            f"the model's variant is {variant}, and the quantization that is asked for {quantization}",
            cure="say one of the two",
        )
    return variant


def named_variant(clients: Clients, model: ModelName, text: str) -> Variant | None:
    """The variant on the volume that a text means: a variant's name, a file or a quantization; None for `auto` and
    `best`. What is none of them is taken for a variant's name. Raises UnsafeName."""
    if text in {"auto", "best"}:
        return None
    stored = clients.volume.snapshots(model)
    for manifest in stored:
        if same_variant(manifest.variant, text):
            return manifest.variant
    for manifest in stored:
        files = {name for file in manifest.files for name in (file.path, file.path.rpartition("/")[2])}
        if text in files or (manifest.quantization and same_variant(manifest.quantization, text)):
            return manifest.variant
    return parse_variant(text)


def _known(variants: Iterable[Variant], text: Variant) -> Variant:
    """The variant of that name as it is spelled there."""
    return next((one for one in variants if same_variant(one, text)), text)
