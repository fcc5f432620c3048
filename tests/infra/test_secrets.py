"""A night through the whole stack with a secret in every place where one comes in: none is found anywhere afterwards.

Each of the parts is real (`tests.support.secret_stack`), and so is what is searched (`tests.support.secret_search`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from infra.local.ports import free_ports
from infra.local.service import Service
from tests.support.secret_search import CommandLines, Place, SecretSearch, answers, files, objects, tables
from tests.support.secret_stack import GATED, MODEL, SECRETS, SecretStack, proxy_address
from tests.support.waiting import wait_for

PLANTED = "planted/+canary=of a test"
PROXY = "host-of-the-proxy:1"
"""In an environment of FAILING it stands for the address of the proxy, which each start chooses."""
ADDRESS_PASSWORD = quote(SECRETS["a password in an address"], safe="")
PARTS = {"hub.log", "prefect/postgres.log", "prefect/server.log", "s3/weed.log", "docs/docs.log"}
LOGS = {*PARTS, *(f"workers/{name}.log" for name in ("bootstrap", "paddock-io", "paddock-gpu", "paddock-serve"))}
FAILING: dict[str, tuple[dict[str, str], list[str], str]] = {
    "a token that the Hub does not know": (
        {"HF_TOKEN": SECRETS["a wrong HF_TOKEN"]},
        ["onboard", GATED],
        "hub-refused",
    ),
    "keys that S3 does not know": (
        {
            "AWS_SECRET_ACCESS_KEY": SECRETS["a wrong AWS_SECRET_ACCESS_KEY"],
            "AWS_SESSION_TOKEN": SECRETS["a wrong AWS_SESSION_TOKEN"],
        },
        ["cache", MODEL],
        "store-refused",
    ),
    "a proxy that is not there": (
        {"HTTP_PROXY": proxy_address("127.0.0.1:9", SECRETS["HTTP_PROXY"])},
        ["onboard", MODEL],
        "store-unavailable",
    ),
    "a proxy that refuses the password": (
        {"HTTP_PROXY": proxy_address(PROXY, SECRETS["a password in an address"])},
        ["onboard", MODEL],
        "proxy-refused",
    ),
    "a Hub with a password in its address": (
        {"HF_ENDPOINT": f"http://user:{ADDRESS_PASSWORD}@127.0.0.1:9"},
        ["onboard", MODEL],
        "bad-setting",
    ),
    "an S3 with a password in its address": (
        {"AWS_ENDPOINT_URL": f"http://user:{ADDRESS_PASSWORD}@127.0.0.1:9"},
        ["restore", MODEL],
        "store-unavailable",
    ),
    "a bucket with a password in its address": (
        {"PADDOCK_S3_URI": f"s3://user:{ADDRESS_PASSWORD}@models/paddock"},
        ["restore", MODEL],
        "bad-setting",
    ),
    "a catalog with a password in its address": (
        {"PADDOCK_CATALOG": f"s3://user:{ADDRESS_PASSWORD}@models/catalog.yaml"},
        ["refresh"],
        "bad-setting",
    ),
    "a Prefect server with a password in its address": (
        {"PREFECT_API_URL": f"http://user:{ADDRESS_PASSWORD}@127.0.0.1:9/api"},
        ["onboard", MODEL],
        "orchestrator-unavailable",
    ),
    "a Prefect server that refuses the password": (
        {"PREFECT_API_AUTH_STRING": f"admin:{SECRETS['a password in an address']}"},
        ["onboard", MODEL],
        "orchestrator-unavailable",
    ),
}
"""Commands that fail: what is different in the environment, the arguments, and the error."""


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_no_secret_is_found_anywhere_after_a_night_and_failing_runs(tmp_path: Path) -> None:
    with SecretStack(tmp_path) as stack, CommandLines() as lines:
        state = stack.await_end(stack.start("refresh-catalog/nightly"))
        assert (state["type"], state["message"].partition(";")[0]) == ("COMPLETED", "2 entries: 2 promoted")
        assert len(stack.proxy.forwarded) > 20
        serve_a_model(stack)
        with ThreadPoolExecutor(4) as pool:  # most of them wait for their next try
            printed = list(pool.map(partial(run_failing, stack), FAILING))
        # Prefect writes the environment of a run to a file that only its user can read, and removes it.
        wait_for(lambda: not [*tmp_path.glob("tmp/prefect-workspace-*")], limit_s=60, every_s=0.5)

        def everything() -> list[Place]:
            bucket = objects(stack.s3.client(), stack.s3.bucket)
            return [*files(tmp_path), *bucket, *tables(stack.postgres), *answers(stack.api), *lines.places, *printed]

        search = SecretSearch(stack.secrets, allowed=stack.allowed)
        places = everything()
        print(f"searched {len(places)} places, {sum(len(place.content) for place in places):,} bytes")
        assert search.found(places) == set()
        assert {place.name for place in places if place.content} >= LOGS

        planted = plant(stack, tmp_path)
        of_planted = SecretSearch({"planted": PLANTED})

        def not_found() -> set[str]:
            return planted - {line.partition(", in ")[2] for line in of_planted.found(everything())}

        wait_for(lambda: not not_found(), limit_s=60, every_s=1)  # the server stores events and logs after its answer


def serve_a_model(stack: SecretStack) -> None:
    """Serve the model as a run, and send it a request with its key, and one with a wrong key."""
    (port,) = free_ports(1)
    run = stack.start("serve-model/serve-gpu", model=MODEL, context_tokens=256, port=port)
    url, body = f"http://127.0.0.1:{port}", {"model": MODEL, "prompt": "a", "max_tokens": 2}

    def status(key: str) -> int:
        headers = {"Authorization": f"Bearer {SECRETS[key]}"}
        try:
            with httpx.Client(trust_env=False, timeout=60) as client:
                return client.post(f"{url}/v1/completions", json=body, headers=headers).status_code
        except httpx.TransportError:
            return 0

    wait_for(lambda: status("PADDOCK_API_KEY") == 200 or stack.state(run)["type"] == "FAILED", limit_s=180, every_s=1)
    assert status("PADDOCK_API_KEY") == 200, stack.state(run)
    assert status("a wrong PADDOCK_API_KEY") == 401
    (environment,) = stack.directory.glob("tmp/prefect-workspace-*/workspace.json")  # Prefect's, of the running run
    assert SECRETS["PADDOCK_API_KEY"] in environment.read_text()
    assert (environment.stat().st_mode & 0o777, environment.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    stack.api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    assert stack.await_end(run)["type"] == "CANCELLED"


def run_failing(stack: SecretStack, name: str) -> Place:
    """Run a command of FAILING, and return what it prints."""
    changes, arguments, error = FAILING[name]
    changes = {variable: value.replace(PROXY, stack.proxy.netloc) for variable, value in changes.items()}
    command = [sys.executable, "-m", "paddock", "--verbose", arguments[0], "--json", *arguments[1:]]
    environment = {**stack.environment, **changes}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)
    printed: dict[str, Any] = json.loads(done.stdout)
    assert printed.get("error") == error, f"{name}: {printed}"
    return Place(f"the output of a command with {name}", done.stdout + done.stderr)


def plant(stack: SecretStack, directory: Path) -> set[str]:
    """Leave a secret in a place of each kind, and return the names of the places."""
    api = stack.api
    for name in ("volume/org--planted", "workers/paddock-io.log"):
        with (directory / name).open("a") as file:
            file.write(PLANTED)
    stack.s3.client().put_object(Bucket=stack.s3.bucket, Key="planted", Body=PLANTED.encode())
    flow = api.post("/flows/", json={"name": "planted"}).raise_for_status().json()["id"]
    state = {"type": "FAILED", "message": f"Basic {PLANTED}"}
    body = {"flow_id": flow, "name": "planted", "parameters": {"token": PLANTED}, "state": state}
    run = api.post("/flow_runs/", json=body).raise_for_status().json()["id"]
    task = {"flow_run_id": run, "task_key": "planted", "dynamic_key": "0", "name": PLANTED}
    api.post("/task_runs/", json=task).raise_for_status()
    now = datetime.now(UTC).isoformat()
    log = {"name": "planted", "level": 20, "message": PLANTED, "timestamp": now, "flow_run_id": run}
    api.post("/logs/", json=[log]).raise_for_status()
    api.post("/artifacts/", json={"key": "planted", "type": "markdown", "data": PLANTED}).raise_for_status()
    api.post("/variables/", json={"name": "planted", "value": PLANTED}).raise_for_status()
    pool = {"name": "planted", "type": "process", "description": PLANTED}
    api.post("/work_pools/", json=pool).raise_for_status()
    resource = {"prefect.resource.id": "planted"}
    event = {"id": str(uuid4()), "occurred": now, "event": "planted", "resource": resource, "payload": {"a": PLANTED}}
    api.post("/events", json=[event]).raise_for_status()
    deployment = api.get("/deployments/name/refresh-catalog/nightly").raise_for_status().json()["id"]
    api.patch(f"/deployments/{deployment}", json={"job_variables": {"env": {"A": PLANTED}}}).raise_for_status()
    with Service("a program", [sys.executable, "-c", "import time; time.sleep(2)", PLANTED], log=None) as program:
        program.wait()
    return {
        "volume/org--planted",
        "workers/paddock-io.log",
        "the object planted",
        "the API's flow_runs",
        "the API's task_runs",
        "the API's states of flow_runs",
        "the API's logs",
        "the API's artifacts",
        "the API's variables",
        "the API's work_pools",
        "the API's deployments",
        "the API's events",
        "a command line",
        *(
            f"the table {name}"
            for name in ("flow_run", "flow_run_state", "task_run", "log", "artifact", "variable", "events")
        ),
    }
