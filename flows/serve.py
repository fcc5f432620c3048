"""Serve a model over an OpenAI-compatible address, on the machine that has the GPU, until the run is cancelled."""

from __future__ import annotations

from prefect import flow

from flows.parameters import ContextTokens, Host, Model, Parallel, Port, Profile, RevisionName
from paddock.lifecycle.acquire.restore import reach
from paddock.lifecycle.run.serve import ServeRequest
from tasks import policies, serve
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
) -> None:
    """Serve a model over an OpenAI-compatible address until the run is cancelled; running answers are ended first.

    Args:
        model: The repository on the Hub, `org/name`, or one variant of it, `org/name:Q4_K_M`.
        revision: A branch, a tag or a commit that is on the worker's volume or in S3; when not given, what is promoted.
        context_tokens: The context of each request, in tokens; by the profile when not given.
        profile: What it is used for: `chat` takes 4096 tokens of context, `roleplay` 8192, and each its sampling.
        parallel: Requests at once, with llama-server; when not given, 4 where the memory is there.
        host: Where to listen. Beyond this machine the worker needs PADDOCK_API_KEY in its environment.
        port: 0 for any free one.
    """
    runner = PrefectRunner()
    manifest = runner.run(reach, reference(model, revision))
    request = ServeRequest(host=host, port=port, context_tokens=context_tokens, parallel=parallel, profile=profile)
    serve.serve(runner.clients, manifest, request)
