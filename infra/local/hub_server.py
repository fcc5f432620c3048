"""Run the local Hub as a service, with the demonstration's repositories in it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import httpx

from infra.local.loopback import loopback_client
from infra.local.ports import LOOPBACK, start_on_free_ports
from infra.local.service import Service, run
from infra.local.state import CHECKOUT, private_directory, read_state, write_state

_READY_S = 30.0
# Runs in a separate process, since it loads numpy, and llama.cpp for the quantizations.
_COMMIT = """\
import sys
from pathlib import Path
from infra.local import demo
from infra.local.hub import LocalHub
getattr(demo, sys.argv[1])(LocalHub(Path(sys.argv[2])), cache=Path(sys.argv[3]))
"""


@dataclass(frozen=True)
class HubServer:
    """A running local Hub. It ends with `stop`, or with this process."""

    endpoint: str
    directory: Path
    service: Service = field(repr=False)

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Create the repositories (10 s, once) and serve them. Raises ServiceError."""
        root = private_directory(directory / "repositories")
        _commit("create_demo_repositories", directory)
        service, (port,) = start_on_free_ports(
            partial(_launch, directory, root),
            lambda ports, _: _responds(_endpoint(ports[0])),
            preferred=read_state(directory / "hub.json").get("ports", ()),
            deadline_s=_READY_S,
        )
        write_state(directory / "hub.json", {"ports": [port]})
        return cls(_endpoint(port), directory, service)

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.endpoint}

    def update(self) -> None:
        """Commit what the demonstration's authors change between two nights. Raises ServiceError."""
        _commit("update_demo_repositories", self.directory)

    def stop(self) -> None:
        self.service.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _commit(function: str, directory: Path) -> None:
    """Run a function of `infra.local.demo` on the repositories in a directory."""
    command = [sys.executable, "-c", _COMMIT, function, str(directory / "repositories"), str(directory / "cache")]
    run("filling the local Hub", command, log=directory / "fill.log", directory=CHECKOUT)


def _launch(directory: Path, root: Path, ports: list[int]) -> Service:
    command = [sys.executable, "-m", "infra.local.hub", "--root", str(root), "--port", str(ports[0])]
    return Service("the Hub", command, log=directory / "hub.log", directory=CHECKOUT)


def _endpoint(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"


def _responds(endpoint: str) -> bool:
    try:
        with loopback_client(timeout_s=10) as client:
            return client.get(f"{endpoint}/_admin/stats").is_success
    except httpx.HTTPError:
        return False
