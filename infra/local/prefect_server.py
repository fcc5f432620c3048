"""Run Prefect's server on this machine with PostgreSQL, or with SQLite where PostgreSQL cannot run.

It listens on the loopback address only and has no authentication: every user of this machine can start runs. Web pages
of other origins can read nothing of it (CORS is limited to its own UI). But Prefect takes JSON of any content type, and
does not look at the `Host` header: such a page can send what it need not read an answer for, and one whose host name is
made to lead to this machine can do everything. Its telemetry is off.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import httpx

from infra.local.environment import QUIET, inherited
from infra.local.loopback import loopback_client
from infra.local.ports import LOOPBACK, start_on_free_ports
from infra.local.postgres import Postgres, find_programs
from infra.local.service import Service
from infra.local.state import private_directory, read_state, write_state

_READY_S = 150.0  # 10 s on an idle machine, half of it migrations when the database is new


@dataclass(frozen=True)
class PrefectServer:
    """A running Prefect server with its database. Both end with `stop`, or with this process."""

    url: str
    home: Path
    service: Service = field(repr=False)
    database: Postgres | None = field(repr=False)

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start with the data in `directory`; return when the API and its database respond. Raises ServiceError."""
        private_directory(directory)
        database = None
        if find_programs() is None:
            print("PostgreSQL cannot run here: Prefect uses SQLite, and stalls under load", file=sys.stderr)
        else:
            database = Postgres.start(directory)
        try:
            return cls._start_with(database, directory)
        except BaseException:
            if database is not None:
                database.stop()
            raise

    @classmethod
    def _start_with(cls, database: Postgres | None, directory: Path) -> Self:
        home = private_directory(directory / "home")
        environment = {**inherited(), "PREFECT_HOME": str(home)}
        if database is not None:
            environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database.url
        service, (port,) = start_on_free_ports(
            partial(_launch, directory, environment),
            lambda ports, _: _responds(_url(ports[0])),
            preferred=read_state(directory / "prefect.json").get("ports", ()),
            deadline_s=_READY_S,
        )
        write_state(directory / "prefect.json", {"ports": [port]})
        return cls(_url(port), home, service, database)

    @property
    def ui(self) -> str:
        return self.url.removesuffix("/api")

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a Prefect client."""
        return {"PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home), **QUIET}

    def stop(self) -> None:
        self.service.stop()
        if self.database is not None:
            self.database.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def prefect_program() -> str:
    return str(Path(sys.executable).with_name("prefect"))


def _launch(directory: Path, environment: dict[str, str], ports: list[int]) -> Service:
    return Service(
        "the Prefect server",
        [prefect_program(), "--no-prompt", "server", "start", "--host", LOOPBACK, "--port", str(ports[0])],
        log=directory / "server.log",
        environment={
            **environment,
            # Without it the UI calls port 4200, whatever the server's port is.
            "PREFECT_SERVER_UI_API_URL": _url(ports[0]),
            # Prefect's own default lets the pages of every origin read everything.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{LOOPBACK}:{ports[0]},http://localhost:{ports[0]}",
        },
        directory=directory / "home",  # a directory without a prefect.toml
    )


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}/api"


def _responds(url: str) -> bool:
    try:
        with loopback_client() as client:
            return all(client.get(f"{url}/{path}").status_code == 200 for path in ("health", "ready"))
    except httpx.HTTPError:
        return False
