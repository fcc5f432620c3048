"""The whole of what Paddock needs, on one machine: the Hub, S3, Prefect with its workers, and a look at the Data Docs.

A *part* is one of them. All parts keep what they have in one *state directory* (default `.local` in the checkout), so
that the next start goes on where the last one ended; the volume lies there too. Nothing outlives the process that
started it, however that ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Literal, Self

from infra.bootstrap import POOLS
from infra.local.docs_server import DocsServer
from infra.local.environment import inherited
from infra.local.hub_server import HubServer
from infra.local.prefect_server import PrefectServer
from infra.local.s3 import S3Server
from infra.local.service import Service
from infra.local.state import CHECKOUT, private_directory
from infra.local.workers import await_deployments, forget_workers, start_bootstrap, start_worker

Part = Literal["hub", "s3", "docs", "prefect", "workers"]
PARTS: tuple[Part, ...] = ("hub", "s3", "docs", "prefect", "workers")
STATE = CHECKOUT / ".local"
_HEARTBEAT_S = 30  # the shortest that Prefect takes


class Stack:
    """The parts that were asked for, from `with` on. `environment` is what a program needs to use them."""

    hub: HubServer | None = None
    s3: S3Server | None = None
    docs: DocsServer | None = None
    prefect: PrefectServer | None = None

    def __init__(
        self,
        state: Path = STATE,
        *,
        parts: Collection[Part] = PARTS,
        heartbeat: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`heartbeat` lets runs report every 30 s rather than 180 s; `say` gets a line for each part that is ready."""
        if "workers" in parts and "prefect" not in parts:
            raise ValueError("workers need the part `prefect`")
        self.state = state.resolve()
        self._parts = frozenset(parts)
        self._heartbeat = heartbeat
        self._say = say
        self._workers: list[Service] = []

    def __enter__(self) -> Self:
        private_directory(self.state)
        try:
            self._together(self._start_hub, self._start_s3, self._start_docs, self._start_prefect)
            if "workers" in self._parts:
                self._start_workers()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _volume(self) -> Path:
        return private_directory(self.state / "volume")

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead to this stack, and no others."""
        variables = {
            "PADDOCK_VOLUME": str(self._volume),
            "HF_HOME": str(self.state / "huggingface"),  # the user's may hold a token
        }
        if self.hub is not None:
            variables |= self.hub.environment
        if self.s3 is not None:
            variables |= {**self.s3.environment, "PADDOCK_S3_URI": f"s3://{self.s3.bucket}/paddock"}
        if self.docs is not None:
            variables |= self.docs.environment
        if self.prefect is not None:
            variables |= self.prefect.environment
        if self._heartbeat:
            variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = str(_HEARTBEAT_S)
        return variables

    @property
    def services(self) -> list[Service]:
        found = [part.service for part in (self.hub, self.s3, self.docs, self.prefect) if part is not None]
        if self.prefect is not None and self.prefect.database is not None:
            found.append(self.prefect.database.service)
        return found + self._workers

    def stop(self) -> None:
        """End everything, the workers first: they report the end of their runs to Prefect."""
        workers, self._workers = self._workers, []
        self._together(*(worker.stop for worker in workers))
        if self.prefect is not None and workers:
            forget_workers(self.prefect.url)
        self._together(*(part.stop for part in (self.hub, self.s3, self.docs, self.prefect) if part is not None))
        self.hub = self.s3 = self.docs = self.prefect = None

    def _start_hub(self) -> None:
        if "hub" in self._parts:
            start = monotonic()
            self.hub = HubServer.start(self.state / "hub")
            self._ready("the Hub", self.hub.endpoint, start)

    def _start_s3(self) -> None:
        if "s3" in self._parts:
            start = monotonic()
            self.s3 = S3Server.start(self.state / "s3")
            self._ready("S3", self.s3.endpoint, start)

    def _start_docs(self) -> None:
        if "docs" in self._parts:
            start = monotonic()
            self.docs = DocsServer.start(self.state / "docs", self._volume)
            self._ready("the Data Docs", self.docs.url, start)

    def _start_prefect(self) -> None:
        if "prefect" in self._parts:
            start = monotonic()
            self.prefect = PrefectServer.start(self.state / "prefect")
            self._ready("Prefect", self.prefect.ui, start)

    def _start_workers(self) -> None:
        assert self.prefect is not None  # noqa: S101 - for the type checker: the constructor refuses workers alone
        start = monotonic()
        directory = private_directory(self.state / "workers")
        environment = {**inherited(), **self.environment, "PYTHONPATH": str(CHECKOUT)}

        def start_one(pool: str) -> None:
            self._workers.append(start_worker(pool, directory, environment))

        with start_bootstrap(directory, environment) as service:
            self._together(lambda: await_deployments(service), *(lambda pool=pool: start_one(pool) for pool in POOLS))
        self._ready("the workers", ", ".join(POOLS), start)

    def _ready(self, what: str, where: str, start: float) -> None:
        self._say(f"{what}: {where} ({monotonic() - start:.1f} s)")

    @staticmethod
    def _together(*actions: Callable[[], None]) -> None:
        """Do all at once and wait for all. The first failure is raised when none is still at work."""
        if not actions:
            return
        with ThreadPoolExecutor(len(actions)) as pool:
            futures: list[Future[None]] = [pool.submit(action) for action in actions]
        for future in futures:
            future.result()
