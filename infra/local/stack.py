"""Run everything that Paddock needs on one machine: the Hub, S3, Prefect with its workers, and a server of Data Docs.

Each of these is a *part*. All parts store their data in one *state directory* (default `.local` in the checkout), so
that the next start continues where the last one ended; the volume is there too. All services end with the process that
started them, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from shutil import copyfile
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
from infra.local.temporary import make_temporary_directory, remove_temporary_directory
from infra.local.workers import await_deployments, delete_workers, start_bootstrap, start_worker

Part = Literal["hub", "s3", "docs", "prefect", "workers"]
PARTS: tuple[Part, ...] = ("hub", "s3", "docs", "prefect", "workers")
STATE = CHECKOUT / ".local"
CATALOG = CHECKOUT / "infra" / "local" / "catalog.yaml"
"""The catalog of a new state directory."""
_HEARTBEAT_S = 30  # the minimum of Prefect's setting


class Stack:
    """Context manager that starts and stops the selected parts. `environment` has the variables to use them."""

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
        on_line: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`heartbeat` makes flow runs send one every 30 s, not every 180 s. `on_line` gets a line for each ready part.

        Raises ValueError for the part `workers` without `prefect`.
        """
        if "workers" in parts and "prefect" not in parts:
            raise ValueError("the part `workers` needs the part `prefect`")
        self.state = state.resolve()
        self._parts = frozenset(parts)
        self._heartbeat = heartbeat
        self._on_line = on_line
        self._workers: list[Service] = []

    def __enter__(self) -> Self:
        private_directory(self.state)
        try:
            self._run_in_parallel(self._start_hub, self._start_s3, self._start_docs, self._start_prefect)
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
    def catalog(self) -> Path:
        """The catalog of this state directory: the models that its Hub serves, until somebody edits it."""
        path = self.state / "catalog.yaml"
        if not path.exists():
            copyfile(CATALOG, path)
        return path

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point programs to the parts of this stack, and no others."""
        variables = {
            "PADDOCK_VOLUME": str(self._volume),
            "HF_HOME": str(self.state / "huggingface"),  # not the user's, which may contain a token
        }
        if self.hub is not None:
            variables |= {**self.hub.environment, "PADDOCK_CATALOG": str(self.catalog)}
        if self.s3 is not None:
            variables |= {**self.s3.environment, "PADDOCK_S3_URI": f"s3://{self.s3.bucket}/paddock"}
        if self.docs is not None:
            variables |= self.docs.environment
        if self.prefect is not None:
            # It answers 500 while its database is started again, and runs try other failures of it again by themselves.
            variables |= {**self.prefect.environment, "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500"}
        if self._heartbeat:
            variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = str(_HEARTBEAT_S)
        return variables

    @property
    def services(self) -> list[Service]:
        services = [part.service for part in (self.hub, self.s3, self.docs, self.prefect) if part is not None]
        if self.prefect is not None and self.prefect.database is not None:
            services.append(self.prefect.database.service)
        return services + self._workers

    def stop(self) -> None:
        """Stop all services, the workers first, since they report the end of their runs to Prefect."""
        workers, self._workers = self._workers, []
        self._run_in_parallel(*(worker.stop for worker in workers))
        if self.prefect is not None and workers:
            delete_workers(self.prefect.url)
        remove_temporary_directory(self.state)
        self._run_in_parallel(*(part.stop for part in (self.hub, self.s3, self.docs, self.prefect) if part is not None))
        self.hub = self.s3 = self.docs = self.prefect = None

    def _start_hub(self) -> None:
        if "hub" in self._parts:
            start = monotonic()
            self.hub = HubServer.start(self.state / "hub")
            self._report_ready("Hub", self.hub.endpoint, start)

    def _start_s3(self) -> None:
        if "s3" in self._parts:
            start = monotonic()
            self.s3 = S3Server.start(self.state / "s3")
            self._report_ready("S3", self.s3.endpoint, start)

    def _start_docs(self) -> None:
        if "docs" in self._parts:
            start = monotonic()
            self.docs = DocsServer.start(self.state / "docs", self._volume)
            self._report_ready("Data Docs", self.docs.url, start)

    def _start_prefect(self) -> None:
        if "prefect" in self._parts:
            start = monotonic()
            self.prefect = PrefectServer.start(self.state / "prefect")
            self._report_ready("Prefect", self.prefect.ui, start)

    def _start_workers(self) -> None:
        assert self.prefect is not None  # noqa: S101 - for the type checker: the constructor checks it
        start = monotonic()
        directory = private_directory(self.state / "workers")
        temporary = make_temporary_directory(self.state)
        environment = {**inherited(), **self.environment, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(temporary)}

        def start_one(pool: str) -> None:
            self._workers.append(start_worker(pool, directory, environment))

        with start_bootstrap(directory, environment) as service:
            self._run_in_parallel(
                lambda: await_deployments(service), *(lambda pool=pool: start_one(pool) for pool in POOLS)
            )
        self._report_ready("workers", ", ".join(POOLS), start)

    def _report_ready(self, name: str, url: str, start: float) -> None:
        self._on_line(f"{name}: {url} ({monotonic() - start:.1f} s)")

    @staticmethod
    def _run_in_parallel(*actions: Callable[[], None]) -> None:
        """Run all actions in threads, wait for all, then raise the first failure if there is one."""
        if not actions:
            return
        with ThreadPoolExecutor(len(actions)) as pool:
            futures: list[Future[None]] = [pool.submit(action) for action in actions]
        for future in futures:
            future.result()
