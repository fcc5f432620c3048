"""Commands that move a model: pull, onboard, cache, restore."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli.options import (
    ContextOption,
    Json,
    ModelArgument,
    ProfileName,
    QuantOption,
    TargetOption,
    make_clients,
    parse_model,
)
from paddock.cli.output import print_result


def pull(
    model: ModelArgument,
    quant: QuantOption = "auto",
    file: Annotated[
        list[str] | None, typer.Option("--file", metavar="F", help="A GGUF file by its name; again for more.")
    ] = None,
    projector: Annotated[bool, typer.Option("--projector", help="Fetch the multimodal projector too.")] = False,
    limit_rate: Annotated[
        str | None, typer.Option("--limit-rate", metavar="BYTES", help="Per second, such as 20MB.")
    ] = None,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Leave what is promoted as it is.")] = False,
    ctx: ContextOption = None,
    target: TargetOption = "this-machine",
    as_json: Json = False,
) -> int:
    """Fetch a model that fits the target onto the volume, verified and resumed, and promote it."""
    from paddock.cli.progress import ProgressBars
    from paddock.cli.render import render_pull
    from paddock.lifecycle.acquire.acquire import SERVED
    from paddock.lifecycle.acquire.pull import pull as fetch
    from paddock.planning.plan import Wish
    from paddock.planning.targets import parse_target

    wanted = parse_model(model)
    if not quant.strip():
        raise typer.BadParameter("--quant is empty: name a quantization, or leave it out")
    if file and (quant != "auto" or wanted.variant):
        raise typer.BadParameter("--file excludes --quant and a variant: a named file has its own")
    clients = make_clients(limit_rate=limit_rate)
    with ProgressBars(quiet=as_json) as bars:
        pulled = fetch(
            clients,
            wanted,
            quantization=quant,
            files=file or (),
            projector=projector,
            promote=not no_promote,
            wish=Wish(ctx, at_most_trained=True) if ctx else SERVED,
            target=parse_target(target),
            listener=bars,
        )
    print_result(as_json, pulled.to_json(), lambda: render_pull(pulled))
    return 0


def onboard(
    model: ModelArgument,
    quant: QuantOption = "auto",
    ctx: ContextOption = None,
    profile: Annotated[ProfileName, typer.Option(help="What it will be used for.")] = ProfileName.CHAT,
    target: TargetOption = "this-machine",
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Leave what is promoted as it is.")] = False,
    as_json: Json = False,
) -> int:
    """Run the whole life in this process: acquire, validate, cache, benchmark, promote, and write the dossier."""
    from paddock.cli.render import render_onboarding

    wanted = parse_model(model)
    make_clients()
    # The one door of the library that calls a flow.
    from flows.prefect_settings import check_prefect_settings

    check_prefect_settings()
    from flows.onboard import onboard_model
    from flows.run_local import run_here

    state, result = run_here(
        onboard_model,
        model=f"{wanted.model}:{wanted.variant}" if wanted.variant else str(wanted.model),
        revision=wanted.ref or "main",
        quantization=quant,
        context_tokens=ctx,
        profile=profile.value,
        target=target,
        promote=not no_promote,
    )
    print_result(as_json, {"state": state, **result.to_json()}, lambda: render_onboarding(result))
    return 0


def cache(model: ModelArgument, as_json: Json = False) -> int:
    """Copy a snapshot to S3: the promoted one or that of a revision. What is there is not sent again."""
    from paddock.cli.render import say
    from paddock.lifecycle.acquire.cache import cache as copy
    from paddock.lifecycle.clients import require_remote
    from paddock.lifecycle.steps import PlainRunner
    from paddock.model.units import human_bytes

    clients = make_clients()
    require_remote(clients)
    manifest, copied = copy(PlainRunner(clients), parse_model(model))
    if copied is None:
        raise AssertionError("there is a remote store")
    payload = {
        "model": manifest.repository,
        "revision": manifest.revision,
        "variant": manifest.variant,
        "where": copied.where,
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256, "sent_bytes": sent}
            for file, sent in copied.files
        ],
        "bytes_transferred": copied.bytes_transferred,
        "seconds": round(copied.seconds, 3),
    }
    sent, took = human_bytes(copied.bytes_transferred), f"in {copied.seconds:.1f} s"
    line = f"{manifest.id.short}: {sent} sent to {copied.where} {took}, "
    there = f"{copied.already} of {copied.already + copied.blobs} blobs were there already"
    print_result(as_json, payload, lambda: say(line + there))
    return 0


def restore(
    model: ModelArgument,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Leave what is promoted as it is.")] = False,
    as_json: Json = False,
) -> int:
    """Bring a snapshot back from S3, verified and audited, without the Hub: a commit, or what is promoted there."""
    from paddock.cli.progress import ProgressBars
    from paddock.cli.render import render_restoration
    from paddock.lifecycle.acquire.restore import restore as bring_back
    from paddock.lifecycle.steps import PlainRunner

    wanted = parse_model(model)
    clients = make_clients()
    with ProgressBars(quiet=as_json) as bars:
        restored = bring_back(PlainRunner(clients, listener=bars), wanted, promote=not no_promote)
    print_result(as_json, restored.to_json(), lambda: render_restoration(restored))
    return 0


COMMANDS = {"pull": pull, "onboard": onboard, "cache": cache, "restore": restore}
"""The commands by their names."""
