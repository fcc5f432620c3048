"""Public functions on the volume, for callers that name a model by a string."""

from __future__ import annotations

from pathlib import Path

from paddock import settings
from paddock.errors import UnsafeName
from paddock.model.names import parse_revision
from paddock.model.reference import Reference, same_variant
from paddock.store.volume import Volume


def get_model_path_from_name(model_name: str) -> Path:
    """The path of a model on the volume, which need not exist: `/models/org--name` for `org/name`, a link to its
    default variant, and `/models/org--name--Q4_K_M` for `org/name:Q4_K_M`. A model on the volume is found
    ignoring case.

    Raises UnsafeName (a ValueError).
    """
    wanted = _reference(model_name)
    volume = Volume(settings.load().volume)
    model = volume.spelled(wanted.model)
    return volume.model_path(model, volume.resolve_variant(model, wanted.variant) if wanted.variant else None)


def list_model_files(model_name: str | None = None) -> list[dict]:  # type: ignore[type-arg]  # this signature is public and fixed
    """Every file of every snapshot on the volume, of one model or of a variant of it (`org/name:Q4_K_M`), sorted by
    model, age of the snapshot, and path.

    Each has `model` (`org/name`), `revision` (40 hex), `variant`, `path` (as in the repository; it lies below the
    snapshot's directory), `size` (bytes), `sha256`, `promoted`, `default` (whether it is the model's default snapshot),
    and `last_use` (ISO 8601 in UTC, None if it was never served). The list is empty where nothing is stored. Raises
    UnsafeName, NoPermission.
    """
    wanted = None if model_name is None else _reference(model_name)
    volume = Volume(settings.load().volume)
    return [
        {
            "model": entry.manifest.repository,
            "revision": entry.manifest.revision,
            "variant": entry.manifest.variant,
            "path": file.path,
            "size": file.size,
            "sha256": file.sha256,
            "promoted": entry.promoted,
            "default": entry.default,
            "last_use": entry.last_used.isoformat() if entry.last_used else None,
        }
        for entry in volume.entries(volume.spelled(wanted.model) if wanted else None)
        if wanted is None or wanted.variant is None or same_variant(entry.manifest.variant, wanted.variant)
        for file in sorted(entry.manifest.files, key=lambda file: file.path)
    ]


def delete_model_from_volume(model_name: str, revision: str | None = None) -> int:
    """Remove a model, a variant of it (`org/name:Q4_K_M`), or one revision (40 hex) of either, and return the freed
    bytes. Blobs that another snapshot uses stay.

    Raises UnsafeName, NotOnVolume, and InUse for a snapshot that is being served.
    """
    wanted = _reference(model_name)
    commit = None if revision is None else parse_revision(revision)
    volume = Volume(settings.load().volume)
    _, freed_bytes = volume.remove(volume.spelled(wanted.model), variant=wanted.variant, revision=commit)
    return freed_bytes


def _reference(text: str) -> Reference:
    """Parse `org/name[:VARIANT]`. Raises UnsafeName, also for one with a revision."""
    wanted = Reference.parse(text)
    if wanted.ref is not None:
        raise UnsafeName(f"the model name {text[:120]!r} holds a revision", cure="use org/name or org/name:VARIANT")
    return wanted
