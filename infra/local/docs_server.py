"""Serve the Data Docs of the local volume from a process of their own (`infra.local.docs_pages`)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from infra.local.ports import LOOPBACK, accepts_connections, start_on_free_ports
from infra.local.service import Service
from infra.local.state import CHECKOUT, private_directory, read_state, write_state

_READY_S = 15.0


@dataclass(frozen=True)
class DocsServer:
    """A running web server. It ends with `stop`, or with this process."""

    url: str
    service: Service = field(repr=False)

    @classmethod
    def start(cls, directory: Path, volume: Path) -> Self:
        """Serve the Data Docs of `volume`, with state and log in `directory`. Raises ServiceError."""
        state = private_directory(directory)
        pages = volume / ".paddock" / "docs"
        pages.mkdir(parents=True, exist_ok=True)

        def launch(ports: list[int]) -> Service:
            command = [sys.executable, "-m", "infra.local.docs_pages", str(ports[0]), str(pages)]
            return Service("the Data Docs", command, log=state / "docs.log", directory=CHECKOUT)

        service, (port,) = start_on_free_ports(
            launch,
            lambda ports, _: accepts_connections(ports[0]),
            preferred=read_state(state / "docs.json").get("ports", ()),
            deadline_s=_READY_S,
        )
        write_state(state / "docs.json", {"ports": [port]})
        return cls(f"http://{LOOPBACK}:{port}", service)

    @property
    def environment(self) -> dict[str, str]:
        return {"PADDOCK_DOCS_URL": self.url}

    def stop(self) -> None:
        self.service.stop()
