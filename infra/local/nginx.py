"""Serve a local Hub's blobs with nginx, for benchmarks in which the Hub's own Python server would be the bottleneck.

It needs Debian's package `nginx-light`. Only `make bench` uses it; it is not part of the local stack.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from infra.local.ports import LOOPBACK, accepts_connections, start_on_free_ports
from infra.local.service import Service, ServiceError
from infra.local.state import private_directory

_READY_S = 10.0
_CONFIGURATION = """\
daemon off;
{user}
worker_processes 1;
pid {state}/pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000;
  client_body_temp_path {state}/body;
  proxy_temp_path {state}/proxy;
  fastcgi_temp_path {state}/fastcgi;
  uwsgi_temp_path {state}/uwsgi;
  scgi_temp_path {state}/scgi;
  server {{
    listen {host}:{port};
    limit_rate {rate};
    location ~ "^/[^/]+/[^/]+/([0-9a-f][0-9a-f])([0-9a-f]+)/" {{
      alias {blobs}/$1/$1$2;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx that serves a Hub's blobs. It ends with `stop`, or with this process."""

    address: str
    service: Service = field(repr=False)

    @classmethod
    def start(cls, directory: Path, hub_root: Path, *, rate_bytes_per_s: int = 0) -> Self:
        """Serve the blobs of the Hub at `hub_root`. `rate_bytes_per_s` limits each connection; 0 means no limit.

        nginx applies its `limit_rate` to each response, and sends the first second's worth of it at once. Raises
        ServiceError.
        """
        program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if program is None:
            raise ServiceError("nginx is not installed: apt-get install nginx-light")
        state = private_directory(directory)

        def launch(ports: list[int]) -> Service:
            configuration = state / "nginx.conf"
            configuration.write_text(
                _CONFIGURATION.format(
                    # As root, nginx would run its workers as another user, who may not read these files.
                    user="user root;" if os.geteuid() == 0 else "",
                    state=state,
                    host=LOOPBACK,
                    port=ports[0],
                    rate=rate_bytes_per_s,
                    blobs=hub_root / "blobs",
                )
            )
            return Service("nginx", [program, "-c", str(configuration)], log=state / "nginx.log")

        service, (port,) = start_on_free_ports(
            launch, lambda ports, _: accepts_connections(ports[0]), deadline_s=_READY_S
        )
        return cls(f"http://{LOOPBACK}:{port}", service)

    def stop(self) -> None:
        self.service.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
