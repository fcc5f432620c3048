"""Run a flow in this process for a person at a terminal, recorded by the Prefect server of PREFECT_API_URL."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from paddock.errors import BadSetting, OrchestratorUnavailable

_CLIENT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, RuntimeError, ValueError)
"""What Prefect's client raises when its server does not answer, or answers nonsense. What a flow raises comes in its
state."""


def run_local(flow: Flow[..., Any], **parameters: Any) -> tuple[str, Any]:
    """Run a flow to its end; returns (the name of its last state, what the flow returned).

    Raises what the flow failed with, BadSetting for a parameter that the flow does not accept, and
    OrchestratorUnavailable.
    """
    server = _without_credentials(PREFECT_API_URL.value() or "")
    ui = PREFECT_UI_URL.value()
    # Prefect logs where a run is to be seen, with the password that stands in the address.
    settings = {PREFECT_UI_URL: _without_credentials(ui)} if ui and "@" in ui else {}
    with temporary_settings(settings):
        _require_server(server)
        try:
            state: State[Any] = flow(**parameters, return_state=True)  # type: ignore[assignment] # of a sync flow
        except ParameterTypeError as error:
            raise _refused_parameter(error) from None
        except _CLIENT_ERRORS as error:
            raise _unavailable(server, error) from None
        result = state.result(raise_on_failure=False)
    if isinstance(result, ParameterTypeError):
        raise _refused_parameter(result)
    if isinstance(result, httpx.HTTPError):  # of a task or a flow inside: the library has errors of its own for the Hub
        raise _unavailable(server, result) from None
    if isinstance(result, BaseException):
        raise result
    return str(state.name), result


def _require_server(server: str) -> None:
    """Raise OrchestratorUnavailable unless Prefect's server answers."""
    try:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
    except _CLIENT_ERRORS as error:
        problem = error
    if problem is not None:
        raise _unavailable(server, problem) from None


def _unavailable(server: str, error: Exception) -> OrchestratorUnavailable:
    return OrchestratorUnavailable(
        f"Prefect's server {server} does not answer as it should: {_problem(error)}",
        cure="start it, correct PREFECT_API_URL and the credentials, or unset it to run without Prefect",
    )


def _without_credentials(url: str) -> str:
    """Scheme, host and port of an address: the rest may hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        return "of PREFECT_API_URL"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port is not None else ''}"


def _problem(error: Exception) -> str:
    """The words of the operating system or the status of the answer. The client's own words may quote the address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError):
            return f"it answers {cause.response.status_code}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    quotes = not isinstance(error, RuntimeError) or "://" in str(error)
    return type(error).__name__ if quotes else str(error)


def _refused_parameter(error: ParameterTypeError) -> BadSetting:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(line for line in lines[1:4] if not line.startswith("For further"))
    return BadSetting(f"the flow does not accept its parameters: {reason}", cure="correct them")
