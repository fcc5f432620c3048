"""The step that serves a model, for as long as nobody tells it to stop."""

from __future__ import annotations

import signal

from prefect import get_run_logger, task

from paddock.lifecycle.serving import Order, Serving, serve_snapshot
from paddock.model.artifact import Manifest
from tasks import policies, record
from tasks.subject import Subject
from tasks.wiring import parts


@task(task_run_name="serve", **policies.ENGINE)
def serve(manifest: Manifest, order: Order) -> None:
    """Serve the snapshot until the run is cancelled. Called directly, never submitted: signals come to the main thread.

    Prefect cancels a run with SIGTERM. While the model is served that signal is ours, so that running answers end;
    then it is Prefect's again.
    """
    logger = get_run_logger()

    def ready(serving: Serving) -> None:
        record.serving(Subject.of(manifest.id), serving)
        logger.info("serving %s at %s/v1 by %s", manifest.id, serving.address.url, serving.address.server)
        logger.info("computed by %s", serving.processor)

    heard = serve_snapshot(parts(), manifest, order, ready=ready)
    logger.info("served no longer: %s", heard.name if heard else "stopped")
    if heard is not None:
        signal.raise_signal(heard)
