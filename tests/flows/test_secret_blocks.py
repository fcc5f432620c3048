"""Secrets from blocks of the Prefect server: used by runs where the environment has none, and kept nowhere else."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import SyncClientContext
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)

from flows.acquire import acquire_model
from flows.cache import cache_model
from flows.check_server import check_prefect, stored_secrets
from flows.run_local import run_local
from infra.local.hub import HubService
from infra.local.prefect_server import PrefectServer
from infra.local.s3 import S3Server
from paddock import settings
from paddock.errors import BadSetting, HubRefused, OrchestratorUnavailable
from paddock.lifecycle.clients import Clients, connect
from paddock.lifecycle.upkeep.doctor import CheckResult
from paddock.settings import SECRETS
from tasks.secret_blocks import BLOCKS, connect_run
from tests.support.pages import text_of
from tests.support.program import program
from tests.support.secret_search import SecretSearch, files, objects, tables
from tests.support.tiny_hub import tiny_model, use_s3

PRIVATE = "org/private-GGUF"
TOKEN, WRONG_TOKEN = "hf_tokenOfABlock", "hf_wrongTokenOfABlock"


@pytest.fixture
def blocks(
    monkeypatch: pytest.MonkeyPatch, clients: Clients, client: SyncPrefectClient, hub: HubService
) -> Iterator[dict[str, str]]:
    """The names of the blocks, none of which exists; the environment has none of the secrets. All are deleted later.

    The Hub has a private model, for which it wants TOKEN.
    """
    for variable in (*SECRETS, "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    hub.hub.grant(TOKEN, PRIVATE)
    hub.repository(PRIVATE, private=True).commit({"tiny-Q8_0.gguf": tiny_model()})
    yield dict(BLOCKS)
    for document in client.read_block_documents():
        if document.name in BLOCKS.values():
            client.delete_block_document(document.id)


def asked(caplog: pytest.LogCaptureFixture) -> int:
    """How many requests for blocks were sent since the last call."""
    count = sum("/block_documents/" in record.getMessage() for record in caplog.records if record.name == "httpx")
    caplog.clear()
    return count


def test_a_private_model_is_acquired_and_cached_with_secrets_from_blocks_alone(
    monkeypatch: pytest.MonkeyPatch,
    blocks: dict[str, str],
    s3: S3Server,
    prefect_server: PrefectServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prefix = f"blocks-{secrets.token_hex(4)}"
    use_s3(monkeypatch, s3, prefix)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    for variable, value in {
        "HF_TOKEN": TOKEN,
        "AWS_ACCESS_KEY_ID": s3.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3.secret_access_key,
    }.items():
        Secret(value=value).save(blocks[variable])
    environment = dict(os.environ)
    caplog.set_level(logging.INFO, logger="httpx")

    _, published = run_local(acquire_model, model=PRIVATE)
    assert asked(caplog) == 1
    run_local(cache_model, model=PRIVATE, revision=published.manifest.revision)
    assert asked(caplog) == 1
    assert dict(os.environ) == environment
    assert connect().hub.token() is None  # outside of a run nobody looks for blocks

    Secret(value=WRONG_TOKEN).save(blocks["HF_TOKEN"], overwrite=True)
    with pytest.raises(HubRefused):
        run_local(acquire_model, model=PRIVATE)
    stored = list(objects(s3.client(), s3.bucket, prefix))
    assert len(stored) > 1
    secret = {"the token": TOKEN, "a wrong token": WRONG_TOKEN, "S3's key": s3.secret_access_key}
    search = SecretSearch({**secret, "a presigned address": "X-Amz-Signature"})
    server = tables(prefect_server.database) if prefect_server.database else []  # tests/infra/test_secrets.py has all
    assert search.found([*stored, *files(tmp_path / "models"), *server]) == set()


@flow
def upper() -> list[str | None]:
    return [connect_run().hub.token(), connect_run().hub.token(), lower(), lower()]


@flow
def lower() -> str | None:
    return connect_run().hub.token()


def test_a_run_and_the_runs_below_it_send_one_request_where_no_block_exists(
    blocks: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="httpx")
    assert upper() == [None] * 4
    assert asked(caplog) == 1
    Secret(value=TOKEN).save(blocks["HF_TOKEN"])
    asked(caplog)
    assert upper() == [TOKEN] * 4  # a later run of the same process asks again
    assert asked(caplog) == 1


def test_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, blocks: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    Secret(value=TOKEN).save(blocks["HF_TOKEN"])
    monkeypatch.setenv("HF_TOKEN", "hf_tokenOfTheEnvironment")
    assert lower() == "hf_tokenOfTheEnvironment"
    with pytest.raises(HubRefused):
        run_local(acquire_model, model=PRIVATE)
    for variable in SECRETS:
        monkeypatch.setenv(variable, "of-the-environment")
    caplog.set_level(logging.INFO, logger="httpx")
    caplog.clear()
    assert lower() == "of-the-environment"
    assert asked(caplog) == 0


@pytest.mark.parametrize("value", [{"token": TOKEN}, "", f"{TOKEN} {TOKEN}"], ids=["an object", "empty", "two words"])
def test_a_block_that_cannot_be_used_is_named_and_its_value_is_not_shown(blocks: dict[str, str], value: object) -> None:
    Secret(value=value).save(blocks["HF_TOKEN"])
    with pytest.raises(BadSetting, match="the block paddock-hf-token of the Prefect server") as caught:
        lower()
    assert TOKEN not in str(caught.value)


def test_a_server_that_does_not_give_its_blocks_fails_the_run_and_its_address_is_not_quoted(
    blocks: dict[str, str],
) -> None:
    @flow
    def cut_off() -> None:
        with temporary_settings(unreachable), SyncClientContext({"timeout": 5}):  # else the run's own client is used
            connect_run()

    unreachable: dict[Any, Any] = {
        PREFECT_API_URL: f"http://user:{TOKEN}@127.0.0.1:9/api",
        PREFECT_CLIENT_MAX_RETRIES: 0,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
    }

    with pytest.raises(OrchestratorUnavailable, match=r"did not give its Secret blocks \(ConnectError\)") as caught:
        cut_off()
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_the_doctor_says_which_secrets_are_in_blocks(blocks: dict[str, str], clients: Clients) -> None:
    def secrets_check() -> list[CheckResult]:
        return [check for check in check_prefect(clients) if check.name == "Prefect: secrets"]

    assert secrets_check() == []
    Secret(value=TOKEN).save(blocks["HF_TOKEN"])
    Secret(value="unused").save(blocks["PADDOCK_API_KEY"])
    (found,) = secrets_check()
    assert found.ok
    assert found.message == "HF_TOKEN is in the block paddock-hf-token; PADDOCK_API_KEY is in the block paddock-api-key"
    assert settings.load(stored_secrets()).hub_token == settings.Secret(TOKEN)
    Secret(value=[TOKEN]).save(blocks["HF_TOKEN"], overwrite=True)
    (found,) = secrets_check()
    assert (found.state, found.message) == ("failed", "the block paddock-hf-token of the Prefect server holds no text")
    assert stored_secrets() == {}


def test_the_documented_names_are_those_of_the_blocks() -> None:
    page = text_of("deploy.md")
    for variable, name in BLOCKS.items():
        assert f"| `{name}` | `{variable}` |" in page


@pytest.mark.torture  # it imports Prefect in a process of its own
def test_the_documented_command_makes_a_block(blocks: dict[str, str], prefect_server: PrefectServer) -> None:
    (line,) = (line for line in text_of("deploy.md").splitlines() if line.startswith("python -c"))
    command = [sys.executable, *shlex.split(line)[1:]]
    environment = {**os.environ, **prefect_server.environment}
    subprocess.run(command, env=environment, input=f"{TOKEN}\n", text=True, check=True, start_new_session=True)
    assert lower() == TOKEN


@pytest.mark.torture  # it imports Prefect in a process of its own
def test_the_doctor_checks_with_the_secrets_of_blocks(
    monkeypatch: pytest.MonkeyPatch, blocks: dict[str, str], prefect_server: PrefectServer, s3: S3Server
) -> None:
    use_s3(monkeypatch, s3, f"blocks-{secrets.token_hex(4)}")
    for variable in (*SECRETS, "PREFECT_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for name, value in prefect_server.environment.items():
        monkeypatch.setenv(name, value)

    def s3_is_ok() -> bool:
        checks = program("doctor", "--json").json["checks"]
        return all(check["ok"] for check in checks if check["name"] == "S3")

    assert not s3_is_ok()
    Secret(value=s3.access_key_id).save(blocks["AWS_ACCESS_KEY_ID"])
    Secret(value=s3.secret_access_key).save(blocks["AWS_SECRET_ACCESS_KEY"])
    assert s3_is_ok()
