"""Commands on stored snapshots: ls, show, rm, pin, unpin."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paddock.cli.model_argument import find_snapshot, parse_exact_model
from paddock.cli.options import Json, ModelArgument, make_clients, make_volume
from paddock.cli.output import print_result
from paddock.timings import phase

if TYPE_CHECKING:
    from paddock.store.usage import UsageTotal


def list_models(
    in_s3: Annotated[bool, typer.Option("--s3", help="List S3 instead of the volume.")] = False, as_json: Json = False
) -> int:
    """List the snapshots on the volume, and their sizes."""
    from paddock.cli.render import render_entries
    from paddock.store.usage import total_by

    if in_s3:
        return list_s3(as_json)
    with phase("volume"):
        volume = make_volume()
        entries = volume.entries()
        apparent, real = sum(entry.size_bytes for entry in entries), volume.blob_bytes()
        used = total_by(volume.usage.rows(), lambda row: row.id)
    rows = [
        {
            "model": entry.manifest.repository,
            "revision": entry.manifest.revision,
            "variant": entry.manifest.variant,
            "promoted": entry.promoted,
            "default": entry.default,
            "quantization": entry.manifest.quantization,
            "size_bytes": entry.size_bytes,
            "last_used": entry.last_used.isoformat() if entry.last_used else None,
            **_used(used.get(entry.manifest.id)),
            "pinned": entry.pinned,
        }
        for entry in entries
    ]
    payload = {"models": rows, "apparent_bytes": apparent, "real_bytes": real}
    print_result(as_json, payload, lambda: render_entries(rows, apparent, real))
    return 0


def list_s3(as_json: bool) -> int:
    """List the snapshots in the remote store, and how much all workers used each."""
    from paddock.cli.render import render_entries
    from paddock.lifecycle.clients import require_remote
    from paddock.store.usage import UsageTotal, total_by

    remote = require_remote(make_clients())
    manifests = remote.snapshots()
    promoted = {model: remote.promoted(model) for model in {manifest.model for manifest in manifests}}
    used = total_by(remote.usage(), lambda row: row.id)
    rows: list[dict[str, Any]] = [
        {
            "model": manifest.repository,
            "revision": manifest.revision,
            "variant": manifest.variant,
            "promoted": promoted[manifest.model].holds(manifest.id),
            "default": promoted[manifest.model].default_id == manifest.id,
            "quantization": manifest.quantization,
            "size_bytes": manifest.size_bytes,
            "last_used": last.isoformat() if (last := used.get(manifest.id, UsageTotal()).last) else None,
            **_used(used.get(manifest.id)),
            "pinned": False,
        }
        for manifest in manifests
    ]
    apparent, real = remote.sizes()
    payload = {"models": rows, "apparent_bytes": apparent, "real_bytes": real, "where": remote.label}
    print_result(as_json, payload, lambda: render_entries(rows, apparent, real, where=f"in {remote.label}"))
    return 0


def _used(total: UsageTotal | None) -> dict[str, int]:
    """How often a snapshot was used, and how many requests were served from it."""
    return {"uses": total.usage.uses, "requests": total.usage.requests} if total else {"uses": 0, "requests": 0}


def show(
    model: ModelArgument,
    dossier: Annotated[bool, typer.Option("--dossier", help="Show all that is known of it, on one page.")] = False,
    as_json: Json = False,
) -> int:
    """Show the manifest, chat template and profiles of a snapshot, or its dossier."""
    if dossier:
        return show_dossier(model, as_json)
    from paddock.cli.render import render_manifest
    from paddock.lifecycle.assess.chat_template import chat_of_snapshot
    from paddock.planning.profile import PROFILES

    clients = make_clients()
    manifest = find_snapshot(clients, model)
    promoted = clients.volume.promoted(manifest.model)
    history = [change.to_json() for change in clients.volume.history(manifest.model)]
    chat = chat_of_snapshot(clients, manifest)
    payload = {
        **json.loads(manifest.to_json()),
        "promoted": promoted.holds(manifest.id),
        "default": promoted.default_id == manifest.id,
        "history": history,
        "chat": json.loads(chat.to_json()),
        "profiles": {name: {**profile.to_json(), "stop": chat.stop} for name, profile in PROFILES.items()},
        "served": clients.volume.usage.read(manifest.id).kinds["serve"].to_json(),
    }
    print_result(as_json, payload, lambda: render_manifest(manifest, promoted=promoted, chat=chat))
    return 0


def show_dossier(model: str, as_json: bool) -> int:
    """Show the dossier of a snapshot, with what is known now."""
    from paddock.cli.printing import print_markdown
    from paddock.lifecycle.dossier import markdown, read_dossier

    clients = make_clients()
    document = read_dossier(clients, find_snapshot(clients, model))
    print_result(as_json, json.loads(document.to_json()), lambda: print_markdown(markdown(document)))
    return 0


def remove(model: ModelArgument, as_json: Json = False) -> int:
    """Remove a model, or a variant or revision of it."""
    from paddock.cli.printing import print_line
    from paddock.lifecycle.locate import resolve_revision
    from paddock.model.units import counted, human_bytes

    clients = make_clients()
    wanted = parse_exact_model(clients, model)
    wanted = replace(wanted, model=clients.volume.spelled(wanted.model))
    revision = None
    if wanted.ref is not None:  # by the ids alone: a snapshot with a damaged manifest can be removed
        stored = [id.revision for id in clients.volume.ids(wanted.model)]
        revision = resolve_revision(clients, wanted.model, wanted.ref, known=stored)
    sizes = {manifest.id: manifest.size_bytes for manifest in clients.volume.snapshots(wanted.model)}
    had_default = clients.volume.promoted(wanted.model).default is not None
    removed, freed = clients.volume.remove(wanted.model, variant=wanted.variant, revision=revision)
    left = clients.volume.promoted(wanted.model)
    rows = [
        {
            "model": str(id.model),
            "revision": id.revision,
            "variant": id.variant,
            "bytes": sizes.get(id),  # None where its manifest cannot be read
            "reason": "asked for",
        }
        for id in removed
    ]
    payload = {"removed": rows, "freed_bytes": freed, "kept": []}

    def render() -> None:
        gone = counted(len(removed), "snapshot")
        print_line(f"removed {wanted}, {gone}: {human_bytes(freed)} freed")
        if had_default and left.default is None and left.revisions:
            others = ", ".join(sorted(left.revisions))
            print_line(
                f"{wanted.model} has no default now; {others} stays promoted: `paddock promote {wanted.model}:VARIANT`"
            )

    print_result(as_json, payload, render)
    return 0


def pin(model: ModelArgument, as_json: Json = False) -> int:
    """Keep a snapshot when newer ones are promoted."""
    from paddock.cli.printing import print_line

    clients = make_clients()
    manifest = find_snapshot(clients, model)
    clients.volume.pins.add(manifest.id)
    payload = {"model": manifest.repository, "revision": manifest.revision, "variant": manifest.variant, "pinned": True}
    print_result(as_json, payload, lambda: print_line(f"pinned {manifest.id}"))
    return 0


def unpin(model: ModelArgument, as_json: Json = False) -> int:
    """Undo a pin: the snapshot may be removed."""
    from paddock.cli.printing import print_line

    clients = make_clients()
    manifest = find_snapshot(clients, model)
    was_pinned = clients.volume.pins.remove(manifest.id)
    payload = {
        "model": manifest.repository,
        "revision": manifest.revision,
        "variant": manifest.variant,
        "pinned": False,
    }
    outcome = "unpinned" if was_pinned else "not pinned:"
    print_result(as_json, payload, lambda: print_line(f"{outcome} {manifest.id}"))
    return 0
