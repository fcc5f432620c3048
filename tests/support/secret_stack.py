"""Run the parts of the local stack with a secret of its own in every place where one comes in.

All files are below one directory: the state, the volume, and what processes have as their home, cache and temporary
directory. The workers reach the Hub and S3 through a proxy with a password, and Prefect's server asks for one. The
token for the Hub is in a block of that server, the other secrets are in the environment.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from infra.bootstrap import POOLS
from infra.local.docs_server import DocsServer
from infra.local.environment import inherited
from infra.local.hub import LocalHub
from infra.local.loopback import loopback_client
from infra.local.ports import LOOPBACK, start_on_free_ports
from infra.local.postgres import Postgres
from infra.local.prefect_server import prefect_program
from infra.local.s3 import S3Server
from infra.local.service import Service, run
from infra.local.state import CHECKOUT, private_directory, write_state
from tests.support.forward_proxy import ForwardProxy, forward_proxy
from tests.support.gguf import U32, tiny_llama
from tests.support.tiny_hub import own_cache
from tests.support.waiting import wait_for

MODEL = "org/open-GGUF"
GATED = "org/gated-GGUF"
SECRETS: Mapping[str, str] = {
    "HF_TOKEN": "hf_canaryHub/+=token",
    "AWS_SECRET_ACCESS_KEY": "canaryS3/+=key",
    "PADDOCK_API_KEY": "canaryServe/+=key",
    "PREFECT_API_AUTH_STRING": "canaryPrefect/+=password",
    "HTTP_PROXY": "canaryProxy/+=password",
    "a wrong HF_TOKEN": "hf_canaryWrong/+=token",
    "a wrong AWS_SECRET_ACCESS_KEY": "canaryWrongS3/+=key",
    "a wrong AWS_SESSION_TOKEN": "canaryWrongSession/+=token",
    "a wrong PADDOCK_API_KEY": "canaryWrongServe/+=key",
    "a password in an address": "canaryAddress/+=password",
}
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_USER = "user"
_READY_S = 150.0


def proxy_address(netloc: str, password: str) -> str:
    return f"http://{_USER}:{quote(password, safe='')}@{netloc}"


class SecretStack:
    """Context manager that runs the parts. `environment` is that of the workers, `api` a client of Prefect's API."""

    s3: S3Server
    postgres: Postgres
    proxy: ForwardProxy
    api: httpx.Client

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def secrets(self) -> dict[str, str]:
        """All secrets by their names, with PostgreSQL's password, and what every presigned address has in it."""
        return {**SECRETS, "PostgreSQL's password": self.postgres.password, "a presigned address": "X-Amz-Signature"}

    @property
    def allowed(self) -> set[tuple[str, str]]:
        """Where parts keep a secret of their own, in files that nobody else may read."""
        cluster = next((self.directory / "prefect").glob("postgres-*/paddock.json"))
        own = cluster.relative_to(self.directory).as_posix()
        return {
            ("AWS_SECRET_ACCESS_KEY", "s3/s3.json"),
            ("HF_TOKEN", "hub/tokens.json"),
            ("PostgreSQL's password", own),
        }

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment, and return its id."""
        found = self.api.get(f"/deployments/name/{deployment}").raise_for_status().json()
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(
            self.api.post(f"/deployments/{found['id']}/create_flow_run", json=body).raise_for_status().json()["id"]
        )

    def state(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/flow_runs/{run_id}").raise_for_status().json()["state"]
        return found

    def await_end(self, run_id: str, *, limit_s: float = 600) -> dict[str, Any]:
        """Wait until a run has ended, and return its state."""
        wait_for(lambda: self.state(run_id)["type"] in FINAL, limit_s=limit_s, every_s=0.5)
        return self.state(run_id)

    def _start(self) -> None:
        hub = self._start_hub()
        write_state(
            private_directory(self.directory / "s3") / "s3.json",
            {"access_key_id": "CANARYSKEYID", "secret_access_key": SECRETS["AWS_SECRET_ACCESS_KEY"]},
        )
        self.s3 = self._stack.enter_context(S3Server.start(self.directory / "s3"))
        volume = private_directory(self.directory / "volume")
        docs = DocsServer.start(self.directory / "docs", volume)
        self._stack.callback(docs.stop)
        self.proxy = self._stack.enter_context(forward_proxy(credentials=f"{_USER}:{SECRETS['HTTP_PROXY']}"))
        proxy = proxy_address(self.proxy.netloc, SECRETS["HTTP_PROXY"])
        catalog = self.directory / "catalog.yaml"
        catalog.write_text(f"models:\n- {{model: {MODEL}, context_tokens: 256}}\n- {{model: {GATED}}}\n")
        self.environment = {
            **self._own_directories(),
            **self._start_prefect(),
            **self.s3.environment,
            **docs.environment,
            "HF_ENDPOINT": hub,
            "HF_HOME": str(self.directory / "huggingface"),
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
            "NO_PROXY": "localhost",  # which is the name of Prefect's server; that of the others is 127.0.0.1
            "PADDOCK_API_KEY": SECRETS["PADDOCK_API_KEY"],
            "PADDOCK_BENCHMARK_BUDGET_S": "0",
            "PADDOCK_CATALOG": str(catalog),
            "PADDOCK_S3_URI": f"s3://{self.s3.bucket}/paddock",
            "PADDOCK_SEGMENT_BYTES": str(64 * 1024),
            "PADDOCK_THREADS": "1",
            "PADDOCK_VOLUME": str(volume),
            "PYTHONPATH": str(CHECKOUT),
        }
        self._bootstrap()
        self._store_block("paddock-hf-token", SECRETS["HF_TOKEN"])
        for pool in POOLS:
            self._start_worker(pool)

    def _start_hub(self) -> str:
        hub = LocalHub(private_directory(self.directory / "hub"))
        for name, gated in ((MODEL, False), (GATED, True)):
            model = tiny_llama().set("general.file_type", U32, 7).set("llama.context_length", U32, 512)
            hub.repository(name, gated=gated).commit({"tiny-Q8_0.gguf": model.to_bytes()})
        hub.grant(SECRETS["HF_TOKEN"], GATED)

        def launch(ports: list[int]) -> Service:
            command = [sys.executable, "-m", "infra.local.hub", "--root", str(hub.root), "--port", str(ports[0])]
            return Service("the Hub", command, log=self.directory / "hub.log", directory=CHECKOUT)

        def is_ready(ports: list[int], _: Service) -> bool:
            return _answers(f"http://{LOOPBACK}:{ports[0]}/_admin/stats")

        service, (port,) = start_on_free_ports(launch, is_ready, deadline_s=30)
        self._stack.enter_context(service)
        return f"http://{LOOPBACK}:{port}"

    def _own_directories(self) -> dict[str, str]:
        """The environment without proxies, whose home, cache and temporary directory are ours."""
        kept = {name: value for name, value in inherited().items() if not name.lower().endswith("_proxy")}
        home, temporary = (private_directory(self.directory / name) for name in ("home", "tmp"))
        return {**kept, "HOME": str(home), "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(own_cache(self.directory))}

    def _start_prefect(self) -> dict[str, str]:
        """Start PostgreSQL and Prefect's server, and return the variables of its clients."""
        directory = private_directory(self.directory / "prefect")
        self.postgres = self._stack.enter_context(Postgres.start(directory))
        credentials = f"admin:{SECRETS['PREFECT_API_AUTH_STRING']}"
        environment = {
            **self._own_directories(),
            "PREFECT_HOME": str(private_directory(directory / "home")),
            "PREFECT_SERVER_API_AUTH_STRING": credentials,
            "PREFECT_API_AUTH_STRING": credentials,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.postgres.url,
        }

        def launch(ports: list[int]) -> Service:
            command = [prefect_program(), "--no-prompt", "server", "start", "--host", LOOPBACK, "--port", str(ports[0])]
            log = directory / "server.log"
            return Service("Prefect", command, log=log, environment=environment, directory=directory)

        def is_ready(ports: list[int], _: Service) -> bool:
            return _answers(f"http://{LOOPBACK}:{ports[0]}/api/ready")

        service, (port,) = start_on_free_ports(launch, is_ready, deadline_s=_READY_S)
        self._stack.enter_context(service)
        auth = httpx.BasicAuth("admin", SECRETS["PREFECT_API_AUTH_STRING"])
        client = httpx.Client(base_url=f"http://{LOOPBACK}:{port}/api", auth=auth, trust_env=False, timeout=60)
        self.api = self._stack.enter_context(client)
        home = private_directory(self.directory / "workers" / "home")
        return {
            "PREFECT_API_URL": f"http://localhost:{port}/api",
            "PREFECT_API_AUTH_STRING": credentials,
            "PREFECT_HOME": str(home),
        }

    def _bootstrap(self) -> None:
        log = self.directory / "workers" / "bootstrap.log"
        command = [sys.executable, "-m", "infra.bootstrap"]
        run("the bootstrap", command, log=log, environment=self.environment, directory=CHECKOUT)

    def _store_block(self, name: str, value: str) -> None:
        block_type = self.api.get("/block_types/slug/secret").raise_for_status().json()["id"]
        schema = self.api.post(
            "/block_schemas/filter", json={"block_schemas": {"block_type_id": {"any_": [block_type]}}}
        )
        body = {
            "name": name,
            "data": {"value": value},
            "block_type_id": block_type,
            "block_schema_id": schema.raise_for_status().json()[0]["id"],
        }
        self.api.post("/block_documents/", json=body).raise_for_status()

    def _start_worker(self, pool: str) -> None:
        directory = self.directory / "workers"
        command = [
            sys.executable,
            "-m",
            "prefect",
            "--no-prompt",
            "worker",
            "start",
            "--pool",
            pool,
            "--type",
            "process",
        ]
        log = directory / f"{pool}.log"
        worker = Service(pool, [*command, "--name", pool], log=log, environment=self.environment, directory=directory)
        self._stack.enter_context(worker)
        worker.wait_until(partial(self._has_worker, pool), deadline_s=_READY_S, interval_s=0.3)

    def _has_worker(self, pool: str) -> bool:
        return bool(self.api.post(f"/work_pools/{pool}/workers/filter", json={}).raise_for_status().json())


def _answers(url: str) -> bool:
    try:
        with loopback_client() as client:
            return client.get(url).is_success
    except httpx.HTTPError:
        return False
