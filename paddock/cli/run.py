"""Commands that run the engine: bench, quality, serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from paddock.cli.model_argument import find_snapshot, parse_stored_model
from paddock.cli.options import Json, ModelArgument, ProfileName, QuantOption, make_clients
from paddock.cli.output import print_result, report_failure
from paddock.errors import PaddockError
from paddock.log_fields import process_fields


def bench(
    model: ModelArgument,
    ctx: Annotated[int, typer.Option("--ctx", metavar="N", min=512, help="Tokens of context.")] = 4096,
    roleplay: Annotated[bool, typer.Option("--roleplay", help="Also measure how well it plays a character.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="First find the engine's fastest settings on this machine, and store them.")
    ] = False,
    budget: Annotated[
        int, typer.Option("--budget", metavar="SECONDS", min=1, max=86_400, help="How long --tune may take.")
    ] = 120,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="URL", help="Also run a load test against a server of it: http://127.0.0.1:8080/v1."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Benchmark a model on this machine.

    Settings that were tuned on this machine are used.
    """
    from paddock.cli.render import render_benchmark, render_tuning
    from paddock.lifecycle.dossier import refresh_dossier
    from paddock.lifecycle.run.benchmark import measure, measure_server
    from paddock.lifecycle.steps import PlainRunner
    from paddock.measure.load_test import served_model

    clients = make_clients()
    manifest = find_snapshot(clients, model)
    if server is not None:
        served_model(server, api_key=clients.settings.api_key)  # else a wrong address would be told minutes later
    measured, tuning = measure(PlainRunner(clients), manifest, ctx, roleplay=roleplay, tune_first=tune, budget_s=budget)
    if server is not None:
        measured = measure_server(clients, manifest, measured, server, api_key=clients.settings.api_key)
    refresh_dossier(clients, manifest)

    def render() -> None:
        if tuning is not None:
            render_tuning(tuning)
        render_benchmark(measured)

    print_result(as_json, {**measured.to_json(), "tuning": tuning.to_json() if tuning else None}, render)
    return 0


def quality(
    model: ModelArgument,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="MODEL", help="The reference; by default the largest other variant."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="A text of yours; by default Paddock's own.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", metavar="N", min=512, help="Use at most N tokens; by default all.")
    ] = None,
    roleplay: Annotated[bool, typer.Option("--roleplay", help="Also compare how well they play a character.")] = False,
    as_json: Json = False,
) -> int:
    """Measure how far a model's predictions are from those of a reference.

    Perplexity, KL divergence and top-1 agreement, on the same text, and greedy answers to the same prompts.
    """
    from paddock.cli.render import render_quality
    from paddock.lifecycle.dossier import refresh_dossier
    from paddock.lifecycle.run.pictures import draw_pictures
    from paddock.lifecycle.run.quality import best_reference, measure_quality
    from paddock.measure.likelihood import LIMIT_TOKENS

    clients = make_clients()
    manifest = find_snapshot(clients, model)
    reference = find_snapshot(clients, against) if against else best_reference(clients, manifest)
    measured = measure_quality(
        clients, manifest, reference, text=text, limit_tokens=tokens or LIMIT_TOKENS, roleplay=roleplay
    )
    draw_pictures(clients, manifest)
    refresh_dossier(clients, manifest)
    print_result(as_json, measured.to_json(), lambda: render_quality(measured))
    return 0


def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 for any free port.")] = 8080,
    ctx: Annotated[
        int | None, typer.Option("--ctx", metavar="N", min=64, help="Tokens of context for each request.")
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", metavar="N", min=1, max=64, help="Concurrent requests."),
    ] = None,
    profile: Annotated[ProfileName, typer.Option(help="The use of the model.")] = ProfileName.CHAT,
    quant: QuantOption = "auto",
    kv_type: Annotated[str, typer.Option("--kv-type", metavar="T", help="f16, q8_0, q4_0, …")] = "f16",
    as_json: Json = False,
) -> int:
    """Serve a model over an OpenAI-compatible API until stopped.

    By default the promoted snapshot is served, and the server follows later promotions. If PADDOCK_API_KEY is set,
    clients must send that key.
    """
    from paddock.cli.render import render_serving
    from paddock.lifecycle.locate import locate, match_variant, requested_quantization
    from paddock.lifecycle.run.serve import ServeRequest, Serving, serve_snapshot
    from paddock.lifecycle.watch import HistoryGuard

    clients = make_clients()
    wanted = parse_stored_model(clients, model)
    variant = match_variant(clients, wanted.model, quant)
    if variant is not None:
        requested_quantization(wanted.variant, variant)
        wanted = replace(wanted, variant=variant)
    request = ServeRequest(
        host=host,
        port=port,
        context_tokens=ctx,
        parallel=parallel,
        profile=profile.value,
        kv_type=kv_type,
    )
    is_ready = False

    def on_ready(serving: Serving) -> None:
        nonlocal is_ready
        print_result(as_json, serving.to_json(), lambda: render_serving(serving))
        is_ready = True

    manifest = locate(clients, wanted)
    served = {"model": manifest.repository, "revision": manifest.revision, "variant": manifest.variant}
    with process_fields(**served) as change_fields:
        try:
            received = serve_snapshot(
                clients,
                manifest,
                request,
                name=wanted,
                guard=HistoryGuard(clients, wanted),
                on_ready=on_ready,
                on_switch=lambda serving: change_fields(
                    {"revision": serving.spec.revision, "variant": serving.spec.variant}
                ),
            )
        except PaddockError as error:
            if not is_ready:
                raise
            return report_failure(
                False, error.code, error.message, error.cure, error.exit_status
            )  # stdout has its one JSON object already
    if received is not None and not is_ready:
        message = f"{received.name} was received before the model was ready"
        return report_failure(as_json, "server-unavailable", message, "start it again", 128 + received)
    return 0
