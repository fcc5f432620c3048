"""`paddock doctor` on the servers: S3 and the Hub, their features, their answers and their clocks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from infra.local.hub import HubService
from infra.local.ports import free_ports
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.doctor.services import check_hub, check_s3
from paddock.store.features import FEATURES
from tests.support.doctor import SECRET, changed, here, only, states
from tests.support.fixed_response import fixed_response_server
from tests.support.limited_s3 import limited_s3

__all__ = ["here"]


@pytest.fixture
def use_endpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the environment to an S3 server with one try for each request."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return lambda endpoint: monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)


def test_s3_with_every_feature_passes_and_one_without_is_a_warning(
    here: Clients, use_endpoint: Callable[[str], None]
) -> None:
    assert check_s3(here)[0].message == "not used: PADDOCK_S3_URI is not set"
    here = changed(here, s3_uri="s3://models/prefix")
    with limited_s3("conditions") as lacking, limited_s3() as complete:
        use_endpoint(lacking.endpoint)
        results = check_s3(here)
        assert states(results)["S3: conditional writes"] == "warning"
        assert "workers that start at the same moment" in only(results, "S3: conditional writes").message
        use_endpoint(complete.endpoint)
        results = check_s3(here)
    assert states(results) == {
        "S3": "ok",
        **{f"S3: {feature.name}": "ok" for feature in FEATURES},
        "S3: clock": "ok",
    }
    assert not complete.objects


def test_an_s3_that_is_not_there_or_stores_nothing_fails(here: Clients, use_endpoint: Callable[[str], None]) -> None:
    here = changed(here, s3_uri="s3://models/prefix")
    (port,) = free_ports(1)
    use_endpoint(f"http://127.0.0.1:{port}")
    (result,) = check_s3(here)
    assert (result.state, "AWS_ENDPOINT_URL" in result.cure) == ("failed", True)
    assert SECRET not in f"{result}"
    with limited_s3("storing") as server:
        use_endpoint(server.endpoint)
        assert states(check_s3(here))["S3: writing"] == "failed"
        (result,) = check_s3(changed(here, s3_uri="s3://other/prefix"))
        assert (result.state, "make it, or correct PADDOCK_S3_URI" in result.cure) == ("failed", True)


def test_a_wrong_token_is_found_without_being_shown_and_unsetting_it_helps(clients: Clients, hub: HubService) -> None:
    hub.hub.grant("hf_valid")
    (result,) = check_hub(changed(clients, hub_token=SECRET))
    assert (result.state, "unset it" in result.cure, SECRET in f"{result}") == ("failed", True, False)
    assert only(check_hub(clients), "Hub").message.endswith("gated and private repositories are closed")
    assert only(check_hub(changed(clients, hub_token="hf_valid")), "Hub").message.endswith("is that of local")


def test_a_hub_that_is_not_there_is_found_and_offline_it_is_not_asked(clients: Clients) -> None:
    (port,) = free_ports(1)
    gone = changed(clients, hub_endpoint=f"http://127.0.0.1:{port}")
    (result,) = check_hub(gone)
    assert (result.state, "HF_HUB_OFFLINE=1" in result.cure) == ("failed", True)
    assert check_hub(changed(gone, hub_offline=True))[0].ok


@pytest.mark.parametrize(
    ("body", "status"), [(b"<!doctype html>", 200), (b"[1]", 200), (b"", 503), (b"{" * 100_000, 200)]
)
def test_what_is_no_hub_is_found(clients: Clients, body: bytes, status: int) -> None:
    with fixed_response_server(body, status=status) as address:
        (result,) = check_hub(changed(clients, hub_endpoint=address))
    assert result.state == "failed"
    assert check_hub(clients)[0].ok


@pytest.mark.parametrize(("skew_s", "state"), [(0, "ok"), (-70, "warning"), (1000, "failed")])
def test_a_clock_that_differs_is_found(here: Clients, skew_s: float, state: str) -> None:
    with fixed_response_server(b'{"name": "x"}') as address:
        here = changed(here, hub_endpoint=address)
        results = check_hub(here, now=lambda: datetime.now(UTC) + timedelta(seconds=skew_s))
    assert states(results) == {"Hub": "ok", "Hub: clock": state}


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Foo 2026 00:00:00 GMT"])
def test_a_server_without_a_usable_date_has_no_clock(here: Clients, date: str) -> None:
    with fixed_response_server(b'{"name": "x"}', headers={"Date": date}) as address:
        results = check_hub(changed(here, hub_endpoint=address))
    assert only(results, "Hub").ok
