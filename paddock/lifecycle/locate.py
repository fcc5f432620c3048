"""Find the snapshot of a store that a reference names.

    org/name              the promoted revision of the default variant
    org/name:V            the promoted revision of V, else the newest snapshot of V
    org/name@R            the default variant at R, else the only variant that the store has at R
    org/name:V@R          V at R

The name of a model without a default means its only variant in the store. R is a commit, the beginning of a commit
that the store or the volume knows, or a branch or tag, which the Hub resolves. A model is found ignoring case, and by a
name that it had before it was renamed on the Hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from paddock.errors import BadSetting, NotOnVolume, UnsafeName
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.revisions import resolve_commit
from paddock.lifecycle.steps import step
from paddock.model.artifact import Manifest
from paddock.model.names import ModelName, Revision, parse_revision
from paddock.model.reference import Reference, SnapshotId, Variant, parse_variant, same_variant
from paddock.store.protocol import Store


@step(Kind.HUB, "locate", line=lambda manifest: f"{manifest.id} is on the volume")
def locate(clients: Clients, wanted: Reference) -> Manifest:
    """The snapshot on the volume that a reference names. Raises NotOnVolume, which lists the model's snapshots,
    CorruptFile for a damaged manifest, and the Hub's errors for a branch or tag."""
    return locate_in(clients.volume, clients, wanted, cure=f"pull or onboard it first (`paddock pull {wanted}`)")


def locate_in(store: Store, clients: Clients, wanted: Reference, *, cure: str) -> Manifest:
    """As `locate`, in any store. `cure` is that of NotOnVolume."""
    model = clients.volume.spelled(wanted.model)
    if model != wanted.model and store is not clients.volume and store.ids(wanted.model):
        model = wanted.model  # that it was renamed is a note on the volume, which replaces nothing that is there
    promoted = store.promoted(model)
    if wanted.ref is None:
        id = promoted.of(_spelled(promoted.revisions, wanted.variant)) if wanted.variant else promoted.default_id
        manifest = store.snapshot(id) if id else None
        if manifest is not None:
            return manifest
    ids = store.ids(model)
    revision = resolve_revision(clients, model, wanted.ref, known=[id.revision for id in ids]) if wanted.ref else None
    matching = [
        id
        for id in ids
        if revision in {None, id.revision} and (wanted.variant is None or same_variant(id.variant, wanted.variant))
    ]
    if not matching:
        stored = ", ".join(sorted(f"{id.variant}@{id.revision[:8]}" for id in ids)) or "nothing"
        raise NotOnVolume(f"{wanted} is not on {store.label} ({stored} of {model} is there)", cure=cure)
    variants = sorted({id.variant for id in matching})
    if len(variants) > 1:
        if promoted.default not in variants or revision is None:
            at = f"@{revision[:8]}" if revision else ""
            raise NotOnVolume(
                f"{wanted} is ambiguous on {store.label}: it has {', '.join(variants)}",
                cure=f"name one, such as {model}:{variants[0]}{at}",
            )
        matching = [id for id in matching if id.variant == promoted.default]
    if len(matching) == 1:
        manifest = store.snapshot(matching[0])
        if manifest is None:
            raise NotOnVolume(f"{matching[0]} was removed from {store.label} just now", cure=cure)
        return manifest
    manifest = next((stored for stored in reversed(store.snapshots(model)) if stored.id in matching), None)
    if manifest is None:
        raise NotOnVolume(f"{wanted} is not on {store.label}", cure=cure)
    return manifest


def visible_path(clients: Clients, id: SnapshotId, *, promoted: bool) -> Path:
    """The path under which users find a snapshot: the model's link if it is the default, the variant's link if it is
    promoted, else its own directory."""
    if not promoted:
        return clients.volume.snapshot_path(id)
    is_default = clients.volume.promoted(id.model).default_id == id
    return clients.volume.model_path(id.model, None if is_default else id.variant)


def snapshot_at(clients: Clients, directory: Path) -> SnapshotId | None:
    """The snapshot of the volume that has this directory, in which there are no links."""
    if len(directory.parts) < 3:
        return None
    slug, revision, variant = directory.parts[-3:]
    try:
        id = SnapshotId(ModelName.from_slug(slug), parse_revision(revision), parse_variant(variant))
    except UnsafeName:
        return None
    return id if clients.volume.snapshot_path(id).resolve() == directory and directory.is_dir() else None


def resolve_revision(clients: Clients, model: ModelName, ref: str, *, known: Sequence[Revision]) -> Revision:
    """The commit that `ref` names: a commit, the beginning of one that the volume knows or of one of the `known`
    commits, a branch or a tag. Raises the Hub's errors for the last two."""
    return resolve_commit(clients, model, ref, others=known)


def requested_quantization(variant: Variant | None, quantization: str) -> str:
    """The variant of a reference, else the quantization that was requested separately. Raises BadSetting if both are
    given and differ."""
    if variant is None:
        return quantization
    if quantization != "auto" and not same_variant(variant, quantization):
        raise BadSetting(
            f"the model's variant is {variant}, and the requested quantization {quantization}",
            cure="give one of the two",
        )
    return variant


def match_variant(clients: Clients, model: ModelName, text: str) -> Variant | None:
    """The variant of the stored snapshot that `text` names by variant, file or quantization; None for `auto` and
    `best`. Where none matches, `text` is taken as a variant's name. Raises UnsafeName."""
    if text in {"auto", "best"}:
        return None
    stored = clients.volume.snapshots(clients.volume.spelled(model))
    for manifest in stored:
        if same_variant(manifest.variant, text):
            return manifest.variant
    for manifest in stored:
        files = {name for file in manifest.files for name in (file.path, file.path.rpartition("/")[2])}
        if text in files or (manifest.quantization and same_variant(manifest.quantization, text)):
            return manifest.variant
    return parse_variant(text)


def _spelled(variants: Iterable[Variant], name: Variant) -> Variant:
    """The one of `variants` with this name, ignoring case; `name` itself where there is none."""
    return next((variant for variant in variants if same_variant(variant, name)), name)
