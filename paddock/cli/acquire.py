"""Commands that transfer a model: pull, onboard, cache, restore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from paddock.cli.logs import convert_other_handlers
from paddock.cli.model_argument import parse_model, parse_stored_model
from paddock.cli.options import (
    ContextOption,
    Json,
    ModelArgument,
    ProfileName,
    QuantOption,
    TargetOption,
    check_quant,
    make_clients,
    prepare_audit,
    prepare_fetch,
)
from paddock.cli.output import print_result
from paddock.errors import GateNotPassed

if TYPE_CHECKING:
    from paddock.lifecycle.clients import Clients
    from paddock.lifecycle.onboard import Onboarded, OnboardRequest


def pull(
    model: ModelArgument,
    quant: QuantOption = "auto",
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="F", help="A GGUF file, or a pattern such as '*Q4_K_M*'; repeat for more."),
    ] = None,
    projector: Annotated[bool, typer.Option("--projector", help="Fetch the multimodal projector too.")] = False,
    limit_rate: Annotated[
        str | None, typer.Option("--limit-rate", metavar="BYTES", help="The most bytes per second, such as 20MB.")
    ] = None,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Do not promote it.")] = False,
    ctx: ContextOption = None,
    target: TargetOption = "this-machine",
    as_json: Json = False,
) -> int:
    """Fetch, verify, audit and promote a model that fits the target."""
    prepare_audit()
    from paddock.cli.progress import ProgressBars
    from paddock.cli.render import render_pull
    from paddock.lifecycle.acquire.acquire import SERVED
    from paddock.lifecycle.acquire.pull import pull as pull_model
    from paddock.planning.plan import PlanRequest
    from paddock.planning.targets import parse_target

    check_quant(quant)
    clients = make_clients(limit_rate=limit_rate)
    requested = parse_model(clients, model)
    files = [*([requested.file] if requested.file else []), *(file or [])]
    if files and (quant != "auto" or requested.reference.variant):
        raise typer.BadParameter("--file, or a file in MODEL, excludes --quant and a variant")
    prepare_fetch()
    with ProgressBars(quiet=as_json) as bars:
        pulled = pull_model(
            clients,
            requested.reference,
            quantization=quant,
            files=files,
            projector=projector,
            promote=not no_promote,
            plan_request=PlanRequest(ctx, at_most_trained=True) if ctx else SERVED,
            target=parse_target(target),
            listener=bars,
        )
    print_result(as_json, pulled.to_json(), lambda: render_pull(pulled))
    return GateNotPassed.exit_status if pulled.held_back else 0


def onboard(
    model: ModelArgument,
    quant: QuantOption = "auto",
    ctx: ContextOption = None,
    profile: Annotated[ProfileName, typer.Option(help="The use of the model.")] = ProfileName.CHAT,
    target: TargetOption = "this-machine",
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Do not promote it.")] = False,
    as_json: Json = False,
) -> int:
    """Acquire, validate, cache, benchmark, compare and promote a model.

    Then its dossier is written. A model that is worse than the promoted one is held back: the exit status is 2. It runs
    in this process. If PREFECT_API_URL is set, that Prefect server records the run.
    """
    from paddock.cli.render import render_onboarding
    from paddock.cli.render_gates import render_gates
    from paddock.lifecycle.onboard import OnboardRequest

    check_quant(quant)
    clients = make_clients()
    requested = parse_model(clients, model)
    if requested.file and quant != "auto":
        raise typer.BadParameter("a file in MODEL excludes --quant")
    quant = requested.file or quant
    request = OnboardRequest(requested.reference, quant, ctx, profile.value, target, promote=not no_promote)
    # The only place where the library calls a flow, and only if a Prefect server is configured.
    from flows.prefect_settings import server_is_configured

    result = (
        _onboard_as_flow(request) if server_is_configured() else _onboard_in_process(clients, request, quiet=as_json)
    )

    def render() -> None:
        render_onboarding(result)
        if result.gates and not result.gates.passed:
            render_gates(result.gates)

    print_result(as_json, result.to_json(), render)
    return GateNotPassed.exit_status if result.held_back else 0


def _onboard_as_flow(request: OnboardRequest) -> Onboarded:
    """Run the flow in this process, recorded by the configured Prefect server."""
    from flows.prefect_settings import check_prefect_settings

    check_prefect_settings()
    from flows.onboard import onboard_model
    from flows.run_local import run_local

    convert_other_handlers()  # those that the import of Prefect has made

    _, result = run_local(
        onboard_model,
        model=request.wanted.name,
        revision=request.wanted.ref or "main",
        quantization=request.quantization,
        context_tokens=request.context_tokens,
        profile=request.profile,
        target=request.target,
        promote=request.promote,
    )
    onboarded: Onboarded = result
    return onboarded


def _onboard_in_process(clients: Clients, request: OnboardRequest, *, quiet: bool) -> Onboarded:
    """Run the same phases without Prefect, with the same retries."""
    from paddock.cli.logs import print_progress
    from paddock.cli.progress import ProgressBars
    from paddock.lifecycle.onboard import InProcess, onboard
    from paddock.lifecycle.steps import PlainRunner

    with ProgressBars(quiet=quiet) as bars:
        runner = PlainRunner(clients, listener=bars, retry=True, on_line=None if quiet else print_progress)
        return onboard(clients, InProcess(runner), request)


def cache(model: ModelArgument, as_json: Json = False) -> int:
    """Copy a snapshot from the volume to S3.

    By default the promoted one is copied. Blobs that S3 has are not sent.
    """
    from paddock.cli.printing import print_line
    from paddock.lifecycle.acquire.cache import cache as cache_snapshot
    from paddock.lifecycle.clients import require_remote
    from paddock.lifecycle.steps import PlainRunner
    from paddock.model.units import human_bytes

    clients = make_clients()
    require_remote(clients)
    manifest, copied = cache_snapshot(PlainRunner(clients), parse_stored_model(clients, model))
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
    existing = f"{copied.already} of {copied.already + copied.blobs} blobs were there already"
    line = f"{manifest.id.short}: {sent} sent to {copied.where} {took}, {existing}"
    print_result(as_json, payload, lambda: print_line(line))
    return 0


def restore(
    model: ModelArgument,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Do not promote it.")] = False,
    as_json: Json = False,
) -> int:
    """Restore a snapshot from S3, verified and audited.

    By default the one that is promoted in S3 is restored. The Hub is not asked.
    """
    prepare_audit()
    from paddock.cli.progress import ProgressBars
    from paddock.cli.render import render_restoration
    from paddock.lifecycle.acquire.restore import restore as restore_snapshot
    from paddock.lifecycle.clients import require_remote
    from paddock.lifecycle.steps import PlainRunner

    clients = make_clients()
    prepare_fetch()
    wanted = parse_stored_model(clients, model, require_remote(clients))
    with ProgressBars(quiet=as_json) as bars:
        restored = restore_snapshot(PlainRunner(clients, listener=bars), wanted, promote=not no_promote)
    print_result(as_json, restored.to_json(), lambda: render_restoration(restored))
    return 0
