"""Run Paddock as several machines would: API servers apart from the background services, and workers, on loopback.

PostgreSQL and Redis are shared by all of Prefect's processes. `RoundRobin` stands for the load balancer before the API
servers: every client has its one address as `PREFECT_API_URL`. Each worker has a `PREFECT_HOME` of its own; the volume,
the Hub and S3 are those of this process's environment.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Self

import httpx
import psutil

from infra.local.environment import inherited
from infra.local.loopback import loopback_client
from infra.local.ports import LOOPBACK, accepts_connections, free_ports, start_on_free_ports
from infra.local.postgres import Postgres
from infra.local.prefect_server import prefect_program
from infra.local.service import Service, ServiceError, run
from infra.local.state import CHECKOUT, private_directory
from infra.local.workers import bootstrap, start_worker

SILENCE = timedelta(seconds=75)
"""After so long without a heartbeat a run is dead, with one every `_HEARTBEAT_S`."""
WORKERS = {"io-0": "paddock-io", "io-1": "paddock-io", "gpu-0": "paddock-gpu", "serve-0": "paddock-serve"}
"""The pool of each worker."""
_HEARTBEAT_S = 30  # the minimum of Prefect's setting
_READY_S = 150.0


class RoundRobin:
    """A TCP load balancer: each connection goes to the next server that accepts it. `port` is its own."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._servers = len(ports)
        self._next = cycle(ports)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="round-robin")
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._forward, LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(self._servers):
            with suppress(OSError):
                upstream, to_upstream = await asyncio.open_connection(LOOPBACK, next(self._next))
                await asyncio.gather(_copy(reader, to_upstream), _copy(upstream, writer))
                return
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the sender ends, and end the receiver's connection then."""
    with suppress(OSError, asyncio.CancelledError):
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.close()


class Machines:
    """Running machines, with all of their data in one directory.

    `url` is the address of the API for all clients, `ports` are those of the API servers.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = private_directory(directory)
        self._stack = ExitStack()
        self.workers: dict[str, Service] = {}
        self.servers: list[Service] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.postgres = self._stack.enter_context(Postgres.start(self._directory / "postgres"))
        self.redis, redis_port = start_redis(self._directory / "redis")
        self._stack.enter_context(self.redis)
        self._server_environment = {
            **inherited(),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.postgres.url,
            "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
            **redis_environment(redis_port),
        }
        upgrade = [prefect_program(), "--no-prompt", "server", "database", "upgrade", "--yes"]
        home = private_directory(self._directory / "upgrade")
        environment = {**self._server_environment, "PREFECT_HOME": str(home)}
        run("the migration", upgrade, log=home / "log", environment=environment, directory=home)
        self.ports = free_ports(2)
        # One after the other: of two that start on a new database at once, one ends, since both register block types.
        for number, port in enumerate(self.ports):
            server = self._server(f"api-{number}", port)
            server.wait_until(partial(is_ready, port), deadline_s=_READY_S)
            self.servers.append(server)
        self.services = self._prefect("services", "server", "services", "start")
        front = self._stack.enter_context(RoundRobin(self.ports))
        self.url = f"http://{LOOPBACK}:{front.port}/api"
        self.environment = {
            **inherited(),
            "PREFECT_API_URL": self.url,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(_HEARTBEAT_S),
            "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # of an API server without its database or Redis
            "PYTHONPATH": str(CHECKOUT),
        }
        bootstrap(self._directory / "bootstrap", self._home("bootstrap"))
        for name in WORKERS:
            self.start_worker(name)

    def start_worker(self, name: str) -> None:
        """Start a worker, or one of the same name after it was killed."""
        if name in self.workers:
            self.workers[name].restart()
            return
        home = self._home(name)
        worker = start_worker(WORKERS[name], self._directory / name, home, name=name)
        self.workers[name] = self._stack.enter_context(worker)

    def _home(self, name: str) -> dict[str, str]:
        """The environment of a client with a home of its own."""
        return {**self.environment, "PREFECT_HOME": str(private_directory(self._directory / name / "home"))}

    def _server(self, name: str, port: int) -> Service:
        return self._prefect(name, "server", "start", "--no-services", "--host", LOOPBACK, "--port", str(port))

    def _prefect(self, name: str, *arguments: str) -> Service:
        home = private_directory(self._directory / name)
        service = Service(
            name,
            [prefect_program(), "--no-prompt", *arguments],
            log=home / "log",
            environment={**self._server_environment, "PREFECT_HOME": str(home)},
            directory=home,
        )
        return self._stack.enter_context(service)


def start_redis(directory: Path) -> tuple[Service, int]:
    """Start Redis with its data in `directory`, and return it with its port. Raises ServiceError."""
    program = shutil.which("redis-server")
    if program is None:
        raise ServiceError("several API servers need Redis: apt-get install redis-server")
    private_directory(directory)

    def launch(ports: list[int]) -> Service:
        options = {"bind": LOOPBACK, "port": str(ports[0]), "dir": str(directory), "appendonly": "yes", "save": ""}
        command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
        return Service("Redis", command, log=directory / "log")

    service, (port,) = start_on_free_ports(launch, lambda ports, _: accepts_connections(ports[0]), deadline_s=30)
    return service, port


def redis_environment(port: int) -> dict[str, str]:
    """The variables with which all of Prefect's servers and services share one Redis."""
    return {
        "PREFECT_REDIS_MESSAGING_URL": f"redis://{LOOPBACK}:{port}/0",
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": f"redis://{LOOPBACK}:{port}/0",
        "PREFECT_SERVER_DOCKET_URL": f"redis://{LOOPBACK}:{port}/1",
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "PT1H",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
    }


def kill(service: Service) -> int:
    """Kill a program and all its descendants by SIGKILL, as a power failure does: none reports the end of another.

    Returns how many flow runs were carried out by them.
    """
    program = psutil.Process(service.pid)
    program.suspend()  # a worker would report that its runs have ended
    descendants = program.children(recursive=True)
    runs = {run for process in descendants if (run := _flow_run(process))}
    for process in (*descendants, program):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    service.wait(30)
    return len(runs)


def is_ready(port: int) -> bool:
    """Whether an API server and its database answer."""
    try:
        with loopback_client() as client:
            return client.get(f"http://{LOOPBACK}:{port}/api/ready").status_code == 200
    except httpx.HTTPError:
        return False


def processes_of(run_id: str) -> list[int]:
    """The processes on this machine that carry out a flow run, by the variable that its worker sets."""
    return [process.pid for process in psutil.process_iter() if _flow_run(process) == run_id]


def _flow_run(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("PREFECT__FLOW_RUN_ID")
    except psutil.Error:
        return None
