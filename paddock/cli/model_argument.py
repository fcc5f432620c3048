"""Turn the MODEL argument of a command into a reference.

A MODEL is `org/name[:VARIANT][@REVISION]`, one file (`org/name[@REVISION]:path.gguf`), an address of the Hub, or a path
on the volume as `pull` prints it: `/models/org--name`, `/models/org--name--Q8_0`, or a snapshot's directory.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.cli.options import require_volume
from paddock.errors import NoPermission, NotOnVolume, UnsafeName
from paddock.model.names import printable
from paddock.model.reference import Reference, RequestedModel, SnapshotId, Variant, parse_requested

if TYPE_CHECKING:
    from paddock.lifecycle.clients import Clients
    from paddock.model.artifact import Manifest
    from paddock.store.protocol import Store

_PATH_PREFIXES = ("/", "./", "../", "~")


def parse_model(clients: Clients, text: str) -> RequestedModel:
    """Parse a MODEL argument. A link on the volume means the name that it stands for. Raises UnsafeName, and
    NotOnVolume for a path that is no snapshot."""
    if not text.startswith(_PATH_PREFIXES):
        return parse_requested(text, clients.hub.endpoint)
    path = _absolute(text)
    id = _snapshot_at(clients, path)
    if not _is_link(clients, path):
        return RequestedModel(id.reference)
    is_default = path.name == id.model.slug
    return RequestedModel(Reference(id.model, None if is_default else id.variant))


def parse_stored_model(clients: Clients, text: str, store: Store | None = None) -> Reference:
    """Parse the MODEL argument of a command on stored models. A file stands for the variant, in `store` (by default the
    volume), that has it. Raises as `parse_model`, and NotOnVolume where there is no volume."""
    requested = parse_model(clients, text)
    if store is None:
        require_volume(clients.volume)
    if requested.file is None:
        return requested.reference
    return replace(
        requested.reference, variant=_variant_with(clients, store or clients.volume, requested, requested.file)
    )


def parse_exact_model(clients: Clients, text: str) -> Reference:
    """As `parse_stored_model`, but a link on the volume means only the snapshot that it points to, for a command that
    removes what it is given."""
    if text.startswith(_PATH_PREFIXES):
        return _snapshot_at(clients, _absolute(text)).reference
    return parse_stored_model(clients, text)


def find_snapshot(clients: Clients, text: str) -> Manifest:
    """The snapshot on the volume that a MODEL argument names. Raises as `locate`."""
    from paddock.lifecycle.locate import locate

    return locate(clients, parse_stored_model(clients, text))


def _variant_with(clients: Clients, store: Store, requested: RequestedModel, file: str) -> Variant:
    """The variant of the newest stored snapshot that has a file, in the revision that was requested if there is one."""
    reference, model = requested.reference, clients.volume.spelled(requested.reference.model)
    having = [
        manifest
        for manifest in store.snapshots(model)
        if any(file in {stored.path, stored.path.rpartition("/")[2]} for stored in manifest.files)
    ]
    at_revision = [manifest for manifest in having if reference.ref and manifest.revision.startswith(reference.ref)]
    for manifest in reversed(at_revision or having):
        return manifest.variant
    raise NotOnVolume(
        f"{printable(file)} of {reference.model} is not on {store.label}",
        cure=f"pull it first (`paddock pull {reference} --file {printable(file)}`)",
    )


def _absolute(text: str) -> Path:
    try:
        return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - resolve() would follow the link itself
    except (RuntimeError, ValueError):
        raise UnsafeName(f"{text[:200]!r} is not a path that can exist", cure="write org/name") from None


def _snapshot_at(clients: Clients, path: Path) -> SnapshotId:
    """The snapshot whose directory `path` is, leads to as a link, or lies in."""
    from paddock.lifecycle.locate import snapshot_at

    root = clients.volume.root
    try:
        for directory in (path, *path.parents):
            id = snapshot_at(clients, directory.resolve())
            if id is not None:
                return id
        is_inside = path.resolve().is_relative_to(root.resolve()) or path.is_relative_to(root)
    except (OSError, RuntimeError, ValueError) as error:
        raise NoPermission(f"{path} cannot be read: {error}", cure="write org/name in place of the path") from None
    if is_inside:
        raise NotOnVolume(f"{path} is not a snapshot of {clients.volume.label}", cure="see `paddock ls`")
    raise UnsafeName(
        f"{path} is outside of {clients.volume.label}",
        cure="write org/name[:VARIANT][@REVISION]; only `paddock inspect` and `paddock plan` read other files",
    )


def _is_link(clients: Clients, path: Path) -> bool:
    return path.parent.resolve() == clients.volume.root.resolve()
