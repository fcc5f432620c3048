"""Onboard a model once, through Prefect or without it, and print the times as one JSON object.

    python -m tests.bench.onboard_one prefect|plain MODEL QUANTIZATION

`prefect` runs the flow as a worker's process does, recorded by the server of PREFECT_API_URL; `plain` makes the same
calls of the library. The object has `began` and `ended` of the onboarding, on the monotonic clock of the machine, and
the seconds `in_steps` in which a step of the library ran.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from paddock.lifecycle.steps import Step


def _flow(model: str, quantization: str) -> Callable[[], object]:
    from flows.onboard import onboard_model
    from flows.run_local import run_local

    return lambda: run_local(onboard_model, model=model, quantization=quantization)


def _library(model: str, quantization: str) -> Callable[[], object]:
    from paddock.lifecycle.clients import connect
    from paddock.lifecycle.onboard import InProcess, OnboardRequest, onboard
    from paddock.lifecycle.steps import PlainRunner
    from paddock.model.reference import Reference

    clients = connect()
    request = OnboardRequest(Reference.parse(model), quantization)
    return lambda: onboard(clients, InProcess(PlainRunner(clients, retry=True)), request)


def main() -> None:
    client, *arguments = sys.argv[1:]
    onboard = {"prefect": _flow, "plain": _library}[client](*arguments)
    in_steps = since = 0.0
    running, lock, attempt = 0, threading.Lock(), Step.attempt

    def count(change: int) -> None:
        """Count the steps that run: two may at once."""
        nonlocal in_steps, since, running
        with lock:
            if not running:
                since = time.monotonic()
            running += change
            if not running:
                in_steps += time.monotonic() - since

    def timed(step: Step[..., Any], *args: Any, **kwargs: Any) -> Any:
        count(1)
        try:
            return attempt(step, *args, **kwargs)
        finally:
            count(-1)

    with mock.patch.object(Step, "attempt", timed):
        began = time.monotonic()
        onboard()
        ended = time.monotonic()
    print(json.dumps({"began": began, "ended": ended, "in_steps": in_steps}))


if __name__ == "__main__":
    main()
