"""Prefect task that serves a model until its flow run is cancelled."""

from __future__ import annotations

import signal

from prefect import task

from paddock.lifecycle.clients import Clients
from paddock.lifecycle.retries import Kind
from paddock.lifecycle.run.serve import ServeRequest, Serving, serve_snapshot
from paddock.lifecycle.watch import HistoryGuard
from paddock.model.artifact import Manifest
from paddock.model.reference import Reference
from paddock.store.history import Promotion
from tasks import artifacts, policies
from tasks.cancellation import is_cancelling
from tasks.events import emit, rollback_event
from tasks.run_log import run_logger
from tasks.subject import ArtifactSubject


@task(task_run_name="serve", **policies.BY_KIND[Kind.ENGINE])
def serve(clients: Clients, manifest: Manifest, wanted: Reference, request: ServeRequest) -> None:
    """Serve the snapshot until the run is cancelled, and follow the name by which it was wanted. Call it, and never
    submit it: signals are received in the main thread.

    Prefect cancels a run with SIGTERM. While the model is served, Paddock handles that signal, so that running requests
    are completed. If the run was not cancelled, the signal is raised again for Prefect afterwards.
    """
    logger = run_logger()
    last: list[Serving] = []

    def on_ready(serving: Serving) -> None:
        last[:] = [serving]
        artifacts.serving(ArtifactSubject.of(clients, manifest.id), serving)
        logger.info(
            "serving %s at %s/v1 by llama-server %s", manifest.id, serving.address.url, serving.address.server_version
        )
        logger.info("computed by llama-server %s", serving.processor)

    def on_switch(serving: Serving) -> None:
        last[:] = [serving]
        artifacts.serving(ArtifactSubject.of(clients, serving.spec.id), serving)
        logger.info("serving %s now", serving.spec.id)

    def on_rollback(change: Promotion) -> None:
        emit(clients, [rollback_event(manifest.model, change)])

    received = serve_snapshot(
        clients,
        manifest,
        request,
        name=wanted,
        guard=HistoryGuard(clients, wanted, on_rollback=on_rollback),
        on_ready=on_ready,
        on_switch=on_switch,
    )
    reason = received.name if received else "no signal"
    logger.info("the server was stopped: %s", reason)
    for serving in last:
        artifacts.serving_ended(ArtifactSubject.of(clients, serving.spec.id), serving, reason)
    if received is not None and not is_cancelling():
        signal.raise_signal(received)
