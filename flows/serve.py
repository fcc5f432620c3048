"""Serve a model over an OpenAI-compatible API on a worker of the GPU work pool, until the run is cancelled."""

from __future__ import annotations

from prefect import State, flow
from prefect.states import Cancelled

from flows.parameters import ContextTokens, Host, Model, Parallel, Port, Profile, RevisionName
from paddock.lifecycle.acquire.restore import locate_or_restore
from paddock.lifecycle.run.serve import ServeRequest
from tasks import policies, serve
from tasks.cancellation import is_cancelling
from tasks.runner import PrefectRunner
from tasks.wiring import reference


@flow(flow_run_name="serve {model}", **policies.FLOW)
def serve_model(
    model: Model,
    revision: RevisionName | None = None,
    context_tokens: ContextTokens | None = None,
    profile: Profile = "chat",
    parallel: Parallel | None = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
) -> State[None] | None:
    """Serve a model over an OpenAI-compatible API until the run is cancelled. Running requests are completed first.

    Args:
        model: Repository on the Hub, `org/name`, or one of its variants, `org/name:Q4_K_M`.
        revision: Branch, tag or commit, on the worker's volume or in S3. By default the promoted one; then the
            server follows later promotions.
        context_tokens: Context of each request, 256 to 1048576 tokens. By default that of the profile.
        profile: Use of the model: `chat` has 4096 tokens of context, `roleplay` 8192; each has its own sampling.
        parallel: Concurrent requests, 1 to 64. By default 4 if they fit, else 1.
        host: Address to listen on. Any but a loopback address needs PADDOCK_API_KEY in the worker's environment.
        port: Port to listen on, up to 65535; 0 for any free port.
    """
    runner = PrefectRunner()
    wanted = reference(model, revision)
    manifest = runner.run(locate_or_restore, wanted)
    request = ServeRequest(host=host, port=port, context_tokens=context_tokens, parallel=parallel, profile=profile)
    serve.serve(runner.clients, manifest, wanted, request)
    # Its own state, before the worker's: Prefect would first mark a process that a signal ended as Crashed.
    return Cancelled(message=f"{manifest.id.name} was served until the run was cancelled") if is_cancelling() else None
