"""Steps and runners: a phase is one function that runs its steps in order, with or without Prefect.

A *step* is a plain function whose first argument is the clients, marked with its kind. A *runner* runs it:
`PlainRunner` calls it in this process, for the command line; the runner of a flow (`tasks.runner`) makes each step a
Prefect task, with retries by kind and an artifact for what it returns. A phase itself knows nothing of either.
"""

from __future__ import annotations

import inspect
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from paddock.errors import TransientError
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.counts import counting_failures
from paddock.lifecycle.retries import JITTER, MAX_RETRY_AFTER_S, RETRY_DELAYS_S, Kind
from paddock.log_fields import log_fields
from paddock.model.acquired import Acquired
from paddock.model.artifact import Listing
from paddock.model.names import ModelName
from paddock.model.reference import Reference, SnapshotId
from paddock.timings import phase
from paddock.transfer.progress import Progress, ProgressListener

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


class Step(Generic[P, R]):
    """A step of a phase. `title` is a format string over its arguments; `line` and `warnings` turn its result into text
    for the log. Calling a step calls its function, without retries."""

    def __init__(
        self,
        function: Callable[Concatenate[Clients, P], R],
        kind: Kind,
        *,
        title: str,
        line: Callable[[R], str] | None,
        warnings: Callable[[R], Sequence[str]] | None,
    ) -> None:
        self.function = function
        self.kind = kind
        self.name = function.__name__
        self.title = title
        self.line = line
        self.warnings = warnings
        self.__doc__ = function.__doc__

    def __call__(self, clients: Clients, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(clients, *args, **kwargs)

    def attempt(self, clients: Clients, *args: P.args, **kwargs: P.kwargs) -> R:
        """One try of a runner: as a call, and an error is counted for the metrics."""
        with counting_failures(clients):
            return self.function(clients, *args, **kwargs)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """The arguments of a call by name, with defaults, and without the clients."""
        bound = inspect.signature(self.function).bind(None, *args, **kwargs)
        bound.apply_defaults()
        _, *names = bound.arguments
        return {name: bound.arguments[name] for name in names}

    def log_fields(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, str]:
        """The model, revision and variant that a call is about, as far as its arguments say."""
        values = list(self.bind(*args, **kwargs).values())
        for value in values:
            id = value if isinstance(value, SnapshotId) else getattr(value, "id", None)
            if isinstance(id, SnapshotId):
                return {"model": str(id.model), "revision": id.revision, "variant": id.variant}
        for value in values:
            if isinstance(value, Listing | Reference):
                ref = value.revision if isinstance(value, Listing) else ""
                return {"model": str(value.model), **({"revision": ref} if ref else {})}
            if isinstance(value, ModelName):
                return {"model": str(value)}
        return {}

    def __repr__(self) -> str:
        return f"Step({self.name})"


def step(
    kind: Kind,
    title: str,
    *,
    line: Callable[[Any], str] | None = None,
    warnings: Callable[[Any], Sequence[str]] | None = None,
) -> Callable[[Callable[Concatenate[Clients, P], R]], Step[P, R]]:
    """Decorate a function as a step."""

    def decorate(function: Callable[Concatenate[Clients, P], R]) -> Step[P, R]:
        return Step(function, kind, title=title, line=line, warnings=warnings)

    return decorate


class Runner(Protocol):
    """Runs the steps of a phase. An implementer calls `Step.attempt` for each try, and raises what the last try
    raised."""

    @property
    def clients(self) -> Clients: ...

    @property
    def operation(self) -> str | None:
        """The id of the operation that the steps belong to. However often a step is tried, one operation changes a
        promotion once. None: each call is an operation of its own."""
        ...

    @property
    def allows_threads(self) -> bool:
        """Whether several threads may run steps at the same time. Not where a failed step is tried again after a pause:
        another one's failure could not end it."""
        ...

    def run(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...

    def listener(self, id: SnapshotId) -> ProgressListener:
        """The listener for the transfer of a snapshot's files."""
        ...


class PlainRunner(Runner):
    """Calls each step in this process. With `retry`, a step is retried by its kind; `on_line` is called with the `line`
    of each step that succeeded."""

    operation = None

    def __init__(
        self,
        clients: Clients,
        *,
        listener: ProgressListener | None = None,
        retry: bool = False,
        on_line: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clients = clients
        self._listener = listener or SilentListener()
        self._retry = retry
        self._on_line = on_line
        self._sleep = sleep

    @property
    def clients(self) -> Clients:
        return self._clients

    @property
    def allows_threads(self) -> bool:
        return not self._retry

    def run(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        with log_fields(**step.log_fields(*args, **kwargs)), phase(step.title.partition("{")[0].rstrip("-")):
            result = self._call(step, *args, **kwargs)
            for warning in step.warnings(result) if step.warnings else ():
                log.warning("%s", warning)
            if step.line and self._on_line:
                self._on_line(step.line(result))
        return result

    def listener(self, id: SnapshotId) -> ProgressListener:  # noqa: ARG002 - one listener for all
        return self._listener

    def _call(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        for delay_s in RETRY_DELAYS_S[step.kind] if self._retry else ():
            try:
                return step.attempt(self._clients, *args, **kwargs)
            except TransientError as error:
                pause_s = delay_s * random.uniform(1, 1 + JITTER)  # noqa: S311 (no secret)
                pause_s = max(pause_s, min(error.retry_after_s or 0.0, MAX_RETRY_AFTER_S))
                log.warning("%s; trying again in %.0f s", error.message, pause_s)
                self._sleep(pause_s)
        return step.attempt(self._clients, *args, **kwargs)


class SilentListener(ProgressListener):
    """A progress listener that does nothing."""

    def on_start(self, total_bytes: int) -> None: ...

    def on_progress(self, progress: Progress) -> None: ...

    def on_finish(self, acquired: Sequence[Acquired]) -> None: ...
