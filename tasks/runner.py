"""Run the steps of a phase as Prefect tasks, with retries by kind, log lines, artifacts and events."""

from __future__ import annotations

from typing import ParamSpec, TypeVar

from prefect import task
from prefect.runtime import flow_run

from paddock.errors import ModelRejected
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.steps import Runner, Step
from paddock.log_fields import log_fields
from paddock.model.reference import SnapshotId
from paddock.plain_text import one_line
from paddock.planning.targets import THIS_MACHINE
from paddock.transfer.progress import ProgressListener
from tasks import policies
from tasks.artifacts import DownloadArtifact
from tasks.events import emit_events, emit_rejection
from tasks.recorders import StepRun, record, record_rejection
from tasks.run_log import run_logger
from tasks.secret_blocks import connect_run
from tasks.subject import ArtifactSubject

P = ParamSpec("P")
R = TypeVar("R")


class PrefectRunner(Runner):
    """Runs each step as a task of the current flow run. `target` is the machine that the run's artifacts are about.
    `clients` are by default those of the run."""

    allows_threads = False

    def __init__(self, target: str = THIS_MACHINE, clients: Clients | None = None) -> None:
        self._clients = clients or connect_run()
        self._target = target
        self._download: DownloadArtifact | None = None

    @property
    def clients(self) -> Clients:
        return self._clients

    @property
    def operation(self) -> str | None:
        return str(flow_run.get_id()) if flow_run.get_id() else None

    def run(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        arguments = step.bind(*args, **kwargs)
        title = one_line(step.title.format(**arguments))
        seconds = self._download.seconds if self._download else 0.0
        step_run = StepRun(self._clients, arguments, self._target, seconds)

        # The task has no arguments: Prefect would search the step's, such as clients and manifests, for futures.
        @task(
            name=step.name,
            description=step.__doc__,
            task_run_name=lambda: title,
            **policies.BY_KIND[step.kind],
        )
        def run_step() -> R:
            fields = step.log_fields(*args, **kwargs)
            with log_fields(**fields, **({"run": self.operation} if self.operation else {})):
                return attempt()

        def attempt() -> R:
            logger = run_logger()
            try:
                result = step.attempt(self._clients, *args, **kwargs)
            except ModelRejected as error:
                record_rejection(step, step_run, error)
                emit_rejection(step_run, error)
                raise
            record(step, step_run, result)
            emit_events(step, step_run, result)
            for warning in step.warnings(result) if step.warnings else ():
                logger.warning("%s", warning)
            if step.line:
                logger.info("%s", step.line(result))
            return result

        return run_step()

    def listener(self, id: SnapshotId) -> ProgressListener:
        self._download = DownloadArtifact(ArtifactSubject.of(self._clients, id, self._target))
        return self._download
