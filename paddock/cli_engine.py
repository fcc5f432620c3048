"""The commands that run the engine for as long as it takes: a benchmark, and a server."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from paddock.door import Json, ModelArgument, ProfileName, QuantOption, failed, model_in, parts_here, show, snapshot_in
from paddock.errors import PaddockError

if TYPE_CHECKING:
    from paddock.serving.engines import ServerName


class ServerChoice(StrEnum):
    AUTO = "auto"
    LLAMA_SERVER = "llama-server"
    LLAMA_CPP_PYTHON = "llama-cpp-python"


_SERVERS: dict[ServerChoice, ServerName | None] = {
    ServerChoice.AUTO: None,
    ServerChoice.LLAMA_SERVER: "llama-server",
    ServerChoice.LLAMA_CPP_PYTHON: "llama-cpp-python",
}


def bench(
    model: ModelArgument,
    ctx: Annotated[int, typer.Option("--ctx", metavar="N", min=512, help="Tokens of context.")] = 4096,
    roleplay: Annotated[bool, typer.Option("--roleplay", help="Measure how well it plays a character, too.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="First seek the engine's fastest settings here, and remember them.")
    ] = False,
    budget: Annotated[
        int, typer.Option("--budget", metavar="SECONDS", min=1, max=86_400, help="How long --tune may take.")
    ] = 120,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="Load a server of it too: http://127.0.0.1:8080/v1."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Load a model in the engine's own process and measure it, with the fastest settings that are known here."""
    from paddock.lifecycle import measuring
    from paddock.terminal import render_benchmark, render_tuning

    parts = parts_here()
    snapshot = snapshot_in(parts, model)
    tuning = measuring.tune(parts, snapshot, ctx, budget_s=budget) if tune else None
    measured = measuring.benchmark(parts, snapshot, ctx, roleplay=roleplay)
    if server is not None:
        measured = measuring.measure_server(parts, snapshot, measured, server, api_key=parts.settings.api_key)

    def render() -> None:
        if tuning is not None:
            render_tuning(tuning)
        render_benchmark(measured)

    show(as_json, {**measured.to_json(), "tuning": tuning.to_json() if tuning else None}, render)
    return 0


def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 for any free one.")] = 8080,
    ctx: Annotated[
        int | None, typer.Option("--ctx", metavar="N", min=64, help="Tokens of context for each request.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", metavar="N", min=1, max=64, help="Requests at once; llama-server only.")
    ] = None,
    profile: Annotated[ProfileName, typer.Option(help="What it is used for.")] = ProfileName.CHAT,
    quant: QuantOption = "auto",
    kv_type: Annotated[str, typer.Option("--kv-type", metavar="T", help="f16, q8_0, q4_0, …")] = "f16",
    server: Annotated[
        ServerChoice, typer.Option(help="auto takes llama-server where it is on the PATH.")
    ] = ServerChoice.AUTO,
    as_json: Json = False,
) -> int:
    """Serve a model over an OpenAI-compatible address until told to stop; what is promoted, unless a revision is
    named. PADDOCK_API_KEY is what clients must send."""
    from paddock.lifecycle.locating import locate, named_variant, wanted_quantization
    from paddock.lifecycle.serving import Order, Serving, serve_snapshot
    from paddock.terminal import render_serving

    parts = parts_here()
    wanted = model_in(model)
    variant = named_variant(parts, wanted.model, quant)
    if variant is not None:
        wanted_quantization(wanted.variant, variant)
        wanted = replace(wanted, variant=variant)
    order = Order(
        host=host,
        port=port,
        context_tokens=ctx,
        parallel=parallel,
        profile=profile.value,
        kv_type=kv_type,
        server=_SERVERS[server],
    )
    told = False

    def ready(serving: Serving) -> None:
        nonlocal told
        show(as_json, serving.to_json(), lambda: render_serving(serving))
        told = True

    try:
        heard = serve_snapshot(parts, locate(parts, wanted), order, ready=ready)
    except PaddockError as error:
        if not told:
            raise
        return failed(False, error.code, error.message, error.cure, error.exit_status)  # stdout had its one object
    if heard is not None and not told:
        message = f"{heard.name} came before the model was ready"
        return failed(as_json, "server-unavailable", message, "start it again", 128 + heard)
    return 0


COMMANDS = (bench, serve)
