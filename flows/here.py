"""Run a flow in this process, for a person at a terminal.

`PREFECT_API_URL` decides where the run is recorded; without it Prefect starts a server of its own for as long as the
run lasts.
"""

from __future__ import annotations

from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.exceptions import ParameterTypeError
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from paddock.errors import BadSetting

_STARTUP_S = 180
"""A first start migrates a new database; on a busy machine Prefect's own limit of 20 s is too short."""


def run_here(flow: Flow[..., Any], **parameters: Any) -> tuple[str, Any]:
    """Run a flow to its end; returns (the name of its last state, what the flow returned).

    Raises what the flow failed with, and BadSetting for a parameter that the flow does not accept.
    """
    own = {
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: _STARTUP_S,
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        # Nobody watches the heartbeats of a server that ends with the run, and each flow waits a second for its thread.
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
    }
    with temporary_settings({} if PREFECT_API_URL.value() else own):
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


def _refused(error: ParameterTypeError) -> BadSetting:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(line for line in lines[1:4] if not line.startswith("For further"))
    return BadSetting(f"the flow does not accept its parameters: {reason}", cure="correct them")
