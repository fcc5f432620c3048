"""What is on the volume, for callers who know models by their names: the public functions on it."""

from __future__ import annotations

from pathlib import Path

from paddock import settings
from paddock.model.names import ModelName, parse_revision
from paddock.store.volume import Volume


def get_model_path_from_name(model_name: str) -> Path:
    """The directory of a model under the volume: `org/name` is `/models/org--name`. It need not exist.

    Raises UnsafeName (a ValueError) that names an unsafe name.
    """
    return Volume(settings.load().volume).model_path(ModelName.parse(model_name))


def list_model_files(model_name: str | None = None) -> list[dict]:  # type: ignore[type-arg]  # this signature is public and fixed
    """Every file of every snapshot on the volume, or of one model, sorted by model, age of the snapshot, and path.

    Each has `model` (`org/name`), `revision` (40 hex), `path` (as in the repository; it lies below the snapshot's
    directory), `size` (bytes), `sha256`, `promoted`, and `last_use` (ISO 8601 in UTC, None when it was never served).
    An empty list when there is nothing. Raises UnsafeName, NoPermission.
    """
    model = None if model_name is None else ModelName.parse(model_name)
    return [
        {
            "model": entry.manifest.repository,
            "revision": entry.manifest.revision,
            "path": file.path,
            "size": file.size,
            "sha256": file.sha256,
            "promoted": entry.promoted,
            "last_use": entry.last_used.isoformat() if entry.last_used else None,
        }
        for entry in Volume(settings.load().volume).entries(model)
        for file in sorted(entry.manifest.files, key=lambda file: file.path)
    ]


def delete_model_from_volume(model_name: str, revision: str | None = None) -> int:
    """Remove a model, or one revision (40 hex) of it, and return the bytes that came free on the disk: bytes that
    another snapshot uses stay.

    Raises UnsafeName, NotOnVolume, and InUse for what is being served.
    """
    model = ModelName.parse(model_name)
    return Volume(settings.load().volume).remove(model, None if revision is None else parse_revision(revision))
