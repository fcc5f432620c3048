"""Start services again that ended by themselves, each after a delay that grows while it does not stay up.

The command, the ports and the data are those of the first start, so that the other parts find it where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from infra.local.service import Service, ServiceError

_FIRST_DELAY_S: Final = 0.5
_LONGEST_DELAY_S: Final = 30.0
_STABLE_S: Final = 60.0
"""After so long the next end counts as the first one."""
_READY_S: Final = 150.0
"""A service that is not ready after so long is started once more."""


@dataclass
class Watched:
    """A service under watch. `restarts` is how often it was started again since the stack started.

    It runs if neither `restart_at`, the time of its next start, nor `started_at`, that of a start which is not ready
    yet, is set.
    """

    service: Service
    restarts: int = 0
    failures: int = 0
    ended_at: float = 0.0
    ready_at: float = 0.0
    restart_at: float | None = None
    started_at: float | None = None


@dataclass
class Healer:
    """Watches services. Call `step` about once a second; `on_line` gets a line about each end and each start."""

    services: Sequence[Service]
    on_line: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    watched: list[Watched] = field(init=False)

    def __post_init__(self) -> None:
        self.watched = [Watched(service, ready_at=self.clock()) for service in self.services]

    def step(self) -> bool:
        """Look at each service once. Returns whether one ended, or was started."""
        changes = [self._look_at(one) for one in self.watched]
        return any(changes)

    def _look_at(self, one: Watched) -> bool:
        now = self.clock()
        if one.restart_at is not None:
            return now >= one.restart_at and self._restart(one)
        status = one.service.poll()
        if status is not None:
            if one.started_at is None:
                one.ended_at = now
                one.failures = 0 if now - one.ready_at >= _STABLE_S else one.failures
            self._plan(one, f"exited with status {status}{one.service.tail()}")
            return True
        if one.started_at is not None:
            return self._await_ready(one)
        return False

    def _restart(self, one: Watched) -> bool:
        one.restart_at = None
        try:
            one.service.restart()
        except (ServiceError, OSError) as error:
            self._plan(one, f"cannot be started: {error}")
        else:
            one.started_at = self.clock()
            one.restarts += 1
        return True

    def _await_ready(self, one: Watched) -> bool:
        assert one.started_at is not None  # noqa: S101 - for the type checker: the caller looked
        if one.service.is_ready():
            one.ready_at, one.started_at = self.clock(), None
            self.on_line(f"{one.service.name} is back after {one.ready_at - one.ended_at:.1f} s")
            return True
        if self.clock() - one.started_at > _READY_S:
            one.service.stop()
            self._plan(one, f"was not ready within {_READY_S:.0f} s")
            return True
        return False

    def _plan(self, one: Watched, what: str) -> None:
        delay_s = min(_FIRST_DELAY_S * 2**one.failures, _LONGEST_DELAY_S)
        one.failures += 1
        one.started_at, one.restart_at = None, self.clock() + delay_s
        self.on_line(f"{one.service.name} {what}\n{one.service.name} is started again in {delay_s:g} s")
