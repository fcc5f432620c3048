"""The commands about the two stores: copies between them, and what stays on the volume."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from paddock.door import Json, ModelArgument, model_in, parts_here, s3_of, show, snapshot_in


def cache(model: ModelArgument, as_json: Json = False) -> int:
    """Copy a snapshot to S3: the promoted one or that of a revision. What is there is not sent again."""
    from paddock.lifecycle.promotion import tell_s3
    from paddock.model.units import human_bytes
    from paddock.store.copying import push
    from paddock.terminal import say

    parts = parts_here()
    s3 = s3_of(parts)
    manifest = snapshot_in(parts, model)
    copied = push(parts.volume, s3, manifest)
    tell_s3(parts, manifest.model)
    payload = {
        "model": manifest.repository,
        "revision": manifest.revision,
        "variant": manifest.variant,
        "where": s3.label,
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256, "sent_bytes": sent}
            for file, sent in copied.files
        ],
        "bytes_transferred": copied.bytes_transferred,
        "seconds": round(copied.seconds, 3),
    }
    sent, took = human_bytes(copied.bytes_transferred), f"in {copied.seconds:.1f} s"
    line = f"{manifest.id.short}: {sent} sent to {s3.label} {took}, "
    there = f"{copied.already} of {copied.already + copied.blobs} blobs were there already"
    show(as_json, payload, lambda: say(line + there))
    return 0


def restore(
    model: ModelArgument,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Leave what is promoted as it is.")] = False,
    as_json: Json = False,
) -> int:
    """Bring a snapshot back from S3, verified and audited, without the Hub: a commit, or what is promoted there."""
    from paddock.bars import Bars
    from paddock.lifecycle.restoration import restore as bring_back
    from paddock.terminal import render_restoration

    wanted = model_in(model)
    parts = parts_here()
    with Bars(quiet=as_json) as bars:
        restored = bring_back(parts, wanted, promote=not no_promote, watch=bars)
    show(as_json, restored.to_json(), lambda: render_restoration(restored))
    return 0


def pin(model: ModelArgument, as_json: Json = False) -> int:
    """Keep a snapshot on the volume, however old it becomes."""
    from paddock.terminal import say

    parts = parts_here()
    manifest = snapshot_in(parts, model)
    parts.volume.pin(manifest.id)
    payload = {"model": manifest.repository, "revision": manifest.revision, "variant": manifest.variant, "pinned": True}
    show(as_json, payload, lambda: say(f"pinned {manifest.id}"))
    return 0


def unpin(model: ModelArgument, as_json: Json = False) -> int:
    """Let a snapshot go when it is old."""
    from paddock.terminal import say

    parts = parts_here()
    manifest = snapshot_in(parts, model)
    was = parts.volume.unpin(manifest.id)
    payload = {
        "model": manifest.repository,
        "revision": manifest.revision,
        "variant": manifest.variant,
        "pinned": False,
    }
    said = "unpinned" if was else "not pinned:"
    show(as_json, payload, lambda: say(f"{said} {manifest.id}"))
    return 0


def verify(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="By default all that there is.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Fetch what is damaged again.")] = False,
    as_json: Json = False,
) -> int:
    """Read stored snapshots again, and compare every byte with its digest."""
    from paddock.lifecycle.verifying import verify as read_again
    from paddock.terminal import render_verified

    parts = parts_here()
    manifests = [snapshot_in(parts, model) for model in models] if models else parts.volume.snapshots()
    verified = read_again(parts, manifests, mend=repair)
    show(as_json, verified.to_json(), lambda: render_verified(verified))
    return 0 if verified.ok else 2


def list_s3(as_json: bool) -> int:
    from paddock.terminal import render_entries

    s3 = s3_of(parts_here())
    manifests = s3.snapshots()
    promoted = {model: s3.promoted(model) for model in {manifest.model for manifest in manifests}}
    rows: list[dict[str, Any]] = [
        {
            "model": manifest.repository,
            "revision": manifest.revision,
            "variant": manifest.variant,
            "promoted": promoted[manifest.model].holds(manifest.id),
            "default": promoted[manifest.model].default_id == manifest.id,
            "quantization": manifest.quantization,
            "size_bytes": manifest.size_bytes,
            "last_used": None,
            "uses": None,
            "pinned": False,
        }
        for manifest in manifests
    ]
    apparent, real = s3.sizes()
    payload = {"models": rows, "apparent_bytes": apparent, "real_bytes": real, "where": s3.label}
    show(as_json, payload, lambda: render_entries(rows, apparent, real, where=f"in {s3.label}"))
    return 0


COMMANDS = (cache, restore, verify, pin, unpin)
