"""Run checks at the same time, each for a limited time, and collect their results.

A check is a function of the clients that returns its results, one for each thing that it looked at. What it raises
becomes a result, and so does that it did not end in time: a server that never answers must not hold up the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from paddock.errors import PaddockError
from paddock.lifecycle.clients import Clients

LIMIT_S: Final = 10.0
_PROPER_NAMES: Final = {"s3": "S3", "hub": "Hub", "prefect": "Prefect"}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was checked. `needed`: Paddock cannot do its work without it; a failure of anything else is a
    warning. `cure` is empty where it is ok. `fix` carries the cure out, where that is safe whatever the reason; it
    raises PaddockError or OSError."""

    name: str
    ok: bool
    message: str
    cure: str = ""
    needed: bool = True
    fix: Callable[[], None] | None = field(default=None, compare=False)

    @property
    def state(self) -> str:
        return "ok" if self.ok else "failed" if self.needed else "warning"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "needed": self.needed,
            "message": self.message,
            "cure": self.cure,
        }


Check = Callable[[Clients], Sequence[CheckResult]]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The results of all checks. `ok`: nothing that is needed failed."""

    checks: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok or not check.needed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "checks": [check.to_json() for check in self.checks]}

    def fix(self) -> tuple[str, ...]:
        """Carry out each fix once, and return a line about each. Raises nothing."""
        lines: list[str] = []
        done: set[Callable[[], None]] = set()
        for check in self.checks:
            if check.ok or check.fix is None or check.fix in done:
                continue
            done.add(check.fix)
            try:
                check.fix()
            except (PaddockError, OSError) as error:
                lines.append(f"{check.name}: not fixed: {error}")
            else:
                lines.append(f"{check.name}: fixed: {check.message}")
        return tuple(lines)


def failure(name: str, error: PaddockError, *, needed: bool = True) -> CheckResult:
    """The result for an error."""
    return CheckResult(name, False, error.message, error.cure, needed)


def run_checks(clients: Clients, checks: Sequence[Check], *, limit_s: float = LIMIT_S) -> Diagnosis:
    """Run all checks, and wait for them for `limit_s` seconds at most. Raises nothing."""
    runs = [_Run(clients, check) for check in checks]
    for run in runs:
        run.thread.start()
    deadline = time.monotonic() + limit_s
    results: list[CheckResult] = []
    for run in runs:
        run.thread.join(max(0.0, deadline - time.monotonic()))
        results += run.results if run.results is not None else [run.unfinished(limit_s)]
    return Diagnosis(tuple(results))


class _Run:
    """One check in a thread of its own, which ends with the process if it does not end before."""

    def __init__(self, clients: Clients, check: Check) -> None:
        self.results: Sequence[CheckResult] | None = None
        name = check.__name__.removeprefix("check_").replace("_", " ")
        self._name = _PROPER_NAMES.get(name, name)
        self._clients = clients
        self._check = check
        self.thread = threading.Thread(target=self._work, name=f"paddock-doctor-{self._name}", daemon=True)

    def unfinished(self, limit_s: float) -> CheckResult:
        return CheckResult(
            self._name,
            False,
            f"no answer within {limit_s:g} s",
            "check the server, disk or mount that it uses, and try again when the machine is less busy",
        )

    def _work(self) -> None:
        try:
            self.results = self._check(self._clients)
        except PaddockError as error:
            self.results = [failure(self._name, error)]
        except Exception as error:  # a defect of the check must not hide the others' results
            message = f"the check itself failed: {type(error).__name__}: {error}"
            self.results = [CheckResult(self._name, False, message, "report it")]
