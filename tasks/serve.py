"""The step that serves a model, for as long as nobody tells it to stop."""

from __future__ import annotations

import signal

from prefect import get_run_logger, task

from paddock.lifecycle.clients import Clients
from paddock.lifecycle.run.serve import ServeRequest, Serving, serve_snapshot
from paddock.lifecycle.steps import Kind
from paddock.model.artifact import Manifest
from tasks import artifacts, policies
from tasks.subject import ArtifactSubject


@task(task_run_name="serve", **policies.BY_KIND[Kind.ENGINE])
def serve(clients: Clients, manifest: Manifest, order: ServeRequest) -> None:
    """Serve the snapshot until the run is cancelled. Called directly, never submitted: signals come to the main thread.

    Prefect cancels a run with SIGTERM. While the model is served that signal is ours, so that running answers end;
    then it is Prefect's again.
    """
    logger = get_run_logger()

    def on_ready(serving: Serving) -> None:
        artifacts.serving(ArtifactSubject.of(clients, manifest.id), serving)
        logger.info("serving %s at %s/v1 by %s", manifest.id, serving.address.url, serving.address.server)
        logger.info("computed by %s", serving.processor)

    heard = serve_snapshot(clients, manifest, order, on_ready=on_ready)
    logger.info("served no longer: %s", heard.name if heard else "stopped")
    if heard is not None:
        signal.raise_signal(heard)
