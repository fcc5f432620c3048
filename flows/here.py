"""Run a flow in this process, for a person at a terminal.

`PREFECT_API_URL` decides where the run is recorded; without it Prefect starts a server of its own for as long as the
run lasts.
"""

from __future__ import annotations

from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ParameterTypeError
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from paddock.errors import BadSetting, OrchestratorUnavailable

_STARTUP_S = 180
"""A first start migrates a new database; on a busy machine Prefect's own limit of 20 s is too short."""


def run_here(flow: Flow[..., Any], **parameters: Any) -> tuple[str, Any]:
    """Run a flow to its end; returns (the name of its last state, what the flow returned).

    Raises what the flow failed with, BadSetting for a parameter that the flow does not accept, and
    OrchestratorUnavailable.
    """
    own = {
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: _STARTUP_S,
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        # Nobody watches the heartbeats of a server that ends with the run, and each flow waits a second for its thread.
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
    }
    url = PREFECT_API_URL.value()
    with temporary_settings({} if url else own):
        _require_answer(url or "of its own")
        try:
            state: State[Any] = flow(**parameters, return_state=True)  # type: ignore[assignment] # of a sync flow
        except ParameterTypeError as error:
            raise _refused(error) from None
        result = state.result(raise_on_failure=False)
    if isinstance(result, ParameterTypeError):
        raise _refused(result)
    if isinstance(result, BaseException):
        raise result
    return str(state.name), result


def _require_answer(server: str) -> None:
    """Raise OrchestratorUnavailable unless Prefect's server answers; where it is to be a temporary one, start it."""
    try:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
    except (httpx.HTTPError, RuntimeError) as error:
        problem = error
    if problem is not None:
        raise OrchestratorUnavailable(
            f"Prefect's server {server} does not answer: {problem}",
            cure="start it, or unset PREFECT_API_URL to run with a temporary one",
        )


def _refused(error: ParameterTypeError) -> BadSetting:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(line for line in lines[1:4] if not line.startswith("For further"))
    return BadSetting(f"the flow does not accept its parameters: {reason}", cure="correct them")
