"""Run a flow in this process, for a person at a terminal.

`PREFECT_API_URL` decides where the run is recorded; without it Prefect starts a server of its own for as long as the
run lasts.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

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
    PREFECT_UI_URL,
    temporary_settings,
)

from paddock.errors import BadSetting, OrchestratorUnavailable

_OF_THE_CLIENT = (httpx.HTTPError, httpx.InvalidURL, RuntimeError, ValueError)
"""What Prefect's client raises when it cannot work with its server, or not read what it says. What a flow raises comes
in its state."""

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
    ui = PREFECT_UI_URL.value()
    # Prefect logs where a run is to be seen, with the password that stands in the address.
    known = {PREFECT_UI_URL: _address(ui)} if ui and "@" in ui else {}
    with temporary_settings(known if url else own):
        server = _address(url) if url else None
        _require_answer(server)
        try:
            state: State[Any] = flow(**parameters, return_state=True)  # type: ignore[assignment] # of a sync flow
        except ParameterTypeError as error:
            raise _refused(error) from None
        except _OF_THE_CLIENT as error:
            raise _unusable(server, error) from None
        result = state.result(raise_on_failure=False)
    if isinstance(result, ParameterTypeError):
        raise _refused(result)
    if isinstance(result, httpx.HTTPError):  # of a task or a flow inside: the library has errors of its own for the Hub
        raise _unusable(server, result) from None
    if isinstance(result, BaseException):
        raise result
    return str(state.name), result


def _require_answer(server: str | None) -> None:
    """Raise OrchestratorUnavailable unless Prefect's server answers; where it is to be a temporary one, start it."""
    try:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
    except _OF_THE_CLIENT as error:
        problem = error
    if problem is not None:
        raise _unusable(server, problem) from None


def _unusable(server: str | None, error: Exception) -> OrchestratorUnavailable:
    if server is None:
        who, cure = "temporary server", "run it again, or set PREFECT_API_URL to a server that runs"
    else:
        who = f"server {server}"
        cure = "start it, correct PREFECT_API_URL and the credentials, or unset it to run with a temporary one"
    return OrchestratorUnavailable(f"Prefect's {who} does not answer as it should: {_problem(error)}", cure=cure)


def _address(url: str) -> str:
    """Scheme, host and port: the rest may hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        return "of PREFECT_API_URL"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port is not None else ''}"


def _problem(error: Exception) -> str:
    """The words of the operating system or the number of the answer. The client's own words may quote the address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError):
            return f"it says {cause.response.status_code}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    quotes = not isinstance(error, RuntimeError) or "://" in str(error)
    return type(error).__name__ if quotes else str(error)


def _refused(error: ParameterTypeError) -> BadSetting:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(line for line in lines[1:4] if not line.startswith("For further"))
    return BadSetting(f"the flow does not accept its parameters: {reason}", cure="correct them")
